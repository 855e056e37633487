"""Exact copies, perceptual hashes and groups of near duplicates."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from grocery.core.errors import DataError
from grocery.data.duplicates import (
    COLOUR_TOLERANCE,
    exact_copies,
    near_duplicate_groups,
    perceptual_hash,
)
from grocery.images.decoding import canonical
from grocery.images.raw import RawImage

BITS = 8


def scene(seed: int) -> Image.Image:
    """A smooth random picture with structure at the scale of a photograph's objects."""
    noise = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((160, 120), Image.Resampling.BICUBIC)


def stored(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


def grouped(*images: Image.Image, max_bits: int = BITS) -> list[list[int]]:
    return near_duplicate_groups([perceptual_hash(image) for image in images], max_bits=max_bits)


class TestHash:
    def test_is_128_hex_digits(self) -> None:
        assert len(perceptual_hash(scene(0))) == 128
        bytes.fromhex(perceptual_hash(scene(0)))

    def test_layout(self) -> None:
        """Dark left, bright right: no cell outshines its right neighbour; then colours by row."""
        image = Image.new("RGB", (80, 80), (10, 20, 30))
        image.paste((200, 210, 220), (40, 0, 80, 80))
        assert perceptual_hash(image) == "00" * 16 + ("0a141e" * 2 + "c8d2dc" * 2) * 4
        mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        assert perceptual_hash(mirrored)[:32] == "18" * 8 + "00" * 8

    @pytest.mark.parametrize(
        "change",
        [
            lambda image: stored(image, 50),
            lambda image: image.resize((80, 60)),
            lambda image: image.resize((320, 240)),
            lambda image: ImageEnhance.Brightness(image).enhance(1.04),
            lambda image: image.filter(ImageFilter.GaussianBlur(1)),
            lambda image: image.crop((1, 1, 159, 119)),
        ],
    )
    def test_survives_what_leaves_the_photograph_the_same(self, change: object) -> None:
        assert callable(change)
        for seed in range(5):
            assert grouped(scene(seed), change(scene(seed))) == [[0, 1]]

    def test_different_photographs_are_no_duplicates(self) -> None:
        assert grouped(*(scene(seed) for seed in range(60)), max_bits=16) == []

    def test_colour_tells_apart_what_has_the_same_edges(self) -> None:
        """A red and a green apple, lying alike, of the same luminance."""
        grey = scene(1).convert("L")
        zero = Image.new("L", grey.size)
        red = Image.merge("RGB", (grey, zero, zero))
        green = Image.merge("RGB", (zero, grey.point([round(v * 0.51) for v in range(256)]), zero))
        hashes = [perceptual_hash(red), perceptual_hash(green)]
        differing = int(hashes[0][:32], 16) ^ int(hashes[1][:32], 16)
        assert differing.bit_count() <= BITS
        assert near_duplicate_groups(hashes, max_bits=BITS) == []

    def test_plain_images_are_duplicates_only_if_their_colours_agree(self) -> None:
        colours = [(90, 90, 90), (95, 88, 92), (150, 90, 90), (255, 255, 255), (254, 255, 255)]
        assert grouped(*(Image.new("RGB", (64, 64), c) for c in colours)) == [[0, 1], [3, 4]]

    def test_is_that_of_the_canonical_image_whatever_the_file(self) -> None:
        jpeg = canonical(scene(3), size=96, quality=92)
        again = canonical(Image.open(io.BytesIO(jpeg)), size=96, quality=92)
        assert grouped(Image.open(io.BytesIO(jpeg)), Image.open(io.BytesIO(again))) == [[0, 1]]


def naive(table: NDArray[np.uint8], max_bits: int) -> list[list[int]]:
    """Groups by comparing all pairs."""
    bits = np.unpackbits(table[:, :16], axis=1).astype(np.int16)
    colours = table[:, 16:].astype(np.int16)
    groups = [{i} for i in range(len(table))]
    for i in range(len(table)):
        near = (np.abs(bits - bits[i]).sum(axis=1) <= max_bits) & (
            np.abs(colours - colours[i]).max(axis=1) <= COLOUR_TOLERANCE
        )
        for j in np.flatnonzero(near):
            if groups[i] is not groups[j]:
                groups[i] |= groups[j]
                for member in groups[j]:
                    groups[member] = groups[i]
    return sorted({tuple(sorted(g)) for g in map(frozenset, groups) if len(g) > 1}, key=min)  # type: ignore[arg-type]


class TestGroups:
    @pytest.mark.parametrize("max_bits", [0, 1, 4, 8, 16])
    @pytest.mark.parametrize("flat", [False, True])
    def test_finds_exactly_what_comparing_all_pairs_finds(self, max_bits: int, flat: bool) -> None:
        draw = np.random.default_rng(max_bits)
        centres = draw.integers(0, 256, (40, 64), dtype=np.uint8)
        if flat:
            centres[:, :16] = 0
            centres[:, 16:] //= 4
        table = centres[draw.integers(0, 40, 400)]
        flips = draw.random((400, 128)) < 0.04
        table[:, :16] ^= np.packbits(flips, axis=1)
        shift = draw.integers(-7, 8, (400, 48))
        table[:, 16:] = np.clip(table[:, 16:] + shift, 0, 255)
        hashes = [row.tobytes().hex() for row in table]
        found = near_duplicate_groups(hashes, max_bits=max_bits)
        assert [tuple(group) for group in found] == naive(table, max_bits)
        assert found or max_bits < 4

    def test_carry_on_from_neighbour_to_neighbour(self) -> None:
        hashes = [bytes([0] * 16 + [level] * 48).hex() for level in (0, 15, 30, 45, 200)]
        assert near_duplicate_groups(hashes, max_bits=0) == [[0, 1, 2, 3]]

    def test_many_plain_images_take_no_quadratic_time(self) -> None:
        draw = np.random.default_rng(0)
        table = np.zeros((30_000, 64), np.uint8)
        table[:, 16:] = draw.integers(120, 130, (30_000, 48))
        hashes = [row.tobytes().hex() for row in table]
        assert near_duplicate_groups(hashes, max_bits=BITS) == [list(range(30_000))]

    def test_nothing_to_group(self) -> None:
        assert near_duplicate_groups([], max_bits=4) == []
        assert near_duplicate_groups([perceptual_hash(scene(0))], max_bits=4) == []

    def test_a_hash_of_another_kind_is_refused(self) -> None:
        with pytest.raises(DataError, match="not 128 hex digits"):
            near_duplicate_groups(["abcd"], max_bits=4)


class TestExactCopies:
    def test_a_labelled_copy_is_kept_and_then_the_first_path(self) -> None:
        files = [RawImage("a/u"), RawImage("b/2", "b"), RawImage("a/1", "a"), RawImage("c/3", "c")]
        first, second = exact_copies(files, ["x", "x", "x", "y"])
        assert first.kept.path == "a/1"
        assert [image.path for image in first.dropped] == ["a/u", "b/2"]
        assert first.labels == ["a", "b"]
        assert (second.kept.path, second.dropped, second.labels) == ("c/3", (), ["c"])

    def test_a_copy_in_test_stays(self) -> None:
        files = [RawImage(f"{split}/1", "a", split=split) for split in ("train", "val", "test")]
        assert exact_copies(files, ["x"] * 3)[0].kept.split == "test"
        assert exact_copies(files[:2], ["x"] * 2)[0].kept.split == "val"
