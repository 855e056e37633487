"""Measure the classifier and its labelled-only baseline on test, once."""

from __future__ import annotations

import csv
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from grocery.classifier.dataset import Split, load_splits
from grocery.classifier.head import KIND, Head
from grocery.core.arrays import load_arrays
from grocery.core.errors import DataError, ModelError
from grocery.core.files import digest, rounded, write_json
from grocery.core.intervals import clopper_pearson
from grocery.core.params import EvaluateParams
from grocery.core.stage import Report, reads, writes
from grocery.evaluation.metrics import ClassScore, class_scores, reliability, summary
from grocery.features.encoder import KIND as ENCODER_KIND
from grocery.features.encoder import Encoder
from grocery.images.preprocessing import Preprocessing
from grocery.pages.pictures import captioned_grid
from grocery.reference import trials
from grocery.reference.image_statistics import image_statistics
from grocery.reference.reference import Reference, sample_rows
from grocery.shards import images_of, read_table, shard_paths, write_table

HEADLINE = ("accuracy", "gain", "macro_f1", "calibration_error")  # the columns of `dvc exp show`

MISTAKES_PER_CLASS = 6  # a row of the picture of the worst classes


@dataclass(frozen=True)
class Paths:
    """What the stage reads and writes; of the two metrics, `headline` is what is compared."""

    shards: Path = reads("data/prepared/shards")
    incoming: Path = reads("data/prepared/incoming")
    features: Path = reads("data/features")
    encoder: Path = reads("models/encoder")
    classifier: Path = reads("models/classifier")
    reference: Path = writes("models/reference")
    evaluation: Path = writes("metrics/evaluation")
    metrics: Path = writes("metrics/evaluate.json")
    headline: Path = writes("metrics/headline/evaluate.json")


def run(params: EvaluateParams, paths: Paths, report: Report) -> dict[str, Any]:
    """Write test metrics, plots and predictions, and the reference for monitoring.

    Gives the metrics.
    """
    shards = paths.shards
    splits, classes, coarse = load_splits(shards, paths.features)
    test = splits["test"]
    if not len(test.labels):
        raise DataError(f"{shards} holds no test images, so nothing can be measured")
    arrays, description = load_arrays(paths.classifier, KIND)
    if description["classes"] != classes:
        raise ModelError(f"{paths.classifier} knows other classes than {shards}; run train again")
    head, other = (Head.from_arrays(arrays, prefix) for prefix in ("head_", "baseline_"))
    model, baseline = (one.predict_proba(test.features) for one in (head, other))

    coarse_names = [coarse.get(name) for name in classes]
    bins = params.calibration_bins
    result: dict[str, Any] = {
        **summary(model, test.labels, coarse=coarse_names, bins=bins),
        "baseline": summary(baseline, test.labels, coarse=coarse_names, bins=bins),
        "images": len(test.labels),
    }
    correct = int((model.argmax(axis=1) == test.labels).sum())
    result["accuracy_interval"] = clopper_pearson(correct, len(test.labels))
    result["gain"] = result["accuracy"] - result["baseline"]["accuracy"]
    scores = class_scores(model, test.labels, names=classes)
    baseline_scores = class_scores(baseline, test.labels, names=classes)
    wrong = mistakes(test, model)
    pictures = {"worst.jpg": wrong, "worst_classes.jpg": of_worst_classes(wrong, test, scores)}
    pictures = {name: rows[: params.worst_images] for name, rows in pictures.items()}
    wanted = {test.image_ids[row] for rows in pictures.values() for row in rows}
    images = images_of(shard_paths(shards), wanted)

    recorded(test, head, description, paths).save(paths.reference)

    folder = paths.evaluation
    predicted = predictions(test, np.array(classes), model, baseline)
    write_table(folder / "predictions.parquet", predicted.sort_by("image_id"))
    confusion = predicted.select(["label", "predicted"]).rename_columns(["actual", "predicted"])
    write_csv(folder / "confusion.csv", confusion.to_pylist())
    write_csv(folder / "per_class.csv", per_class(scores, baseline_scores))
    diagram = [asdict(b) for b in reliability(model, test.labels, bins=bins)]
    write_csv(folder / "reliability.csv", diagram)
    for name, rows in pictures.items():
        mistaken = predicted.take(pa.array(rows, pa.int64())).to_pylist()
        (folder / name).write_bytes(picture(mistaken, images))
    write_json(paths.metrics, result)
    write_json(paths.headline, {name: result[name] for name in HEADLINE})
    return result


