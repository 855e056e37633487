"""The part of the page that shows how things went: verdicts, accuracy and signals over batches.

Batches stand in the order in which they were judged, each as far from the next as any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from grocery.inbox.history import Entry
from grocery.monitoring.charts import RIGHT, WIDTH, Frame
from grocery.monitoring.report import OverTime, badge, title

SHOWN = 60  # latest batches


def over_time(entries: Sequence[Entry], new: Sequence[Entry]) -> OverTime:
    """Show all entries of one model, in order; sequences of the `new` ones are new alerts."""
    batches = [entry for entry in entries if entry.kind == "batch"]
    shown = batches[-SHOWN:]
    alerts = [
        (
            f"A sequence of {len(entry.sequence.batches)} batches",
            f"{entry.sequence.batches[0]} to {entry.sequence.batches[-1]}. "
            + " ".join(signal.sentence for signal in entry.sequence.signals),
        )
        for entry in new
        if entry.sequence is not None
    ]
    if not shown:
        return OverTime(alerts, "")
    accuracies = realised(entries)
    latest = f"The latest {len(shown)} of " if len(shown) < len(batches) else ""
    many = "batch" if len(batches) == 1 else "batches"
    names = dict.fromkeys(found.name for entry in shown for found in entry.signals)
    charts = [_accuracy(shown, accuracies), *(_signal(name, shown) for name in names)]
    return OverTime(
        alerts,
        f'<section class="card">\n<h2>Over time</h2>\n<p class="soft">{latest}{len(batches)} '
        f"{many} with this model, from {_day(shown[0])} to {_day(shown[-1])}</p>\n"
        f'{_strip(shown)}<div class="charts">\n{"".join(charts)}</div>\n{_list(shown, accuracies)}'
        "</section>\n",
    )


def realised(entries: Sequence[Entry]) -> dict[str, float]:
    """Realised accuracy by the digest of the batch, from its latest entry that has labels."""
    return {entry.digest: entry.accuracy for entry in entries if entry.accuracy is not None}


def _day(entry: Entry) -> str:
    return entry.time[:10]


def _strip(shown: Sequence[Entry]) -> str:
    """One square a batch; the squares of a sequence that is an alert are underlined."""
    part_of: set[int] = set()
    for index, entry in enumerate(shown):
        if entry.sequence is not None:
            part_of |= set(range(index + 1 - len(entry.sequence.batches), index + 1))
    squares = ""
    for index, entry in enumerate(shown):
        kind = entry.verdict.split()[-1] + (" part" if index in part_of else "")
        said = escape(f"{entry.batch}, {_day(entry)}: {entry.verdict}")
        squares += f'<li class="{kind}" title="{said}"></li>'
    kinds = [("ok", "ok"), ("watch", "watch"), ("alert", "alert"), ("few", "too few")]
    present = {entry.verdict for entry in shown}
    key = "".join(
        f'<span><i class="{css}"></i>{name}</span>' for css, name in kinds if name in present
    )
    if part_of:
        key += '<span><i class="part"></i>part of a sequence in alert</span>'
    return f'<ol class="strip">{squares}</ol>\n<p class="key soft">{key}</p>\n'


def _accuracy(shown: Sequence[Entry], accuracies: dict[str, float]) -> str:
    """Estimated accuracy with its interval, and the realised accuracy where it is known."""
    values = [entry.estimated_accuracy for entry in shown]
    true = [accuracies.get(entry.digest) for entry in shown]
    ends = [end for entry in shown for end in entry.estimate_interval or ()]
    known = [value for value in (*values, *true, *ends) if value is not None]
    frame = _frame(min(0.9, np.floor(10 * min(known, default=0.0)) / 10), 1.0)
    marks = ""
    for index, entry in enumerate(shown):
        x, estimate, truth = _x(frame, index, shown), values[index], true[index]
        if entry.estimate_interval is not None:
            low, high = map(frame.y, entry.estimate_interval)
            place = f'x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"'
            marks += f'<line class="interval" {place}/>'
        if estimate is not None:
            marks += _dot("batch", x, frame.y(estimate), f"{entry.batch}: {estimate:.3f}")
        if truth is not None:
            place = f'x="{x - 4:.1f}" y="{frame.y(truth) - 4:.1f}"'
            said = f"<title>{escape(entry.batch)}: {truth:.3f}</title>"
            marks += f'<rect class="truth" {place} width="8" height="8">{said}</rect>'
    key = '<span><i class="batch"></i>estimated</span>'
    if any(value is not None for value in true):
        key += '<span><i class="truth"></i>realised</span>'
    return _figure("Accuracy", key, shown, marks, frame)


def _signal(name: str, shown: Sequence[Entry]) -> str:
    """The size of a signal, batch by batch, and the size from which it counts."""
    found = [(i, one) for i, entry in enumerate(shown) for one in entry.signals if one.name == name]
    threshold = found[-1][1].threshold
    largest = max(one.effect for _, one in found)
    frame = _frame(0.0, np.ceil(10 * max(largest, threshold, 0.1) - 1e-9) / 10)
    marks = frame.line("limit", threshold)
    for index, one in found:
        said = f"{shown[index].batch}: {one.effect:.2f}, {one.verdict}"
        marks += _dot(one.verdict, _x(frame, index, shown), frame.y(one.effect), said)
    key = f"<span>size; dashed: counts from {threshold:.2f}</span>"
    return _figure(title(name), key, shown, marks, frame)


def _figure(name: str, key: str, shown: Sequence[Entry], marks: str, frame: Frame) -> str:
    y = f'y="{frame.height - 6}"'
    days = f'<text x="{frame.left}" {y}>{_day(shown[0])}</text>'
    if len(shown) > 1:
        days += f'<text x="{WIDTH - RIGHT}" {y} text-anchor="end">{_day(shown[-1])}</text>'
    chart = frame.svg(f"{name}, batch by batch", lambda value: f"{value:.2f}", days + marks)
    return f'<div><h3>{name}</h3><p class="key soft">{key}</p>{chart}</div>\n'


def _list(shown: Sequence[Entry], accuracies: dict[str, float]) -> str:
    """Every batch in words, the latest first."""
    lines = []
    for entry in reversed(shown):
        facts = [entry.time.replace("T", " ").replace("Z", " UTC"), f"{entry.images} images"]
        if entry.estimated_accuracy is not None:
            facts.append(f"estimated accuracy {entry.estimated_accuracy:.3f}")
        if entry.digest in accuracies:
            facts.append(f"realised {accuracies[entry.digest]:.3f}")
        if entry.version is not None:
            facts.append(entry.version)
        sentences = [found.sentence for found in entry.signals if found.verdict != "ok"]
        sentences += [found.sentence for found in entry.sequence.signals] if entry.sequence else []
        lines.append(
            f"<li>{badge(entry.verdict)}<div><b>{escape(entry.batch)}</b> "
            f"<small>{escape(', '.join(facts))}</small>"
            f"<p>{escape(' '.join(sentences))}</p></div></li>\n"
        )
    return (
        f'<details><summary>Every batch</summary>\n<ul class="verdicts">\n{"".join(lines)}</ul>'
        "</details>\n"
    )


def _dot(kind: str, x: float, y: float, said: str) -> str:
    return (
        f'<circle class="dot {kind}" cx="{x:.1f}" cy="{y:.1f}" r="4.5">'
        f"<title>{escape(said)}</title></circle>"
    )


def _frame(low: float, high: float) -> Frame:
    return Frame(height=190, left=46, above=10, below=30, low=low, high=high)


def _x(frame: Frame, index: int, shown: Sequence[Entry]) -> float:
    return frame.x((index + 0.5) / len(shown))
