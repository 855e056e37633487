"""Nothing that is measured on reaches what is measured: break one of these, and a test here fails.

The stages run on a small dataset of coloured squares, of which some rows are then changed. What
must not depend on them must keep its bytes; what must depend on them must not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from conftest import ROOT, call_stage
from grocery.classifier.head import KIND, Head
from grocery.core.arrays import load_arrays
from grocery.core.files import digest
from grocery.images.decoding import canonical
from grocery.reference.reference import Reference
from grocery.release.verdict import decide
from grocery.settings import load
from grocery.shards import (
    BATCH_SCHEMA,
    IMAGE_SCHEMA,
    read_columns,
    shard_name,
    shard_of,
    write_table,
)
from stages import train

PARAMS = load(ROOT / "params.yaml")
FEATURIZE = PARAMS.featurize.model_copy(
    update={"encoder": "colour", "dimensions": 8, "fit_images": 200}
)
TRAIN = PARAMS.train.model_copy(update={"labeled_ratio": 0.1, "n_neighbors": 5})
CLASSES = {"apple": (200, 60, 50), "lemon": (190, 170, 60), "plum": (120, 60, 130)}
SHARDS = 2
PREPARED = {"image_size": 32, "jpeg_quality": 90, "max_pixels": 10**6}

Row = dict[str, Any]


def image(label: str, number: int) -> Row:
    """A square in about the colour of its class, so that some are taken for another's."""
    rng = np.random.default_rng([number, *label.encode()])
    colour = np.array(CLASSES[label]) + rng.normal(0, 45, 3)
    noise = (colour + rng.normal(0, 12, (16, 16, 3))).clip(0, 255).astype(np.uint8)
    jpeg = canonical(Image.fromarray(noise), size=16, quality=90)
    image_id = hashlib.sha256(f"{label} {number}".encode()).hexdigest()
    split = "test" if number % 5 == 0 else "val" if number % 5 == 1 else "train"
    return {
        "image_id": image_id,
        "path": f"{label}/{number}.jpg",
        "label": label,
        "coarse": None,
        "split": split,
        "phash": "0" * 128,
        "image": jpeg,
    }


ROWS = [image(label, number) for label in CLASSES for number in range(60)]


def relabelled(rows: list[Row], wanted: Callable[[Row], bool]) -> list[Row]:
    """The same images, with the labels of some handed on among them."""
    chosen = [row for row in rows if wanted(row)]
    labels = [row["label"] for row in chosen]
    moved = labels[7:] + labels[:7]
    assert moved != labels
    new = {row["image_id"]: label for row, label in zip(chosen, moved, strict=True)}
    return [{**row, "label": new.get(row["image_id"], row["label"])} for row in rows]


def of(split: str) -> Callable[[Row], bool]:
    return lambda row: row["split"] == split


def without(rows: list[Row], split: str) -> list[Row]:
    return [row for row in rows if row["split"] != split]


class World:
    """The pipeline from shards to the evaluation, in a folder."""

    def __init__(self, folder: Path, rows: list[Row], incoming: list[Row] | None = None) -> None:
        self.folder = folder
        (folder / "shards").mkdir(parents=True)
        (folder / "incoming").mkdir()
        ordered = sorted(rows, key=lambda row: row["image_id"])
        for number in range(SHARDS):
            own = [row for row in ordered if shard_of(row["image_id"], SHARDS) == number]
            table = pa.Table.from_pylist(own, IMAGE_SCHEMA)
            write_table(folder / "shards" / shard_name(number, SHARDS), table, PREPARED)
        batch = pa.Table.from_pylist(incoming or [], BATCH_SCHEMA)
        write_table(folder / "incoming/batch.parquet", batch)

    def path(self, *names: str) -> dict[str, Path]:
        return {name: self.folder / name for name in names}

    def featurize(self) -> World:
        call_stage(
            "featurize",
            FEATURIZE,
            backbone=ROOT / "models/backbones/none.onnx",
            **self.path("shards", "encoder", "features"),
        )
        return self

    def train(self, **changes: Any) -> World:
        call_stage(
            "train",
            TRAIN.model_copy(update=changes),
            metrics=self.folder / "train.json",
            headline=self.folder / "train-headline.json",
            **self.path("shards", "features", "classifier", "curves"),
        )
        return self

    def evaluate(self) -> dict[str, Any]:
        return call_stage(
            "evaluate",
            PARAMS.evaluate,
            metrics=self.folder / "evaluate.json",
            headline=self.folder / "evaluate-headline.json",
            **self.path("shards", "incoming", "features", "encoder", "classifier"),
            **self.path("reference", "evaluation"),
        )

    def arrays(self) -> dict[str, Any]:
        return load_arrays(self.folder / "classifier", KIND)[0]

    def features(self) -> dict[str, list[float]]:
        table = read_columns(self.folder / "features", ["image_id", "features"])
        return dict(zip(*(c.to_pylist() for c in table.columns), strict=True))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("leaks") / "world", ROWS).featurize().train()


