"""Nothing that is measured on reaches what is measured: break one of these, and a test here fails.

The stages run on a small dataset of coloured squares, of which some rows are then changed. What
must not depend on them must keep its bytes; what must depend on them must not.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from conftest import ROOT, Heard, call_stage
from grocery.classifier.head import KIND, Head
from grocery.core.arrays import load_arrays
from grocery.core.files import digest
from grocery.images.decoding import canonical
from grocery.reference import trials
from grocery.reference.reference import Reference
from grocery.settings import load
from grocery.shards import BATCH_SCHEMA, read_columns, write_table
from samples import image_row, shard_files
from stages import train

PARAMS = load(ROOT / "params.yaml")
EIGHT = PARAMS.featurize.colour.model_copy(update={"dimensions": 8})
FEATURIZE = PARAMS.featurize.model_copy(
    update={"encoder": "colour", "colour": EIGHT, "fit_images": 200}
)
TRAIN = PARAMS.train.model_copy(update={"labeled_ratio": 0.1, "n_neighbors": 5})
CLASSES = {"apple": (200, 60, 50), "lemon": (190, 170, 60), "plum": (120, 60, 130)}
PREPARED = {"image_size": 32, "jpeg_quality": 90, "max_pixels": 10**6}

Row = dict[str, Any]


def image(label: str, number: int) -> Row:
    """A square in about the colour of its class, so that some are taken for another's."""
    rng = np.random.default_rng([number, *label.encode()])
    colour = np.array(CLASSES[label]) + rng.normal(0, 45, 3)
    noise = (colour + rng.normal(0, 12, (16, 16, 3))).clip(0, 255).astype(np.uint8)
    jpeg = canonical(Image.fromarray(noise), size=16, quality=90)
    split = "test" if number % 5 == 0 else "val" if number % 5 == 1 else "train"
    image_id = hashlib.sha256(f"{label} {number}".encode()).hexdigest()
    return image_row(jpeg, f"{label}/{number}.jpg", label, split=split, image_id=image_id)


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


class World:
    """The pipeline from shards to the evaluation, in a folder."""

    def __init__(self, folder: Path, rows: list[Row], incoming: list[Row] | None = None) -> None:
        self.folder = folder
        shard_files(folder / "data/prepared/shards", rows, 2, PREPARED)
        (folder / "data/prepared/incoming").mkdir()
        batch = pa.Table.from_pylist(incoming or [], BATCH_SCHEMA)
        write_table(folder / "data/prepared/incoming/batch.parquet", batch)

    def featurize(self) -> "World":
        call_stage("featurize", FEATURIZE, root=self.folder)
        return self

    def train(self, heard: Heard | None = None, **changes: Any) -> "World":
        params = TRAIN.model_copy(update=changes)
        call_stage("train", params, root=self.folder, heard=heard)
        return self

    def evaluate(self) -> dict[str, Any]:
        return call_stage("evaluate", PARAMS.evaluate, root=self.folder)

    def digest(self, name: str) -> str:
        return digest(self.folder / name)

    def arrays(self) -> dict[str, Any]:
        return load_arrays(self.folder / "models/classifier", KIND)[0]

    def features(self) -> dict[str, list[float]]:
        table = read_columns(self.folder / "data/features", ["image_id", "features"])
        return dict(zip(*(c.to_pylist() for c in table.columns), strict=True))


@pytest.fixture(scope="module", autouse=True)
def few_trials() -> Iterator[None]:
    """What a reference tries out takes longest, and is done on a few images here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials, "IMAGES", 5)
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Built to the evaluation. Leave it as it is."""
    world = World(tmp_path_factory.mktemp("leaks") / "world", ROWS).featurize().train()
    world.evaluate()
    return world


def test_the_encoder_sees_training_images_and_no_label(world: World, tmp_path: Path) -> None:
    alone = World(tmp_path / "alone", list(filter(of("train"), ROWS))).featurize()
    assert alone.digest("models/encoder") == world.digest("models/encoder")
    every = world.features()
    assert all(every[i] == vector for i, vector in alone.features().items())
    other = World(tmp_path / "other", relabelled(ROWS, lambda row: True)).featurize()
    for name in ("models/encoder", "data/features"):
        assert other.digest(name) == world.digest(name)
    fewer = [row for row in ROWS if row["path"] != "apple/3.jpg"]
    without_one = World(tmp_path / "fewer", fewer).featurize()
    assert without_one.digest("models/encoder") != world.digest("models/encoder")


