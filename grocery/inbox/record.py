"""What the history keeps of a batch, and the judgement of the sequence that the batch ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from grocery.core.params import MonitorParams
from grocery.inbox.history import Entry, Recorded, as_past, same_model
from grocery.monitoring.batches import as_json
from grocery.monitoring.report import BatchReport
from grocery.monitoring.sequence import binned, judge_sequence
from grocery.monitoring.speed import Timing
from grocery.reference.reference import Reference


@dataclass(frozen=True)
class Release:
    """The model that judges."""

    reference: Reference  # which names the model
    reference_digest: str  # SHA-256 (hex)
    version: str | None  # in the registry; None for a model that was named by its folder
    advice: Sequence[str] = ()  # what to do next about it


@dataclass(frozen=True)
class Taken:
    """What is known of a batch beside its images; see `grocery.inbox.history.Entry`."""

    incoming: str
    digest: str
    labels: str | None
    time: str
    judged: str
    host: str
    timing: Timing


def record(
    recorded: Recorded, taken: Taken, report: BatchReport, release: Release, params: MonitorParams
) -> Entry | None:
    """The entry of a batch that was just judged; None when somebody else has recorded it.

    With the thresholds of `params` the sequence is judged that it ends in the history.
    """
    if recorded.knows(taken.digest, taken.labels):
        return None
    known = recorded.knows(taken.digest, None)
    values: dict[str, Any] = {
        **vars(report.judgement),
        **asdict(taken),
        **asdict(taken.timing),
        "kind": "labels" if known else "batch",
        "batch": report.name,
        "version": release.version,
        "model": release.reference.model_digest,
        "reference": release.reference_digest,
        "signals": as_json(report.judgement.signals),
        "confidence_counts": binned(report.confidences).tolist(),
        "class_counts": report.predicted_counts.tolist(),
        "sequence": None,
    }
    entry = Entry.of(values)
    if known:
        return entry
    before = same_model(recorded.entries, entry.model, entry.reference)
    batches = [one for one in [*before, entry] if one.kind == "batch"]
    found = judge_sequence(release.reference, as_past(batches, release.reference), params)
    if found is None:
        return entry
    about = f"Over the last {found.batches} batches, {found.images} images"
    signals = [replace(one, sentence=f"{about}: {one.sentence}") for one in found.signals]
    sequence = {
        "batches": [one.batch for one in batches[-found.batches :]],
        "images": found.images,
        "verdict": found.verdict,
        "signals": as_json(signals),
    }
    return Entry.of(values | {"sequence": sequence})
