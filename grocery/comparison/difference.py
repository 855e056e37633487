"""Is one model better than another, and by more than chance? From their test predictions alone.

Both models saw the same test images, so the comparison is paired: an image that both get right, or
both get wrong, says nothing of which is better. How large the difference of their accuracies may
be, Tango's score interval says; it also holds where the two differ on few images or on none. It
does not know what another draw of the training labels would have given.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from math import inf, sqrt
from pathlib import Path
from statistics import NormalDist

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from grocery.core.errors import RegistryError

# What a comparison needs of ``metrics/evaluation/predictions.parquet``.
_TEXT = ("image_id", "path", "label", "predicted")
PREDICTIONS = pa.schema([*((name, pa.string()) for name in _TEXT), ("confidence", pa.float32())])

CONFIDENCE = 0.95  # of the interval, which has one half of the rest on each side

Interval = tuple[float, float]


@dataclass(frozen=True)
class Difference:
    """How a new model differs from an old one on the same test images."""

    # Number of test images.
    images: int
    # Accuracies, and new - old.
    old: float
    new: float
    difference: float
    # 95 % interval of the difference, see `score_interval`.
    interval: Interval
    # Whether that lies on one side of zero: they differ by more than chance would often make them.
    more_than_chance: bool
    # Numbers of images that only this model is right on.
    only_old: int
    only_new: int
    # Mean F1 over the classes that have test images, and new - old.
    macro_f1_old: float
    macro_f1_new: float
    macro_f1_difference: float

    def sentence(self, old: str, new: str) -> str:
        """The comparison in words, of models of these names."""
        if not self.only_old + self.only_new:
            return f"{new} is right on the same images as {old}"
        word = "better" if self.only_new > self.only_old else "worse"
        verdict = f"{word}, by more than chance" if self.more_than_chance else "this may be chance"
        return (
            f"{new} is right on {_images(self.only_new)} that {old} gets wrong, "
            f"and wrong on {self.only_old} that it gets right: {verdict}"
        )


def read_predictions(data: bytes | Path, name: str) -> pa.Table:
    """Read a model's test predictions and check them.

    Parameters
    ----------
    data
        A Parquet file as ``evaluate`` writes it: its contents or its path.
    name
        What errors call the model, such as ``v1.0.0``.

    Returns
    -------
    Table of `PREDICTIONS`, a row an image; other columns are left out.

    Raises
    ------
    RegistryError
        When it cannot be read, lacks a column or a value, or holds no image or one twice.
    """
    whose = f"the test predictions of {name}"
    try:
        stream = pa.BufferReader(data if isinstance(data, bytes) else data.read_bytes())
        table = pq.ParquetFile(stream).read()
        missing = [column for column in PREDICTIONS.names if column not in table.column_names]
        if missing:
            raise RegistryError(f"{whose} lack the column {missing[0]!r}")
        table = table.select(PREDICTIONS.names).cast(PREDICTIONS)
        table.validate(full=True)  # that text is UTF-8, for one
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise RegistryError(f"{whose} cannot be read: {reason}") from None
    if not len(table):
        raise RegistryError(f"{whose} hold no image")
    for column in PREDICTIONS.names:
        if table.column(column).null_count:
            raise RegistryError(f"{whose} have an empty value in the column {column!r}")
    ((image_id, times),) = Counter(table.column("image_id").to_pylist()).most_common(1)
    if times > 1:
        raise RegistryError(f"{whose} hold the image {image_id} more than once")
    return table


def data_digest(predictions: pa.Table) -> str:
    """SHA-256 (hex) of the test data that predictions are of: the ids and labels of its images.

    Two models were evaluated on the same test data if and only if it is equal.
    """
    total = hashlib.sha256()
    for pair in sorted(_labels(predictions).items()):
        total.update(json.dumps(pair).encode())
    return total.hexdigest()


def compare(old: pa.Table, new: pa.Table) -> Difference:
    """Compare two models by their predictions (`PREDICTIONS`), a row per image in any order.

    Raises
    ------
    RegistryError
        When the models were evaluated on different test data.
    """
    from sklearn.metrics import f1_score

    if data_digest(old) != data_digest(new):
        raise RegistryError("the models were evaluated on different test data")
    old, new = old.sort_by("image_id"), new.sort_by("image_id")
    truth = old.column("label")
    by_old, by_new = old.column("predicted"), new.column("predicted")
    right = [pc.equal(predicted, truth) for predicted in (by_old, by_new)]
    agreed = pc.sum(pc.and_(*right)).as_py()
    only_old, only_new = (pc.sum(column).as_py() - agreed for column in right)
    images, labels = len(truth), truth.to_pylist()
    classes = sorted(set(labels))
    f1_old, f1_new = (
        float(f1_score(labels, by.to_pylist(), labels=classes, average="macro", zero_division=0))
        for by in (by_old, by_new)
    )
    interval = score_interval(only_old, only_new, images)
    return Difference(
        images=images,
        old=(agreed + only_old) / images,
        new=(agreed + only_new) / images,
        difference=(only_new - only_old) / images,
        interval=interval,
        more_than_chance=not interval[0] <= 0 <= interval[1],
        only_old=only_old,
        only_new=only_new,
        macro_f1_old=f1_old,
        macro_f1_new=f1_new,
        macro_f1_difference=f1_new - f1_old,
    )


def score_interval(only_old: int, only_new: int, images: int) -> Interval:
    """95 % score interval of the difference new - old of two accuracies on the same images.

    It holds the differences that the score test does not reject (Tango 1998, "Equivalence test and
    confidence interval for the difference in proportions for the paired-sample design"). Of zero
    the test is McNemar's: zero lies below the interval where the images that one model alone gets
    right favour the new one by more than chance. With few such images the interval still has a
    width, which a bootstrap's has not.

    Parameters
    ----------
    only_old, only_new
        Numbers of images that only the old, and only the new model is right on.
    images
        Number of all test images; at least one.
    """
    from scipy.optimize import brentq

    limit = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    middle = (only_new - only_old) / images

    def beyond(difference: float, sign: int) -> float:
        return sign * _score(difference, only_old, only_new, images) - limit

    low = -1.0 if middle == -1 else brentq(beyond, -1, middle, args=(1,), xtol=1e-9)
    high = 1.0 if middle == 1 else brentq(beyond, middle, 1, args=(-1,), xtol=1e-9)
    return float(low), float(high)


def _score(difference: float, only_old: int, only_new: int, images: int) -> float:
    """Tango's statistic, which is standard normal if the accuracies differ by `difference`.

    `share` is the most likely share of images that only the old model gets right, if they do.
    """
    found = only_new - only_old - images * difference
    b = (2 * images - only_new + only_old) * difference - only_old - only_new
    c = -only_old * difference * (1 - difference)
    share = (sqrt(max(b * b - 8 * images * c, 0.0)) - b) / (4 * images)
    variance = images * (2 * share + difference * (1 - difference))
    if variance <= 0:
        return inf if found > 0 else -inf if found < 0 else 0.0
    return found / sqrt(variance)


def _labels(predictions: pa.Table) -> dict[str, str]:
    ids, labels = (predictions.column(name).to_pylist() for name in ("image_id", "label"))
    return dict(zip(ids, labels, strict=True))


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"
