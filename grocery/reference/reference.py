"""What held-out images looked like to the model: the yardstick that monitoring holds batches to.

It is made from images that the model was not fitted on, since a model is more confident on its
training images than it will ever be again, and it travels inside the release.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from grocery.core.arrays import Arrays, load_arrays, save_arrays
from grocery.core.errors import ModelError
from grocery.reference.image_statistics import NAMES

KIND = "grocery-reference"

# More held-out images than this are kept as evenly spaced quantiles. They give the distribution
# function to one part in 5,000, far finer than any batch can tell.
MAX_CONFIDENCES = 5_000

# Images whose features and image statistics are kept, chosen by content hash, and the leading
# principal components kept of them: a quarter of a megabyte in the release.
MAX_SAMPLE = 1_000
SAMPLE_DIMENSIONS = 64

VERSION = 3  # of what the two files hold
UNKNOWN = -1  # the rank where an image has no label

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Reference:
    """Statistics of one model on held-out images.

    Attributes
    ----------
    classes
        The model's class names, in the order of its probabilities.
    confidences
        Largest probability of each image, ascending, float32; at most `MAX_CONFIDENCES` of them.
    ranks
        How many classes the model thought more probable than the true one, of the image of each
        confidence; -1 where it has no label; int16. See `label_ranks`.
    thresholds
        Confidence of each class above which a prediction counts as right, so that as many count as
        are right; float32, shape (len(classes),), see `class_thresholds`.
    features
        Leading features of a sample of the images, shape (s, d); s is 0 when there are none.
    logits
        The head's uncalibrated scores of the same images, shape (s, len(classes)).
    image_statistics
        Statistics of the same images, shape (s, k); see `grocery.reference.image_statistics`.
    predicted_counts
        Images predicted each class, shape (len(classes),), int64.
    accuracy
        Share of the labelled images that were predicted right; None when none had a label.
    images
        Number of images, at least 1.
    model_digest
        Digest of the model that made the predictions.
    """

    classes: list[str]
    confidences: Floats
    ranks: NDArray[np.int16]
    thresholds: Floats
    features: Floats
    logits: Floats
    image_statistics: Floats
    predicted_counts: NDArray[np.int64]
    accuracy: float | None
    images: int
    model_digest: str

    @classmethod
    def from_predictions(
        cls,
        probabilities: NDArray[np.float32],
        labels: Sequence[str | None] | None,
        classes: Sequence[str],
        model_digest: str,
        *,
        features: Floats | None = None,
        logits: Floats | None = None,
        image_statistics: Floats | None = None,
    ) -> Self:
        """Summarise predictions on held-out images.

        Parameters
        ----------
        probabilities
            Shape (n, c), rows summing to one.
        labels
            True class of each image, None where it is not known; or None when none is.
        classes
            The c class names.
        model_digest
            Digest of the model that made the predictions.
        features, logits, image_statistics
            Features (s, d), logits (s, c) and image statistics (s, k) of `sample_rows` of these
            images; the leading `SAMPLE_DIMENSIONS` features are kept. Without them they are not
            judged.

        Raises
        ------
        ModelError
            When there are no images, or the shapes do not agree.
        """
        if not len(probabilities):
            raise ModelError("the reference needs at least one held-out image, and there are none")
        if probabilities.shape[1:] != (len(classes),):
            raise ModelError(
                f"the predictions have shape {probabilities.shape}, but there are "
                f"{len(classes)} classes"
            )
        predicted = probabilities.argmax(axis=1)
        confidences = probabilities.max(axis=1).astype(np.float32)
        ranks = label_ranks(probabilities, labels, classes)
        kept = _quantiles(np.argsort(confidences, kind="stable"))
        empty = np.empty((0, 0), np.float32)
        return cls(
            classes=list(classes),
            confidences=confidences[kept],
            ranks=ranks[kept],
            thresholds=class_thresholds(predicted, confidences, _hits(ranks), len(classes)),
            features=empty if features is None else features[:, :SAMPLE_DIMENSIONS],
            logits=empty if logits is None else logits,
            image_statistics=empty if image_statistics is None else image_statistics,
            predicted_counts=np.bincount(predicted, minlength=len(classes)).astype(np.int64),
            accuracy=realised_accuracy(predicted, labels, classes),
            images=len(probabilities),
            model_digest=model_digest,
        )

    @property
    def hits(self) -> NDArray[np.int8]:
        """Was the image of each confidence predicted right? 1, 0, or -1 where it has no label."""
        return _hits(self.ranks)

    def save(self, folder: Path) -> None:
        """Write the reference's two files to a folder; see `grocery.core.files.replacing`."""
        arrays: Arrays = {name: getattr(self, name) for name in _ARRAYS}
        description = {
            "version": VERSION,
            "model_digest": self.model_digest,
            "images": self.images,
            "accuracy": self.accuracy,
            "classes": self.classes,
        }
        save_arrays(folder, KIND, arrays, description, name="reference")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        ModelError
            When a file is missing, damaged or of another format; one sentence.
        """
        arrays, description = load_arrays(folder, KIND, name="reference")
        if description.get("version", 1) != VERSION:
            raise ModelError(
                f"{folder} holds a reference of version {description.get('version', 1)!r}, and "
                f"this code reads {VERSION}; evaluate and register the model again"
            )
        try:
            reference = cls(
                **{name: arrays[name] for name in _ARRAYS},
                classes=description["classes"],
                accuracy=description["accuracy"],
                images=description["images"],
                model_digest=description["model_digest"],
            )
            problem = reference._problem()
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{folder} holds a damaged reference: {error}") from None
        if problem:
            raise ModelError(f"{folder} holds a damaged reference: {problem}")
        return reference

    def _problem(self) -> str:
        """What does not fit together, or nothing."""
        for name, (dimensions, kind) in _ARRAYS.items():
            array = getattr(self, name)
            if array.ndim != dimensions or array.dtype != kind:
                return f"its {name} are {array.dtype} of {array.ndim} dimensions"
        kept = min(self.images, MAX_CONFIDENCES)
        if not (
            len(self.classes) == len(self.predicted_counts) == len(self.thresholds)
            and self.predicted_counts.sum() == self.images > 0
            and len(self.confidences) == len(self.ranks) == kept
            and (np.diff(self.confidences) >= 0).all()
        ):
            return "its counts do not add up"
        samples = {len(x) for x in (self.features, self.logits, self.image_statistics)} - {0}
        if (
            len(samples) > 1
            or max(samples, default=0) > MAX_SAMPLE
            or self.features.shape[1] > SAMPLE_DIMENSIONS
            or self.logits.shape[1] not in (0, len(self.classes))
            or self.image_statistics.shape[1] not in (0, len(NAMES))
        ):
            return "its sample of images does not fit together"
        if self.accuracy is not None and not 0 <= self.accuracy <= 1:
            return f"its accuracy is {self.accuracy:g}"
        return ""

    def check_fits(self, classes: Sequence[str], model_digest: str) -> None:
        """Refuse a reference that was recorded with another model.

        Raises
        ------
        ModelError
            When the model's `classes` (in order) or its digest are not the reference's.
        """
        if list(classes) != self.classes:
            foreign = sorted(set(classes) ^ set(self.classes))
            difference = (
                f"only one of them knows {foreign[0]!r}" if foreign else "the order differs"
            )
            raise ModelError(
                f"the reference is of a model of {len(self.classes)} classes, this model has "
                f"{len(classes)} and {difference}; evaluate and register the model again"
            )
        if model_digest != self.model_digest:
            raise ModelError(
                f"the reference is of model {self.model_digest[:12]}, this is model "
                f"{model_digest[:12]}; evaluate and register the model again"
            )


# Arrays of the file: how many dimensions each has, and what of.
_ARRAYS: dict[str, tuple[int, type[np.generic]]] = {
    "confidences": (1, np.float32),
    "ranks": (1, np.int16),
    "thresholds": (1, np.float32),
    "features": (2, np.float32),
    "logits": (2, np.float32),
    "image_statistics": (2, np.float32),
    "predicted_counts": (1, np.int64),
}


def sample_rows(image_ids: Sequence[str], most: int = MAX_SAMPLE) -> NDArray[np.intp]:
    """Rows of the images with the least content hashes, ascending; at most `most`."""
    order = sorted(range(len(image_ids)), key=image_ids.__getitem__)
    return np.array(sorted(order[:most]), np.intp)


def class_thresholds(
    predicted: NDArray[np.intp], confidences: Floats, hits: NDArray[np.int8], classes: int
) -> Floats:
    """Threshold of each class (c,) for the average thresholded confidence.

    Garg et al., "Leveraging unlabeled data to predict out-of-distribution performance", ICLR 2022:
    of the images predicted a class, the share above its threshold is the share predicted right. A
    class that was never predicted with a label takes the threshold of all images.
    """
    known = hits != UNKNOWN
    whole = confidence_threshold(confidences[known], hits[known])
    return np.array(
        [
            confidence_threshold(confidences[rows], hits[rows]) if rows.any() else whole
            for rows in (known & (predicted == index) for index in range(classes))
        ],
        np.float32,
    )


def confidence_threshold(confidences: Floats, hits: NDArray[np.int8]) -> float:
    """Confidence above which lie as many of n images as were predicted right; 0 of none."""
    if not len(hits):
        return 0.0
    ascending = np.sort(confidences)
    wrong = len(hits) - int(hits.sum())
    return float(ascending[wrong - 1]) if wrong else 0.0


def label_ranks(
    probabilities: Floats, labels: Sequence[str | None] | None, classes: Sequence[str]
) -> NDArray[np.int16]:
    """How many classes the model thinks more probable than the true one, image by image.

    Parameters
    ----------
    probabilities
        Shape (n, c).
    labels
        True class of each image, None where it is not known; or None when none is.
    classes
        The c class names.

    Returns
    -------
    array of shape (n,)
        0 for an image that is predicted right, c for a label that is not one of `classes`, -1
        without a label. Of equally probable classes the first counts as more probable.
    """
    ranks = np.full(len(probabilities), UNKNOWN, np.int16)
    numbers = {name: number for number, name in enumerate(classes)}
    for row, label in enumerate(labels or ()):
        if label in numbers:
            number = numbers[label]
            own = probabilities[row, number]
            ties = np.count_nonzero(probabilities[row, :number] == own)
            ranks[row] = np.count_nonzero(probabilities[row] > own) + ties
        elif label is not None:
            ranks[row] = len(classes)
    return ranks


def _hits(ranks: NDArray[np.int16]) -> NDArray[np.int8]:
    return np.where(ranks == UNKNOWN, UNKNOWN, ranks == 0).astype(np.int8)


def realised_accuracy(
    predicted: NDArray[np.intp], labels: Sequence[str | None] | None, classes: Sequence[str]
) -> float | None:
    """Share of labelled images that were predicted right; None when no image has a label.

    A label that is not one of `classes` cannot be predicted, so it counts as a mistake.
    """
    hits = [
        classes[index] == label
        for index, label in zip(predicted, labels or (), strict=labels is not None)
        if label is not None
    ]
    return sum(hits) / len(hits) if hits else None


def _quantiles(ascending: NDArray[np.intp]) -> NDArray[np.intp]:
    """At most `MAX_CONFIDENCES` of rows in order of confidence, evenly spaced in rank."""
    if len(ascending) <= MAX_CONFIDENCES:
        return ascending
    ranks = (2 * np.arange(MAX_CONFIDENCES) + 1) * len(ascending) // (2 * MAX_CONFIDENCES)
    chosen: NDArray[np.intp] = ascending[ranks]
    return chosen
