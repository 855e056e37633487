"""The colour and edge descriptor."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from grocery.features.colour import DIMENSIONS, colour_descriptor

Pixels = NDArray[np.uint8]


def plain(colour: tuple[int, int, int], height: int = 40, width: int = 60) -> Pixels:
    return np.broadcast_to(np.array(colour, np.uint8), (height, width, 3)).copy()


def noise(seed: int, height: int = 40, width: int = 60) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def similarity(a: Pixels, b: Pixels) -> float:
    return float(colour_descriptor(a) @ colour_descriptor(b))


@pytest.mark.parametrize(
    "pixels",
    [noise(0), plain((0, 0, 0)), plain((9, 200, 30), 1, 1), noise(1, 3, 500)],
    ids=["noise", "black", "one pixel", "thin"],
)
def test_shape_type_and_norm(pixels: Pixels) -> None:
    """Of the pixels alone, and not of what lies beside them in memory."""
    padded = np.pad(pixels, ((5, 5), (5, 5), (0, 0)))
    descriptor = colour_descriptor(padded[5:-5, 5:-5])
    assert np.array_equal(descriptor, colour_descriptor(pixels))
    assert (descriptor.shape, descriptor.dtype) == ((DIMENSIONS,), np.float32)
    assert (descriptor >= 0).all()
    assert np.linalg.norm(descriptor) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("one", "other", "least"),
    [
        (plain((200, 30, 30), 40, 40), plain((200, 30, 30), 80, 90), 0.999),
        (noise(3, 40, 40), noise(3, 40, 40).repeat(2, axis=0).repeat(2, axis=1), 0.95),
        (plain((200, 30, 36)), plain((200, 36, 30)), 0.999),
        (plain((120, 120, 120)), plain((124, 120, 118)), 0.999),
    ],
    ids=["another size", "a larger pattern", "either end of the hue circle", "grey has no hue"],
)
def test_what_hardly_matters(one: Pixels, other: Pixels, least: float) -> None:
    assert similarity(one, other) > least


def test_what_matters() -> None:
    """The colour, where it lies, and which way edges run."""
    red = plain((200, 30, 30))
    assert similarity(red, plain((210, 40, 40))) > similarity(red, plain((200, 120, 30)))
    assert similarity(red, plain((30, 30, 200))) == pytest.approx(0, abs=1e-6)
    left, right = plain((240, 240, 240)), plain((240, 240, 240))
    left[:, :30] = right[:, 30:] = (200, 30, 30)
    assert similarity(left, left) > similarity(left, right) + 0.1
    across, down = plain((90, 90, 90), 48, 48), plain((90, 90, 90), 48, 48)
    across[np.arange(48) // 6 % 2 == 0] = 160
    down[:, np.arange(48) // 6 % 2 == 0] = 160
    assert similarity(across, across) > similarity(across, down) + 0.05
