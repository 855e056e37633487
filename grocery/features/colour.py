"""A fast baseline descriptor: which colours an image has, and which way its edges run.

Two histograms a cell of a coarse grid, square-rooted so that the dot product of two descriptors is
the Hellinger affinity of their histograms (Arandjelović and Zisserman, CVPR 2012).
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

GRID = 2
HUES, SATURATIONS, VALUES = 12, 3, 3
ORIENTATIONS = 8
# Less saturated or darker than this, a hue means nothing and the pixel counts as grey.
GREY_SATURATION, GREY_VALUE = 0.16, 0.12
GREYS = 6
COLOURS = GREYS + HUES * SATURATIONS * VALUES
# A level is 1/16 of a channel: colours are counted in these before they are sorted into bins.
LEVELS = 16
# Weight of all edges against all colours.
EDGE_WEIGHT = 0.35

DIMENSIONS = COLOURS * (1 + GRID * GRID) + ORIENTATIONS * (4 * GRID * GRID)


def colour_descriptor(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Describe an RGB image (h, w, 3) by its colours and edges.

    Gives a vector (`DIMENSIONS`,) of L2 norm 1 whose entries are at least 0.
    """
    colours, edges = _colour_histograms(pixels), _edge_histograms(pixels)
    # The whole image and its cells, each a distribution.
    colours = np.concatenate([colours.sum(0, keepdims=True), colours])
    colours = np.sqrt(_distribution(colours) / len(colours))
    edges = EDGE_WEIGHT * np.sqrt(edges / max(float(edges.sum()), 1.0))
    joined = np.concatenate([colours, edges], axis=None)
    descriptor: NDArray[np.float32] = (joined / np.linalg.norm(joined)).astype(np.float32)
    return descriptor


def _distribution(histograms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale each row to the sum 1; an empty row stays 0."""
    rows: NDArray[np.float64] = histograms / np.maximum(histograms.sum(1, keepdims=True), 1.0)
    return rows


def _cells(height: int, width: int, grid: int) -> NDArray[np.intp]:
    """Number of the grid cell of each pixel, shape (h, w)."""
    rows = np.arange(height) * grid // height
    columns = np.arange(width) * grid // width
    return rows[:, None] * grid + columns


def _colour_histograms(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Pixels of each colour bin in each cell, shape (GRID², COLOURS)."""
    height, width, _ = pixels.shape
    levels = (pixels // (256 // LEVELS)).astype(np.intp)
    codes = (levels[..., 0] * LEVELS + levels[..., 1]) * LEVELS + levels[..., 2]
    codes += _cells(height, width, GRID) * LEVELS**3
    counts = np.bincount(codes.reshape(-1), minlength=GRID * GRID * LEVELS**3)
    cells = counts.reshape(GRID * GRID, LEVELS**3)
    return np.stack([np.bincount(_bin_of_level(), cell, COLOURS) for cell in cells])


@cache
def _bin_of_level() -> NDArray[np.intp]:
    """Colour bin of each of the LEVELS³ quantised colours."""
    axis = (np.arange(LEVELS) + 0.5) / LEVELS
    r, g, b = (a.reshape(-1) for a in np.meshgrid(axis, axis, axis, indexing="ij"))
    value = np.maximum(np.maximum(r, g), b)
    chroma = value - np.minimum(np.minimum(r, g), b)
    saturation = chroma / value
    safe = np.where(chroma > 0, chroma, 1.0)
    sextant = np.select(
        [chroma == 0, value == r, value == g],
        [np.zeros_like(r), ((g - b) / safe) % 6, (b - r) / safe + 2],
        (r - g) / safe + 4,
    )
    # Bins are centred on the pure hues, so that red is one bin and not two.
    hue = np.floor(sextant / 6 * HUES + 0.5).astype(np.intp) % HUES
    saturated = (saturation - GREY_SATURATION) / (1 - GREY_SATURATION)
    bright = (value - GREY_VALUE) / (1 - GREY_VALUE)
    s = np.clip(np.floor(saturated * SATURATIONS), 0, SATURATIONS - 1).astype(np.intp)
    v = np.clip(np.floor(bright * VALUES), 0, VALUES - 1).astype(np.intp)
    grey = (saturation < GREY_SATURATION) | (value < GREY_VALUE)
    darkness = np.minimum((value * GREYS).astype(np.intp), GREYS - 1)
    return np.where(grey, darkness, GREYS + (hue * SATURATIONS + s) * VALUES + v)


def _edge_histograms(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Gradient magnitude of each orientation in each cell, shape ((2 GRID)², ORIENTATIONS)."""
    # Every other pixel: finer gradients are mostly noise, and a quarter of the work.
    grey = pixels[::2, ::2].astype(np.int32) @ np.array([77, 150, 29], np.int32)
    if min(grey.shape) < 3:
        return np.zeros((4 * GRID * GRID, ORIENTATIONS))
    dx = (grey[1:-1, 2:] - grey[1:-1, :-2]) / 256.0
    dy = (grey[2:, 1:-1] - grey[:-2, 1:-1]) / 256.0
    turn = np.arctan2(dy, dx) / np.pi + 1.0
    orientation = np.floor(turn * ORIENTATIONS).astype(np.intp) % ORIENTATIONS
    cells = _cells(dx.shape[0], dx.shape[1], 2 * GRID)
    histograms = np.zeros((4 * GRID * GRID, ORIENTATIONS))
    np.add.at(histograms, (cells, orientation), np.sqrt(dx * dx + dy * dy))
    return histograms
