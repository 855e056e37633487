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
