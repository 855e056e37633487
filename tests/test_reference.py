"""The reference travels whole, and a damaged or foreign one is refused in one sentence."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import refusal
from grocery.core.arrays import load_arrays, save_arrays
from grocery.core.errors import ModelError
from grocery.reference.image_statistics import NAMES
from grocery.reference.reference import (
    KIND,
    MAX_CONFIDENCES,
    MAX_SAMPLE,
    SAMPLE_DIMENSIONS,
    Reference,
    label_ranks,
    sample_rows,
    share_right,
)

CLASSES = ["apple", "leek", "pear"]


def make(n: int = 40, seed: int = 0) -> Reference:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(3), n).astype(np.float32)
    sides = {"features": 80, "logits": 3, "image_statistics": len(NAMES)}
    seen = {name: rng.normal(size=(n, k))[:1000].astype(np.float32) for name, k in sides.items()}
    return Reference.from_predictions(probabilities, ["leek"] * n, CLASSES, "d" * 64, **seen)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make().save(tmp_path / "reference")
    return tmp_path / "reference"


def refused(folder: Path) -> str:
    message = refusal(ModelError, Reference.load, folder)
    assert str(folder) in message
    return message


def test_it_says_what_the_predictions_were() -> None:
    probabilities = np.array([[0.2, 0.5, 0.3], [0.9, 0.1, 0.0], [0.4, 0.6, 0.0]], np.float32)
    reference = Reference.from_predictions(probabilities, ["leek", "leek", None], CLASSES, "x")
    assert reference.confidences.tolist() == pytest.approx([0.5, 0.6, 0.9])
    assert reference.predicted_counts.tolist() == [1, 2, 0]
    assert reference.hits.tolist() == [1, -1, 0]  # in the order of the confidences
    assert reference.accuracy == 0.5
    assert reference.images == 3
    assert not reference.features.size


def test_the_rank_of_a_label() -> None:
    probabilities = np.array([[0.2, 0.5, 0.3]] * 5 + [[0.4, 0.4, 0.2]] * 2, np.float32)
    labels = ["leek", "pear", "apple", None, "durian", "apple", "leek"]
    ranks = label_ranks(probabilities, labels, CLASSES)
    assert ranks.tolist() == [0, 1, 2, -1, 3, 0, 1]
    assert share_right(ranks) == 2 / 6
    assert label_ranks(probabilities, None, CLASSES).tolist() == [-1] * 7
    assert share_right(label_ranks(probabilities[:1], [None], CLASSES)) is None


def test_it_comes_back_as_it_was(folder: Path, tmp_path: Path) -> None:
    saved, loaded = make(), Reference.load(folder)
    assert loaded.confidences.dtype == np.float32
    for name, value in vars(saved).items():
        assert np.array_equal(getattr(loaded, name), value) or name == "accuracy"
    assert loaded.features.shape == (40, SAMPLE_DIMENSIONS)
    assert loaded.accuracy == pytest.approx(saved.accuracy, abs=1e-6)
    saved.save(tmp_path / "again")
    names = ["reference.json", "reference.safetensors"]
    assert sorted(file.name for file in folder.iterdir()) == names
    for name in names:
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_many_images_are_kept_as_quantiles(tmp_path: Path) -> None:
    reference = make(3 * MAX_CONFIDENCES + 7)
    assert len(reference.confidences) == MAX_CONFIDENCES
    full = np.random.default_rng(0).dirichlet(np.ones(3), reference.images).max(axis=1)
    shares = np.searchsorted(np.sort(full), reference.confidences, side="right") / len(full)
    even = (np.arange(MAX_CONFIDENCES) + 0.5) / MAX_CONFIDENCES
    assert np.abs(shares - even).max() < 1 / MAX_CONFIDENCES
    reference.save(tmp_path)
    assert Reference.load(tmp_path).images == reference.images


def test_predictions_that_make_no_reference() -> None:
    with pytest.raises(ModelError, match="at least one held-out image"):
        Reference.from_predictions(np.empty((0, 3), np.float32), [], CLASSES, "x")
    with pytest.raises(ModelError, match="3 classes"):
        Reference.from_predictions(np.full((2, 4), 0.25, np.float32), None, CLASSES, "x")


@pytest.mark.parametrize("name", ["reference.json", "reference.safetensors"])
def test_a_file_cut_off_another_ones_or_missing(folder: Path, tmp_path: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:-2])
    assert "damaged" in refused(folder)
    make(seed=1).save(tmp_path / "other")
    (tmp_path / "other" / name).replace(folder / name)
    assert "digest" in refused(folder)
    (folder / name).unlink()
    assert f"{name} is missing" in refused(folder)


def save_otherwise(folder: Path, name: str, value: Any) -> None:
    """With another array or entry of the header, or without it, and the digest that is right."""
    arrays, header = load_arrays(folder, KIND, "reference")
    changed: dict[str, Any] = arrays if name in arrays else header
    changed[name] = value
    if value is None:
        del changed[name]
    save_arrays(folder, KIND, arrays, header, "reference")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("classes", ["apple"]),
        ("classes", None),
        ("images", 41),
        ("images", "40"),
        ("accuracy", 1.5),
        ("model_digest", None),
        ("ranks", np.zeros(39, np.int16)),
        ("ranks", np.zeros(40, np.int8)),
        ("class_accuracies", np.zeros(2, np.float32)),
        ("trials", np.zeros((3, 5), np.float32)),
        ("trials", None),
        ("features", np.zeros((39, 5), np.float32)),
        ("features", np.zeros((40, SAMPLE_DIMENSIONS + 1), np.float32)),
        ("features", np.zeros((0, 10**12), np.float32)),
        ("logits", np.zeros((40, 4), np.float32)),
        ("image_statistics", np.zeros(40, np.float32)),
        ("confidences", np.linspace(1, 0, 40, dtype=np.float32)),
    ],
)
def test_what_does_not_fit_together(folder: Path, name: str, value: object) -> None:
    save_otherwise(folder, name, value)
    assert "holds a damaged reference" in refused(folder)


@pytest.mark.parametrize("version", [None, 3, 5, "4"])
def test_a_reference_of_another_time(folder: Path, version: object) -> None:
    save_otherwise(folder, "version", version)
    assert "evaluate and register the model again" in refused(folder)


def test_a_larger_sample_than_is_kept(folder: Path) -> None:
    """Comparing a batch with it would take memory by the square."""
    sides = {"features": 5, "logits": len(CLASSES), "image_statistics": len(NAMES)}
    sample: dict[str, Any] = {n: np.zeros((MAX_SAMPLE + 1, k), "f") for n, k in sides.items()}
    replace(make(), **sample).save(folder)
    assert "sample of images does not fit" in refused(folder)


def test_the_sample_is_chosen_by_content() -> None:
    assert sample_rows(["c", "a", "d", "b"], 2).tolist() == [1, 3]
    assert sample_rows(["c", "a"]).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("classes", "model", "sentence"),
    [
        ([*CLASSES[:2], "durian"], "d", "only one of them knows 'durian'"),
        (CLASSES[::-1], "d", "order differs"),
        (CLASSES, "e", "this is model eeeeeeeeeeee"),
    ],
)
def test_a_reference_of_another_model(classes: list[str], model: str, sentence: str) -> None:
    make().check_fits(CLASSES, "d" * 64)
    with pytest.raises(ModelError, match=sentence):
        make().check_fits(classes, model * 64)
