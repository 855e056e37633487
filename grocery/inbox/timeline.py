"""The part of the page that shows how things went: verdicts, accuracy and signals over batches.

Batches stand in the order in which they were judged, each as far from the next as any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from grocery.inbox.history import Entry
from grocery.monitoring.report import OverTime, badge, title

SHOWN = 60  # latest batches

_WIDTH, _HEIGHT = 480, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 10, 30


def over_time(entries: Sequence[Entry], new: Sequence[Entry]) -> OverTime:
    """Show the history of one model.

    Parameters
    ----------
    entries
        All that the history has of this model, in its order.
    new
        Those that were added just now, whose sequences are new alerts.
    """
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
    names = dict.fromkeys(found.signal for entry in shown for found in entry.signals)
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
    squares = "".join(
        f'<li class="{entry.verdict.split()[-1]}{" part" if index in part_of else ""}" '
        f'title="{escape(_said(entry))}"></li>'
        for index, entry in enumerate(shown)
    )
    kinds = [("ok", "ok"), ("watch", "watch"), ("alert", "alert"), ("few", "too few")]
    present = {entry.verdict for entry in shown}
    key = "".join(
        f'<span><i class="{css}"></i>{name}</span>' for css, name in kinds if name in present
    )
    if part_of:
        key += '<span><i class="part"></i>part of a sequence in alert</span>'
    return f'<ol class="strip">{squares}</ol>\n<p class="key soft">{key}</p>\n'


def _said(entry: Entry) -> str:
    return f"{entry.batch}, {_day(entry)}: {entry.verdict}"


def _accuracy(shown: Sequence[Entry], accuracies: dict[str, float]) -> str:
    """Estimated accuracy with its interval, and the realised accuracy where it is known."""
    values = [entry.estimated_accuracy for entry in shown]
    true = [accuracies.get(entry.digest) for entry in shown]
    ends = [end for entry in shown for end in entry.estimate_interval or ()]
    known = [value for value in (*values, *true, *ends) if value is not None]
    bottom = np.floor(10 * min(known, default=0.0)) / 10
    bottom = float(min(bottom, 0.9))
    marks = []
    for index, entry in enumerate(shown):
        x = _x(index, len(shown))
        estimate, interval, truth = values[index], entry.estimate_interval, true[index]
        if interval is not None:
            low, high = (_y(end, bottom, 1) for end in interval)
            marks.append(
                f'<line class="interval" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
            )
        if estimate is not None:
            marks.append(
                _dot("batch", x, _y(estimate, bottom, 1), f"{entry.batch}: {estimate:.3f}")
            )
        if truth is not None:
            y = _y(truth, bottom, 1)
            marks.append(
                f'<rect class="truth" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8">'
                f"<title>{escape(entry.batch)}: {truth:.3f}</title></rect>"
            )
    key = '<span><i class="batch"></i>estimated</span>'
    if any(value is not None for value in true):
        key += '<span><i class="truth"></i>realised</span>'
    return _figure("Accuracy", key, shown, "".join(marks), bottom=bottom, top=1.0)


def _signal(name: str, shown: Sequence[Entry]) -> str:
    """The size of a signal, batch by batch, and the size from which it counts."""
    found = [next((f for f in entry.signals if f.signal == name), None) for entry in shown]
    threshold = next(f.threshold for f in reversed(found) if f is not None)
    largest = max(f.effect for f in found if f is not None)
    top = float(np.ceil(10 * max(largest, threshold, 0.1) - 1e-9) / 10)
    y = _y(threshold, 0, top)
    marks = [f'<line class="limit" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>']
    for index, (entry, one) in enumerate(zip(shown, found, strict=True)):
        if one is not None:
            x = _x(index, len(shown))
            said = f"{entry.batch}: {one.effect:.2f}, {one.verdict}"
            marks.append(_dot(one.verdict, x, _y(one.effect, 0, top), said))
    key = f"<span>size; dashed: counts from {threshold:.2f}</span>"
    return _figure(title(name), key, shown, "".join(marks), bottom=0.0, top=top)


def _figure(
    name: str, key: str, shown: Sequence[Entry], marks: str, *, bottom: float, top: float
) -> str:
    grid = "".join(
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.2f}</text>'
        for value, y in (
            (value, _y(value, bottom, top)) for value in (bottom, (bottom + top) / 2, top)
        )
    )
    days = f'<text x="{_LEFT}" y="{_HEIGHT - 6}">{_day(shown[0])}</text>'
    if len(shown) > 1:
        days += (
            f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 6}" text-anchor="end">'
            f"{_day(shown[-1])}</text>"
        )
    return (
        f'<div><h3>{name}</h3><p class="key soft">{key}</p>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{name}, batch by batch">'
        f"{grid}{days}{marks}</svg></div>\n"
    )


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


def _x(index: int, count: int) -> float:
    return _LEFT + (index + 0.5) / count * (_WIDTH - _LEFT - _RIGHT)


def _y(value: float, bottom: float, top: float) -> float:
    return _HEIGHT - _BOTTOM - (value - bottom) / (top - bottom) * (_HEIGHT - _TOP - _BOTTOM)
