"""Fisher vectors of dense local colour statistics.

An image is cut into small square cells; a window is the mean and the standard deviation of three
opponent-colour channels in each of 4 x 4 neighbouring cells, taken at every cell and at several
image scales. Its average is set apart, and the rest, the pattern, is divided by its contrast, so
that a dim photograph shows the same pattern. A Gaussian mixture is the vocabulary, and the image's
vector is the gradient of its descriptors' likelihood with respect to the mixture's means and
variances.

- Local colour statistics: Clinchant et al., "XRCE's participation to ImagEval" (2007).
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

from grocery.features.mixture import DiagonalMixture, fit_mixture
from grocery.features.projection import Projection, fit_projection

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]

WINDOW = 4  # cells a side of a descriptor
_CHANNELS = 6  # mean and deviation of three colours
LOCAL_DIMENSIONS = WINDOW * WINDOW * _CHANNELS + _CHANNELS
_LEAST_CONTRAST = 0.01  # squared; keeps the noise of a flat window from becoming a pattern
_EM_ITERATIONS = 15

# RGB to opponent colours: red-green, yellow-blue, brightness (orthonormal).
_OPPONENT = np.array([[1, -1, 0], [1, 1, -2], [1, 1, 1]], dtype=np.float32).T / np.sqrt(
    np.array([2, 6, 3], dtype=np.float32)
)


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
    cell
        Side of a cell, in pixels.
    scales
        Image scales, each at most 1.
    chroma
        Weight of the two colour channels against brightness, before PCA.
    """

    cell: int
    scales: Sequence[float]
    chroma: float


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
    return np.concatenate(found)


def _at_one_scale(pixels: Pixels, grid: Grid) -> Floats:
    cell = grid.cell
    height, width = pixels.shape[:2]
    rows, columns = height // cell, width // cell
    colours = (pixels.reshape(-1, 3).astype(np.float32) / np.float32(255)) @ _OPPONENT
    colours[:, :2] *= np.float32(grid.chroma)
    both = np.concatenate([colours, colours * colours], axis=1).reshape(height, width * 6)
    # Averages over cells as two matrix products: along the columns, then along the rows.
    down = (_averaging(rows, cell, height) @ both).reshape(rows, width, 6)
    means = _averaging(columns, cell, width) @ down
    first, second = means[..., :3], means[..., 3:]
    deviation = np.sqrt(np.maximum(second - first * first, 0))
    cells = np.concatenate([first, deviation], axis=2)
    windows = np.lib.stride_tricks.sliding_window_view(cells, (WINDOW, WINDOW), axis=(0, 1))
    pattern = np.ascontiguousarray(windows).reshape(-1, _CHANNELS, WINDOW * WINDOW)
    average = pattern.mean(axis=2, keepdims=True)
    pattern -= average
    contrast = np.einsum("nck,nck->n", pattern[:, :3], pattern[:, :3])
    pattern /= np.sqrt(contrast + np.float32(_LEAST_CONTRAST))[:, None, None]
    return np.concatenate([pattern.reshape(len(pattern), -1), average[:, :, 0]], axis=1)


@dataclass(frozen=True)
class FisherVector:
    """The fitted vocabulary: an image in, a vector of 2 * components * dimensions out.

    Attributes
    ----------
    grid
        As given to `local_descriptors`.
    projection
        PCA of the local descriptors, 102 to d.
    mixture
        Gaussian mixture of k components over the projected descriptors.
    """

    grid: Grid
    projection: Projection
    mixture: DiagonalMixture

    def __call__(self, pixels: Pixels) -> Floats:
        """Fisher vector (2 k d,) of an image (h, w, 3), power- and L2-normalised."""
        raw = local_descriptors(pixels, self.grid)
        points = self.projection(raw)
        posterior = self.mixture.responsibilities(points)
        mass = posterior.sum(axis=0)[:, None]
        first = posterior.T @ points
        second = posterior.T @ (points * points)
        weights, means, variances = (
            self.mixture.weights[:, None],
            self.mixture.means,
            self.mixture.variances,
        )
        n = np.float32(len(points))
        by_mean = (first - mass * means) / np.sqrt(weights * variances) / n
        by_variance = (second - 2 * means * first + mass * (means**2 - variances)) / (
            variances * np.sqrt(2 * weights) * n
        )
        vector = np.concatenate([by_mean, by_variance]).ravel()
        vector = np.sign(vector) * np.sqrt(np.abs(vector))
        normalised: Floats = vector / max(np.float32(1e-12), np.sqrt((vector * vector).sum()))
        return normalised

    def arrays(self) -> dict[str, Floats]:
        """Everything that was fitted, by name."""
        return {
            "local_mean": self.projection.mean,
            "local_components": self.projection.components,
            "local_scale": self.projection.scale,
            "mixture_weights": self.mixture.weights,
            "mixture_means": self.mixture.means,
            "mixture_variances": self.mixture.variances,
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, Floats], grid: Grid) -> FisherVector:
        """Rebuild from what `arrays` gave."""
        return cls(
            grid,
            Projection(arrays["local_mean"], arrays["local_components"], arrays["local_scale"]),
            DiagonalMixture(
                arrays["mixture_weights"], arrays["mixture_means"], arrays["mixture_variances"]
            ),
        )


def fit_fisher(
    samples: Floats,
    grid: Grid,
    *,
    dimensions: int,
    components: int,
    rng: np.random.Generator,
) -> FisherVector:
    """Fit the vocabulary to local descriptors (n, 102) sampled from the training images."""
    projection = fit_projection(samples, dimensions=dimensions, whiten=False)
    mixture = fit_mixture(
        projection(samples), components=components, iterations=_EM_ITERATIONS, rng=rng
    )
    return FisherVector(grid, projection, mixture)
