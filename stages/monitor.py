"""Run the release over incoming batches: has the world moved away from the training data?"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from grocery.compute import parallel_map
from grocery.data.images import canonical, pixels
from grocery.data.shards import BATCH_SCHEMA, read_table
from grocery.errors import DataError, one_sentence
from grocery.files import replacing, write_bytes, write_json
from grocery.model import Model, load_model
from grocery.monitoring.drift import judge
from grocery.monitoring.reference import Reference
from grocery.monitoring.report import BatchReport, Sample, choose_samples, render
from grocery.params import MonitorParams, load
from grocery.tracking import artifacts
from grocery.tracking.run import StageRun, stage_run

RELEASE = Path("models/release")
INCOMING = Path("data/prepared/incoming")
OUTPUT = Path("metrics/monitor")
METRICS = Path("metrics/monitor.json")

THUMBNAIL = 160  # longest side of a picture on the page, in pixels
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
    look = partial(examine, model=model, reference=reference, params=params)
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


def examine(
    path: Path, *, model: Model, reference: Reference, params: MonitorParams
) -> tuple[BatchReport, dict[str, float]]:
    """Predict and judge one batch; also say how long prediction took."""
    table = read_batch(path)
    readable = table.filter(table.column("image").is_valid())
    jpegs = readable.column("image").to_pylist()
    labels = readable.column("label").to_pylist()
    start = time.perf_counter()
    try:
        probabilities = model.predict_proba(jpegs)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    seconds = time.perf_counter() - start

    predicted = probabilities.argmax(axis=1)
    confidences = probabilities.max(axis=1)
    image_ids = readable.column("image_id").to_pylist()
    paths = readable.column("path").to_pylist()
    samples = [
        Sample(
            reason=reason,
            path=paths[row],
            predicted=model.classes[predicted[row]],
            confidence=float(confidences[row]),
            label=labels[row],
            jpeg=thumbnail(jpegs[row]),
        )
        for row, reason in choose_samples(confidences, image_ids, params.sample_images)
    ]
    unreadable = len(table) - len(readable)
    batch = BatchReport(
        name=path.stem,
        judgement=judge(reference, probabilities, labels, unreadable, params),
        confidences=confidences,
        predicted_counts=np.bincount(predicted, minlength=len(model.classes)),
        samples=samples,
    )
    return batch, {"seconds": seconds, "images_per_second": len(jpegs) / max(seconds, 1e-9)}


def read_batch(path: Path) -> pa.Table:
    """Read an incoming batch and check its columns."""
    try:
        return read_table(path, BATCH_SCHEMA.names).cast(BATCH_SCHEMA)
    except (pa.ArrowException, ValueError) as error:
        raise DataError(f"{path} is not an incoming batch: {error}") from error


def thumbnail(jpeg: bytes) -> bytes:
    """A canonical image, small enough for the page."""
    return canonical(Image.fromarray(pixels(jpeg)), size=THUMBNAIL, quality=80)


def numbers(batch: BatchReport) -> dict[str, Any]:
    """What ``dvc metrics show`` says of a batch."""
    judgement = batch.judgement
    return {
        "verdict": judgement.verdict,
        "images": judgement.images,
        "unreadable": judgement.unreadable,
        "estimated_accuracy": judgement.estimated_accuracy,
        "accuracy": judgement.accuracy,
        "confidence_wasserstein": judgement.wasserstein,
    } | {f"{s.name}_shift": s.effect for s in judgement.signals if s.name != "unreadable"}


def rows(batch: BatchReport) -> list[dict[str, Any]]:
    """The signals of a batch in full, as points of a DVC plot."""
    return [
        {
            "batch": batch.name,
            "signal": signal.name,
            "statistic": signal.statistic,
            "p_value": signal.p_value,
            "effect": signal.effect,
            "threshold": signal.threshold,
            "verdict": signal.verdict,
            "sentence": signal.sentence,
        }
        for signal in batch.judgement.signals
    ]


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
