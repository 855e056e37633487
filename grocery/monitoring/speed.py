"""How fast the model predicts, compared with earlier batches on the same host.

The time an image takes says something about the machine and nothing about the images. So the signal
`speed` takes no part in the correction for the number of signals, and is never an alert. It needs a
history: nothing in a release says how fast a machine should be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log, sqrt
from statistics import fmean, median, stdev
from typing import Self

from scipy.special import stdtr

from grocery.core.params import MonitorParams
from grocery.monitoring.drift import VERDICTS, Judgement
from grocery.monitoring.signals import Signal, Verdict

NAME = "speed"
LEAST = 5  # earlier batches, of which the spread is known
LATEST = 100  # of them are compared with

# Spread of the logarithms that is taken for granted: clocks and machines are never steadier.
_STEADIEST = 0.02


@dataclass(frozen=True)
class Timing:
    """How long the prediction of a batch took, 0 without images; it differs from run to run.

    Images are predicted a few at a time, so one image's time is its share of theirs.
    """

    seconds: float  # of all its readable images
    images_per_second: float
    latency_ms: float  # of one image, the median
    slowest_ms: float  # of one image, the largest

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Self:
        """Sum up the seconds of each image."""
        total = sum(seconds)
        if not seconds or not total:
            return cls(total, 0.0, 0.0, 0.0)
        return cls(total, len(seconds) / total, 1000 * median(seconds), 1000 * max(seconds))


def with_speed(
    judgement: Judgement, latency_ms: float, earlier: Sequence[float], params: MonitorParams
) -> Judgement:
    """Add the signal to a judgement, where there is enough to compare with."""
    signal = speed_signal(latency_ms, earlier, params)
    # The first image of a process takes longer.
    if signal is None or judgement.images < params.min_batch:
        return judgement
    verdict = min(judgement.verdict, signal.verdict, key=VERDICTS.index)
    return replace(judgement, verdict=verdict, signals=(*judgement.signals, signal))


def speed_signal(
    latency_ms: float, earlier: Sequence[float], params: MonitorParams
) -> Signal | None:
    """Compare a batch's median latency with those of earlier batches; None with too few of them.

    A one-sided t-test of one new value of the logarithms, whose spread is at least two per cent
    (Whitmore 1986, "Prediction limits for a univariate normal observation"). The statistic is the
    latency in milliseconds, the effect the share of the speed that is lost. Both a small p-value
    and a lost share of `min_slowdown` are needed for "watch".
    """
    latest = [value for value in earlier if value > 0][-LATEST:]
    if latency_ms <= 0 or len(latest) < LEAST:
        return None
    logs = [log(value) for value in latest]
    spread = max(stdev(logs), _STEADIEST) * sqrt(1 + 1 / len(logs))
    p_value = float(stdtr(len(logs) - 1, -(log(latency_ms) - fmean(logs)) / spread))
    before = median(latest)
    effect = max(0.0, 1 - before / latency_ms)
    found = p_value <= params.significance and effect >= params.min_slowdown
    verdict: Verdict = "watch" if found else "ok"
    sentence = f"Predicting an image takes {latency_ms:.0f} ms, was {before:.0f} ms."
    return Signal(NAME, latency_ms, p_value, effect, params.min_slowdown, sentence, verdict=verdict)
