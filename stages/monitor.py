"""Run the release over incoming batches: has the world moved away from the training data?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from grocery.core.errors import DataError, one_sentence
from grocery.core.files import replacing, write_bytes, write_json
from grocery.core.params import MonitorParams
from grocery.evaluation.reference import Reference
from grocery.monitoring.batches import examine_file, numbers, rows
from grocery.monitoring.report import BatchReport, render
from grocery.monitoring.speed import Timing
from grocery.parallel import engine, parallel_map
from grocery.release.model import load_model
from grocery.settings import load
from grocery.tracking import artifacts
from grocery.tracking.run import stage_run
from grocery.tracking.telling import accuracies, tell

RELEASE = Path("models/release")
INCOMING = Path("data/prepared/incoming")
OUTPUT = Path("metrics/monitor")
METRICS = Path("metrics/monitor.json")


def run(
    params: MonitorParams,
    *,
    release: Path,
    incoming: Path,
    output: Path,
    metrics: Path,
    workers: int,
    on_batch: Callable[[BatchReport, Timing], None],
) -> dict[str, Any]:
    """Judge every incoming batch; write the verdicts, the signals for plots, and the page.

    Calls `on_batch` for each batch with what is found and how long prediction took. The latter is
    not written, since it differs from run to run.

    The batches are judged one by one and not as a sequence: they are independent drills, and the
    order of their names is no order in time.
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
        write_json(folder / "accuracy.json", [accuracies(batch) for batch in batches])
        write_bytes(folder / "index.html", render(reference, batches, params))
        write_json(metrics, result)  # last, so that nothing is replaced when anything fails
    return result


def main() -> None:
    """Run the stage on the paths of dvc.yaml."""
    with one_sentence("monitor"):
        params = load()
        steps = count()
        with (
            stage_run(
                "monitor",
                settings=params.tracking,
                config={"monitor": params.monitor.model_dump()},
                inputs={artifacts.RELEASE: RELEASE, artifacts.INCOMING: INCOMING},
                tags=[params.data.source],
            ) as tracked,
            engine(params.compute.backend, params.compute.address),
        ):
            result = run(
                params.monitor,
                release=RELEASE,
                incoming=INCOMING,
                output=OUTPUT,
                metrics=METRICS,
                workers=params.compute.workers,
                on_batch=lambda batch, timing: tell(tracked, next(steps), batch, timing),
            )
            tracked.summary(result)
            tracked.html("report", OUTPUT / "index.html")
            verdicts = {name: batch["verdict"] for name, batch in result["batches"].items()}
            metadata = {"alerts": result["alerts"], "verdicts": verdicts}
            tracked.artifact(artifacts.MONITORING, OUTPUT, metadata)


if __name__ == "__main__":
    main()
