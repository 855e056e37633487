"""One W&B run for the batches that `grocery monitor --history --track` has just judged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grocery.cli.monitor.judging import Examined
from grocery.core.params import MonitorParams
from grocery.inbox.history import Entry
from grocery.monitoring.batches import told
from grocery.settings import TrackingParams
from grocery.tracking.run import stage_run
from grocery.tracking.shown import batch


def track(
    settings: TrackingParams, params: MonitorParams, new: Sequence[Examined], page: Path | None
) -> None:
    """Tell W&B of new batches; the history is complete by now, and W&B cannot change that.

    A batch that came again with labels sends its accuracy alone.
    """
    found = [(one, one.entry) for one in new if one.entry is not None]
    latest = found[-1][1]
    model = {"digest": latest.model, "reference": latest.reference, "version": latest.version}
    config = {"monitor": params.model_dump(), "model": model}
    with stage_run("monitoring", settings=settings, config=config) as tracked:
        batches = [(one, entry) for one, entry in found if entry.kind == "batch"]
        for step, (one, entry) in enumerate(batches):
            batch(tracked, step, told(one.report, one.timing))
            if (sequence := entry.sequence) and sequence.verdict == "alert":
                names = sequence.batches
                tracked.alert(
                    f"Drift in the batches {names[0]} to {names[-1]}",
                    " ".join(signal.sentence for signal in sequence.signals),
                )
        for _, entry in found:
            if entry.kind == "labels" and entry.alert:
                said = " ".join(signal.sentence for signal in entry.by_labels)
                tracked.alert(f"Labels of batch {entry.batch}", said)
        tracked.summary(_summary([entry for _, entry in found]))
        if page is not None:
            tracked.html("report", page)


def _summary(entries: Sequence[Entry]) -> dict[str, Any]:
    """The columns of W&B's table of runs; the accuracy is the latest that was realised."""
    alerts = [entry.alert for entry in entries if entry.kind == "batch"]
    values: dict[str, Any] = {"batches": len(alerts), "alerts": sum(alerts)}
    known = (entry for entry in entries if entry.accuracy is not None)
    return values | {f"accuracy/{entry.batch}": entry.accuracy for entry in known}
