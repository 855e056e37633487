"""What W&B shows of each stage: a function of its outputs and of what it reported."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from grocery.contents import read_content
from grocery.core.errors import DataError
from grocery.dataset_diff import diff_rows, rows_at
from grocery.shards import images_of, read_columns, read_table, shard_paths
from grocery.tracking import artifacts
from grocery.tracking.provenance import git
from grocery.tracking.run import StageRun

PREDICTIONS_SHOWN = 10_000  # rows of a table that W&B draws
WORST = {
    "worst.jpg": "most confident mistakes",
    "worst_classes.jpg": "mistakes in the classes of lowest recall",
}


def show(stage: str, tracked: StageRun, paths: Any, params: Any, found: Mapping[str, Any]) -> None:
    """Show what a stage has found and written; it is one of `SHOWN`."""
    tracked.summary(found)
    SHOWN[stage](tracked, paths, params, found)


def step(tracked: StageRun, stage: str, number: int, values: Mapping[str, Any]) -> None:
    """Show one step: an iteration of train, a batch of monitor."""
    if stage == "monitor":
        batch(tracked, number, values)
    else:
        tracked.log(values, step=number)


def batch(tracked: StageRun, number: int, told: Mapping[str, Any]) -> None:
    """Show one batch of images, and notify the team when it has drifted.

    `number`, from 0, is its place on the curves; `told` see `grocery.monitoring.batches.told`.
    """
    name = told["batch"]
    tracked.log(told["curves"], step=number)
    tracked.summary({f"prediction/{name}/{key}": value for key, value in told["timing"].items()})
    edges = np.linspace(0, 1, len(told["confidences"]) + 1).tolist()
    tracked.histogram(f"confidence/{name}", told["confidences"], edges)
    tracked.images(f"samples/{name}", told["samples"])
    if told["alert"] is not None:
        tracked.alert(f"Drift in batch {name}", told["alert"])


def prepare(tracked: StageRun, paths: Any, params: Any, found: Mapping[str, Any]) -> None:
    """What was left out, and the dataset."""
    document = json.loads(paths.report.read_bytes())
    rows = [[entry["path"], entry["reason"]] for entry in document["quarantined"]]
    tracked.table("quarantine", ["path", "reason"], rows)
    shards = read_columns(paths.shards, ["split", "label"]).to_pylist()
    counts = per_class((row["split"], row["label"]) for row in shards)
    metadata = {"source": document["source"], **params.model_dump(), **found, **counts}
    tracked.artifact(artifacts.DATASET, paths.shards, metadata)
    batches = {name: batch["images"] for name, batch in document["incoming"].items()}
    arrived = per_class(
        (file.stem, label)
        for file in sorted(paths.incoming.glob("*.parquet"))
        for label in read_table(file, ["label"]).column("label").to_pylist()
    )
    tracked.artifact(artifacts.INCOMING, paths.incoming, {"batches": batches, **arrived})


def per_class(images: Iterable[tuple[str, str | None]]) -> dict[str, Any]:
    """Names of the classes, and the number of images of each, in that order, per split or batch.

    `images` are pairs of a split and a class, None where it is not known. Lists, since W&B takes
    few keys of metadata.
    """
    counts: dict[str, Counter[str | None]] = {}
    for split, label in images:
        counts.setdefault(split, Counter())[label] += 1
    names = sorted({label for labels in counts.values() for label in labels if label is not None})
    numbers = {split: [labels[name] for name in names] for split, labels in counts.items()}
    return {"class_names": names, "images_per_class": numbers}


def version(tracked: StageRun, paths: Any, params: Any, found: Mapping[str, Any]) -> None:
    """The dataset card, and what has changed since the last commit."""
    if tracked.enabled:
        tracked.summary({"changes": changes_since("HEAD", paths.shards)})
    tracked.html("dataset card", paths.card / "index.html")
    sheet = (paths.card / "contact-sheet.jpg").read_bytes()
    tracked.images("contact sheet", [(sheet, "contact sheet")])
    tracked.artifact(artifacts.CARD, paths.card, found)


def changes_since(revision: str, shards: Path) -> dict[str, int]:
    """Number of changes of each kind since a commit; empty where it holds no dataset to read."""
    try:
        now = rows_at(None, shards)
        if read_content(shards).md5 in git("show", f"{revision}:./dvc.lock"):
            return diff_rows(now, now).counts()  # to read the revision takes a second
        return diff_rows(rows_at(revision, shards), now).counts()
    except (DataError, OSError):
        return {}


def featurize(tracked: StageRun, paths: Any, params: Any, found: Mapping[str, Any]) -> None:
    """The encoder and the features."""
    metadata = {**found, **params.model_dump()}
    tracked.artifact(artifacts.ENCODER, paths.encoder, metadata)
    tracked.artifact(artifacts.FEATURES, paths.features, metadata)


def train(tracked: StageRun, paths: Any, params: Any, found: Mapping[str, Any]) -> None:
    """The classifier; its curves were reported."""
    tracked.artifact(artifacts.CLASSIFIER, paths.classifier, {**found, **params.model_dump()})


def evaluate(tracked: StageRun, paths: Any, params: Any, found: Mapping[str, Any]) -> None:
    """What `dvc plots` shows, and each prediction: first the confident mistakes."""
    if tracked.enabled:
        _evaluation(tracked, paths, params)
    tracked.artifact(artifacts.EVALUATION, paths.evaluation, found)
    tracked.artifact(artifacts.REFERENCE, paths.reference, {"images": found["images"]})


def _evaluation(tracked: StageRun, paths: Any, params: Any) -> None:
    rows = read_table(paths.evaluation / "predictions.parquet").to_pylist()
    names = sorted({row[column] for row in rows for column in ("label", "predicted")})
    numbers = {name: number for number, name in enumerate(names)}
    actual, predicted = ([numbers[row[c]] for row in rows] for c in ("label", "predicted"))
    tracked.confusion_matrix("confusion matrix", actual, predicted, names)
    rows.sort(key=lambda row: (row["label"] == row["predicted"], -row["confidence"]))
    wrong = [row for row in rows[: params.worst_images] if row["label"] != row["predicted"]]
    images = images_of(shard_paths(paths.shards), {row["image_id"] for row in wrong})
    columns = ["path", "label", "predicted", "confidence", "baseline"]
    cells = [[images.get(row["image_id"]), *(row[c] for c in columns)] for row in rows]
    tracked.table("predictions", ["image", *columns], cells[:PREDICTIONS_SHOWN])
    for name in ("per_class", "reliability"):
        with (paths.evaluation / f"{name}.csv").open(encoding="utf-8", newline="") as stream:
            header, *lines = csv.reader(stream)
        tracked.table(name, header, lines)
    worst = [((paths.evaluation / name).read_bytes(), caption) for name, caption in WORST.items()]
    tracked.images("mistakes", worst)


def register(tracked: StageRun, paths: Any, params: Any, found: Mapping[str, Any]) -> None:
    """The verdict and the release; an accepted one becomes the registry's candidate."""
    verdict = json.loads((paths.release / "verdict.json").read_bytes())
    columns = ["name", "value", "side", "limit", "passed"]
    rows = [[check[column] for column in columns] for check in verdict["checks"]]
    tracked.table("verdict", columns, rows)
    measured = json.loads(paths.measured.read_bytes())
    tracked.artifact(artifacts.RELEASE, paths.release, {**measured, **found})
    if found["accepted"]:
        tracked.link(artifacts.RELEASE, alias="candidate")


def monitor(tracked: StageRun, paths: Any, params: Any, found: Mapping[str, Any]) -> None:
    """The page; the batches were reported."""
    tracked.html("report", paths.monitor / "index.html")
    verdicts = {name: batch["verdict"] for name, batch in found["batches"].items()}
    metadata = {"alerts": found["alerts"], "verdicts": verdicts}
    tracked.artifact(artifacts.MONITORING, paths.monitor, metadata)


SHOWN: dict[str, Callable[[StageRun, Any, Any, Mapping[str, Any]], None]] = {
    shown.__name__: shown
    for shown in (prepare, version, featurize, train, evaluate, register, monitor)
}
