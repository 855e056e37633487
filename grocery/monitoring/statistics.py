"""Distances between samples, and how likely chance alone makes them.

SciPy has most of these; importing ``scipy.stats`` takes longer than judging a batch does.
"""

from __future__ import annotations

from math import exp, lgamma, log

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc, entr, kolmogorov

# Up to this many pairs of draws the Kolmogorov-Smirnov p-value is exact.
EXACT_PAIRS = 1_000_000

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


def ks_distance(sample: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Two-sample Kolmogorov-Smirnov distance of samples (n) and (m), 0 to 1."""
    below, other_below, _ = _distribution_functions(sample, other)
    return float(np.abs(below - other_below).max())


def wasserstein_distance(sample: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """First Wasserstein distance of samples (n) and (m): the area between their distributions."""
    below, other_below, points = _distribution_functions(sample, other)
    return float((np.abs(below - other_below)[:-1] * np.diff(points)).sum())


def ks_p_value(distance: float, n: int, m: int) -> float:
    """Chance of at least this Kolmogorov-Smirnov distance between n and m like draws.

    Ties make it an upper bound. Exact for small samples: pooled and sorted, the two samples are a
    lattice path from (0, 0) to (n, m) of equally likely orders, and the distance is reached by the
    paths that leave a band around the diagonal (Hodges 1958, "The significance probability of the
    Smirnov two-sample test"). For large ones Kolmogorov's limit with the correction of Stephens
    (1970), "Use of the Kolmogorov-Smirnov, Cramer-von Mises and related statistics without
    extensive tables".
    """
    if n * m > EXACT_PAIRS:
        root = (n / (n + m) * m) ** 0.5
        return float(kolmogorov((root + 0.12 + 0.11 / root) * distance))
    small, large = sorted((n, m))
    across = np.arange(large + 1) / large
    paths = np.zeros(large + 1)
    paths[0] = 1.0
    logarithm = 0.0  # of what `paths` was divided by
    for drawn in range(small + 1):
        inside = np.abs(drawn / small - across) < distance - 1e-9
        paths = np.where(inside, np.cumsum(np.where(inside, paths, 0.0)), 0.0)
        largest = float(paths.max())
        if not largest:
            return 1.0
        paths /= largest
        logarithm += log(largest)
    all_paths = lgamma(n + m + 1) - lgamma(n + 1) - lgamma(m + 1)
    share = float(paths[-1]) * exp(min(0.0, logarithm - all_paths))
    return float(np.clip(1.0 - share, 0.0, 1.0))


def js_divergence(counts: Counts, others: Counts) -> Floats:
    """Jensen-Shannon divergence, in bits (0 to 1), of the shares in counts (..., c)."""
    p = counts / counts.sum(axis=-1, keepdims=True)
    q = others / others.sum(axis=-1, keepdims=True)
    mean = (p + q) / 2
    nats = (entr(mean) - (entr(p) + entr(q)) / 2).sum(axis=-1)
    divergence: Floats = (nats / log(2)).clip(0.0, 1.0)
    return divergence


def binomial_tail(successes: int, trials: int, chance: float) -> float:
    """Chance of at least this many successes in independent trials."""
    return float(bdtrc(successes - 1, trials, chance))


def hypergeometric_tail(successes: int, draws: int, good: int, bad: int) -> float:
    """Chance of at most this many good ones among `draws` of ``good + bad``, none drawn twice."""
    whole = _log_choose(good + bad, draws)
    logs = [
        _log_choose(good, k) + _log_choose(bad, draws - k) - whole
        for k in range(max(0, draws - bad), min(successes, draws, good) + 1)
    ]
    return float(min(1.0, np.exp(logs).sum()))


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


def _distribution_functions(
    sample: NDArray[np.float32], other: NDArray[np.float32]
) -> tuple[Floats, Floats, Floats]:
    """Both empirical distribution functions at every point of either sample, and the points."""
    points = np.sort(np.concatenate([sample, other]).astype(np.float64))
    below = np.searchsorted(np.sort(sample), points, side="right") / len(sample)
    other_below = np.searchsorted(np.sort(other), points, side="right") / len(other)
    return below, other_below, points
