"""One W&B run for the batches that `grocery monitor --history --track` has just judged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grocery.cli.monitor.watch import New
    from grocery.core.params import MonitorParams
    from grocery.settings import TrackingParams


def track(
    settings: TrackingParams, params: MonitorParams, found: Sequence[New], page: Path | None
) -> None:
    """Tell W&B of new batches; the history is complete by now, and W&B cannot change that.

    Parameters
    ----------
    settings
        Where the run goes, and how long W&B is waited for.
    params
        Thresholds, for the run's config.
    found
        What was judged; a batch that came again with labels sends its accuracy alone.
    page
        The report, where one was written.
    """
    from grocery.monitoring.batches import told
    from grocery.tracking.run import stage_run
    from grocery.tracking.shown import batch

    latest = found[-1].entry
    model = {"digest": latest.model, "reference": latest.reference, "version": latest.version}
    config = {"monitor": params.model_dump(), "model": model}
    with stage_run("monitoring", settings=settings, config=config) as tracked:
        for step, new in enumerate(one for one in found if one.entry.kind == "batch"):
            batch(tracked, step, told(new.examined.report, new.examined.timing))
            if sequence := new.entry.sequence:
                names = sequence.batches
                tracked.alert(
                    f"Drift in the batches {names[0]} to {names[-1]}",
                    " ".join(signal.sentence for signal in sequence.signals),
                )
        for entry in (new.entry for new in found if new.entry.kind == "labels" and new.entry.alert):
            said = " ".join(signal.sentence for signal in entry.by_labels)
            tracked.alert(f"Labels of batch {entry.batch}", said)
        tracked.summary(_summary(found))
        if page is not None:
            tracked.html("report", page)


def _summary(found: Sequence[New]) -> dict[str, Any]:
    """The columns of W&B's table of runs; the accuracy is the latest that was realised."""
    batches = [new.entry for new in found if new.entry.kind == "batch"]
    values: dict[str, Any] = {
        "batches": len(batches),
        "alerts": sum(entry.alert for entry in batches),
    }
    for new in found:
        if new.entry.accuracy is not None:
            values[f"accuracy/{new.entry.batch}"] = new.entry.accuracy
    return values
