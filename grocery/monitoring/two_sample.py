"""Two-sample tests of vectors: do two sets of points come from one distribution?

The kernel test sees all points moving a little. Gretton et al., "A kernel two-sample test", JMLR
2012: the maximum mean discrepancy (MMD) is the distance of the two samples' means in the feature
space of a kernel. The kernel is Gaussian, its width the median distance of two points. It is
approximated by random Fourier features (Rahimi and Recht, "Random features for large-scale kernel
machines", 2007), in which a random split of the pooled points costs one product of matrices (Zhao
and Meng, "FastMMD", 2015).

The neighbour test sees a few points that lie by themselves. Schilling, "Multivariate two-sample
tests based on nearest neighbors", JASA 1986, counts the nearest neighbours of a sample's points
that are of the same sample. Here the counts are raised to the fourth power before they are added
up: ten new points that have only one another outweigh a hundred with one neighbour more.

The tail test sees a few values that are larger than nearly all. It is the higher criticism of
Donoho and Jin, "Higher criticism for detecting sparse heterogeneous mixtures", Annals of Statistics
2004: of the largest k values of both samples, for the k where that is least likely, how many more
are of the sample than its share? Both samples have their median taken off before.

All p-values are those of permutation tests, and exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

FREQUENCIES = 128  # random Fourier features are twice as many
MAX_POINTS = 1_000  # of a sample; more are thinned out at random
NEIGHBOURS = 10
_POWER = 4  # of the counts of neighbours
_PAIRS = 2_000  # whose median distance is the kernel's width
_BLOCK = 500  # random splits at a time
_FEWEST = 2  # largest values that are no tail

Floats = NDArray[np.float32]
Rows = NDArray[np.intp]


@dataclass(frozen=True)
class TwoSample:
    """What a test found; each test says what its statistic and effect are."""

    statistic: float
    p_value: float
    effect: float


def chance(by_chance: NDArray[Any], least: float) -> float:
    """P-value of a permutation test: how many random splits, and the given one, are at least so."""
    return (1 + int(np.count_nonzero(by_chance >= least))) / (1 + len(by_chance))


def kernel_test(sample: Floats, other: Floats, *, permutations: int) -> TwoSample:
    """Compare samples of shapes (n, d) and (m, d), both at least 2.

    The statistic is the MMD over its largest possible value, 0 to 1, and the effect the same with
    what random splits have on average taken off. The smallest p-value is one in the number of
    `permutations` plus one.
    """
    points, n, m = _pooled(sample, other)
    pooled = _fourier(points)
    total = pooled.sum(axis=0, dtype=np.float64)

    def divergence(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        squared = (sums / n - (total - sums) / m) ** 2
        return np.asarray(squared.sum(axis=-1) / 2)

    observed = float(divergence(pooled[:n].sum(axis=0, dtype=np.float64)))
    by_chance = np.concatenate(
        [divergence((block @ pooled).astype(np.float64)) for block in _splits(n, m, permutations)]
    )
    # Equal splits may differ in the last bits of single precision, hence the tolerance.
    p_value = chance(by_chance, observed * (1 - 1e-5))
    return TwoSample(observed**0.5, p_value, max(0.0, observed - float(by_chance.mean())) ** 0.5)


def mean_test(sample: Floats, other: Floats, *, permutations: int) -> TwoSample:
    """Test whether the values (n,) of a sample are on average larger than others (m,).

    One-sided; statistic and effect are the difference of the means.
    """
    pooled, n, m = _pooled(sample, other)
    sums = np.concatenate([block @ pooled for block in _splits(n, m, permutations)])
    observed = float(pooled[:n].sum(dtype=np.float64))
    tolerance = 1e-5 * float(np.abs(pooled).sum(dtype=np.float64))
    difference = float(pooled[:n].mean(dtype=np.float64) - pooled[n:].mean(dtype=np.float64))
    return TwoSample(difference, chance(sums, observed - tolerance), max(0.0, difference))


def tail_test(sample: Floats, other: Floats, *, splits: NDArray[np.bool_]) -> TwoSample:
    """Test whether some of the values (n,) of a sample lie above others (m,), by given `splits`.

    One-sided. The statistic is the largest of the standardised excesses, the effect the share of
    the sample that it is of.
    """
    pooled, n = np.concatenate([sample, other]), len(sample)
    given = np.arange(len(pooled)) < n
    observed, share = (values[0] for values in _excess(pooled, given[None]))
    by_chance = [
        _excess(pooled, splits[start : start + _BLOCK])[0]
        for start in range(0, len(splits), _BLOCK)
    ]
    p_value = chance(np.concatenate(by_chance), observed * (1 - 1e-9))
    return TwoSample(float(observed), p_value, max(0.0, float(share)))


def _excess(pooled: Floats, chosen: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Of subsets, rows of ones of (b, n + m), the largest excess and the share that it is of."""
    n, total = int(chosen[0].sum()), len(pooled)
    # The subset first, as a table.
    values = pooled[np.argsort(~chosen, axis=1, kind="stable")]
    values[:, :n] -= np.median(values[:, :n], axis=1, keepdims=True)
    values[:, n:] -= np.median(values[:, n:], axis=1, keepdims=True)
    largest = np.arange(1, total // 2 + 1)
    of_subset = np.argsort(-values, axis=1, kind="stable")[:, : len(largest)] < n
    excess = np.cumsum(of_subset, axis=1) - n * largest / total
    left = largest * (total - largest) / total  # as of a draw without putting back
    scores = excess / np.sqrt(n * (total - n) / total * left / (total - 1))
    scores[:, :_FEWEST] = -np.inf
    best = scores.argmax(axis=1)[:, None]
    return (
        np.take_along_axis(scores, best, axis=1)[:, 0],
        np.take_along_axis(excess, best, axis=1)[:, 0] / n,
    )


def neighbour_test(sample: Floats, other: Floats, *, splits: NDArray[np.bool_]) -> TwoSample:
    """Count neighbours of the same sample, in samples of shapes (n, d) and (m, d), by `splits`.

    The statistic is the mean of the fourth powers of the shares of the sample's neighbours that are
    of the sample, 0 to 1. The effect is the share of these neighbours beyond what splits give:
    about the share of its points that lie by themselves.
    """
    points, n = np.concatenate([sample, other]), len(sample)
    # Shuffled, since of equally near points the first ones are taken.
    order = np.random.default_rng(0).permutation(len(points))
    nearest = _nearest(points[order])
    of_sample = order < n
    powers = np.arange(nearest.shape[1] + 1, dtype=np.int32) ** _POWER
    chosen = splits[:, order].T
    by_chance, neighbours = [], 0
    for start in range(0, chosen.shape[1], _BLOCK):
        block = np.ascontiguousarray(chosen[:, start : start + _BLOCK])
        counts = np.zeros(block.shape, np.uint8)
        for column in nearest.T:
            counts += block & block[column]
        neighbours += int(counts.sum())
        by_chance.append(powers[counts].sum(axis=0))
    own = of_sample[nearest[of_sample]].sum(axis=1)
    observed, most = int(powers[own].sum()), n * nearest.shape[1]
    expected = neighbours / chosen.shape[1]
    return TwoSample(
        statistic=observed / (n * int(powers[-1])),
        p_value=chance(np.concatenate(by_chance), observed),
        effect=max(0.0, int(own.sum()) - expected) / max(most - expected, 1.0),
    )


def stratified(sample: Rows, other: Rows, *, permutations: int) -> NDArray[np.bool_]:
    """Random splits of n + m points within strata, numbered (n,) and (m,); as rows (k, n + m).

    Of each stratum as many points are taken as the sample has of it: tests with these splits do not
    see that the strata have other shares in it.
    """
    strata, total = np.concatenate([sample, other]), len(sample) + len(other)
    sizes = np.bincount(strata)
    wanted = np.bincount(sample, minlength=len(sizes))
    before = np.repeat(np.cumsum(sizes) - sizes, sizes)
    taken = np.arange(total) - before < np.repeat(wanted, sizes)  # in the order of the strata
    generator, rows = np.random.default_rng(2), []
    for start in range(0, permutations, _BLOCK):
        keys = strata + generator.random((min(_BLOCK, permutations - start), total))
        chosen = np.zeros(keys.shape, bool)
        order = np.argsort(keys, axis=1, kind="stable")  # the same code on every processor
        np.put_along_axis(chosen, order, taken[None], axis=1)
        rows.append(chosen)
    return np.concatenate(rows)


def thinned(count: int) -> Rows:
    """Which of so many points are looked at: all, or `MAX_POINTS` by chance; ascending."""
    if count <= MAX_POINTS:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, MAX_POINTS, replace=False))


