"""The embedded dataset: every image follows from the recipe and its own name."""

from __future__ import annotations

import copy
import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from conftest import ROOT
from grocery.core.errors import DataError, UnreadableImage
from grocery.images.decoding import decode
from grocery.images.raw import RawImage
from grocery.synthetic.recipe import load_recipe
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


@pytest.fixture(scope="module")
def embedded() -> SyntheticSource:
    return SyntheticSource(ROOT / "data/raw/synthetic")


def pixels(data: bytes) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.asarray(decode(data, max_pixels=10**6), dtype=np.float64)


def readable(image: RawImage) -> bool:
    """Whether it can be read, as far as 50 million pixels."""
    data = image.read()
    assert len(data) < 100_000, "a bomb is small before it goes off"
    try:
        decode(data, max_pixels=50_000_000)
    except UnreadableImage:
        return False
    return True


class TestDrawing:
    def test_the_order_of_drawing_does_not_matter(self, tiny: SyntheticSource) -> None:
        """That another process draws the same is shown by the stages, each in one of its own."""
        images = tiny.images()[:6]
        backwards = [image.read() for image in pickle.loads(pickle.dumps(images[::-1]))]
        assert backwards[::-1] == [image.read() for image in images]

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
        images = tiny.images()
        planted = tiny.planted()
        copies = ("duplicates", "conflicting_duplicates", "near_duplicates", "corrupt")
        extra = sum(len(planted[kind]) for kind in copies)
        assert len(images) == 4 * 30 + 8 + extra
        assert [image.path for image in images] == sorted({image.path for image in images})
        for image in images:
            folder = image.path.split("/", maxsplit=1)[0]
            assert (image.label or "unlabelled") == folder
            assert (image.coarse is None) == (image.label is None)
            assert (image.split, image.file) == (None, None)
        assert len(pickle.dumps(images)) < 200 * len(images)  # cheap to send to a worker

    def test_copies_and_originals(self, tiny: SyntheticSource) -> None:
        files = {image.path: image for image in tiny.images()}
        planted = tiny.planted()
        same = planted["duplicates"] | planted["conflicting_duplicates"]
        for twin, original in same.items():
            assert files[twin].read() == files[original].read()
        for twin, original in planted["conflicting_duplicates"].items():
            assert files[twin].label != files[original].label
        for twin, original in (planted["duplicates"] | planted["near_duplicates"]).items():
            assert files[twin].label == files[original].label

    def test_wrong_labels_show_what_planted_says(self, tiny: SyntheticSource) -> None:
        wrong = tiny.planted()["wrong_labels"]
        assert wrong
        for image in tiny.images():
            assert isinstance(image, DrawnImage)
            if image.path in wrong:
                assert image.subject == wrong[image.path] != image.label
            elif image.label and image.path not in tiny.planted()["conflicting_duplicates"]:
                assert image.subject == image.label

    def test_nothing_is_planted_twice(self, embedded: SyntheticSource) -> None:
        planted = embedded.planted()
        touched = [*planted["wrong_labels"]]
        for kind in ("duplicates", "conflicting_duplicates", "near_duplicates"):
            touched += [*planted[kind], *planted[kind].values()]
        touched += planted["corrupt"]
        assert max(Counter(touched).values()) == 1
        counts = embedded.recipe.planted
        assert len(planted["wrong_labels"]) == counts.wrong_labels == 15
        assert Counter(planted["corrupt"].values()) == counts.corrupt

    def test_corrupt_files_cannot_be_read_and_no_bomb_goes_off(
        self, embedded: SyntheticSource
    ) -> None:
        corrupt = embedded.planted()["corrupt"]
        assert set(corrupt.values()) == {"truncated", "empty", "text", "noise", "header", "bomb"}
        assert not any(readable(image) for image in embedded.images() if image.path in corrupt)


class TestIncoming:
    def test_batches(self, tiny: SyntheticSource) -> None:
        batches = tiny.incoming()
        assert sorted(batches) == ["clean", "dim", "shares"]
        for name, images in batches.items():
            assert len(images) == 24
            assert all(image.path.startswith(f"incoming/{name}/") for image in images)
            assert all(image.label in tiny.recipe.classes for image in images)
            assert [image.path for image in images] == sorted(image.path for image in images)
        clean, dim = (
            np.mean([pixels(image.read()).mean() for image in batches[name][::3]])
            for name in ("clean", "dim")
        )
        assert dim < 0.5 * clean

    def test_shares_and_unreadable_files(self, tiny: SyntheticSource) -> None:
        batches = tiny.incoming()
        clean, shares = (Counter(i.label for i in batches[name]) for name in ("clean", "shares"))
        assert len(clean) == len(tiny.recipe.classes)
        assert shares["Lemon"] == 0
        assert shares["Milk"] > 2 * clean["Milk"]
        assert sum(not readable(image) for image in batches["shares"]) == 2


def changed(*path: str, value: Any) -> dict[str, Any]:
    """The tiny recipe with one value set; None removes the key."""
    recipe: dict[str, Any] = copy.deepcopy(TINY)
    *parents, key = path
    place = recipe
    for parent in parents:
        place = place[parent]
    place[key] = value
    if value is None:
        del place[key]
    return recipe


class TestRecipe:
    @pytest.mark.parametrize(
        ("recipe", "said"),
        [
            (changed("sise", value=64), "sise is not a known key"),
            (changed("camera", value=None), "camera is missing"),
            (changed("size", value="64"), "size is '64', but it should be a valid integer"),
            (changed("size", value=8), "greater than or equal to 32"),
            (changed("camera", "zoom", value=[2.0, 1.0]), "the least and the most, in this order"),
            (changed("classes", "Lemon", "shape", value="cube"), "classes.Lemon.shape is 'cube'"),
            (changed("classes", "Milk", "print", value=None), "cartons and cups have a print"),
            (changed("classes", "Lemon", "print", value="fruit"), "and other shapes have none"),
            (changed("classes", "../up", value=TINY["classes"]["Lemon"]), "should match pattern"),
            (changed("classes", value={}), "classes: "),
            (changed("classes", "unlabelled", value=TINY["classes"]["Lemon"]), "called unlabelled"),
            (changed("planted", "wrong_labels", value=500), "but there are 120"),
            (changed("incoming", "dim", "shares", value={"Pear": 1}), "'Pear', which is no class"),
            (changed("scenes", "backgrounds", "tray", value=["blue"]), "should match pattern"),
        ],
    )
    def test_errors_are_one_sentence(
        self, tmp_path: Path, recipe: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(DataError) as caught:
            source(tmp_path / "bad", recipe)
        assert said in str(caught.value)
        assert "recipe.yaml" in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_damaged_and_missing_files(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"recipe\.yaml is missing"):
            SyntheticSource(tmp_path)
        for content, said in ((b"a: [", "not valid YAML"), (b"\xff", "YAML"), (b"", "a mapping")):
            (tmp_path / "recipe.yaml").write_bytes(content)
            with pytest.raises(DataError, match=said):
                load_recipe(tmp_path / "recipe.yaml")