def trained(folder: Path, rows: list[Row], **changes: Any) -> World:
    return World(folder, rows).featurize().train(**changes)


class TestTheEncoder:
    @pytest.mark.parametrize("split", ["test", "val"])
    def test_sees_training_images_alone(self, split: str, world: World, tmp_path: Path) -> None:
        fewer = World(tmp_path / "fewer", without(ROWS, split)).featurize()
        assert digest(fewer.folder / "encoder") == digest(world.folder / "encoder")
        every = world.features()
        assert all(every[i] == vector for i, vector in fewer.features().items())

    def test_sees_no_label(self, world: World, tmp_path: Path) -> None:
        other = World(tmp_path / "other", relabelled(ROWS, lambda row: True)).featurize()
        for name in ("encoder", "features"):
            assert digest(other.folder / name) == digest(world.folder / name)

    def test_sees_training_images(self, world: World, tmp_path: Path) -> None:
        fewer = [row for row in ROWS if row["path"] != "apple/3.jpg"]
        assert digest(World(tmp_path / "w", fewer).featurize().folder / "encoder") != digest(
            world.folder / "encoder"
        )


ALGORITHMS = ["label_spreading", "label_propagation", "self_training"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
class TestTheLearner:
    def same(self, one: World, other: World) -> bool:
        return digest(one.folder / "classifier") == digest(other.folder / "classifier")

    def test_sees_neither_test_images_nor_their_labels(
        self, algorithm: str, tmp_path: Path
    ) -> None:
        whole = trained(tmp_path / "whole", ROWS, algorithm=algorithm)
        fewer = trained(tmp_path / "fewer", without(ROWS, "test"), algorithm=algorithm)
        assert self.same(whole, fewer)
        other = trained(tmp_path / "other", relabelled(ROWS, of("test")), algorithm=algorithm)
        assert self.same(whole, other)

    def test_sees_no_hidden_label(
        self, algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The draw is stratified by all labels, so it is held still here."""
        kept = {row["image_id"] for row in ROWS if int(row["path"][:-4].split("/")[1]) % 10 == 2}
        monkeypatch.setattr(
            train,
            "choose_labeled",
            lambda ids, names, **how: np.array([i in kept for i in ids]),
        )
        hidden = relabelled(ROWS, lambda r: r["split"] == "train" and r["image_id"] not in kept)
        whole = trained(tmp_path / "whole", ROWS, algorithm=algorithm)
        other = trained(tmp_path / "other", hidden, algorithm=algorithm)
        assert self.same(whole, other)
        shown = relabelled(ROWS, lambda row: row["image_id"] in kept)
        assert not self.same(whole, trained(tmp_path / "shown", shown, algorithm=algorithm))


class TestCalibrationAndScaling:
    def test_validation_labels_calibrate_and_do_not_train(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """But for the choice of a scale, which is held still here."""
        monkeypatch.setattr(train, "gains_by_scaling", lambda *arguments, **how: False)
        one = trained(tmp_path / "one", ROWS).arrays()
        two = trained(tmp_path / "two", relabelled(ROWS, of("val"))).arrays()
        for name, array in one.items():
            changed = not np.array_equal(array, two[name])
            assert changed == name.endswith("calibration"), name

    def test_both_are_given_the_validation_images(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given: list[tuple[Any, Any]] = []
        calibrate, gains = train.calibrate, train.gains_by_scaling

        def noting_calibrate(head: Head, features: Any, labels: Any, **how: Any) -> Head:
            given.append((features, labels))
            return calibrate(head, features, labels, **how)

        def noting_gains(*arguments: Any, **how: Any) -> bool:
            given.append(arguments[2:])
            return gains(*arguments, **how)

        monkeypatch.setattr(train, "calibrate", noting_calibrate)
        monkeypatch.setattr(train, "gains_by_scaling", noting_gains)
        world = trained(tmp_path / "world", ROWS)
        features, names = world.features(), sorted(CLASSES)
        held = sorted((row for row in ROWS if row["split"] == "val"), key=lambda r: r["image_id"])
        assert len(given) == 3
        for points, labels in given:
            assert points.tolist() == [features[row["image_id"]] for row in held]
            assert labels.tolist() == [names.index(row["label"]) for row in held]

    def test_the_baseline_learns_from_the_labels_alone(self, tmp_path: Path) -> None:
        one = trained(tmp_path / "one", ROWS, alpha=0.95).arrays()
        two = trained(tmp_path / "two", ROWS, alpha=0.2).arrays()
        assert np.array_equal(one["baseline_coefficients"], two["baseline_coefficients"])
        assert not np.array_equal(one["head_coefficients"], two["head_coefficients"])


class TestTheEvaluation:
    def test_reads_test_images_alone(self, world: World, tmp_path: Path) -> None:
        world.evaluate()
        other = World(tmp_path / "other", relabelled(ROWS, of("val"))).featurize()
        (other.folder / "classifier").symlink_to(world.folder / "classifier")
        other.evaluate()
        for name in ("evaluation", "reference", "evaluate.json"):
            assert digest(other.folder / name) == digest(world.folder / name)

    def test_counts_what_the_head_gets_right(self, world: World) -> None:
        found = world.evaluate()
        arrays, description = load_arrays(world.folder / "classifier", KIND)
        features = world.features()
        tests = [row for row in ROWS if row["split"] == "test"]
        points = np.array([features[row["image_id"]] for row in tests], np.float32)
        truth = np.array([description["classes"].index(row["label"]) for row in tests])
        right = {
            prefix: float(
                (Head.from_arrays(arrays, prefix).logits(points).argmax(axis=1) == truth).mean()
            )
            for prefix in ("head_", "baseline_")
        }
        assert right["head_"] != right["baseline_"], "the test could not tell them apart"
        assert found["images"] == len(tests)
        assert found["accuracy"] == pytest.approx(right["head_"])
        assert found["baseline"]["accuracy"] == pytest.approx(right["baseline_"])

    def test_the_reference_has_no_incoming_image(self, world: World, tmp_path: Path) -> None:
        tests = [row for row in ROWS if row["split"] == "test"]
        batch = [
            {name: row[name] for name in ("image_id", "path", "label", "image")}
            for row in tests[:10]
        ]
        other = World(tmp_path / "other", ROWS, batch).featurize()
        (other.folder / "classifier").symlink_to(world.folder / "classifier")
        other.evaluate()
        reference = Reference.load(other.folder / "reference")
        assert reference.images == len(tests) - 10
        rest = [row for row in ROWS if row["path"] not in {b["path"] for b in batch}]
        alone = World(tmp_path / "alone", rest).featurize()
        (alone.folder / "classifier").symlink_to(world.folder / "classifier")
        alone.evaluate()
        assert digest(other.folder / "reference") == digest(alone.folder / "reference")


class TestTheVerdict:
    """A candidate that breaks any one limit is rejected for that limit."""

    MEASURED = {"accuracy": 0.8, "macro_f1": 0.7, "calibration_error": 0.05}  # noqa: RUF012
    DATASET = {"near_duplicates": {"across_splits": 0}}  # noqa: RUF012
    LIMITS = PARAMS.register_

    def failed(
        self, tmp_path: Path, measured: dict[str, Any], dataset: dict[str, Any], **limits: Any
    ) -> list[str]:
        table = tmp_path / "per_class.csv"
        table.write_text("name,recall,images\napple,0.9,50\nplum,0.5,50\nlemon,0.0,3\n")
        allowed = self.LIMITS.model_copy(update=limits)
        verdict = decide(allowed, measured, dataset, table)
        names = [check["name"] for check in verdict["checks"] if not check["passed"]]
        assert verdict["accepted"] == (not names)
        return names

    def test_a_good_one_is_accepted(self, tmp_path: Path) -> None:
        assert self.failed(tmp_path, self.MEASURED, self.DATASET) == []

    @pytest.mark.parametrize(
        ("limit", "value", "check"),
        [
            ("min_accuracy", 0.81, "test accuracy"),
            ("min_macro_f1", 0.71, "test macro F1"),
            ("max_calibration_error", 0.04, "expected calibration error"),
            ("min_class_recall", 0.51, "recall of the worst class (plum)"),
        ],
    )
    def test_each_limit_counts(self, tmp_path: Path, limit: str, value: float, check: str) -> None:
        assert self.failed(tmp_path, self.MEASURED, self.DATASET, **{limit: value}) == [check]

    def test_a_leak_counts(self, tmp_path: Path) -> None:
        leaking = {"near_duplicates": {"across_splits": 1}}
        assert self.failed(tmp_path, self.MEASURED, leaking) == ["near duplicates across splits"]
