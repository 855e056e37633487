"""Measure the classifier and its labelled-only baseline on test, once."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from grocery.classifier.dataset import Split, load_splits
from grocery.classifier.head import KIND, Head
from grocery.core.arrays import load_arrays
from grocery.core.errors import DataError, ModelError, one_sentence
from grocery.core.files import replacing, write_metrics
from grocery.core.params import EvaluateParams
from grocery.evaluation.image_statistics import image_statistics
from grocery.evaluation.metrics import ClassScore, class_scores, reliability, summary
from grocery.evaluation.reference import Reference, sample_rows
from grocery.pages.pictures import captioned_grid
from grocery.settings import load
from grocery.shards import images_of, read_table, shard_paths, write_table
from grocery.tracking import artifacts
from grocery.tracking.run import StageRun, stage_run

SHARDS = Path("data/prepared/shards")
INCOMING = Path("data/prepared/incoming")
FEATURES = Path("data/features")
CLASSIFIER = Path("models/classifier")
REFERENCE = Path("models/reference")
EVALUATION = Path("metrics/evaluation")
METRICS = Path("metrics/evaluate.json")

HEADLINE = ("accuracy", "gain", "macro_f1", "calibration_error")  # the columns of `dvc exp show`

PREDICTIONS_SHOWN = 10_000  # rows of a table that W&B draws
MISTAKES_A_CLASS = 6  # a row of the picture of the worst classes


def run(
    params: EvaluateParams,
    *,
    shards: Path,
    incoming: Path,
    features: Path,
    classifier: Path,
    reference: Path,
    evaluation: Path,
    metrics: Path,
) -> dict[str, Any]:
    """Write test metrics, plots and predictions, and the reference for monitoring."""
    splits, classes, coarse = load_splits(shards, features)
    test = splits["test"]
    if not len(test.labels):
        raise DataError(f"{shards} holds no test images, so nothing can be measured")
    arrays, description = load_arrays(classifier, KIND)
    if description["classes"] != classes:
        raise ModelError(f"{classifier} knows other classes than {shards}; run train again")
    head, other = (Head.from_arrays(arrays, prefix) for prefix in ("head_", "baseline_"))
    model, baseline = (one.predict_proba(test.features) for one in (head, other))

    coarse_names = [coarse.get(name) for name in classes]
    bins = params.calibration_bins
    result: dict[str, Any] = {
        **summary(model, test.labels, coarse=coarse_names, bins=bins),
        "baseline": summary(baseline, test.labels, coarse=coarse_names, bins=bins),
        "images": len(test.labels),
    }
    result["gain"] = result["accuracy"] - result["baseline"]["accuracy"]
    scores = class_scores(model, test.labels, names=classes)
    baseline_scores = class_scores(baseline, test.labels, names=classes)
    wrong = mistakes(test, model)
    pictures = {
        "worst.jpg": wrong[: params.worst_images],
        "worst_classes.jpg": of_worst_classes(wrong, test, scores)[: params.worst_images],
    }
    wanted = {test.image_ids[row] for rows in pictures.values() for row in rows}
    images = images_of(shard_paths(shards), wanted)

    # What an incoming batch holds must not be in what it is compared with.
    seen = incoming_ids(incoming)
    fresh = np.array([image_id not in seen for image_id in test.image_ids])
    digest = description["sha256"]
    yardstick = recorded(test, fresh, head=head, classes=classes, digest=digest, shards=shards)

    with replacing(evaluation) as folder, replacing(reference) as reference_folder:
        write_table(folder / "predictions.parquet", predictions(test, classes, model, baseline))
        write_csv(folder / "confusion.csv", confusion(test, classes, model))
        write_csv(folder / "per_class.csv", per_class(scores, baseline_scores))
        diagram = [asdict(b) for b in reliability(model, test.labels, bins=bins)]
        write_csv(folder / "reliability.csv", diagram)
        for name, rows in pictures.items():
            (folder / name).write_bytes(picture(rows, images, test, classes, model))
        yardstick.save(reference_folder)
        write_metrics(metrics, result, HEADLINE)  # last: a failure replaces nothing
    return result


def recorded(
    test: Split,
    fresh: NDArray[np.bool_],
    *,
    head: Head,
    classes: list[str],
    digest: str,
    shards: Path,
) -> Reference:
    """The reference of the fresh test images; features and image statistics are of a sample."""
    rows = np.flatnonzero(fresh)
    sample = rows[sample_rows([test.image_ids[row] for row in rows])]
    ids = [test.image_ids[row] for row in sample]
    images = images_of(shard_paths(shards), ids)
    return Reference.from_predictions(
        head.predict_proba(test.features[rows]),
        [test.names[row] for row in rows],
        classes,
        digest,
        features=test.features[sample],
        logits=head.logits(test.features[sample]),
        image_statistics=image_statistics([images[image_id] for image_id in ids]),
    )


def predictions(
    test: Split,
    classes: list[str],
    model: NDArray[np.float32],
    baseline: NDArray[np.float32],
) -> pa.Table:
    """What was predicted for each test image, for a person to look at and for later comparison."""
    names = np.array(classes)
    columns = {
        "image_id": test.image_ids,
        "path": test.paths,
        "label": test.names,
        "predicted": names[model.argmax(axis=1)].tolist(),
        "confidence": model.max(axis=1),
        "baseline": names[baseline.argmax(axis=1)].tolist(),
    }
    return pa.table(columns).sort_by("image_id")


def confusion(test: Split, classes: list[str], model: NDArray[np.float32]) -> list[dict[str, Any]]:
    """One row a test image: its class and the predicted one."""
    predicted = [classes[index] for index in model.argmax(axis=1)]
    return [{"actual": a, "predicted": p} for a, p in zip(test.names, predicted, strict=True)]


def per_class(scores: list[ClassScore], baseline: list[ClassScore]) -> list[dict[str, Any]]:
    """One row a class: the classifier's scores, and the labelled-only baseline's beside them."""
    return [
        {
            **asdict(score),
            "baseline_precision": other.precision,
            "baseline_recall": other.recall,
            "baseline_f1": other.f1,
        }
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
    return [row for score in ranked for row in by_class.get(score.name, [])[:MISTAKES_A_CLASS]]


def picture(
    rows: list[int],
    images: dict[str, bytes],
    test: Split,
    classes: list[str],
    model: NDArray[np.float32],
) -> bytes:
    """Picture (JPEG) of mistakes, each with what it is and what it was taken for."""
    confidence, predicted = model.max(axis=1), model.argmax(axis=1)
    return captioned_grid(
        [
            (
                images[test.image_ids[row]],
                f"{test.names[row]}\nnot {classes[predicted[row]]} ({confidence[row]:.2f})",
            )
            for row in rows
        ]
    )


def incoming_ids(incoming: Path) -> set[str]:
    """Ids of all images in the incoming batches."""
    batches = [read_table(path, ["image_id"]) for path in sorted(incoming.glob("*.parquet"))]
    return {image_id for batch in batches for image_id in batch.column("image_id").to_pylist()}


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows of equal keys as CSV, floats to 6 decimals."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()})
    path.write_text(text.getvalue(), encoding="utf-8")


def main() -> None:
    """Run the stage on the paths of dvc.yaml."""
    with one_sentence("evaluate"):
        params = load()
        with stage_run(
            "evaluate",
            settings=params.tracking,
            config={"evaluate": params.evaluate.model_dump()},
            inputs={
                artifacts.DATASET: SHARDS,
                artifacts.INCOMING: INCOMING,
                artifacts.FEATURES: FEATURES,
                artifacts.CLASSIFIER: CLASSIFIER,
            },
            tags=[params.data.source],
        ) as tracked:
            result = run(
                params.evaluate,
                shards=SHARDS,
                incoming=INCOMING,
                features=FEATURES,
                classifier=CLASSIFIER,
                reference=REFERENCE,
                evaluation=EVALUATION,
                metrics=METRICS,
            )
            tracked.summary(result)
            if tracked.enabled:
                track_pictures(tracked, worst=params.evaluate.worst_images)
            tracked.artifact(artifacts.EVALUATION, EVALUATION, result)
            tracked.artifact(artifacts.REFERENCE, REFERENCE, {"images": result["images"]})


def track_pictures(tracked: StageRun, *, worst: int) -> None:
    """Show in W&B what `dvc plots` shows, and each prediction: first the confident mistakes."""
    rows = read_table(EVALUATION / "predictions.parquet").to_pylist()
    names = sorted({row[column] for row in rows for column in ("label", "predicted")})
    numbers = {name: number for number, name in enumerate(names)}
    actual, predicted = ([numbers[row[c]] for row in rows] for c in ("label", "predicted"))
    tracked.confusion_matrix("confusion matrix", actual, predicted, names)
    rows.sort(key=lambda row: (row["label"] == row["predicted"], -row["confidence"]))
    shown = {row["image_id"] for row in rows[:worst] if row["label"] != row["predicted"]}
    images = images_of(shard_paths(SHARDS), shown)
    columns = ["path", "label", "predicted", "confidence", "baseline"]
    cells = [[images.get(row["image_id"]), *(row[c] for c in columns)] for row in rows]
    tracked.table("predictions", ["image", *columns], cells[:PREDICTIONS_SHOWN])
    for name in ("per_class", "reliability"):
        with (EVALUATION / f"{name}.csv").open(encoding="utf-8", newline="") as stream:
            columns, *rows = csv.reader(stream)
        tracked.table(name, columns, rows)
    captions = {
        "worst.jpg": "most confident mistakes",
        "worst_classes.jpg": "mistakes in the classes of lowest recall",
    }
    pictures = [((EVALUATION / name).read_bytes(), text) for name, text in captions.items()]
    tracked.images("mistakes", pictures)


if __name__ == "__main__":
    main()
