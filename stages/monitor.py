"""Run the release over incoming batches: has the world moved away from the training data?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from grocery.core.errors import DataError
from grocery.core.files import write_bytes, write_json
from grocery.core.params import MonitorParams
from grocery.core.stage import Report, reads, writes
from grocery.monitoring.batches import accuracies, examine_file, numbers, rows, told
from grocery.monitoring.report import render
from grocery.parallel import parallel_map
from grocery.reference.reference import Reference
from grocery.release.advice import on_monitoring
from grocery.release.model import Model


@dataclass(frozen=True)
class Paths:
    """What the stage reads and writes."""

    incoming: Path = reads("data/prepared/incoming")
    release: Path = reads("models/release")
    monitor: Path = writes("metrics/monitor")
    metrics: Path = writes("metrics/monitor.json")


def run(params: MonitorParams, paths: Paths, report: Report) -> dict[str, Any]:
    """Judge every incoming batch; write the verdicts, the signals for plots, and the page.

    Each batch is reported with how long prediction took, which is not written, since it differs
    from run to run. The batches are judged one by one and not as a sequence: they are independent
    drills, and the order of their names is no order in time. Gives the metrics.
    """
    model = Model.load(paths.release)
    reference = Reference.load(paths.release / "reference")
    reference.check_fits(model.classes, model.digest)
    if not paths.incoming.is_dir():
        raise DataError(f"{paths.incoming} is missing; run the stage that makes the batches first")

    files = sorted(paths.incoming.glob("*.parquet"))
    look = partial(examine_file, model=model, reference=reference, params=params)
    batches = []
    for batch, timing in parallel_map(look, files, title="batches"):
        batches.append(batch)
        report.step(told(batch, timing))

    result: dict[str, Any] = {
        "alerts": sum(batch.judgement.verdict == "alert" for batch in batches),
        "batches": {batch.name: numbers(batch) for batch in batches},
    }
    folder = paths.monitor
    write_json(folder / "batches.json", [row for batch in batches for row in rows(batch)])
    write_json(folder / "accuracy.json", [accuracies(batch) for batch in batches])
    advice = on_monitoring(paths.release, reference.images, params)
    write_bytes(folder / "index.html", render(reference, batches, params, advice=advice))
    write_json(paths.metrics, result)
    return result
