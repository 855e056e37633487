"""What the history keeps of a batch, and the judgement of the sequence that the batch ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from grocery.core.params import MonitorParams
from grocery.inbox.entries import Entry, as_past
from grocery.inbox.history import Recorded
from grocery.monitoring.batches import as_json
from grocery.monitoring.drift import Judgement
from grocery.monitoring.report import BatchReport, Sample
from grocery.monitoring.sequence import binned, judge_sequence, unbinned
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
    """What is known of a batch beside its images; see `grocery.inbox.entries.Entry`."""

    incoming: str
    digest: str
    labels: str | None
    files: str | None
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
        "copies": report.copies,
        "to_label": list(report.to_label),
        "version": release.version,
        "model": release.reference.model_digest,
        "reference": release.reference_digest,
        "signals": as_json(report.judgement.signals),
        "confidence_counts": binned(report.confidences).tolist(),
        "class_counts": report.predicted_counts.tolist(),
        "sequence": None,
    }
    entry = Entry.of(values)
    if not known:
        sequence = _sequence(recorded, entry, release.reference, params)
        entry = Entry.of(values | {"sequence": sequence})
    return entry.model_copy(update={"to_announce": entry.alert})


def _sequence(
    recorded: Recorded, entry: Entry, reference: Reference, params: MonitorParams
) -> dict[str, Any] | None:
    """What counts in the sequence that a new entry ends, as JSON values."""
    before = recorded.of(entry.model, entry.reference)
    batches = [one for one in [*before, entry] if one.kind == "batch"]
    found = judge_sequence(reference, as_past(batches, reference), params)
    if found is None:
        return None
    about = f"Over the last {found.batches} batches, {found.images} images"
    signals = [replace(one, sentence=f"{about}: {one.sentence}") for one in found.signals]
    return {
        "batches": [one.batch for one in batches[-found.batches :]],
        "images": found.images,
        "verdict": found.verdict,
        "signals": as_json(signals),
    }


def recalled(entry: Entry, samples: Sequence[Sample] = ()) -> BatchReport:
    """What the history knows of a batch, as it was reported; confidences stand in `BINS` bins."""
    names = [field.name for field in fields(Judgement)]
    kept = {name: getattr(entry, name) for name in names} | {"signals": tuple(entry.signals)}
    return BatchReport(
        name=entry.batch,
        judgement=Judgement(**kept),
        confidences=unbinned(np.array(entry.confidence_counts, dtype=np.int64)),
        predicted_counts=np.array(entry.class_counts, dtype=np.int64),
        samples=samples,
        copies=entry.copies,
        to_label=entry.to_label,
    )


def timing(entry: Entry) -> Timing:
    """How long the prediction of a batch took, 0 where the history does not say it."""
    return Timing(**{field.name: getattr(entry, field.name) or 0.0 for field in fields(Timing)})
