"""Has a batch of incoming images drifted, and is the model worse for it? The verdict.

Each signal gives a p-value (could chance alone do this?) and an effect (is it large enough to
matter?), because a tiny shift is significant in a huge batch and a huge shift can be chance in a
tiny one. A signal counts when it is significant after Holm's correction for its family, and its
effect is at least its threshold.

======= =======================================================================================
ok      chance alone explains what is found
watch   the world has changed: a signal of `WORLD` counts, or chance alone is unlikely for another
alert   the model is worse, or shown what it does not know: any other signal counts
======= =======================================================================================

A batch is as bad as its worst signal. Each family has a level of its own: what has changed in the
world; what labels and files say; unknown products; and the estimated accuracy. A batch without
drift is falsely said to have changed, or is an alert by one of the others, with a chance of at most
`significance` each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from grocery.core.params import MonitorParams
from grocery.monitoring import signals as tests
from grocery.monitoring.accuracy import Estimate, estimate_accuracy
from grocery.monitoring.signals import Signal, Verdict
from grocery.monitoring.statistics import wasserstein_distance
from grocery.reference.reference import Reference, label_ranks, share_right

WORLD = ("confidence", "classes", "features", "images")  # signals that are never an alert
_ALONE = ("unknown", "estimate")  # each is a family

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
    # See `grocery.monitoring.accuracy`; None where it cannot be estimated, then `refusal` says why.
    estimated_accuracy: float | None
    accuracy: float | None  # realised on the labelled images; None when there are none
    labelled: int  # images
    # It holds the true accuracy nine times in ten; None without an estimate.
    estimate_interval: tuple[float, float] | None = None
    refusal: str | None = None


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
    estimate = Estimate(None, None, "it has too few images", None)
    if n >= params.min_batch:
        counts = np.bincount(predicted, minlength=len(reference.classes))
        signals.append(tests.confidence_signal(reference, confidences, params))
        signals.append(tests.classes_signal(reference, counts, params))
        wasserstein = wasserstein_distance(confidences, reference.confidences)
        if features is not None and len(reference.features):
            signals.append(tests.features_signal(reference, features, params))
        if image_statistics is not None and len(reference.image_statistics):
            signals.append(tests.images_signal(reference, image_statistics, params))
        sampled = len(reference.logits) and len(reference.features)
        if features is not None and logits is not None and sampled:
            mix = signals[1]
            signals.append(tests.unknown_signal(reference, logits, features, params, mix=mix))
        estimate = replace(estimate, refusal="nothing is known of its images but what is predicted")
        if features is not None and logits is not None and image_statistics is not None:
            estimate = estimate_accuracy(reference, logits, features, image_statistics, params)
        if estimate.signal is not None:
            signals.append(estimate.signal)
        if estimate.outside:
            signals = [tests.far_outside(s, signals) if s.name == "unknown" else s for s in signals]
    ranks = label_ranks(probabilities, labels, reference.classes)
    known = ranks >= 0
    right, labelled = int(np.count_nonzero(ranks == 0)), int(known.sum())
    if labelled >= params.min_batch and (reference.hits >= 0).any():
        signals.append(tests.accuracy_signal(reference, right, labelled, params))
        signals.append(tests.labels_signal(reference, ranks[known], confidences[known], params))
    if n + unreadable >= params.min_batch:
        signals.append(tests.unreadable_signal(n + unreadable, unreadable, params))
    judged = tuple(capped(signal) for signal in with_verdicts(signals, params.significance))
    if any(signal.name == "unknown" and signal.verdict == "alert" for signal in judged):
        why = estimate.refusal or "some of its images are like none before"
        estimate = replace(estimate, accuracy=None, interval=None, refusal=why)
    verdicts: set[Verdict] = {signal.verdict for signal in judged}
    if n < params.min_batch:
        verdicts.add("too few")
    return Judgement(
        verdict=min(verdicts, key=VERDICTS.index),
        images=n,
        unreadable=unreadable,
        signals=judged,
        wasserstein=wasserstein,
        estimated_accuracy=estimate.accuracy,
        accuracy=share_right(ranks),
        labelled=labelled,
        estimate_interval=estimate.interval,
        refusal=estimate.refusal,
    )


def with_verdicts(signals: Sequence[Signal], significance: float) -> tuple[Signal, ...]:
    """Give each signal its verdict, correcting for their number in each family.

    What counts is an alert here; see `capped`. Holm, "A simple sequentially rejective multiple test
    procedure", 1979.
    """
    families: dict[str, list[int]] = {}
    for index, signal in enumerate(signals):
        own = signal.name if signal.name in _ALONE else ""
        families.setdefault("world" if signal.name in WORLD else own, []).append(index)
    judged = list(signals)
    for family in families.values():
        rejecting = True
        order = sorted(family, key=lambda index: signals[index].p_value)
        for rank, index in enumerate(order):
            signal = signals[index]
            rejecting = rejecting and signal.p_value * (len(family) - rank) <= significance
            verdict: Verdict = "ok"
            if rejecting and signal.effect >= signal.threshold:
                verdict = "alert"
            elif signal.p_value <= significance:
                verdict = "watch"
            judged[index] = replace(signal, verdict=verdict)
    return tuple(judged)


def capped(signal: Signal) -> Signal:
    """A signal that says no more than that the world has changed is no alert."""
    found = signal.verdict == "alert" and signal.name in WORLD
    return replace(signal, verdict="watch") if found else signal