def recorded(test: Split, head: Head, description: dict[str, Any], paths: Paths) -> Reference:
    """The reference of the test images; features and image statistics are of a sample.

    What an incoming batch holds is not in it, since that is compared with it. The model is tried
    out on some of the sample (`grocery.reference.trials`).
    """
    seen = incoming_ids(paths.incoming)
    rows = np.flatnonzero([image_id not in seen for image_id in test.image_ids])
    sample = rows[sample_rows([test.image_ids[row] for row in rows])]
    ids = [test.image_ids[row] for row in sample]
    images = images_of(shard_paths(paths.shards), ids)
    reference = Reference.from_predictions(
        head.predict_proba(test.features[rows]),
        [test.names[row] for row in rows],
        description["classes"],
        description["sha256"],
        features=test.features[sample],
        logits=head.logits(test.features[sample]),
        image_statistics=image_statistics([images[image_id] for image_id in ids]),
    )
    arrays, encoder = load_arrays(paths.encoder, ENCODER_KIND)
    scratch = paths.reference / "seen"
    tried = trials.try_shifts(
        reference,
        encoder=Encoder.from_arrays(arrays, encoder["settings"], paths.encoder),
        head=head,
        preprocessing=Preprocessing.of(encoder.get("preprocessing"), str(paths.encoder)),
        images=[
            (ids[place], images[ids[place]], int(test.labels[sample[place]]))
            for place in sample_rows(ids, trials.IMAGES)
        ],
        decided_by=[digest(file) for file in sorted(paths.encoder.iterdir())],
        scratch=scratch,
    )
    shutil.rmtree(scratch)
    return replace(reference, trials=tried)


def predictions(
    test: Split, names: NDArray[np.str_], model: NDArray[np.float32], baseline: NDArray[np.float32]
) -> pa.Table:
    """What was predicted for each test image, for a person to look at and for later comparison."""
    return pa.table(
        {
            "image_id": test.image_ids,
            "path": test.paths,
            "label": test.names,
            "predicted": names[model.argmax(axis=1)].tolist(),
            "confidence": model.max(axis=1),
            "baseline": names[baseline.argmax(axis=1)].tolist(),
        }
    )


def per_class(scores: list[ClassScore], baseline: list[ClassScore]) -> list[dict[str, Any]]:
    """One row per class: the classifier's scores, and the labelled-only baseline's beside them."""
    compared = ("precision", "recall", "f1")
    return [
        asdict(score) | {f"baseline_{name}": getattr(other, name) for name in compared}
        for score, other in zip(scores, baseline, strict=True)
    ]


def mistakes(test: Split, model: NDArray[np.float32]) -> list[int]:
    """Rows of the test images that were predicted wrong, the most confident first."""
    wrong = np.flatnonzero(model.argmax(axis=1) != test.labels)
    order: list[int] = wrong[np.argsort(-model.max(axis=1)[wrong], kind="stable")].tolist()
    return order


def of_worst_classes(wrong: list[int], test: Split, scores: list[ClassScore]) -> list[int]:
    """The first few mistakes of each class, the class of lowest recall first."""
    by_class: dict[str | None, list[int]] = {}
    for row in wrong:
        by_class.setdefault(test.names[row], []).append(row)
    ranked = sorted(scores, key=lambda score: (score.recall, score.name))
    return [row for score in ranked for row in by_class.get(score.name, [])[:MISTAKES_PER_CLASS]]


def picture(mistaken: list[dict[str, Any]], images: dict[str, bytes]) -> bytes:
    """Picture (JPEG) of mistakes, each with what it is and what it was taken for."""
    caption = "{label}\nnot {predicted} ({confidence:.2f})"
    return captioned_grid([(images[r["image_id"]], caption.format_map(r)) for r in mistaken])


def incoming_ids(incoming: Path) -> set[str]:
    """Ids of all images in the incoming batches."""
    batches = [read_table(path, ["image_id"]) for path in sorted(incoming.glob("*.parquet"))]
    return {image_id for batch in batches for image_id in batch.column("image_id").to_pylist()}


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows of equal keys as CSV, floats to 6 decimals."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rounded(rows))
