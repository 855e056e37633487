import numpy as np
import pytest

from grocery.monitoring.drift import Judgement
from grocery.monitoring.speed import LEAST, Timing, speed_signal, with_speed
from thresholds import thresholds

PARAMS = thresholds()


def test_what_is_kept_of_the_seconds() -> None:
    timing = Timing.of([0.01, 0.02, 0.09])
    assert timing.images_per_second == pytest.approx(25)
    assert (timing.latency_ms, timing.slowest_ms) == pytest.approx((20, 90))
    assert Timing.of([]) == Timing(0, 0, 0, 0)


def test_a_machine_that_is_as_fast_as_ever_is_left_alone() -> None:
    """Of 400 batches at 1 %, more than 12 would have a chance of 0.1 %; they are not even slow."""
    rng = np.random.default_rng(0)
    times = 20 * np.exp(rng.normal(0, 0.1, (400, 21)))
    found = [speed_signal(row[0], row[1:].tolist(), PARAMS) for row in times]
    assert all(one is not None and one.verdict == "ok" for one in found)
    assert sum(one is not None and one.p_value <= 0.01 for one in found) <= 12


@pytest.mark.parametrize(
    ("latency", "earlier", "verdict"),
    [
        (44.0, [20.0, 21.0, 19.5, 20.5, 20.0], "watch"),
        (26.0, [20.0, 20.1, 19.9, 20.0, 20.0], "ok"),  # beyond chance, but it does not matter
        (44.0, [5.0, 80.0, 20.0, 9.0, 41.0], "ok"),  # slower than most, as it often is
        (10.0, [20.0] * 20, "ok"),  # faster
        (20.0, [20.0] * (LEAST - 1) + [0.0], None),  # nothing to compare with
        (0.0, [20.0] * LEAST, None),
    ],
)
def test_half_as_fast_is_watched(latency: float, earlier: list[float], verdict: str | None) -> None:
    signal = speed_signal(latency, earlier, PARAMS)
    assert (signal and signal.verdict) == verdict
    if signal and verdict == "watch":
        assert signal.effect == pytest.approx(1 - 20 / 44)
        assert signal.sentence == "Predicting an image takes 44 ms, was 20 ms."


@pytest.mark.parametrize(
    ("verdict", "then"), [("ok", "watch"), ("watch", "watch"), ("alert", "alert")]
)
def test_it_makes_a_verdict_no_better(verdict: str, then: str) -> None:
    judgement = Judgement(verdict, 20, 0, (), None, None, None, 0)  # type: ignore[arg-type]
    found = with_speed(judgement, 100.0, [10.0] * LEAST, PARAMS)
    assert (found.verdict, [one.name for one in found.signals]) == (then, ["speed"])
    assert with_speed(judgement, 100.0, [], PARAMS) is judgement
    few = Judgement("too few", 19, 0, (), None, None, None, 0)
    assert with_speed(few, 100.0, [10.0] * LEAST, PARAMS) is few
