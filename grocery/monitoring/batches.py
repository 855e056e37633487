"""The examination of one batch of incoming images: predict, judge, and keep what is shown of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from grocery.core.errors import DataError
from grocery.core.params import MonitorParams
from grocery.data.duplicates import perceptual_hash
from grocery.data.near_duplicates import NearDuplicates
from grocery.images.decoding import canonical, pixels
from grocery.images.preprocessing import Preprocessing
from grocery.monitoring.drift import judge
from grocery.monitoring.report import BatchReport, Sample, choose_samples
from grocery.monitoring.signals import Signal
from grocery.monitoring.speed import NAME as SPEED
from grocery.monitoring.speed import Timing
from grocery.reference.image_statistics import image_statistics
from grocery.reference.reference import Reference
from grocery.release.model import Model
from grocery.shards import BATCH_SCHEMA, DRILL, how_prepared, read_table

HISTOGRAM_BINS = 20
THUMBNAIL = 160  # longest side of a picture on the page, in pixels
# More than `prepare.near_duplicate_bits`: an image that is left out by mistake costs a batch
# little, and a copy that stays makes chance look like drift.
NEAR_DUPLICATE_BITS = 20

AT_ONCE = 16  # images that are predicted together; one by one takes twice the time

# So many labels give an interval of nine in ten that is at most 0.2 wide.
TO_LABEL = 68


@dataclass(frozen=True)
class Batch:
    """Incoming images, prepared as the model wants them."""

    name: str  # what the report calls the batch
    origin: Path  # the file or folder that it was read from, for errors
    image_ids: Sequence[str]  # SHA-256 (hex) of each of the n raw files
    paths: Sequence[str]  # where each came from
    labels: Sequence[str | None]  # true class of each, None where it is not known
    jpegs: Sequence[bytes | None]  # canonical image of each, None where the file is unreadable
    drill: str | None = None  # what was done on purpose, of a batch that the pipeline made


def read_batch(path: Path, wanted: Preprocessing) -> Batch:
    """Read a Parquet batch (`grocery.shards.BATCH_SCHEMA`), named after its file.

    Raises
    ------
    DataError
        When the file is not a whole Parquet file or has other columns, or when it says that its
        images were prepared otherwise than the model wants them.
    """
    try:
        found = read_table(path, BATCH_SCHEMA.names)
        table = found.cast(BATCH_SCHEMA)
    except (pa.ArrowException, ValueError) as error:
        raise DataError(f"{path} is not an incoming batch: {error}") from error
    image_ids, paths, labels, jpegs = (
        table.column(name).to_pylist() for name in ("image_id", "path", "label", "image")
    )
    if (said := how_prepared(path)) is not None:
        how = Preprocessing.of(said, str(path))
        if not how.gives_the_same_as(wanted):
            raise DataError(
                f"{path} was prepared with image_size {how.image_size} and jpeg_quality "
                f"{how.jpeg_quality}, but the model wants {wanted.image_size} and "
                f"{wanted.jpeg_quality}; prepare it again"
            )
    drill = (found.schema.metadata or {}).get(DRILL, b"").decode(errors="replace") or None
    return Batch(path.stem, path, image_ids, paths, labels, jpegs, drill)


def examine_file(
    path: Path, *, model: Model, reference: Reference, params: MonitorParams
) -> tuple[BatchReport, Timing]:
    """Read a Parquet batch and `examine` it."""
    batch = read_batch(path, model.preprocessing)
    return examine(batch, model=model, reference=reference, params=params)


def examine(
    batch: Batch, *, model: Model, reference: Reference, params: MonitorParams
) -> tuple[BatchReport, Timing]:
    """Predict and judge one batch; also say how long prediction took.

    It may be empty, and none of it may be readable.

    Raises
    ------
    DataError
        When a prepared image is damaged or far too large; it names the batch's origin.
    """
    # By content: a permutation test must not depend on the order in which files were found.
    rows = sorted(range(len(batch.jpegs)), key=batch.image_ids.__getitem__)
    all_readable = [(row, jpeg) for row in rows if (jpeg := batch.jpegs[row]) is not None]
    try:
        found = [all_readable[place] for place in of_their_own([jpeg for _, jpeg in all_readable])]
        readable, jpegs = [row for row, _ in found], [jpeg for _, jpeg in found]
        features, seconds = _features(model, jpegs)
    except DataError as error:
        raise DataError(f"{batch.origin}: {error}") from None
    labels = [batch.labels[row] for row in readable]
    logits = model.head.logits(features)
    probabilities = model.head.calibrate(logits)
    predicted, confidences = probabilities.argmax(axis=1), probabilities.max(axis=1)
    image_ids = [batch.image_ids[row] for row in readable]
    samples = [
        Sample(
            reason=reason,
            path=batch.paths[readable[index]],
            predicted=model.classes[predicted[index]],
            confidence=float(confidences[index]),
            label=labels[index],
            jpeg=canonical(Image.fromarray(pixels(jpegs[index])), size=THUMBNAIL, quality=80),
        )
        for index, reason in choose_samples(confidences, image_ids, params.sample_images)
    ]
    judgement = judge(
        reference,
        probabilities,
        labels,
        len(batch.jpegs) - len(all_readable),
        params,
        features=features,
        logits=logits,
        image_statistics=image_statistics(jpegs),
    )
    unlabelled = [batch.paths[row] for row in readable if batch.labels[row] is None]
    report = BatchReport(
        name=batch.name,
        judgement=judgement,
        confidences=confidences,
        predicted_counts=np.bincount(predicted, minlength=len(model.classes)),
        samples=samples,
        drill=batch.drill,
        copies=len(all_readable) - len(jpegs),
        # They are in the order of their hashes, so that the first are chosen by nobody.
        to_label=unlabelled[:TO_LABEL] if judgement.refusal else (),
    )
    return report, Timing.of(seconds)


def of_their_own(jpegs: Sequence[bytes]) -> list[int]:
    """Which of some images are judged, ascending: of each group of near duplicates the first.

    The tests take images to be independent, and twenty photographs of one shelf are not.
    """
    hashes = [perceptual_hash(Image.fromarray(pixels(jpeg))) for jpeg in jpegs]
    groups = NearDuplicates(hashes, max_bits=NEAR_DUPLICATE_BITS).groups()
    return sorted(set(range(len(jpegs))) - {place for group in groups for place in group[1:]})


def _features(model: Model, jpegs: Sequence[bytes]) -> tuple[NDArray[np.float32], list[float]]:
    """Features of each image, and the seconds that each took: its share of those of `AT_ONCE`."""
    features, seconds = [model.features([])], list[float]()
    for first in range(0, len(jpegs), AT_ONCE):
        some = jpegs[first : first + AT_ONCE]
        start = time.perf_counter()
        features.append(model.features(some))
        seconds += [(time.perf_counter() - start) / len(some)] * len(some)
    return np.concatenate(features), seconds


def numbers(batch: BatchReport) -> dict[str, Any]:
    """What ``dvc metrics show`` says of a batch."""
    judgement = batch.judgement
    kept = (
        "verdict",
        "images",
        "unreadable",
        "estimated_accuracy",
        "estimate_interval",
        "accuracy",
    )
    shifts = {f"{s.name}_shift": s.effect for s in judgement.signals if s.name != "unreadable"}
    distance = {"confidence_wasserstein": judgement.wasserstein}
    drill = {"drill": batch.drill} if batch.drill else {}
    about = {"copies": batch.copies, "refusal": judgement.refusal, "to_label": list(batch.to_label)}
    return {name: getattr(judgement, name) for name in kept} | distance | shifts | drill | about


def as_json(signals: Sequence[Signal]) -> list[dict[str, Any]]:
    """Signals in full, as JSON values."""
    kept = ("statistic", "p_value", "effect", "threshold", "verdict", "sentence")
    return [{"signal": one.name} | {name: getattr(one, name) for name in kept} for one in signals]


def rows(batch: BatchReport) -> list[dict[str, Any]]:
    """The signals of a batch as points of a DVC plot."""
    return [{"batch": batch.name} | signal for signal in as_json(batch.judgement.signals)]


def accuracies(batch: BatchReport) -> dict[str, Any]:
    """The accuracy of a batch as a point of a DVC plot; what is not known is None."""
    judgement = batch.judgement
    interval = judgement.estimate_interval or (None, None)
    return {
        "batch": batch.name,
        "estimated": judgement.estimated_accuracy,
        "estimated_low": interval[0],
        "estimated_high": interval[1],
        "realised": judgement.accuracy,
    }


def told(batch: BatchReport, timing: Timing) -> dict[str, Any]:
    """What is reported of a batch beside the outputs, for those who watch.

    ``batch`` (its name), ``curves`` (numbers that are drawn over batches; each shift beside where
    it counts), ``timing``, ``confidences`` (a histogram, `HISTOGRAM_BINS` counts from 0 to 1),
    ``samples`` (JPEG bytes and caption of each), and ``alert`` (what has drifted, or None).
    """
    values = {f"accuracy/{name}": value for name, value in accuracies(batch).items()}
    del values["accuracy/batch"]
    found = batch.judgement.signals
    for signal in found:
        values[f"shift/{signal.name}"] = signal.effect
        values[f"shift/{signal.name} counts from"] = signal.threshold
    drifted = [s.sentence for s in found if s.verdict != "ok" and s.name != SPEED]
    captions = (f"{s.reason}: {s.predicted} ({s.confidence:.2f}), {s.path}" for s in batch.samples)
    return {
        "batch": batch.name,
        "curves": {name: float(value) for name, value in values.items() if value is not None},
        "timing": asdict(timing),
        "confidences": np.histogram(batch.confidences, HISTOGRAM_BINS, (0, 1))[0].tolist(),
        "samples": [(s.jpeg, caption) for s, caption in zip(batch.samples, captions, strict=True)],
        "alert": " ".join(drifted) if batch.judgement.verdict == "alert" else None,
    }
