"""Exact copies, perceptual hashes and groups of near duplicates."""

import io
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from grocery.core.errors import DataError
from grocery.data import near_duplicates
from grocery.data.duplicates import exact_copies, perceptual_hash
from grocery.data.near_duplicates import COLOUR_TOLERANCE, NearDuplicates
from grocery.images.raw import RawImage
from samples import jpeg, picture

BITS = 8


scene = partial(picture, size=(160, 120))


def grouped(*images: Image.Image, max_bits: int = BITS) -> list[list[int]]:
    return NearDuplicates([perceptual_hash(i) for i in images], max_bits=max_bits).groups()


class TestHash:
    def test_layout(self) -> None:
        """Dark left, bright right: no cell outshines its right neighbour; then colours by row."""
        image = Image.new("RGB", (80, 80), (10, 20, 30))
        image.paste((200, 210, 220), (40, 0, 80, 80))
        assert perceptual_hash(image) == "00" * 16 + ("0a141e" * 2 + "c8d2dc" * 2) * 4
        mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        assert perceptual_hash(mirrored)[:32] == "18" * 8 + "00" * 8
        for step, bits in ((2, "00"), (4, "18")):  # in two steps, and one of 1 is noise
            faint = Image.new("RGB", (80, 80), (100, 100, 100))
            faint.paste((100 + step,) * 3, (0, 0, 40, 80))
            assert perceptual_hash(faint)[:32] == bits * 8 + "00" * 8

    @pytest.mark.parametrize(
        "change",
        [
            lambda image: Image.open(io.BytesIO(jpeg(image, 50))),
            lambda image: image.resize((320, 240)),
            lambda image: ImageEnhance.Brightness(image).enhance(1.04),
            lambda image: image.filter(ImageFilter.GaussianBlur(1)),
            lambda image: image.crop((1, 1, 159, 119)),
        ],
    )
    def test_survives_what_leaves_the_photograph_the_same(self, change: Any) -> None:
        pairs = [image for s in range(5) for image in (scene(s), change(scene(s)))]
        assert grouped(*pairs) == [[2 * s, 2 * s + 1] for s in range(5)]

    def test_different_photographs_are_no_duplicates(self) -> None:
        assert grouped(*(scene(seed) for seed in range(60)), max_bits=16) == []

    def test_colour_tells_apart_what_has_the_same_edges(self) -> None:
        """Plain images, and a red and a green apple, lying alike, of the same luminance."""
        colours = [(90, 90, 90), (95, 88, 92), (150, 90, 90), (255, 255, 255), (254, 255, 255)]
        assert grouped(*(Image.new("RGB", (64, 64), c) for c in colours)) == [[0, 1], [3, 4]]
        grey = scene(1).convert("L")
        zero = Image.new("L", grey.size)
        red = Image.merge("RGB", (grey, zero, zero))
        green = Image.merge("RGB", (zero, grey.point([round(v * 0.51) for v in range(256)]), zero))
        edges = [int(perceptual_hash(apple)[:32], 16) for apple in (red, green)]
        assert (edges[0] ^ edges[1]).bit_count() <= BITS
        assert grouped(red, green) == []


def hashes_of(table: NDArray[np.uint8]) -> list[str]:
    return [row.tobytes().hex() for row in table]


def crowd(max_bits: int, flat: bool) -> NDArray[np.uint8]:
    """240 hashes around 40, or all of them in a chain."""
    draw = np.random.default_rng(max_bits)
    centres = draw.integers(0, 256, (40, 64), dtype=np.uint8)
    if flat:
        centres[:, :16] = 0
        centres[:, 16:] //= 4
    table = centres[draw.integers(0, 40, 240)]
    flips = draw.random((240, 128)) < 0.04
    table[:, :16] ^= np.packbits(flips, axis=1)
    shift = draw.integers(-7, 8, (240, 48))
    table[:, 16:] = np.clip(table[:, 16:] + shift, 0, 255)
    return table


def all_pairs(table: NDArray[np.uint8], max_bits: int) -> NDArray[np.bool_]:
    """Which of n are near duplicates, by comparing all pairs; shape (n, n)."""
    bits = np.unpackbits(table[:, :16], axis=1).astype(np.int16)
    colours = table[:, 16:].astype(np.int16)
    near: NDArray[np.bool_] = np.abs(bits[:, None] - bits).sum(axis=2) <= max_bits
    near &= np.abs(colours[:, None] - colours).max(axis=2) <= COLOUR_TOLERANCE
    np.fill_diagonal(near, False)
    return near


