"""What the train stage says of a training that a person should look at, and what it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import Heard
from grocery.core.files import digest
from grocery.core.stage import written_by
from stages import train
from test_leaks import ROWS, TRAIN, World


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Built to the features; each test trains as it likes."""
    return World(tmp_path_factory.mktemp("train") / "world", ROWS).featurize()


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


def test_validation_chooses_how_each_head_scales_its_features(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_outputs_of_a_stage_are_replaced_together_or_not_at_all(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
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
