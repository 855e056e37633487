"""What the history keeps of a batch, and the judgement of the sequence that the batch ends."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from grocery.core.params import MonitorParams
from grocery.inbox.history import (
    DIGITS,
    Entry,
    Finding,
    Recorded,
    SequenceFinding,
    as_past,
    same_model,
    share,
)
from grocery.monitoring.drift import Signal
from grocery.monitoring.report import BatchReport
from grocery.monitoring.sequence import SequenceAlert, binned, judge_sequence
from grocery.monitoring.speed import Timing
from grocery.reference.reference import Reference


@dataclass(frozen=True)
class Release:
    """The model that judges.

    Attributes
    ----------
    reference
        Its reference, which names the model.
    reference_digest
        SHA-256 (hex) of the reference.
    version
        Its version in the registry; None for a model that was named by its folder.
    """

    reference: Reference
    reference_digest: str
    version: str | None


@dataclass(frozen=True)
class Taken:
    """What is known of a batch beside its images.

    Attributes
    ----------
    incoming
        Where it lay.
    digest, labels
        See `grocery.inbox.history.Entry`.
    time, judged
        UTC, see `grocery.inbox.history.utc`.
    host, timing
        Where it was predicted, and how fast.
    """

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

    Parameters
    ----------
    recorded
        The history as it is.
    taken, report
        The batch and what is found in it.
    release
        What it was judged with.
    params
        Thresholds, for the sequence.
    """
    if recorded.knows(taken.digest, taken.labels):
        return None
    known = recorded.knows(taken.digest, None)
    entry = _entry("labels" if known else "batch", taken, report, release)
    if known:
        return entry
    before = same_model(recorded.entries, entry.model, entry.reference)
    batches = [one for one in [*before, entry] if one.kind == "batch"]
    found = judge_sequence(release.reference, as_past(batches, release.reference), params)
    if found is None:
        return entry
    sequence = SequenceFinding(
        batches=[one.batch for one in batches[-found.batches :]],
        images=found.images,
        signals=[Finding.of(signal) for signal in _named(found)],
    )
    return entry.model_copy(update={"sequence": sequence})


def _entry(
    kind: Literal["batch", "labels"], taken: Taken, report: BatchReport, release: Release
) -> Entry:
    judgement = report.judgement
    interval = judgement.estimate_interval
    return Entry(
        kind=kind,
        batch=report.name,
        incoming=taken.incoming,
        digest=taken.digest,
        labels=taken.labels,
        time=taken.time,
        judged=taken.judged,
        version=release.version,
        model=release.reference.model_digest,
        reference=release.reference_digest,
        verdict=judgement.verdict,
        images=judgement.images,
        unreadable=judgement.unreadable,
        labelled=judgement.labelled,
        estimated_accuracy=_share(judgement.estimated_accuracy),
        estimate_interval=None if interval is None else (share(interval[0]), share(interval[1])),
        accuracy=_share(judgement.accuracy),
        wasserstein=_share(judgement.wasserstein),
        signals=[Finding.of(signal) for signal in judgement.signals],
        confidence_counts=binned(report.confidences).tolist(),
        class_counts=report.predicted_counts.tolist(),
        sequence=None,
        host=taken.host,
        images_per_second=round(taken.timing.images_per_second, DIGITS),
        latency_ms=round(taken.timing.latency_ms, DIGITS),
    )


def _share(value: float | None) -> float | None:
    return None if value is None else share(value)


def _named(found: SequenceAlert) -> list[Signal]:
    """The signals of a sequence, which say what they are about."""
    about = f"Over the last {found.batches} batches, {found.images} images"
    return [replace(signal, sentence=f"{about}: {signal.sentence}") for signal in found.signals]
