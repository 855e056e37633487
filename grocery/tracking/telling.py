"""What W&B and DVC draw of batches, whoever judged them: the stage, or the command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np

from grocery.monitoring.drift import Judgement
from grocery.monitoring.report import BatchReport
from grocery.monitoring.speed import NAME as SPEED
from grocery.monitoring.speed import Timing

HISTOGRAM_BINS = 20


class Tracker(Protocol):
    """The verbs of `grocery.tracking.run.StageRun` that are used here."""

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Add one point to each curve."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Set final metrics."""

    def images(self, name: str, pictures: Sequence[tuple[bytes, str]]) -> None:
        """Show pictures."""

    def alert(self, title: str, text: str) -> None:
        """Notify the team."""

    def histogram(self, name: str, counts: Sequence[int], edges: Sequence[float]) -> None:
        """Show a histogram."""


def tell(tracked: Tracker, step: int, batch: BatchReport, timing: Timing) -> None:
    """Show one batch in W&B, and notify the team when it has drifted.

    Parameters
    ----------
    tracked
        The run.
    step
        Number of the batch in this run, from 0: its place on the curves.
    batch, timing
        What is found, and how long prediction took.
    """
    tracked.log(curves(batch.judgement), step=step)
    tracked.summary(
        {f"prediction/{batch.name}/{name}": value for name, value in asdict(timing).items()}
    )
    counts, edges = np.histogram(batch.confidences, bins=HISTOGRAM_BINS, range=(0, 1))
    tracked.histogram(f"confidence/{batch.name}", counts.tolist(), edges.tolist())
    samples = batch.samples
    captions = [f"{s.reason}: {s.predicted} ({s.confidence:.2f}), {s.path}" for s in samples]
    jpegs = [sample.jpeg for sample in samples]
    tracked.images(f"samples/{batch.name}", list(zip(jpegs, captions, strict=True)))
    if batch.judgement.verdict == "alert":
        odd = [s for s in batch.judgement.signals if s.verdict != "ok"]
        found = [signal.sentence for signal in odd if signal.name != SPEED]
        tracked.alert(f"Drift in batch {batch.name}", " ".join(found))


def curves(judgement: Judgement) -> dict[str, float]:
    """The numbers of a batch that are drawn over batches; each shift beside where it counts."""
    values = {f"accuracy/{name}": value for name, value in _accuracies(judgement).items()}
    for signal in judgement.signals:
        values[f"shift/{signal.name}"] = signal.effect
        values[f"shift/{signal.name} counts from"] = signal.threshold
    return {name: float(value) for name, value in values.items() if value is not None}


def accuracies(batch: BatchReport) -> dict[str, Any]:
    """The accuracy of a batch as a point of a DVC plot; what is not known is None."""
    return {"batch": batch.name} | _accuracies(batch.judgement)


def _accuracies(judgement: Judgement) -> dict[str, float | None]:
    interval = judgement.estimate_interval or (None, None)
    return {
        "estimated": judgement.estimated_accuracy,
        "estimated_low": interval[0],
        "estimated_high": interval[1],
        "realised": judgement.accuracy,
    }
