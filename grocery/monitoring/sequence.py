"""Slightly odd batches in a row: are they together more than chance, and large enough to matter?

One batch may be odd by chance, or too small to tell. So each new batch is also judged together with
those before it: the last 2, 4, 8, 16 and 32 batches are pooled, each window is tested against the
reference as if it were one batch, at `significance` shared out among the windows and Holm's
correction within one. A shift that lasts counts from half the size of one that comes once
(`LASTING`).

The guarantee: without drift, for each family of signals (`grocery.monitoring.drift`) a new batch
ends a sequence that counts with a chance of at most `significance`. So among n clean batches at
most n * significance of them do on average, whatever n is. This is a union bound over windows and,
over time, the linearity of expectation. It needs no independence
between batches, which there is not: all are compared with one and the same sample of held-out
images, so that by chance all may differ from it in the same way. That is why p-values are not
multiplied from batch to batch, be it as e-values (Shin, Ramdas and Rinaldo 2023, "E-detectors") or
in a CUSUM: with one reference their product grows without drift, the faster the larger the batches.
Pooled images are tested against the reference once, and the test knows how large the reference is.

A signal that has no counts to pool is combined by its p-values: Stouffer's sum of normal scores,
with the correlation that a common reference of m images gives batches of n, r = n / (n + m) (Strube
1985, "Combining and comparing significance levels from nonindependent hypothesis tests"). That is
exact for a difference of means, which knows two directions. A distance knows none: it is an even
function of differences, whose correlation is r squared at most (Mehler's expansion of the normal
distribution in two variables begins at the second degree then).

After an alert of a batch, or what counts in a sequence, windows begin again: what has been said is
not said again with every batch that follows. It only ever leaves windows out: the guarantee holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from grocery.core.params import MonitorParams
from grocery.monitoring.drift import WORLD, capped, with_verdicts
from grocery.monitoring.signals import (
    Signal,
    Verdict,
    classes_signal,
    confidence_signal,
    unreadable_signal,
)
from grocery.reference.reference import Reference

WINDOWS = (2, 4, 8, 16, 32)  # batches
LASTING = 0.5
BINS = 100  # of the confidences that are kept of a batch

POOLED = ("confidence", "classes", "unreadable")
BY_LABELS = ("accuracy", "labels")  # the signals that only labels give
DIRECTED = (*BY_LABELS, "estimate", "unknown")  # one-sided tests

# Keeps the normal score of a p-value of 0 finite. A test of counts may give exactly 1; as 0.999 it
# cannot erase what others show, and the level rises by less than a hundredth part.
_LEAST_P, _LARGEST_P = 1e-9, 0.999


@dataclass(frozen=True)
class Past:
    """What a sequence needs to know of a batch that has been judged."""

    unreadable: int  # files that could not be read
    confidence_counts: NDArray[np.int64]  # (`BINS`,): images by confidence, see `binned`
    class_counts: NDArray[np.int64]  # (c,): images predicted each class
    signals: Sequence[Signal]  # what was found in it; none when it was too small
    told: bool  # whether it was an alert, or something was found in the sequence that it ended

    @property
    def images(self) -> int:
        """Number of readable images."""
        return int(self.class_counts.sum())


@dataclass(frozen=True)
class SequenceFinding:
    """What counts in the latest `batches` batches, with so many readable `images`.

    The sentences of the `signals` are about all of these batches. The verdict is "alert", or
    "watch" where the world has changed and nothing says that the model is worse.
    """

    batches: int
    images: int
    verdict: Verdict
    signals: tuple[Signal, ...]


def judge_sequence(
    reference: Reference, past: Sequence[Past], params: MonitorParams
) -> SequenceFinding | None:
    """Judge the sequence that the latest of some batches ends, in the order of their judgement.

    Gives the shortest window in which a signal counts, with the thresholds of a single batch for
    `params`; None when there is none, or when the latest batch is an alert by itself.
    """
    told = [index for index, batch in enumerate(past) if batch.told]
    fresh = past[told[-1] + 1 :] if told else past
    lasting = params.model_copy(
        update={
            "significance": params.significance / len(WINDOWS),
            "min_confidence_shift": params.min_confidence_shift * LASTING,
            "min_class_shift": params.min_class_shift * LASTING,
        }
    )
    for length in WINDOWS:
        if length > len(fresh):
            break
        window = fresh[-length:]
        signals = with_verdicts(_signals(reference, window, lasting), lasting.significance)
        if found := tuple(signal for signal in signals if signal.verdict == "alert"):
            verdict: Verdict = "watch" if all(one.name in WORLD for one in found) else "alert"
            found = tuple(capped(signal) for signal in found)
            return SequenceFinding(length, sum(batch.images for batch in window), verdict, found)
    return None


def binned(confidences: NDArray[np.float32]) -> NDArray[np.int64]:
    """Images by confidence, (n,) to (BINS,): what is kept of a batch for the sequences to come."""
    bins = np.minimum((confidences * BINS).astype(np.int64), BINS - 1)
    return np.bincount(bins, minlength=BINS)


def unbinned(counts: NDArray[np.int64]) -> NDArray[np.float32]:
    """Confidences (n,), ascending, at the middle of their bins, from counts (BINS,)."""
    return np.repeat(((np.arange(BINS) + 0.5) / BINS).astype(np.float32), counts)


def _signals(reference: Reference, window: Sequence[Past], params: MonitorParams) -> list[Signal]:
    """The tests of a window; a batch that is too small to be judged alone has its part in them."""
    classes = np.sum([batch.class_counts for batch in window], axis=0)
    bins = np.sum([batch.confidence_counts for batch in window], axis=0)
    images, unreadable = int(classes.sum()), sum(batch.unreadable for batch in window)
    signals = []
    if images >= params.min_batch:
        # Both samples on one grid; the ties make the p-value an upper bound.
        coarse = replace(reference, confidences=unbinned(binned(reference.confidences)))
        signals.append(confidence_signal(coarse, unbinned(bins), params))
        signals.append(classes_signal(reference, classes, params))
    if images + unreadable >= params.min_batch:
        signals.append(unreadable_signal(images + unreadable, unreadable, params))
    others: dict[str, list[tuple[int, Signal]]] = {}
    for batch in window:
        for signal in batch.signals:
            others.setdefault(signal.name, []).append((batch.images, signal))
    for name, found in sorted(others.items()):
        if len(found) > 1 and name not in POOLED:
            signals.append(_combined(name, found, _compared(reference, name)))
    return signals


def _compared(reference: Reference, name: str) -> int:
    """Number of held-out images that such a signal is compared with; perhaps a sample of them."""
    sampled = len(reference.image_statistics) or reference.images
    if name in BY_LABELS:
        return min(sampled, int(np.count_nonzero(reference.hits >= 0)))
    return sampled


def _combined(name: str, found: Sequence[tuple[int, Signal]], reference_images: int) -> Signal:
    """One signal of several batches, each with its number of images, by their p-values."""
    normal = NormalDist()
    p_values = [min(max(signal.p_value, _LEAST_P), _LARGEST_P) for _, signal in found]
    total = sum(normal.inv_cdf(1 - p_value) for p_value in p_values)
    shares = np.array([n / (n + reference_images) for n, _ in found])
    shares = shares if name in DIRECTED else shares**2
    variance = float(np.sqrt(shares).sum() ** 2 - shares.sum() + len(found))
    score = total / variance**0.5
    effect = float(np.mean([signal.effect for _, signal in found]))
    threshold = LASTING * found[-1][1].threshold
    sentence = (
        f"{name[:1].upper()}{name[1:]} differed somewhat from batch to batch: size "
        f"{effect:.2f} on average."
    )
    return Signal(name, score, normal.cdf(-score), effect, threshold, sentence)
