"""Has a batch of incoming images drifted? Tests of its predictions against the reference.

Three signals are looked at: the distribution of confidences, the shares of predicted classes, and
the share of files that cannot be read. Each gives a p-value (could chance alone do this?) and an
effect (is it large enough to matter?), because a tiny shift is significant in a huge batch and a
huge shift can be chance in a tiny one. The verdict on a signal is

======= =======================================================================================
ok      chance alone explains it: p > significance
watch   chance alone is an unlikely explanation, but the signal is not an alert
alert   significant after Holm's correction for the number of signals, and effect >= threshold
======= =======================================================================================

and a batch is as bad as its worst signal. By Holm's correction a batch without drift raises an
alert with a chance of at most `significance`, whatever the number of signals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from grocery.monitoring.reference import Reference, realised_accuracy
from grocery.monitoring.statistics import (
    binomial_tail,
    js_divergence,
    ks_distance,
    ks_p_value,
    wasserstein_distance,
)
from grocery.params import MonitorParams

Verdict = Literal["alert", "watch", "too few", "ok"]
VERDICTS: tuple[Verdict, ...] = ("alert", "watch", "too few", "ok")  # worst first

# Random splits of the permutation test; the smallest p-value is one in this many plus one.
PERMUTATIONS = 4_999


@dataclass(frozen=True)
class Signal:
    """What one test found in one batch.

    Attributes
    ----------
    name
        "confidence", "classes" or "unreadable".
    statistic
        What was tested: Kolmogorov-Smirnov distance, Jensen-Shannon distance, or number of files.
    p_value
        Chance of a statistic at least as large in a batch that has not drifted.
    effect, threshold
        Size of the shift, and the smallest size that counts; both 0 to 1.
    sentence
        The finding, for a person.
    verdict
        "ok", "watch" or "alert".
    """

    name: str
    statistic: float
    p_value: float
    effect: float
    threshold: float
    sentence: str
    verdict: Verdict = "ok"


@dataclass(frozen=True)
class Judgement:
    """The verdict on one batch and what it rests on.

    Attributes
    ----------
    verdict
        The worst of the signals; "too few" when the batch is too small to be judged.
    images, unreadable
        Numbers of readable images and of unreadable files.
    signals
        The tests that were made; none when the batch is too small.
    wasserstein
        Wasserstein distance of the confidences from the reference's: how far they moved on
        average, 0 to 1. None when the confidences were not judged.
    estimated_accuracy
        Mean confidence, which is the accuracy as long as the probabilities are calibrated; None
        without images.
    accuracy
        Realised accuracy on the labelled images; None when there are none.
    labelled
        Number of labelled images.
    """

    verdict: Verdict
    images: int
    unreadable: int
    signals: tuple[Signal, ...]
    wasserstein: float | None
    estimated_accuracy: float | None
    accuracy: float | None
    labelled: int


def judge(
    reference: Reference,
    probabilities: NDArray[np.float32],
    labels: Sequence[str | None],
    unreadable: int,
    params: MonitorParams,
) -> Judgement:
    """Judge one batch.

    Parameters
    ----------
    reference
        What held-out images looked like to the same model.
    probabilities
        Predictions of the n readable images, shape (n, c); n may be 0.
    labels
        True classes of these images, None where not known.
    unreadable
        Number of files that could not be read.
    params
        Significance, thresholds and the smallest batch.
    """
    n = len(probabilities)
    confidences, predicted = probabilities.max(axis=1), probabilities.argmax(axis=1)
    signals = []
    wasserstein = None
    if n >= params.min_batch:
        counts = np.bincount(predicted, minlength=len(reference.classes))
        signals.append(confidence_signal(reference, confidences, params))
        signals.append(classes_signal(reference, counts, params))
        wasserstein = wasserstein_distance(confidences, reference.confidences)
    if n + unreadable >= params.min_batch:
        signals.append(unreadable_signal(n + unreadable, unreadable, params))
    judged = with_verdicts(signals, params.significance)
    verdicts: set[Verdict] = {signal.verdict for signal in judged}
    if n < params.min_batch:
        verdicts.add("too few")
    return Judgement(
        verdict=min(verdicts, key=VERDICTS.index),
        images=n,
        unreadable=unreadable,
        signals=judged,
        wasserstein=wasserstein,
        estimated_accuracy=float(confidences.mean(dtype=np.float64)) if n else None,
        accuracy=realised_accuracy(predicted, labels, reference.classes),
        labelled=sum(label is not None for label in labels),
    )


def with_verdicts(signals: Sequence[Signal], significance: float) -> tuple[Signal, ...]:
    """Give each signal its verdict, correcting for their number.

    Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    order = sorted(range(len(signals)), key=lambda index: signals[index].p_value)
    judged = list(signals)
    rejecting = True
    for rank, index in enumerate(order):
        signal = signals[index]
        rejecting = rejecting and signal.p_value * (len(signals) - rank) <= significance
        verdict: Verdict = "ok"
        if rejecting and signal.effect >= signal.threshold:
            verdict = "alert"
        elif signal.p_value <= significance:
            verdict = "watch"
        judged[index] = replace(signal, verdict=verdict)
    return tuple(judged)


