"""Run the release over incoming batches: has the world moved away from the training data?"""

from __future__ import annotations

import time
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
from grocery.tracking.run import stage_run

RELEASE = Path("models/release")
INCOMING = Path("data/prepared/incoming")
OUTPUT = Path("metrics/monitor")
METRICS = Path("metrics/monitor.json")

THUMBNAIL = 160  # longest side of a picture on the page, in pixels


def run(
    params: MonitorParams,
    *,
    release: Path,
    incoming: Path,
    output: Path,
    metrics: Path,
    workers: int,
) -> dict[str, Any]:
    """Judge every incoming batch; write the verdicts, the signals for plots, and the page.

    Besides the metrics, what is returned holds ``sentences`` (the findings that are not ok) and
    ``timings`` (seconds of prediction and images per second) a batch. Neither is written: timings
    differ from run to run.
    """
    model = load_model(release)
    reference = Reference.load(release / "reference")
    reference.check_fits(model.classes, model.digest)
    if not incoming.is_dir():
        raise DataError(f"{incoming} is missing; run the stage that makes the batches first")

    paths = sorted(incoming.glob("*.parquet"))
    look = partial(examine, model=model, reference=reference, params=params)
    examined = list(parallel_map(look, paths, workers=workers, title="batches"))
    batches = [batch for batch, _ in examined]

    result: dict[str, Any] = {
        "alerts": sum(batch.judgement.verdict == "alert" for batch in batches),
        "batches": {batch.name: numbers(batch) for batch in batches},
    }
    with replacing(output) as folder:
        write_json(folder / "batches.json", [row for batch in batches for row in rows(batch)])
        write_bytes(folder / "index.html", render(reference, batches, params))
        write_json(metrics, result)  # last, so that nothing is replaced when anything fails
    return result | {
        "sentences": {
            batch.name: [s.sentence for s in batch.judgement.signals if s.verdict != "ok"]
            for batch in batches
        },
        "timings": {batch.name: timing for batch, timing in examined},
    }


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
            inputs={"release": RELEASE, "incoming": INCOMING},
            tags=[params.data.source],
        ) as tracked:
            tracked.uses("release", "model", digest=RELEASE)
            result = run(
                params.monitor,
                release=RELEASE,
                incoming=INCOMING,
                output=OUTPUT,
                metrics=METRICS,
                workers=params.compute.workers,
            )
            tracked.summary(result)
            tracked.html("report", OUTPUT / "index.html")
            for name, batch in result["batches"].items():
                if batch["verdict"] == "alert":
                    tracked.alert(f"Drift in batch {name}", " ".join(result["sentences"][name]))
            metadata = {"alerts": result["alerts"]}
            tracked.artifact(
                "monitoring", "report", digest=OUTPUT, metadata=metadata, files=[OUTPUT]
            )


if __name__ == "__main__":
    main()
