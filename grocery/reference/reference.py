"""What held-out images looked like to the model: the yardstick that monitoring holds batches to.

It is made from images that the model was not fitted on, since a model is more confident on its
training images than it will ever be again, and it travels inside the release.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from grocery.core.arrays import Arrays, load_arrays, save_arrays
from grocery.core.errors import ModelError
from grocery.reference.image_statistics import NAMES, PHOTOGRAPHIC
from grocery.reference.typical import Typical, class_means, leads

KIND = "grocery-reference"

# More held-out images than this are kept as evenly spaced quantiles. They give the distribution
# function to one part in 5,000, far finer than any batch can tell.
MAX_CONFIDENCES = 5_000

# Images whose features and image statistics are kept, chosen by content hash, and the leading
# principal components kept of them: a quarter of a megabyte in the release.
MAX_SAMPLE = 1_000
SAMPLE_DIMENSIONS = 64

VERSION = 4  # of what the two files hold
UNKNOWN = -1  # the rank where an image has no label
TRIAL = 7  # numbers that are kept of one

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Reference:
    """Statistics of one model on held-out images.

    The arrays of k are of the images, in the order of their confidences: of all of them, or of
    `MAX_CONFIDENCES`. The arrays of s are of a sample of the images; s is 0 when there is none.
    """

    classes: list[str]  # the model's c class names, in the order of its probabilities
    confidences: Floats  # (k,): largest probability of each image, ascending
    ranks: NDArray[np.int16]  # (k,): see `label_ranks`
    features: Floats  # (s, d): the leading features
    logits: Floats  # (s, c): the head's uncalibrated scores
    image_statistics: Floats  # (s, len(NAMES)): see `grocery.reference.image_statistics`
    predicted_counts: NDArray[np.int64]  # (c,): images predicted each class
    # (c,): share of the images predicted each class that are right, see `class_means`; 0 where no
    # image has a label.
    class_accuracies: Floats
    # (t, 7), one row for each shift that the model was tried out under: number of its kind, by how
    # much the leads fell and the accuracy, and how far the images lay, see `distances`.
    trials: Floats
    accuracy: float | None  # share of the labelled images predicted right; None without a label
    images: int  # at least 1
    model_digest: str  # of the model that made the predictions

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
        features, logits, image_statistics
            Those of `sample_rows` of these images; the leading `SAMPLE_DIMENSIONS` features are
            kept. Without them they are not judged.

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
        kept = np.argsort(confidences, kind="stable")
        if len(kept) > MAX_CONFIDENCES:
            evenly = 2 * np.arange(MAX_CONFIDENCES) + 1
            kept = kept[evenly * len(kept) // (2 * MAX_CONFIDENCES)]
        empty = np.empty((0, 0), np.float32)
        hits, known = (ranks == 0)[:, None].astype(np.float32), ranks != UNKNOWN
        right = np.zeros((len(classes), 1))
        if known.any():
            right = class_means(hits[known], predicted[known], len(classes))
        return cls(
            classes=list(classes),
            confidences=confidences[kept],
            ranks=ranks[kept],
            features=empty if features is None else features[:, :SAMPLE_DIMENSIONS],
            logits=empty if logits is None else logits,
            image_statistics=empty if image_statistics is None else image_statistics,
            predicted_counts=np.bincount(predicted, minlength=len(classes)).astype(np.int64),
            class_accuracies=right[:, 0].astype(np.float32),
            trials=np.empty((0, TRIAL), np.float32),
            accuracy=share_right(ranks),
            images=len(probabilities),
            model_digest=model_digest,
        )

    @property
    def hits(self) -> NDArray[np.int8]:
        """Was the image of each confidence predicted right? 1, 0, or -1 where it has no label."""
        return np.where(self.ranks == UNKNOWN, UNKNOWN, self.ranks == 0).astype(np.int8)

    @cached_property
    def typical(self) -> dict[str, Typical]:
        """What is typical of the sample: of ``leads``, ``features`` and ``statistics``."""
        predicted, classes = self.logits.argmax(axis=1), len(self.classes)
        measures = {
            "leads": leads(self.logits)[:, None],
            "features": self.features,
            "statistics": self.image_statistics,
        }
        return {name: Typical.of(values, predicted, classes) for name, values in measures.items()}

    def distances(
        self, features: Floats, statistics: Floats, predicted: NDArray[np.intp]
    ) -> tuple[float, float, float, float]:
        """How far n images lie from the sample beyond what their predicted classes explain.

        By features (n, d), the length of what all have in common; by image statistics (n, k), the
        largest such part in units of its spread. And by how much their spread has changed, in
        doublings: of the statistic of light and colour where that is most, and of the features.
        Photographs without colour, or small in a frame, are too much alike.
        """
        leading, photographs = self.typical["features"], self.typical["statistics"]
        off = features[:, : self.features.shape[1]] - leading.means[predicted]
        changed = statistics - photographs.means[predicted]
        spread = np.maximum(photographs.spread, 1e-3)
        wider = np.log2((changed.std(axis=0) + 0.05 * spread) / (1.05 * spread))
        whole = float(np.linalg.norm(leading.spread))
        narrower = np.log2((float(np.linalg.norm(off.std(axis=0))) + 0.05 * whole) / whole)
        return (
            float(np.linalg.norm(off.mean(axis=0))),
            float(np.abs(changed.mean(axis=0) / spread).max()),
            float(np.abs(wider[:PHOTOGRAPHIC]).max()),
            float(abs(narrower)),
        )

    def save(self, folder: Path) -> None:
        """Write the reference's two files to a folder; see `grocery.core.files.replacing`."""
        arrays: Arrays = {name: getattr(self, name) for name in _ARRAYS}
        said = {name: getattr(self, name) for name in _SAID}
        save_arrays(folder, KIND, arrays, said | {"version": VERSION}, name="reference")

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
            found: dict[str, Any] = {name: arrays[name] for name in _ARRAYS}
            reference = cls(**found, **{name: description[name] for name in _SAID})
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
            len(self.classes) == len(self.predicted_counts) == len(self.class_accuracies)
            and self.predicted_counts.sum() == self.images > 0
            and len(self.confidences) == len(self.ranks) == kept
            and (np.diff(self.confidences) >= 0).all()
            and self.trials.shape[1] == TRIAL
        ):
            return "its counts do not add up"
        samples = {len(x) for x in (self.features, self.logits, self.image_statistics)} - {0}
        if (
            len(samples) > 1
            or max(samples, default=0) > MAX_SAMPLE
            or self.features.shape[1] > SAMPLE_DIMENSIONS
            or self.logits.shape[1] not in (0, len(self.classes))
            or self.image_statistics.shape[1] not in (0, len(NAMES))
            or (len(self.trials) and not samples)
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
            problem = (
                f"of a model of {len(self.classes)} classes, this model has {len(classes)} and "
                + (f"only one of them knows {foreign[0]!r}" if foreign else "the order differs")
            )
        elif model_digest != self.model_digest:
            problem = f"of model {self.model_digest[:12]}, this is model {model_digest[:12]}"
        else:
            return
        raise ModelError(f"the reference is {problem}; evaluate and register the model again")


# Arrays of the file: how many dimensions each has, and what of.
_ARRAYS: dict[str, tuple[int, type[np.generic]]] = {
    "confidences": (1, np.float32),
    "ranks": (1, np.int16),
    "features": (2, np.float32),
    "logits": (2, np.float32),
    "image_statistics": (2, np.float32),
    "predicted_counts": (1, np.int64),
    "class_accuracies": (1, np.float32),
    "trials": (2, np.float32),
}
_SAID = ("classes", "accuracy", "images", "model_digest")  # in words


def sample_rows(image_ids: Sequence[str], most: int = MAX_SAMPLE) -> NDArray[np.intp]:
    """Rows of the images with the least content hashes, ascending; at most `most`."""
    order = sorted(range(len(image_ids)), key=image_ids.__getitem__)
    return np.array(sorted(order[:most]), np.intp)


def label_ranks(
    probabilities: Floats, labels: Sequence[str | None] | None, classes: Sequence[str]
) -> NDArray[np.int16]:
    """How many classes the model thinks more probable than the true one, image by image.

    From probabilities (n, c), labels (n) or None, and the c class names an array of shape (n,): 0
    for an image that is predicted right, c for a label that is not one of `classes`, -1 without a
    label. Of equally probable classes the first counts as more probable.
    """
    n = len(probabilities)
    ranks = np.full(n, UNKNOWN, np.int16)
    numbers = {name: number for number, name in enumerate(classes)}
    for row, label in zip(range(n), [None] * n if labels is None else labels, strict=True):
        if label in numbers:
            number = numbers[label]
            own = probabilities[row, number]
            ties = np.count_nonzero(probabilities[row, :number] == own)
            ranks[row] = np.count_nonzero(probabilities[row] > own) + ties
        elif label is not None:
            ranks[row] = len(classes)
    return ranks


def share_right(ranks: NDArray[np.int16]) -> float | None:
    """Share of labelled images that were predicted right, from their `label_ranks`; None of none.

    A label that is not one of the classes cannot be predicted, so it counts as a mistake.
    """
    labelled = int(np.count_nonzero(ranks != UNKNOWN))
    return int(np.count_nonzero(ranks == 0)) / labelled if labelled else None
