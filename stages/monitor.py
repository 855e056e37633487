"""Run the release over incoming batches: has the world moved away from the training data?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from grocery.compute import parallel_map
from grocery.errors import DataError, one_sentence
from grocery.files import replacing, write_bytes, write_json
from grocery.model import load_model
from grocery.monitoring.batches import examine_file, numbers, rows
from grocery.monitoring.reference import Reference
from grocery.monitoring.report import BatchReport, render
from grocery.params import MonitorParams, load
from grocery.tracking import artifacts
from grocery.tracking.run import StageRun, stage_run

RELEASE = Path("models/release")
INCOMING = Path("data/prepared/incoming")
OUTPUT = Path("metrics/monitor")
METRICS = Path("metrics/monitor.json")

HISTOGRAM_BINS = 20


def run(
    params: MonitorParams,
    *,
    release: Path,
    incoming: Path,
    output: Path,
    metrics: Path,
    workers: int,
    on_batch: Callable[[BatchReport, dict[str, float]], None],
) -> dict[str, Any]:
    """Judge every incoming batch; write the verdicts, the signals for plots, and the page.

    Calls `on_batch` for each batch with what is found and how long prediction took: the seconds,
    and the images per second. Those are not written, since they differ from run to run.
    """
    model = load_model(release)
    reference = Reference.load(release / "reference")
    reference.check_fits(model.classes, model.digest)
    if not incoming.is_dir():
        raise DataError(f"{incoming} is missing; run the stage that makes the batches first")

    paths = sorted(incoming.glob("*.parquet"))
    look = partial(examine_file, model=model, reference=reference, params=params)
    batches = []
    for batch, timing in parallel_map(look, paths, workers=workers, title="batches"):
        batches.append(batch)
        on_batch(batch, timing)

    result: dict[str, Any] = {
        "alerts": sum(batch.judgement.verdict == "alert" for batch in batches),
        "batches": {batch.name: numbers(batch) for batch in batches},
    }
    with replacing(output) as folder:
        write_json(folder / "batches.json", [row for batch in batches for row in rows(batch)])
        write_bytes(folder / "index.html", render(reference, batches, params))
        write_json(metrics, result)  # last, so that nothing is replaced when anything fails
    return result


def main() -> None:
    """Run the stage on the paths of dvc.yaml."""
    with one_sentence("monitor"):
        params = load()
        with stage_run(
            "monitor",
            settings=params.tracking,
            config={"monitor": params.monitor.model_dump()},
            inputs={artifacts.RELEASE: RELEASE, artifacts.INCOMING: INCOMING},
            tags=[params.data.source],
        ) as tracked:
            result = run(
                params.monitor,
                release=RELEASE,
                incoming=INCOMING,
                output=OUTPUT,
                metrics=METRICS,
                workers=params.compute.workers,
                on_batch=partial(track_batch, tracked),
            )
            tracked.summary(result)
            tracked.html("report", OUTPUT / "index.html")
            verdicts = {name: batch["verdict"] for name, batch in result["batches"].items()}
            metadata = {"alerts": result["alerts"], "verdicts": verdicts}
            tracked.artifact(artifacts.MONITORING, OUTPUT, metadata)


def track_batch(tracked: StageRun, batch: BatchReport, timing: dict[str, float]) -> None:
    """Show one batch in W&B, and notify the team when it has drifted."""
    tracked.summary({f"prediction/{batch.name}/{name}": value for name, value in timing.items()})
    counts, edges = np.histogram(batch.confidences, bins=HISTOGRAM_BINS, range=(0, 1))
    tracked.histogram(f"confidence/{batch.name}", counts.tolist(), edges.tolist())
    samples = batch.samples
    captions = [f"{s.reason}: {s.predicted} ({s.confidence:.2f}), {s.path}" for s in samples]
    jpegs = [sample.jpeg for sample in samples]
    tracked.images(f"samples/{batch.name}", list(zip(jpegs, captions, strict=True)))
    if batch.judgement.verdict == "alert":
        found = [s.sentence for s in batch.judgement.signals if s.verdict != "ok"]
        tracked.alert(f"Drift in batch {batch.name}", " ".join(found))


if __name__ == "__main__":
    main()