def confidence_signal(
    reference: Reference, confidences: NDArray[np.float32], params: MonitorParams
) -> Signal:
    """Compare the confidences of a batch (n) with the reference's.

    The effect is the Kolmogorov-Smirnov distance: the largest difference between the shares of
    images below one and the same confidence.
    """
    distance = ks_distance(confidences, reference.confidences)
    p_value = ks_p_value(distance, len(confidences), reference.images)
    now, before = float(np.median(confidences)), float(np.median(reference.confidences))
    if p_value > params.significance:
        sentence = f"Confidence is as before: median {now:.2f}, was {before:.2f}."
    elif f"{now:.2f}" == f"{before:.2f}":
        sentence = f"Confidence has the same median, {now:.2f}, but another distribution."
    else:
        direction = "fell" if now < before else "rose"
        sentence = f"Confidence {direction}: median {now:.2f}, was {before:.2f}."
    threshold = params.min_confidence_shift
    return Signal("confidence", distance, p_value, distance, threshold, sentence)


def classes_signal(
    reference: Reference, counts: NDArray[np.int64], params: MonitorParams
) -> Signal:
    """Compare the predicted classes of a batch, as counts (c,), with the reference's.

    A permutation test: under the null hypothesis the batch is a random subset of batch and
    reference together, so its counts follow the multivariate hypergeometric distribution, however
    small they are. The statistic is the Jensen-Shannon distance. Sampling alone makes it larger
    than zero, the more so the smaller the batch; the effect is therefore the distance that remains
    when the mean divergence of the random splits is taken off.
    """
    pooled = counts + reference.predicted_counts
    n = int(counts.sum())
    generator = np.random.default_rng(0)
    splits = generator.multivariate_hypergeometric(pooled, n, size=PERMUTATIONS, method="marginals")
    observed = float(js_divergence(counts, reference.predicted_counts))
    by_chance = js_divergence(splits, pooled - splits)
    # Equal splits may differ in the last bit, hence the tolerance.
    at_least = int(np.count_nonzero(by_chance >= observed - 1e-9))
    p_value = (1 + at_least) / (1 + PERMUTATIONS)
    effect = max(0.0, observed - float(by_chance.mean())) ** 0.5

    expected = reference.predicted_counts * (n / reference.images)
    most = int(np.abs(counts - expected).argmax())
    sentence = (
        f"{counts[most]} of {n} images are predicted {reference.classes[most]}, "
        f"expected {expected[most]:.0f}."
    )
    if p_value > params.significance:
        sentence = f"Predicted classes are as expected. The largest difference: {sentence}"
    return Signal("classes", observed**0.5, p_value, effect, params.min_class_shift, sentence)


def unreadable_signal(files: int, unreadable: int, params: MonitorParams) -> Signal:
    """Test whether more files are unreadable than the share that is put up with.

    The exact binomial test, one-sided. The effect is the share itself.
    """
    p_value = binomial_tail(unreadable, files, params.max_unreadable)
    share = unreadable / files
    sentence = f"All {files} files can be read."
    if unreadable:
        limit = f"up to {params.max_unreadable * 100:g} % is put up with"
        sentence = f"{unreadable} of {files} files cannot be read; {limit}."
    return Signal("unreadable", unreadable, p_value, share, params.max_unreadable, sentence)
