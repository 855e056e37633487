"""Has a batch of incoming images drifted? The verdict on its signals.

Each signal gives a p-value (could chance alone do this?) and an effect (is it large enough to
matter?), because a tiny shift is significant in a huge batch and a huge shift can be chance in a
tiny one. The verdict on a signal is

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

import numpy as np
from numpy.typing import NDArray

from grocery.core.params import MonitorParams
from grocery.monitoring import signals as tests
from grocery.monitoring.accuracy import estimate_accuracy
from grocery.monitoring.signals import Signal, Verdict
from grocery.monitoring.statistics import wasserstein_distance
from grocery.reference.reference import Reference, label_ranks, share_right

__all__ = ["VERDICTS", "Judgement", "Signal", "Verdict", "judge", "with_verdicts"]

VERDICTS: tuple[Verdict, ...] = ("alert", "watch", "too few", "ok")  # worst first


@dataclass(frozen=True)
class Judgement:
    """The verdict on one batch and what it rests on."""

    verdict: Verdict  # the worst of the signals; "too few" when the batch is too small
    images: int  # that are readable
    unreadable: int  # files
    signals: tuple[Signal, ...]  # the tests that were made; none when the batch is too small
    # Wasserstein distance of the confidences from the reference's: how far they moved on average,
    # 0 to 1. None when they were not judged.
    wasserstein: float | None
    # Accuracy that the confidences speak for, see `grocery.monitoring.accuracy`; the mean
    # confidence when no held-out image had a label, None without images.
    estimated_accuracy: float | None
    accuracy: float | None  # realised on the labelled images; None when there are none
    labelled: int  # images
    # It holds the true accuracy nine times in ten; None when the estimate is but the mean
    # confidence, or there is none.
    estimate_interval: tuple[float, float] | None = None


def judge(
    reference: Reference,
    probabilities: NDArray[np.float32],
    labels: Sequence[str | None],
    unreadable: int,
    params: MonitorParams,
    *,
    features: NDArray[np.float32] | None = None,
    logits: NDArray[np.float32] | None = None,
    image_statistics: NDArray[np.float32] | None = None,
) -> Judgement:
    """Judge one batch of n readable images, and of some files that could not be read.

    Parameters
    ----------
    probabilities
        Predictions, shape (n, c); n may be 0.
    labels
        True classes of the n images, None where not known.
    features, logits, image_statistics
        Of shapes (n, d), (n, c) and (n, k); without them, or without theirs in the reference, they
        are not judged.
    """
    n = len(probabilities)
    confidences, predicted = probabilities.max(axis=1), probabilities.argmax(axis=1)
    signals = []
    wasserstein = None
    if n >= params.min_batch:
        counts = np.bincount(predicted, minlength=len(reference.classes))
        signals.append(tests.confidence_signal(reference, confidences, params))
        signals.append(tests.classes_signal(reference, counts, params))
        wasserstein = wasserstein_distance(confidences, reference.confidences)
        if features is not None and logits is not None and len(reference.logits):
            signals.append(tests.features_signal(reference, features, logits, params))
        if image_statistics is not None and len(reference.image_statistics):
            signals.append(tests.images_signal(reference, image_statistics, params))
    ranks = label_ranks(probabilities, labels, reference.classes)
    known = ranks >= 0
    right, labelled = int(np.count_nonzero(ranks == 0)), int(known.sum())
    if labelled >= params.min_batch and (reference.hits >= 0).any():
        signals.append(tests.accuracy_signal(reference, right, labelled, params))
        signals.append(tests.labels_signal(reference, ranks[known], confidences[known], params))
    if n + unreadable >= params.min_batch:
        signals.append(tests.unreadable_signal(n + unreadable, unreadable, params))
    judged = with_verdicts(signals, params.significance)
    verdicts: set[Verdict] = {signal.verdict for signal in judged}
    if n < params.min_batch:
        verdicts.add("too few")
    estimate = estimate_accuracy(reference, confidences)
    mean = float(confidences.mean(dtype=np.float64)) if n else None
    return Judgement(
        verdict=min(verdicts, key=VERDICTS.index),
        images=n,
        unreadable=unreadable,
        signals=judged,
        wasserstein=wasserstein,
        estimated_accuracy=estimate.accuracy if estimate else mean,
        accuracy=share_right(ranks),
        labelled=labelled,
        estimate_interval=estimate.interval if estimate else None,
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
