"""The drill: how often does the monitor cry wolf, and how soon does it see the wolf?

Batches are drawn from held-out images, as they are and shifted, and judged as incoming ones are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from grocery.classifier.head import Head
from grocery.core.params import MonitorParams
from grocery.drill.drawing import CHECKED, CLEAN, Condition, Drawn, Stage
from grocery.drill.held_out import HeldOut
from grocery.monitoring.accuracy import (
    average_thresholded_confidence,
    classwise_thresholded_confidence,
)
from grocery.monitoring.drift import Verdict, judge
from grocery.parallel import parallel_map

LEFT_OUT = 3  # classes that are unknown products in turn


@dataclass(frozen=True)
class Outcome:
    """What became of one batch."""

    verdict: Verdict
    alerts: tuple[str, ...]  # names of the signals in alert
    accuracy: float  # the true share of right predictions
    estimate: float
    interval: tuple[float, float]  # of the estimate
    # Accuracy that the shift cost, see `Drawn.before`; with changed labels, what a person who
    # believes them would count.
    loss: float
    others: dict[str, float]  # what other estimates of the accuracy give, by name


def left_out_classes(images: HeldOut) -> list[str]:
    """The classes of the most held-out images, which play the unknown product."""
    counts = Counter(images.labels)
    return sorted(counts, key=lambda name: (-counts[name], name))[:LEFT_OUT]


def run_drill(
    images: HeldOut,
    heads: dict[str, Head],
    classes: Sequence[str],
    wanted: Sequence[Condition],
    *,
    batches: int,
    params: MonitorParams,
) -> dict[Condition, list[Outcome]]:
    """Judge `batches` batches of each wanted condition, and twice as many clean ones.

    A condition that asks for more images of a kind than there are is left out. Of the `heads`, by
    the class that they lack, the model's own is under "".
    """
    stage = Stage(images, heads, classes)
    task = partial(_outcomes, stage=stage, batches=batches, params=params)
    done = parallel_map(task, wanted, title="batches")
    return {condition: outs for condition, outs in zip(wanted, done, strict=True) if outs}


def _outcomes(
    condition: Condition, *, stage: Stage, batches: int, params: MonitorParams
) -> list[Outcome]:
    count = 2 * batches if condition.shift in (CLEAN, CHECKED) else batches
    outcomes = []
    for number in range(count):
        drawn = stage.draw(condition, number)
        if drawn is None:
            return []
        outcomes.append(outcome(drawn, params))
    return outcomes


def outcome(drawn: Drawn, params: MonitorParams) -> Outcome:
    """Judge one batch, and compare its estimated accuracy with the true one."""
    judgement = judge(
        drawn.reference,
        drawn.probabilities,
        drawn.labels,
        0,
        params,
        features=drawn.features,
        logits=drawn.logits,
        image_statistics=drawn.image_statistics,
    )
    predicted, confidences = drawn.probabilities.argmax(axis=1), drawn.probabilities.max(axis=1)
    assert judgement.estimated_accuracy is not None  # there are images, and all have labels
    assert judgement.estimate_interval is not None
    counted = drawn.accuracy if judgement.accuracy is None else judgement.accuracy
    return Outcome(
        verdict=judgement.verdict,
        alerts=tuple(s.name for s in judgement.signals if s.verdict == "alert"),
        accuracy=drawn.accuracy,
        estimate=judgement.estimated_accuracy,
        interval=judgement.estimate_interval,
        loss=drawn.before - counted,
        others={
            "mean confidence": float(confidences.mean(dtype=np.float64)),
            "thresholded": average_thresholded_confidence(drawn.reference, confidences),
            "classwise": classwise_thresholded_confidence(drawn.reference, confidences, predicted),
        },
    )
