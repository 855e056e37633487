"""What the train stage reads, what it says that a person should look at, and what it writes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import Heard
from grocery.classifier.dataset import UNLABELED, load_splits
from grocery.core.errors import DataError
from grocery.core.files import digest
from grocery.core.stage import written_by
from grocery.shards import feature_table, features_of, read_table, write_table
from samples import shard_files
from stages import train
from test_leaks import CLASSES, ROWS, TRAIN, World


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Built to the features; each test trains as it likes."""
    return World(tmp_path_factory.mktemp("train") / "world", ROWS).featurize()


def test_each_split_has_its_images(world: World, tmp_path: Path) -> None:
    coarse = {"apple": "pome", "plum": "stone"}
    rows = [row | {"coarse": coarse.get(row["label"])} for row in ROWS]
    for row in rows[2:60:5]:  # of training
        row["label"] = None
    shard_files(tmp_path / "shards", rows, 2)
    splits, classes, found = load_splits(tmp_path / "shards", world.folder / "data/features")
    assert (classes, found) == (sorted(CLASSES), coarse)
    features = world.features()
    for name, split in splits.items():
        own = sorted((row for row in rows if row["split"] == name), key=lambda r: r["image_id"])
        assert split.image_ids == [row["image_id"] for row in own]
        assert split.paths == [row["path"] for row in own]
        assert split.names == [row["label"] for row in own]
        numbers = [classes.index(label) if label else UNLABELED for label in split.names]
        assert split.labels.tolist() == numbers
        assert split.features.tolist() == [features[image_id] for image_id in split.image_ids]
    assert splits.keys() == {"train", "val", "test"}


def test_what_cannot_be_joined_is_refused(world: World, tmp_path: Path) -> None:
    """Features of other images, a class that training lacks, and a feature that is no number."""
    features = world.folder / "data/features"
    tested, held, *others = ROWS
    other_id = held["image_id"][:-1] + "x"
    for changed, sentence in [
        ([tested, held | {"image_id": other_id}], r"does not hold the images of .*; run featurize"),
        ([tested, held | {"label": "kiwi"}], "val holds 'kiwi', a class with no training image"),
        ([tested | {"label": "kiwi"}, held], "test holds 'kiwi', a class with no training image"),
        ([tested, held | {"label": None}], "val holds an image without a label"),
    ]:
        shard_files(tmp_path / "shards", changed + others, 2)
        with pytest.raises(DataError, match=sentence):
            load_splits(tmp_path / "shards", features)

    (tmp_path / "nan").mkdir()
    for file in features.iterdir():
        table = read_table(file)
        vectors = features_of(table).copy()
        vectors[5, 2] = np.nan
        spoilt = feature_table(table["image_id"].to_pylist(), vectors)
        write_table(tmp_path / "nan" / file.name, spoilt)
    shard_files(tmp_path / "shards", ROWS, 2)
    with pytest.raises(DataError, match="nan holds a feature that is not a finite number"):
        load_splits(tmp_path / "shards", tmp_path / "nan")


def said(world: World, **changes: Any) -> tuple[dict[str, Any], Heard]:
    heard = Heard()
    world.train(heard, **changes)
    return json.loads((world.folder / "metrics/train.json").read_bytes()), heard


def test_what_a_person_should_know_of_a_training_is_said(world: World) -> None:
    found, heard = said(world)
    assert (found["converged"], heard.warnings) == (True, [])
    assert found["residual"] < TRAIN.tol
    assert heard.steps[-1]["pseudo_labels"] == found["unlabeled"] == 96
    found, heard = said(world, max_iter=2)
    assert (found["converged"], found["iterations"]) == (False, 2)
    (warning,) = heard.warnings
    assert warning.startswith("label_spreading has not converged: after train.max_iter 2 ")
    assert warning.endswith("more than train.tol 0.001")
    _, heard = said(world, n_neighbors=200)
    (warning,) = heard.warnings
    assert "train.n_neighbors is 200, but there are only 108" in warning


def test_validation_chooses_how_heads_scale(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def second(heads: Any, features: Any, labels: Any) -> int:
        seen.append(heads)
        return 1

    monkeypatch.setattr(train, "most_right", second)
    kept = world.train().arrays()
    for name, (first, chosen) in zip(("baseline", "head"), seen, strict=True):
        assert np.array_equal(kept[f"{name}_coefficients"], chosen.coefficients)
        assert not np.array_equal(first.coefficients, chosen.coefficients)


def test_every_choice_of_labels_and_of_the_calibration_counts(world: World) -> None:
    fitted = set()
    for changes, labels in (
        ({}, 12),  # a tenth of three classes with 36 training images each
        ({"label_seed": 1}, 12),
        ({"label_draw": "random"}, 11),
        ({"labeled_ratio": 0.4}, 42),
        ({"calibration_level": 0.5}, 12),
        ({"C": 1.0}, 12),
    ):
        found, _ = said(world, **changes)
        assert (found["labeled"], found["labels_used"]) == (labels, labels + 36)
        fitted.add(world.digest("models/classifier"))
    assert len(fitted) == 6


def test_outputs_are_replaced_all_or_none(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other parameters would give other outputs, but the last one cannot be put in place."""
    written = [world.folder / path for path in written_by(train.Paths()).values()]
    world.train()
    before = [digest(path) for path in written]
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if target == written[-1] and path.name.endswith(".partial"):
            raise OSError("cannot be replaced")
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        with pytest.raises(OSError, match="cannot be replaced"):
            world.train(label_seed=1)
    assert [digest(path) for path in written] == before
    world.train(label_seed=1)
    assert all(digest(path) != old for path, old in zip(written, before, strict=True))
