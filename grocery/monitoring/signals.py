"""The signals of drift: what is tested in a batch of incoming images.

=========== ======================================== ============================================
name        what is compared with held-out images    test
=========== ======================================== ============================================
confidence  the confidences                          Kolmogorov-Smirnov
classes     the predicted classes                    permutation, Jensen-Shannon
features    features                                 permutation, kernel
images      brightness, sharpness and the like       Kolmogorov-Smirnov, corrected for the number
unknown     the head's logits, and features          permutation, neighbours and tail
estimate    how far the best class is ahead          Student's t
accuracy    right predictions, where labels are here Fisher's exact test
labels      how unlikely the labels are to the model permutation
unreadable  nothing: a limit is given                exact binomial
=========== ======================================== ============================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import ceil, expm1, log1p
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from grocery.core.params import MonitorParams, Ratio
from grocery.monitoring.statistics import (
    binomial_tail,
    hypergeometric_tail,
    js_divergence,
    ks_distance,
    ks_p_value,
)
from grocery.monitoring.two_sample import (
    chance,
    kernel_test,
    mean_test,
    neighbour_test,
    stratified,
    tail_test,
    thinned,
)
from grocery.reference.image_statistics import NAMES
from grocery.reference.reference import Reference
from grocery.reference.typical import class_means

Verdict = Literal["alert", "watch", "too few", "ok"]
Floats = NDArray[np.float32]
Rows = NDArray[np.intp]

# The least p-value of a permutation test is the significance over this many: Holm's correction
# multiplies it by up to the number of signals.
_FINEST = 20

# Points of a batch that are closer together than the reference's are spread out this far at most.
_LARGEST_SCALE = 1.5
# Where predicted classes differ by more than this, most are of classes with few reference images.
_MAX_CLASS_SHIFT = 0.5
_FEATURES_WEIGHT = 0.5  # beside the logits, where unknown products are looked for


@dataclass(frozen=True)
class Signal:
    """What one test found in one batch."""

    name: Annotated[str, Field(alias="signal")]  # as in the table above; as JSON it is `signal`
    statistic: float  # what was tested: a distance, the accuracy, or a number of files
    # Chance of a statistic at least as large in a batch that has not drifted.
    p_value: Ratio
    effect: Ratio  # size of the shift
    threshold: Ratio  # the smallest size that counts
    verdict: Verdict = field(default="ok", kw_only=True)
    sentence: str  # the finding, for a person


def least_of(p_values: Sequence[float]) -> float:
    """P-value of the least of several p-values (Šidák 1967, for independent ones).

    Where none of the tests finds anything it is uniform, unlike the least times their number, which
    is mostly more than 1: a sequence adds such values up. Tests that go together make it larger.
    """
    return -expm1(len(p_values) * log1p(-min(p_values))) if min(p_values) < 1 else 1.0


def permutations(significance: float) -> int:
    """Random splits that a permutation test needs for a significance."""
    return ceil(_FINEST / significance) - 1


def confidence_signal(reference: Reference, confidences: Floats, params: MonitorParams) -> Signal:
    """Compare the confidences of a batch (n) with the reference's.

    The effect is the Kolmogorov-Smirnov distance: the largest difference between the shares of
    images below one and the same confidence.
    """
    distance = ks_distance(confidences, reference.confidences)
    p_value = ks_p_value(distance, len(confidences), reference.images)
    now, before = float(np.median(confidences)), float(np.median(reference.confidences))
    if p_value > params.significance:
        sentence = f"Confidence is as before: median {now:.2f}, was {before:.2f}."
    else:
        sentence = _moved("Confidence", now, before)
    threshold = params.min_confidence_shift
    return Signal("confidence", distance, p_value, distance, threshold, sentence)


def _moved(name: str, now: float, before: float) -> str:
    """What has become of a median."""
    if f"{now:.2f}" == f"{before:.2f}":
        return f"{name} has the same median, {now:.2f}, but another distribution."
    direction = "fell" if now < before else "rose"
    return f"{name} {direction}: median {now:.2f}, was {before:.2f}."


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
    size = permutations(params.significance)
    generator = np.random.default_rng(0)
    splits = generator.multivariate_hypergeometric(pooled, n, size, method="marginals")
    observed = float(js_divergence(counts, reference.predicted_counts))
    by_chance = js_divergence(splits, pooled - splits)
    # Equal splits may differ in the last bit, hence the tolerance.
    p_value = chance(by_chance, observed - 1e-9)
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


def features_signal(reference: Reference, features: Floats, params: MonitorParams) -> Signal:
    """Compare features (n, d) of a batch with the reference's sample.

    The kernel test, which sees all images moving; see `grocery.monitoring.two_sample`.
    """
    count = permutations(params.significance)
    leading = features[:, : reference.features.shape[1]]
    moved = kernel_test(leading, reference.features, permutations=count)
    sentence = f"The images' features have moved, by {moved.effect:.2f} of 1."
    if moved.p_value > params.significance:
        sentence = "To the model's features the images are like those before."
    threshold = params.min_feature_shift
    return Signal("features", moved.statistic, moved.p_value, moved.effect, threshold, sentence)


def unknown_signal(
    reference: Reference, logits: Floats, features: Floats, params: MonitorParams, *, mix: Signal
) -> Signal:
    """Test whether some images of a batch are like none of the reference.

    The tail test sees images for which no class speaks, by their logits (n, c). The neighbour test
    sees such that are like one another, by their logits and, at half the weight, by their features
    (n, d); see `grocery.monitoring.two_sample`. What all images have in common is taken off first:
    another light is no unknown product. Nor is another `mix` of classes, which the signal of that
    name tells: both tests are then within predicted classes, and where it is quite another one,
    there is the tail test alone. The p-value is that of the lesser test (`least_of`), the effect
    its share of the images.
    """
    same_mix = mix.p_value > params.significance or mix.effect < mix.threshold
    rows = thinned(len(logits))
    logits, features = logits[rows], features[rows, : reference.features.shape[1]]
    known = reference.logits
    predicted, before = logits.argmax(axis=1), known.argmax(axis=1)
    strata = (np.zeros_like(classes) if same_mix else classes for classes in (predicted, before))
    splits = stratified(*strata, permutations=permutations(params.significance))
    tests = [tail_test(-logits.max(axis=1), -known.max(axis=1), splits=splits)]
    if same_mix or mix.effect < _MAX_CLASS_SHIFT:
        of_logits = _without_what_is_common(logits, known, predicted, before)
        of_features = _without_what_is_common(features, reference.features, predicted, before)
        sample, other = (
            np.hstack([by_logits, _FEATURES_WEIGHT * by_features])
            for by_logits, by_features in zip(of_logits, of_features, strict=True)
        )
        tests.append(neighbour_test(sample, other, splits=splits))
    found = min(tests, key=lambda test: (test.p_value, -test.effect))
    p_value = least_of([test.p_value for test in tests])
    sentence = f"About {found.effect * 100:.0f} % of the images are like none before."
    if p_value > params.significance:
        sentence = "No image is clearly unlike all those before."
    threshold = params.min_unknown_share
    return Signal("unknown", found.statistic, p_value, found.effect, threshold, sentence)


def _without_what_is_common(
    sample: Floats, other: Floats, predicted: Rows, before: Rows
) -> tuple[Floats, Floats]:
    """Two samples (n, d) and (m, d) around the other's median, in units of its points' distance.

    What the points of a sample have in common beyond what is typical of their predicted classes is
    taken off: how far they lie from there, and how much closer together. Medians, since the points
    that are like none before are no part of that; and of both samples, which are to be alike where
    nothing has changed.
    """
    usual = class_means(other, before, 1 + int(max(predicted.max(), before.max())))
    now, known = (
        points - np.median(points - usual[classes], axis=0)
        for points, classes in ((sample, predicted), (other, before))
    )
    now, known = now - (centre := np.median(known, axis=0)), known - centre
    least = 1e-6  # all points in one place
    size, usual_size = (
        max(float(np.median(np.linalg.norm(points, axis=1))), least) for points in (now, known)
    )
    size = max(size, usual_size / _LARGEST_SCALE)
    return (now / size).astype(np.float32), (known / usual_size).astype(np.float32)


def far_outside(unknown: Signal, signals: Sequence[Signal]) -> Signal:
    """The signal of unknown products where the batch is farther away than any trial of the model.

    All of it is unlike anything known, if one of the signals of a change says so.
    """
    moved = [found.p_value for found in signals if found.name in ("features", "images")]
    p_value = least_of([unknown.p_value, *moved])
    sentence = "The images lie farther from those before than any that the model was tried out on."
    return replace(unknown, p_value=p_value, effect=1.0, sentence=sentence)


def images_signal(reference: Reference, statistics: Floats, params: MonitorParams) -> Signal:
    """Compare the image statistics of a batch, shape (n, k), with the reference's sample.

    Each of the k statistics is tested by its Kolmogorov-Smirnov distance; the p-value is that of
    the least (`least_of`), and the effect is that statistic's distance.
    """
    n, m = len(statistics), len(reference.image_statistics)
    found = []
    for index in range(len(NAMES)):
        distance = ks_distance(statistics[:, index], reference.image_statistics[:, index])
        found.append((ks_p_value(distance, n, m), -distance, index))
    _, negative, index = min(found)
    p_value, distance = least_of([p_value for p_value, _, _ in found]), -negative
    both = (statistics[:, index], reference.image_statistics[:, index])
    sentence = _moved(NAMES[index].capitalize(), *(float(np.median(values)) for values in both))
    if p_value > params.significance:
        sentence = f"Photographs are as before; they differ most in {NAMES[index]}."
    return Signal("images", distance, p_value, distance, params.min_image_shift, sentence)


def accuracy_signal(
    reference: Reference, right: int, labelled: int, params: MonitorParams
) -> Signal:
    """Test whether fewer of a batch's labelled images are right than of the reference's.

    Fisher's exact test, one-sided. The effect is the drop of the accuracy.
    """
    known = reference.hits >= 0
    right_before, labelled_before = int(reference.hits[known].sum()), int(known.sum())
    good = right + right_before
    p_value = hypergeometric_tail(right, labelled, good, labelled + labelled_before - good)
    before = right_before / labelled_before
    drop = max(0.0, before - right / labelled)
    sentence = (
        f"{right} of {labelled} labelled images are predicted right, "
        f"expected {before * labelled:.0f}."
    )
    return Signal("accuracy", right / labelled, p_value, drop, params.min_accuracy_drop, sentence)


def labels_signal(
    reference: Reference, ranks: NDArray[np.int16], confidences: Floats, params: MonitorParams
) -> Signal:
    """Compare how unlikely the labels of a batch's n labelled images are with the reference's.

    A mistake of the model is mostly a near miss: the true class comes next. A label that was given
    wrongly may come anywhere, also where the model is sure. So an image's surprise is the rank of
    its label (see `grocery.reference.reference.label_ranks`) times the confidence, and its mean is
    tested by permutation. The effect is the part of the labels that would have to be random ones:
    the mean's rise as a share of the way from the reference's mean to that of random labels.
    """
    known = reference.hits >= 0
    before = reference.ranks[known] * reference.confidences[known]
    found = mean_test(ranks * confidences, before, permutations=permutations(params.significance))
    # A label that is drawn from all classes has half of them above it.
    random = float(confidences.mean(dtype=np.float64)) * (len(reference.classes) - 1) / 2
    rise = random - float(before.mean(dtype=np.float64))
    effect = min(1.0, max(0.0, found.statistic / rise)) if rise > 0 else 0.0
    sentence = (
        f"The labels are less likely to the model than before, as if {effect * 100:.0f} % of "
        "them were random."
    )
    if found.p_value > params.significance:
        sentence = "The labels are as likely to the model as before."
    threshold = params.min_label_shift
    return Signal("labels", found.statistic, found.p_value, effect, threshold, sentence)


def unreadable_signal(files: int, unreadable: int, params: MonitorParams) -> Signal:
    """Test whether more files are unreadable than the share that is tolerated.

    The exact binomial test, one-sided. The effect is the share itself.
    """
    p_value = binomial_tail(unreadable, files, params.max_unreadable)
    share = unreadable / files
    sentence = f"All {files} files can be read."
    if unreadable:
        limit = f"up to {params.max_unreadable * 100:g} % is tolerated"
        sentence = f"{unreadable} of {files} files cannot be read; {limit}."
    return Signal("unreadable", unreadable, p_value, share, params.max_unreadable, sentence)