def _nearest(points: Floats) -> NDArray[np.intp]:
    """The nearest `NEIGHBOURS` of each of n points, or all others; shape (n, k), in any order."""
    squares = (points**2).sum(axis=1)
    distances = squares[:, None] + squares[None] - 2 * points @ points.T
    np.fill_diagonal(distances, np.inf)
    count = min(NEIGHBOURS, len(points) - 1)
    return np.argpartition(distances, count - 1, axis=1)[:, :count]


def _pooled(*samples: Floats) -> tuple[Floats, int, int]:
    """Both samples in one array, thinned out to `MAX_POINTS` each, and how many are of either."""
    few = [points[thinned(len(points))] for points in samples]
    return np.concatenate(few), len(few[0]), len(few[1])


def _fourier(points: Floats) -> Floats:
    """Random Fourier features (n, 2 * `FREQUENCIES`) of the Gaussian kernel, of length 1."""
    generator = np.random.default_rng(0)
    # Pairs are drawn from the pooled points, or their width would tell the samples apart.
    left, right = generator.integers(len(points), size=(2, _PAIRS))
    distances = np.sqrt(((points[left] - points[right]) ** 2).sum(axis=1))
    width = float(np.median(distances[left != right])) or 1.0
    frequencies = generator.normal(size=(points.shape[1], FREQUENCIES)) / width
    angles = points @ frequencies.astype(np.float32)
    waves = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    return (waves * np.float32(FREQUENCIES**-0.5)).astype(np.float32)


def _splits(n: int, m: int, count: int) -> Iterator[Floats]:
    """Random subsets of n of n + m points, as rows of zeros and ones, in blocks."""
    chosen = _subsets(n, m, count)
    for start in range(0, count, _BLOCK):
        yield chosen[start : start + _BLOCK].astype(np.float32)


@lru_cache(maxsize=8)
def _subsets(n: int, m: int, count: int) -> NDArray[np.bool_]:
    """All rows (count, n + m) of `_splits`; batches of one size share them."""
    generator = np.random.default_rng(1)
    rows = []
    for start in range(0, count, _BLOCK):
        keys = generator.random((min(_BLOCK, count - start), n + m), dtype=np.float32)
        chosen = np.zeros(keys.shape, bool)
        np.put_along_axis(chosen, np.argpartition(keys, n - 1, axis=1)[:, :n], True, axis=1)
        rows.append(chosen)
    return np.concatenate(rows)
