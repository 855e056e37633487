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

from grocery.arrays import Arrays, load_arrays, save_arrays
from grocery.errors import ModelError

KIND = "grocery-reference"

# More held-out images than this are kept as evenly spaced quantiles. They give the distribution
# function to one part in 5,000, far finer than any batch can tell.
MAX_CONFIDENCES = 5_000


@dataclass(frozen=True)
class Reference:
    """Statistics of one model on held-out images.

    Attributes
    ----------
    classes
        The model's class names, in the order of its probabilities.
    confidences
        Largest probability of each image, ascending, float32; at most `MAX_CONFIDENCES` of them.
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
    confidences: NDArray[np.float32]
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
        confidences = np.sort(probabilities.max(axis=1)).astype(np.float32)
        return cls(
            classes=list(classes),
            confidences=_quantiles(confidences),
            predicted_counts=np.bincount(predicted, minlength=len(classes)).astype(np.int64),
            accuracy=realised_accuracy(predicted, labels, classes),
            images=len(probabilities),
            model_digest=model_digest,
        )

    def save(self, folder: Path) -> None:
        """Write the reference's two files to a folder; see `grocery.files.replacing`."""
        arrays: Arrays = {
            "confidences": self.confidences,
            "predicted_counts": self.predicted_counts,
        }
        description = {
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
        try:
            reference = cls(
                classes=description["classes"],
                confidences=arrays["confidences"],
                predicted_counts=arrays["predicted_counts"],
                accuracy=description["accuracy"],
                images=description["images"],
                model_digest=description["model_digest"],
            )
            consistent = (
                len(reference.classes) == len(reference.predicted_counts)
                and reference.predicted_counts.sum() == reference.images > 0
                and len(reference.confidences) == min(reference.images, MAX_CONFIDENCES)
            )
        except (KeyError, TypeError) as error:
            raise ModelError(f"{folder} holds a damaged reference: {error}") from None
        if not consistent:
            raise ModelError(f"{folder} holds a damaged reference: its counts do not add up")
        return reference

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


def _quantiles(ascending: NDArray[np.float32]) -> NDArray[np.float32]:
    """At most `MAX_CONFIDENCES` order statistics, evenly spaced in rank."""
    if len(ascending) <= MAX_CONFIDENCES:
        return ascending
    ranks = (2 * np.arange(MAX_CONFIDENCES) + 1) * len(ascending) // (2 * MAX_CONFIDENCES)
    chosen: NDArray[np.float32] = ascending[ranks]
    return chosen
