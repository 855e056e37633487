"""What monitoring costs beside prediction: the tests of a large batch, and a batch of real images.

    python benchmarks/monitor.py
    python benchmarks/monitor.py --release models/release --shards data/prepared/shards

The tests are timed on 10,000 drawn rows of the reference's own shape, the batch on the dataset's
test images. Every figure is the median of a few runs in this process; the two kinds of work on real
images take turns, so that a busy machine slows them alike.
"""

# ruff: noqa: E402

from __future__ import annotations

from grocery.core.pin import pin

pin()  # before anything loads numpy: the pipeline's own numbers

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from drill import labelled_images

from grocery.core.errors import one_sentence
from grocery.inbox.judging import read_thresholds
from grocery.monitoring.batches import Batch, examine
from grocery.monitoring.drift import judge
from grocery.reference.image_statistics import image_statistics
from grocery.reference.reference import Reference, sample_rows
from grocery.release.model import Model
from grocery.shards import images_of, shard_paths

ROWS = 10_000


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--release", type=Path, default=Path("models/release"))
    parser.add_argument("--shards", type=Path, default=Path("data/prepared/shards"))
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    with one_sentence("monitor benchmark"):
        run(parser.parse_args())


def run(arguments: argparse.Namespace) -> None:
    """Measure both."""
    params, model = read_thresholds(arguments.params), Model.load(arguments.release)
    rows = labelled_images(arguments.shards, "test")
    half = len(rows) // 2
    ids = [row["image_id"] for row in rows]
    jpegs = images_of(shard_paths(arguments.shards), ids)
    known = [jpegs[image_id] for image_id in ids[half:]]
    features = model.features(known)
    sample = sample_rows(ids[half:])
    reference = Reference.from_predictions(
        model.head.predict_proba(features),
        [row["label"] for row in rows[half:]],
        model.classes,
        model.digest,
        features=features[sample],
        logits=model.head.logits(features[sample]),
        image_statistics=image_statistics([known[row] for row in sample]),
    )

    again = np.random.default_rng(0).integers(len(features), size=ROWS)
    logits, photographs = model.head.logits(features[again]), image_statistics(known)[again]
    probabilities = model.head.calibrate(logits)
    labels: list[str | None] = [rows[half + row]["label"] for row in again]

    def tests() -> None:
        judge(
            reference,
            probabilities,
            labels,
            0,
            params,
            features=features[again],
            logits=logits,
            image_statistics=photographs,
        )

    chosen = ids[: min(half, arguments.images)]
    batch = Batch(
        "batch", Path("batch"), chosen, chosen, [None] * len(chosen), [jpegs[i] for i in chosen]
    )
    raw = [jpegs[image_id] for image_id in chosen]
    predicting, monitoring = [], []
    for _ in range(arguments.runs):
        predicting.append(seconds(lambda: model.predict_proba(raw)))
        monitoring.append(
            seconds(lambda: examine(batch, model=model, reference=reference, params=params))
        )
    print(f"tests of {ROWS} rows: {median(seconds(tests) for _ in range(arguments.runs)):.2f} s")
    print(f"prediction of {len(raw)} images: {median(predicting):.2f} s")
    ratio = median(m / p for m, p in zip(monitoring, predicting, strict=True))
    print(f"monitoring of them: {median(monitoring):.2f} s, {ratio:.2f} times")


def seconds(work: Callable[[], object]) -> float:
    """How long something takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
