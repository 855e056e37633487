"""The page of an inbox, and its part that shows how things went over time.

It is made from the history, whichever run writes it; only pictures are of that run's own batches.
Batches stand in the order in which they were judged, each as far from the next as any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from grocery.core.errors import DataError
from grocery.core.files import write_bytes
from grocery.core.params import MonitorParams
from grocery.inbox.entries import Entry
from grocery.inbox.history import Recorded
from grocery.inbox.record import Release, recalled
from grocery.monitoring.drift import VERDICTS
from grocery.monitoring.report import OverTime, Sample, render, title
from grocery.pages import page as pages
from grocery.pages.charts import Axis, Chart

SHOWN = 60  # latest batches
DETAILED = 20  # of them with all that is known


def page(
    recorded: Recorded,
    release: Release,
    params: MonitorParams,
    pictures: Mapping[str, Sequence[Sample]],
) -> bytes:
    """The page, as UTF-8 bytes: the latest batches with this model, and all of them over time.

    `pictures` are samples by the digest of the batch, of those that are at hand.
    """
    model = release.reference.model_digest, release.reference_digest
    classes = len(release.reference.classes)
    entries = [entry for entry in recorded.of(*model) if len(entry.class_counts) == classes]
    latest: dict[str, Entry] = {}
    for entry in entries:  # labels that came later take the place of what was known without
        latest.pop(entry.digest, None)
        latest[entry.digest] = entry
    shown = dict(list(latest.items())[-DETAILED:])
    reports = [recalled(entry, pictures.get(digest, ())) for digest, entry in shown.items()]
    new = [entry for entry in entries if entry.digest in shown]
    past = over_time(entries, new, recorded.batches[model])
    return render(release.reference, reports, params, past, release.advice)


def write(page: Path, html: bytes) -> None:
    """Write a page.

    Raises
    ------
    DataError, OSError
        When it cannot be written.
    """
    if page.is_dir():
        raise DataError(f"{page} is a folder; --report wants the name of a file")
    write_bytes(page, html)


def over_time(entries: Sequence[Entry], new: Sequence[Entry], total: int) -> OverTime:
    """Show entries of one model, in order, the latest of `total` batches.

    Sequences of the `new` ones that are in alert are said first.
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
        if entry.sequence is not None and entry.sequence.verdict == "alert"
    ]
    if not shown:
        return OverTime(alerts, "")
    accuracies = realised(entries)
    part_of = _in_sequences(shown)
    present = {entry.verdict for entry in shown}
    key = [(name.split()[-1], str(name)) for name in VERDICTS[::-1] if name in present]
    key += [("part", "part of a sequence in alert")] if part_of else []
    names = dict.fromkeys(found.name for entry in shown for found in entry.signals)
    html = pages.render(
        __file__,
        shown=shown,
        total=total,
        part_of=part_of,
        kinds=key,
        charts=[_accuracy(shown, accuracies), *(_signal(name, shown) for name in names)],
        about=partial(_about, accuracies=accuracies),
        said=_said,
    )
    return OverTime(alerts, html)


def realised(entries: Sequence[Entry]) -> dict[str, float]:
    """Realised accuracy by the digest of the batch, from its latest entry that has labels."""
    return {entry.digest: entry.accuracy for entry in entries if entry.accuracy is not None}


def _in_sequences(shown: Sequence[Entry]) -> set[int]:
    """Places of the batches that are part of a sequence in alert."""
    found: set[int] = set()
    for index, entry in enumerate(shown):
        if entry.sequence is not None and entry.sequence.verdict == "alert":
            found |= set(range(index + 1 - len(entry.sequence.batches), index + 1))
    return found


def _batches(shown: Sequence[Entry]) -> Axis:
    days = {index: shown[index].time[:10] for index in (0, len(shown) - 1)}
    return Axis.places("batches, in the order in which they were judged", len(shown), days)


def _accuracy(shown: Sequence[Entry], accuracies: dict[str, float]) -> Chart:
    """Estimated accuracy with its interval, and the realised accuracy where it is known."""
    true = [accuracies.get(entry.digest) for entry in shown]
    ends = [end for entry in shown for end in entry.estimate_interval or ()]
    known = [v for v in (*(e.estimated_accuracy for e in shown), *true, *ends) if v is not None]
    key = [("batch", "estimated without labels; the line is its 90 % interval")]
    if any(value is not None for value in true):
        key.append(("truth", "realised, from labels"))
    axis = Axis.numbers("accuracy: share of the images named right", [0.9, 1.0, *known])
    chart = Chart("Accuracy, batch by batch", _batches(shown), axis, key)
    for index, (entry, truth) in enumerate(zip(shown, true, strict=True)):
        if entry.estimate_interval is not None:
            chart.line("interval", *((index, end) for end in entry.estimate_interval))
        if (value := entry.estimated_accuracy) is not None:
            chart.dot("batch", index, value, f"{entry.batch}: {value:.3f}")
        if truth is not None:
            chart.square("truth", index, truth, f"{entry.batch}: {truth:.3f}")
    return chart


def _signal(name: str, shown: Sequence[Entry]) -> Chart:
    """The size of a signal, batch by batch, and the size from which it counts."""
    found = [(i, one) for i, entry in enumerate(shown) for one in entry.signals if one.name == name]
    threshold = found[-1][1].threshold
    sizes = [one.effect for _, one in found]
    axis = Axis.numbers("size of the difference", [0.0, 0.1, threshold, *sizes])
    key = [("", f"dashed: {threshold:.2f}, from where it counts if chance does not explain it")]
    chart = Chart(f"Signal, batch by batch: {title(name)}", _batches(shown), axis, key)
    chart.line("limit", (chart.x.low, threshold), (chart.x.high, threshold))
    for index, one in found:
        said = f"{shown[index].batch}: {one.effect:.2f}, {one.verdict}"
        chart.dot(one.verdict, index, one.effect, said)
    return chart


def _about(entry: Entry, accuracies: dict[str, float]) -> list[str]:
    """The facts of a batch, in words."""
    facts = [entry.time.replace("T", " ").replace("Z", " UTC"), f"{entry.images} images"]
    if entry.estimated_accuracy is not None:
        facts.append(f"estimated accuracy {entry.estimated_accuracy:.3f}")
    if entry.digest in accuracies:
        facts.append(f"realised {accuracies[entry.digest]:.3f}")
    return facts if entry.version is None else [*facts, entry.version]


def _said(entry: Entry) -> list[str]:
    """What was found in a batch, and in the sequence that it ends."""
    odd = [found.sentence for found in entry.signals if found.verdict != "ok"]
    return odd + ([found.sentence for found in entry.sequence.signals] if entry.sequence else [])