long = pytest.mark.long


@pytest.mark.parametrize("max_bits", [pytest.param(0, marks=long), 1, 8, 16])
@pytest.mark.parametrize(
    ("flat", "steps"),
    [(False, 256), (True, 2), *(pytest.param(f, s, marks=long) for f, s in ((1, 256), (0, 2)))],
)
def test_what_is_found_is_what_comparing_all_pairs_finds(
    max_bits: int, flat: bool, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the tree does the work, after few steps."""
    monkeypatch.setattr(near_duplicates, "STEPS", steps)
    table = crowd(max_bits, flat)
    near = all_pairs(table, max_bits)
    found = NearDuplicates(hashes_of(table), max_bits=max_bits)
    groups = found.groups()
    assert groups or max_bits < 4
    for group in groups:
        assert near[np.ix_(group, group)].sum() == len(group) * (len(group) - 1)
    alone = np.ones(len(table), bool)
    alone[[i for group in groups for i in group]] = False
    assert not near[np.ix_(alone, alone)].any()

    draw = np.random.default_rng(0)
    splits = draw.choice(["train", "val", "test"], len(table), p=(0.8, 0.1, 0.1))
    expected, kept = set(), splits == "test"
    for split in ("val", "train"):
        leaking = (splits == split) & near[:, kept].any(axis=1)
        expected |= set(np.flatnonzero(leaking).tolist())
        kept |= (splits == split) & ~leaking
    dropped = found.leaks(splits.tolist())
    assert set(dropped) == expected
    assert all(near[i, of] and splits[i] != splits[of] for i, of in dropped.items())


class TestNearDuplicates:
    def test_depend_on_content_alone(self) -> None:
        table = crowd(4, flat=True)
        order = np.random.default_rng(1).permutation(len(table))
        there, back = (
            NearDuplicates(hashes_of(rows), max_bits=4).groups() for rows in (table, table[order])
        )
        assert sorted(sorted(order[i].item() for i in group) for group in back) == there

    def test_a_new_image_changes_the_groups_around_it_only(self) -> None:
        """Also at the end of a chain, from which a sweep would move everything by one."""
        chain = [bytes([0] * 16 + [level] * 48).hex() for level in range(4, 250, 2)]
        before = {tuple(group) for group in NearDuplicates(chain, max_bits=8).groups()}
        changed = []
        for level in (3, 63, 123, 183, 249):
            more = [*chain, bytes([0] * 16 + [level] * 48).hex()]
            after = {tuple(group) for group in NearDuplicates(more, max_bits=8).groups()}
            changed.append(len(before - after))
        assert len(before) > 12
        assert 0 < sum(changed) <= 2 * len(changed)

    def test_many_plain_images_take_no_quadratic_time(self) -> None:
        draw = np.random.default_rng(0)
        table = np.zeros((9000, 64), np.uint8)
        table[:, 16:] = draw.integers(120, 130, (9000, 48))
        found = NearDuplicates(hashes_of(table), max_bits=BITS)
        assert found.groups() == [list(range(9000))]
        assert len(found.leaks(["train", "val", "test"] * 3000)) == 6000

    def test_nothing_to_group(self) -> None:
        for hashes in ([], [perceptual_hash(scene(0))]):
            found = NearDuplicates(hashes, max_bits=4)
            assert found.groups() == []
            assert found.leaks(["test"] * len(hashes)) == {}
        with pytest.raises(DataError, match="not 128 hex digits"):
            NearDuplicates(["abcd"], max_bits=4)


def test_of_exact_copies_a_labelled_one_is_kept_then_the_first_path_and_one_in_test() -> None:
    files = [RawImage("a/u"), RawImage("b/2", "b"), RawImage("a/1", "a"), RawImage("c/3", "c")]
    first, second = exact_copies(files, ["x", "x", "x", "y"])
    assert first.kept.path == "a/1"
    assert [image.path for image in first.dropped] == ["a/u", "b/2"]
    assert first.labels == ["a", "b"]
    assert (second.kept.path, second.dropped, second.labels) == ("c/3", (), ["c"])
    files = [RawImage(f"{split}/1", "a", split=split) for split in ("train", "val", "test")]
    assert exact_copies(files, ["x"] * 3)[0].kept.split == "test"
    assert exact_copies(files[:2], ["x"] * 2)[0].kept.split == "val"
