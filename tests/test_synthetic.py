"""The embedded dataset: every image follows from the recipe and its own name."""

import copy
import json
import pickle
from collections import Counter
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from conftest import ROOT, refusal
from grocery.core.errors import DataError, UnreadableImage
from grocery.images.decoding import decode
from grocery.synthetic.source import DrawnImage, SyntheticSource

TINY = yaml.safe_load((ROOT / "tests/tiny_recipe.yaml").read_text())
TINY["planted"] |= {"corrupt": {"truncated": 1, "empty": 1}, "conflicting_duplicates": 1}
TINY["planted"] |= {"near_duplicates": 2}
TINY["scenes"]["backgrounds"]["tray"] = ["#54406c", "#b4b0a4"]
TINY["incoming"]["shares"] = {"images": 24, "shares": {"Milk": 8, "Lemon": 0}, "unreadable": 2}


def source(folder: Path, recipe: dict[str, Any]) -> SyntheticSource:
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return SyntheticSource(folder)


@pytest.fixture
def tiny(tmp_path: Path) -> SyntheticSource:
    return source(tmp_path / "tiny", TINY)


def pixels(data: bytes) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.asarray(decode(data, max_pixels=10**6), dtype=np.float64)


class TestDrawing:
    def test_another_image_changes_no_image_and_another_seed_all(self, tmp_path: Path) -> None:
        recipe = {**TINY, "planted": {}}
        more = copy.deepcopy(recipe)
        more["classes"]["Lemon"]["images"] += 2
        more["unlabelled"] += 1
        before = {i.path: i for i in source(tmp_path / "a", recipe).images()}
        after = {i.path: i for i in source(tmp_path / "b", more).images()}
        assert len(after) == len(before) + 3
        assert before.keys() < after.keys()
        for path in list(before)[::8]:
            assert after[path].read() == before[path].read()
        other = source(tmp_path / "other", {**recipe, "seed": 4}).images()[0]
        assert other.read() != before[other.path].read()

    def test_all_shapes_prints_and_backgrounds_are_drawn(self, embedded: SyntheticSource) -> None:
        """One image a class of the real recipe: square, not plain, unlike each other."""
        first = {i.label: i for i in reversed(embedded.images()) if i.path.endswith("/0000.jpg")}
        drawn = [pixels(image.read()) for label, image in first.items() if label]
        assert len(drawn) == len(embedded.recipe.classes)
        side = embedded.recipe.size
        assert all(image.shape == (side, side, 3) and image.std() > 10 for image in drawn)
        assert len({image.tobytes() for image in drawn}) == len(drawn)


class TestDataset:
    def test_counts_labels_and_order(self, tiny: SyntheticSource) -> None:
        images, planted = tiny.images(), tiny.planted()
        copies = ("duplicates", "conflicting_duplicates", "near_duplicates", "corrupt")
        assert len(images) == 4 * 30 + 8 + sum(len(planted[kind]) for kind in copies)
        assert [image.path for image in images] == sorted({image.path for image in images})
        assert len(planted["wrong_labels"]) == 1
        for image in images:
            assert isinstance(image, DrawnImage)
            assert (image.label or "unlabelled") == image.path.split("/")[0]
            assert (image.coarse is None) == (image.label is None)
            assert (image.split, image.file) == (None, None)
            if image.path in planted["wrong_labels"]:
                assert image.subject == planted["wrong_labels"][image.path] != image.label
            elif image.label and image.path not in planted["conflicting_duplicates"]:
                assert image.subject == image.label
        assert len(pickle.dumps(images)) < 200 * len(images)  # cheap to send to a worker

    def test_nothing_is_planted_twice_and_no_bomb_goes_off(self, embedded: SyntheticSource) -> None:
        planted, counts = embedded.planted(), embedded.recipe.planted
        touched = [*planted["wrong_labels"], *planted["corrupt"]]
        for kind in ("duplicates", "conflicting_duplicates", "near_duplicates"):
            touched += [*planted[kind], *planted[kind].values()]
        assert max(Counter(touched).values()) == 1
        assert len(planted["wrong_labels"]) == counts.wrong_labels == 15
        assert Counter(planted["corrupt"].values()) == counts.corrupt
        assert set(counts.corrupt) == {"truncated", "empty", "text", "noise", "header", "bomb"}
        for image in embedded.images():
            if image.path in planted["corrupt"]:
                data = image.read()
                assert len(data) < 100_000, "a bomb is small before it goes off"
                with pytest.raises(UnreadableImage):
                    decode(data, max_pixels=50_000_000)


def test_incoming_batches(tiny: SyntheticSource) -> None:
    batches = tiny.incoming()
    assert sorted(batches) == ["clean", "dim", "shares"]
    for name, images in batches.items():
        assert len(images) == 24
        assert all(image.path.startswith(f"incoming/{name}/") for image in images)
        assert [image.path for image in images] == sorted(image.path for image in images)
    clean, dim = (
        np.mean([pixels(image.read()).mean() for image in batches[name][::3]])
        for name in ("clean", "dim")
    )
    assert dim < 0.5 * clean
    usual, shares = (Counter(i.label for i in batches[name]) for name in ("clean", "shares"))
    assert usual.keys() == tiny.recipe.classes.keys()
    assert shares["Lemon"] == 0
    assert shares["Milk"] > 2 * usual["Milk"]


LEMON = TINY["classes"]["Lemon"]


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("sise", 64, "sise is not a known key"),
        ("camera.zoom", [2.0, 1.0], "the least and the most, in this order"),
        ("classes.Lemon.shape", "cube", "classes.Lemon.shape is 'cube'"),
        ("classes.Milk.print", None, "cartons and cups have a print"),
        ("classes.Lemon.print", "fruit", "and other shapes have none"),
        ("classes", {"../up": LEMON}, "should match pattern"),
        ("classes.unlabelled", LEMON, "called unlabelled"),
        ("planted.wrong_labels", 500, "but there are 120"),
        ("incoming.dim.shares", {"Pear": 1}, "'Pear', which is no class"),
    ],
)
def test_recipe_errors_are_one_sentence(tmp_path: Path, path: str, value: Any, said: str) -> None:
    recipe = copy.deepcopy(TINY)
    *parents, key = path.split(".")
    reduce(getitem, parents, recipe)[key] = value
    sentence = refusal(DataError, source, tmp_path / "bad", recipe)
    assert said in sentence
    assert "recipe.yaml" in sentence
