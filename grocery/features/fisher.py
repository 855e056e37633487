"""Fisher vectors of dense local colour statistics.

An image is cut into small square cells; a window is the mean and the standard deviation of three
opponent-colour channels in each of 4 x 4 neighbouring cells, taken at every cell and at several
image scales. Its average is set apart, and the rest, the pattern, is divided by its contrast, so
that a dim photograph shows the same pattern, and mirrored and turned until it brightens to the
right and to the bottom, so that an apple lying on its side does. A Gaussian mixture is the
vocabulary, and the image's vector is the gradient of its descriptors' likelihood with respect to
the mixture's means and variances.

- Local colour statistics: Clinchant et al., "XRCE's participation to ImagEval" (2007).
- A canonical orientation for each window: Lowe, "Distinctive image features from scale-invariant
  keypoints" (IJCV 2004), here among the eight symmetries of the square.
- Fisher vector with power and L2 normalisation: Perronnin, Sanchez & Mensink, "Improving the Fisher
  kernel for large-scale image classification" (ECCV 2010), equations 6 to 9.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from grocery.core import bounds
from grocery.core.arrays import Arrays, array_of
from grocery.core.bounds import Bounds
from grocery.features.mixture import DiagonalMixture, fit_mixture
from grocery.features.projection import Projection, fit_projection

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]

WINDOW = 4  # cells a side of a descriptor
_CHANNELS = 6  # mean and deviation of three colours
LOCAL_DIMENSIONS = WINDOW * WINDOW * _CHANNELS + _CHANNELS
_LEAST_CONTRAST = 0.01  # squared; keeps the noise of a flat window from becoming a pattern
_EM_ITERATIONS = 15
_BRIGHTNESS = 2  # the channel
_OFFSETS = np.arange(WINDOW, dtype=np.float32) - (WINDOW - 1) / 2  # of cells from the middle


@lru_cache(maxsize=64)
def _averaging(cells: int, cell: int, length: int) -> Floats:
    """Matrix (cells, length) whose rows average runs of `cell` pixels."""
    matrix = np.zeros((cells, length), np.float32)
    for row in range(cells):
        matrix[row, row * cell : (row + 1) * cell] = 1 / cell
    return matrix


@dataclass(frozen=True)
class Grid:
    """Where and how local descriptors are taken.

    Attributes
    ----------
    cell, scales
        Side of a cell, in pixels; image scales, each at most 1.
    chroma
        Weight of the two colour channels against brightness, before PCA.
    align
        Whether each window is mirrored and turned to its canonical orientation.
    """

    cell: int
    scales: Sequence[float]
    chroma: float
    align: bool

    def __post_init__(self) -> None:
        """Refuse what params.yaml does not allow either, by a `ValueError`.

        A model's file could ask for any memory.
        """
        bounds.CELL.check("the grid's cell", self.cell)
        Bounds(1, bounds.MOST_SCALES).check("the grid's number of scales", len(self.scales))
        for scale in self.scales:
            bounds.SCALE.check("a scale of the grid", scale)
        bounds.CHROMA.check("the grid's chroma", self.chroma)
        if not isinstance(self.align, bool):
            raise ValueError(
                f"the grid's align is {self.align!r:.80}, but it should be true or false"
            )


def local_descriptors(pixels: Pixels, grid: Grid) -> Floats:
    """Descriptors (n, 102) of an image (h, w, 3) at all scales, in a fixed order.

    An image (or scale) too small for one window is enlarged to exactly one.
    """
    image = Image.fromarray(pixels)
    found = []
    for scale in grid.scales:
        size = [max(round(side * scale), WINDOW * grid.cell) for side in image.size]
        resized = image if tuple(size) == image.size else image.resize((size[0], size[1]))
        found.append(_at_one_scale(np.asarray(resized), grid))
    return np.concatenate(found, axis=1).T


def _at_one_scale(pixels: Pixels, grid: Grid) -> Floats:
    """Descriptors as columns (102, n): steps along windows run on contiguous memory."""
    means = _cell_means(pixels, grid)
    first, second = means[:3], means[3:]
    deviation = np.sqrt(np.maximum(second - first * first, 0))
    cells = np.concatenate([first, deviation])
    windows = np.lib.stride_tricks.sliding_window_view(cells, (WINDOW, WINDOW), axis=(1, 2))
    # Channels, window rows, window columns, windows.
    pattern = windows.transpose(0, 3, 4, 1, 2).reshape(_CHANNELS, WINDOW, WINDOW, -1)
    average = pattern.mean(axis=(1, 2), keepdims=True)
    pattern = pattern - average
    contrast = np.einsum("crxn,crxn->n", pattern[:3], pattern[:3])
    pattern /= np.sqrt(contrast + np.float32(_LEAST_CONTRAST))
    if grid.align:
        pattern = _aligned(pattern)
    return np.concatenate([pattern.reshape(-1, len(contrast)), average.reshape(_CHANNELS, -1)])


def _cell_means(pixels: Pixels, grid: Grid) -> Floats:
    """Averages over cells (6, rows, columns): of the three colours, and of their squares."""
    height, width = pixels.shape[:2]
    red, green, blue = np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32)
    colours = np.empty((6, height, width), np.float32)
    # Opponent colours (orthonormal): red-green, yellow-blue, brightness.
    np.subtract(red, green, out=colours[0])
    yellow = red + green
    np.subtract(yellow, 2 * blue, out=colours[1])
    np.add(yellow, blue, out=colours[2])
    weights = np.array([grid.chroma, grid.chroma, 1]) / (255 * np.sqrt([2, 6, 3]))
    colours[:3] *= weights.astype(np.float32)[:, None, None]
    np.multiply(colours[:3], colours[:3], out=colours[3:])
    # As two matrix products: along the columns, then along the rows.
    across = colours @ _averaging(width // grid.cell, grid.cell, width).T
    means: Floats = _averaging(height // grid.cell, grid.cell, height) @ across
    return means


def _aligned(pattern: Floats) -> Floats:
    """Mirror and turn windows (channels, rows, columns, n) until they brighten rightward most.

    Of the eight symmetries of the square, the one after which brightness grows to the right and to
    the bottom, and to the right at least as much as to the bottom.
    """
    brightness = pattern[_BRIGHTNESS]
    rightward = np.einsum("rxn,x->n", brightness, _OFFSETS)
    downward = np.einsum("rxn,r->n", brightness, _OFFSETS)
    pattern = np.where(rightward < 0, pattern[:, :, ::-1], pattern)
    pattern = np.where(downward < 0, pattern[:, ::-1], pattern)
    return np.where(np.abs(rightward) < np.abs(downward), pattern.swapaxes(1, 2), pattern)


@dataclass(frozen=True)
class FisherVector:
    """The fitted vocabulary: an image in, a vector of 2 k d entries out.

    PCA of the local descriptors that `grid` gives, from 102 to d dimensions, and a Gaussian mixture
    of k components over them.
    """

    grid: Grid
    projection: Projection
    mixture: DiagonalMixture

    def __call__(self, pixels: Pixels) -> Floats:
        """Fisher vector (2 k d,) of an image (h, w, 3), power- and L2-normalised."""
        points = self.projection(local_descriptors(pixels, self.grid))
        mass, first, second = self.mixture.statistics(points)
        means, variances = self.mixture.means, self.mixture.variances
        weights, n = self.mixture.weights[:, None], len(points)
        by_mean = (first - mass * means) / np.sqrt(weights * variances) / n
        by_variance = (second - 2 * means * first + mass * (means**2 - variances)) / (
            variances * np.sqrt(2 * weights) * n
        )
        vector = np.concatenate([by_mean, by_variance]).ravel().astype(np.float32)
        vector = np.sign(vector) * np.sqrt(np.abs(vector))
        normalised: Floats = vector / max(np.float32(1e-12), np.sqrt((vector * vector).sum()))
        return normalised

    def arrays(self) -> dict[str, Floats]:
        """Everything that was fitted, by name."""
        return self.projection.arrays("local_") | {
            "mixture_weights": self.mixture.weights,
            "mixture_means": self.mixture.means,
            "mixture_variances": self.mixture.variances,
        }

    @classmethod
    def from_arrays(cls, arrays: Arrays, grid: Grid) -> FisherVector:
        """Rebuild from what `arrays` gave; refuse what does not fit together, or is too large."""
        local = Bounds(1, bounds.DESCRIPTOR_DIMENSIONS.most)
        projection = Projection.from_arrays(
            arrays, "local_", Bounds(LOCAL_DIMENSIONS, LOCAL_DIMENSIONS), local
        )
        weights = array_of(arrays, "mixture_weights", Bounds(1, bounds.COMPONENTS.most))
        shape = len(weights), len(projection.scale)
        means = array_of(arrays, "mixture_means", *shape)
        variances = array_of(arrays, "mixture_variances", *shape)
        return cls(grid, projection, DiagonalMixture(weights, means, variances))


def fit_fisher(
    samples: Floats, grid: Grid, *, dimensions: int, components: int, rng: np.random.Generator
) -> FisherVector:
    """Fit the vocabulary to local descriptors (n, 102) sampled from the training images."""
    projection = fit_projection(samples, dimensions=dimensions)
    points, iterations = projection(samples), _EM_ITERATIONS
    mixture = fit_mixture(points, components=components, iterations=iterations, rng=rng)
    return FisherVector(grid, projection, mixture)