def test_the_learner_sees_kept_labels_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no test images. The draw is stratified by all labels, so it is held still here."""
    kept = {row["image_id"] for row in ROWS if int(row["path"][:-4].split("/")[1]) % 10 == 2}
    monkeypatch.setattr(
        train, "choose_labeled", lambda ids, names, **how: np.array([i in kept for i in ids])
    )
    hidden = relabelled(ROWS, lambda r: r["split"] == "train" and r["image_id"] not in kept)
    shown = relabelled(ROWS, lambda row: row["image_id"] in kept)
    untested = [row for row in ROWS if row["split"] != "test"]
    changed = (ROWS, untested, relabelled(ROWS, of("test")), hidden, shown)
    worlds = [World(tmp_path / str(n), rows).featurize() for n, rows in enumerate(changed)]
    for algorithm in ("label_spreading", "self_training"):
        trained = [world.train(algorithm=algorithm) for world in worlds]
        whole, *same, other = (world.digest("models/classifier") for world in trained)
        assert same == [whole] * 3
        assert other != whole


def test_validation_labels_only_calibrate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the choice of a scale, which is given them too, and held still here."""
    monkeypatch.setattr(train, "most_right", chooses := Mock(return_value=0))
    one = World(tmp_path / "one", ROWS).featurize().train()
    two = World(tmp_path / "two", relabelled(ROWS, of("val"))).featurize().train().arrays()
    for name, array in one.arrays().items():
        changed = not np.array_equal(array, two[name])
        assert changed == name.endswith("calibration"), name
    features, names = one.features(), sorted(CLASSES)
    held = sorted((row for row in ROWS if row["split"] == "val"), key=lambda r: r["image_id"])
    for _, points, labels in [call.args for call in chooses.call_args_list[:2]]:
        assert points.tolist() == [features[row["image_id"]] for row in held]
        assert labels.tolist() == [names.index(row["label"]) for row in held]


def test_the_baseline_learns_from_the_labels_alone(tmp_path: Path) -> None:
    world = World(tmp_path / "world", ROWS).featurize()
    one, two = (world.train(alpha=alpha).arrays() for alpha in (0.95, 0.2))
    assert np.array_equal(one["baseline_coefficients"], two["baseline_coefficients"])
    assert not np.array_equal(one["head_coefficients"], two["head_coefficients"])


class TestTheEvaluation:
    def other(self, folder: Path, world: World, *rows: Any) -> World:
        """The same classifier on other rows and batches, evaluated."""
        other = World(folder, *rows).featurize()
        (other.folder / "models/classifier").symlink_to(world.folder / "models/classifier")
        other.evaluate()
        return other

    def test_reads_test_images_alone(self, world: World, tmp_path: Path) -> None:
        other = self.other(tmp_path / "other", world, relabelled(ROWS, of("val")))
        for name in ("metrics/evaluation", "models/reference", "metrics/evaluate.json"):
            assert other.digest(name) == world.digest(name)

    def test_counts_what_the_head_gets_right(self, world: World) -> None:
        found = json.loads((world.folder / "metrics/evaluate.json").read_bytes())
        arrays, description = load_arrays(world.folder / "models/classifier", KIND)
        features = world.features()
        tests = [row for row in ROWS if row["split"] == "test"]
        points = np.array([features[row["image_id"]] for row in tests], np.float32)
        truth = np.array([description["classes"].index(row["label"]) for row in tests])
        head, baseline = (
            (Head.from_arrays(arrays, prefix).logits(points).argmax(axis=1) == truth).mean()
            for prefix in ("head_", "baseline_")
        )
        assert head != baseline, "the test could not tell them apart"
        assert found["images"] == len(tests)
        assert found["accuracy"] == pytest.approx(head)
        assert found["baseline"]["accuracy"] == pytest.approx(baseline)

    def test_the_reference_has_no_incoming_image(self, world: World, tmp_path: Path) -> None:
        tests = [row for row in ROWS if row["split"] == "test"]
        batch = [{name: row[name] for name in BATCH_SCHEMA.names} for row in tests[:10]]
        other = self.other(tmp_path / "other", world, ROWS, batch)
        assert Reference.load(other.folder / "models/reference").images == len(tests) - 10
        alone = self.other(tmp_path / "alone", world, [r for r in ROWS if r not in tests[:10]])
        assert other.digest("models/reference") == alone.digest("models/reference")
