"""Two-sample tests: uniform p-values without a shift, power with one, and the same every time."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from grocery.monitoring.two_sample import (
    TwoSample,
    kernel_test,
    mean_test,
    neighbour_test,
    stratified,
    thinned,
)

Floats = NDArray[np.float32]
Test = Callable[..., TwoSample]


def neighbours(sample: Floats, other: Floats, *, permutations: int) -> TwoSample:
    """The neighbour test by random splits of all points."""
    strata = (np.zeros(len(points), int) for points in (sample, other))
    return neighbour_test(sample, other, splits=stratified(*strata, permutations=permutations))


BOTH = pytest.mark.parametrize("test", [kernel_test, neighbours])


def points(seed: int, n: int, *, shift: float = 0.0, d: int = 8) -> Floats:
    drawn = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    drawn[:, 0] += shift
    return drawn


@BOTH
def test_p_values_are_uniform_without_a_shift(test: Test) -> None:
    drawn = [(points(seed, 30), points(1000 + seed, 80)) for seed in range(200)]
    found = [test(*pair, permutations=199) for pair in drawn]
    p_values = np.array([one.p_value for one in found])
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    assert np.mean(p_values <= 0.05) < 0.1
    assert np.mean([one.effect for one in found]) < 0.1


@BOTH
def test_a_shift_is_seen(test: Test) -> None:
    found = test(points(0, 60, shift=2.5), points(1, 200), permutations=999)
    assert found.p_value <= 0.002
    assert found.effect > 0.1


@BOTH
def test_the_order_of_points_does_not_matter_and_equal_ones_are_no_shift(test: Test) -> None:
    one, other = points(0, 40, shift=0.7), points(1, 90)
    found = test(one, other, permutations=99)
    assert test(one, other, permutations=99) == found
    if test is neighbours:  # the kernel's width is of pairs drawn by place
        assert test(one[::-1], other, permutations=99).statistic == found.statistic
    same = np.ones((30, 4), np.float32)
    found = test(same, same, permutations=99)
    assert found.p_value > 0.01
    assert 0 <= found.effect < 0.2


def test_the_kernel_statistic_is_the_mean_discrepancy() -> None:
    """Random Fourier features approximate the Gaussian kernel of the median distance."""
    one, other = points(0, 200, shift=1.0, d=3), points(1, 300, d=3)
    pooled = np.concatenate([one, other]).astype(np.float64)
    distances = np.sqrt(((pooled[:, None] - pooled[None]) ** 2).sum(-1))
    kernel = np.exp(-(distances**2) / (2 * np.median(distances) ** 2))
    exact = kernel[:200, :200].mean() + kernel[200:, 200:].mean() - 2 * kernel[:200, 200:].mean()
    found = kernel_test(one, other, permutations=9)
    assert found.statistic == pytest.approx((exact / 2) ** 0.5, rel=0.15)
    many = points(2, 2_500, d=3)  # of which some are taken
    found = kernel_test(many, one, permutations=9)
    assert found == kernel_test(many[thinned(2_500)], one, permutations=9)


def test_the_neighbour_statistic_of_two_heaps() -> None:
    heap = points(0, 12, d=2)
    apart = neighbours(heap + 100, heap, permutations=999)
    assert [apart.statistic, apart.effect, apart.p_value] == [1, pytest.approx(1), 1 / 1000]


def test_the_mean_test_is_exact_and_one_sided() -> None:
    """Four larger values of eight: one split in 70 is as extreme."""
    high, low = np.arange(4, 8, dtype=np.float32), np.arange(4, dtype=np.float32)
    found = mean_test(high, low, permutations=7_000)
    assert found.p_value == pytest.approx(1 / 70, rel=0.3)
    assert (found.statistic, found.effect) == (4.0, 4.0)
    other = mean_test(low, high, permutations=999)
    assert (other.p_value, other.statistic, other.effect) == (1.0, -4.0, 0.0)
    assert mean_test(high, high, permutations=99).p_value > 0.3
    same = np.full(5, 0.1, np.float32)
    assert mean_test(same, same[:3], permutations=99).p_value == 1.0
