"""Is one model better than another, and by more than chance? From their test predictions alone.

Both models saw the same test images, so the comparison is paired: an image that both get right, or
both get wrong, says nothing of which is better. McNemar's test asks whether the others favour one
model; of the tests for two classifiers that were each trained once, it is the one that seldom finds
a difference where there is none (Dietterich 1998, "Approximate statistical tests for comparing
supervised classification learning algorithms"). How large the difference may be, the paired
bootstrap says. Neither knows what another draw of the training labels would have given.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from grocery.core.errors import RegistryError
from grocery.monitoring.statistics import binomial_tail

# What a comparison needs of ``metrics/evaluation/predictions.parquet``.
_TEXT = ("image_id", "path", "label", "predicted")
PREDICTIONS = pa.schema([*((name, pa.string()) for name in _TEXT), ("confidence", pa.float32())])

SIGNIFICANCE = 0.05  # a smaller p-value is more than chance; the intervals hold 1 - SIGNIFICANCE

_CELLS = 2_000_000  # numbers of one kind that the bootstrap holds at once: 16 MB

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
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
    # 95 % paired bootstrap percentile interval of the difference (Efron & Tibshirani 1993, "An
    # introduction to the bootstrap", chapter 13): the test images are drawn anew with replacement,
    # the same draw for both models.
    interval: Interval
    # McNemar's test in its exact two-sided form: the chance of an `only_old` and an `only_new` at
    # least as unequal if each image of theirs were a fair coin's toss; 1 where there is none
    # (McNemar 1947, "Note on the sampling error of the difference between correlated proportions or
    # percentages").
    p_value: float
    # Numbers of images that only this model is right on.
    only_old: int
    only_new: int
    # The same of the mean F1 over the classes that have test images, as
    # `grocery.evaluation.metrics.summary` computes it; in a draw, over the classes drawn.
    macro_f1_old: float
    macro_f1_new: float
    macro_f1_difference: float
    macro_f1_interval: Interval

    @property
    def more_than_chance(self) -> bool:
        """Whether the accuracies differ by more than chance alone would often make them."""
        return self.p_value < SIGNIFICANCE

    def sentence(self, old: str, new: str) -> str:
        """The comparison in words, of models of these names."""
        if not self.only_old + self.only_new:
            return f"{new} is right on the same images as {old}"
        p = f"p = {self.p_value:.3f}" if self.p_value >= 0.001 else "p < 0.001"
        word = "better" if self.only_new > self.only_old else "worse"
        verdict = f"{word}, by more than chance" if self.more_than_chance else "this may be chance"
        return (
            f"{new} is right on {_images(self.only_new)} that {old} gets wrong, "
            f"and wrong on {self.only_old} that it gets right: {verdict} ({p})"
        )

    def document(self) -> dict[str, Any]:
        """The comparison as JSON."""
        fields = asdict(self) | {"more_than_chance": self.more_than_chance}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}


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


def compare(
    old: pa.Table,
    new: pa.Table,
    *,
    names: tuple[str, str] = ("the old model", "the new model"),
    seed: int = 0,
    resamples: int = 10_000,
) -> Difference:
    """Compare two models by their predictions (`PREDICTIONS`) on the same test images.

    Parameters
    ----------
    old, new
        A row an image, in any order.
    names
        What errors call the two.
    seed, resamples
        Of the bootstrap; at least one resample.

    Raises
    ------
    RegistryError
        When the models were evaluated on different test data; it says how different.
    """
    _check_same_test_data(old, new, names)
    old, new = old.sort_by("image_id"), new.sort_by("image_id")
    groups, sizes, classes = _groups(
        old.column("label").to_pylist(),
        old.column("predicted").to_pylist(),
        new.column("predicted").to_pylist(),
    )
    images = int(sizes.sum())
    rng = np.random.default_rng(seed)
    step = max(1, _CELLS // len(sizes))
    # Group counts (r, g) of images drawn with replacement are multinomial.
    drawn = [
        _differences(
            groups,
            rng.multinomial(images, sizes / images, size=min(step, resamples - start)),
            classes,
        )
        for start in range(0, resamples, step)
    ]
    intervals = [_interval(np.concatenate(values)) for values in zip(*drawn, strict=True)]

    label, by_old, by_new = groups.T
    old_right, new_right = by_old == label, by_new == label
    only_old, only_new = (
        int(sizes[which].sum()) for which in (old_right & ~new_right, new_right & ~old_right)
    )
    f1_old, f1_new = (
        float(_macro_f1(label, predicted, sizes[None], classes)[0])
        for predicted in (by_old, by_new)
    )
    return Difference(
        images=images,
        old=int(sizes[old_right].sum()) / images,
        new=int(sizes[new_right].sum()) / images,
        difference=(only_new - only_old) / images,
        interval=intervals[0],
        p_value=mcnemar(only_old, only_new),
        only_old=only_old,
        only_new=only_new,
        macro_f1_old=f1_old,
        macro_f1_new=f1_new,
        macro_f1_difference=f1_new - f1_old,
        macro_f1_interval=intervals[1],
    )


def mcnemar(only_old: int, only_new: int) -> float:
    """P-value of McNemar's exact two-sided test, from the numbers of discordant pairs."""
    return min(1.0, 2 * binomial_tail(max(only_old, only_new), only_old + only_new, 0.5))


def _labels(predictions: pa.Table) -> dict[str, str]:
    ids, labels = (predictions.column(name).to_pylist() for name in ("image_id", "label"))
    return dict(zip(ids, labels, strict=True))


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _check_same_test_data(old: pa.Table, new: pa.Table, names: tuple[str, str]) -> None:
    ours, theirs = _labels(old), _labels(new)
    if ours == theirs:
        return
    found = [
        (len(ours.keys() - theirs.keys()), f"only in that of {names[0]}"),
        (len(theirs.keys() - ours.keys()), f"only in that of {names[1]}"),
        (sum(ours[i] != theirs[i] for i in ours.keys() & theirs.keys()), "labelled otherwise"),
    ]
    counts = [f"{_images(n)} {'is' if n == 1 else 'are'} {what}" for n, what in found if n]
    raise RegistryError(
        f"{names[0]} and {names[1]} were evaluated on different test data: {', '.join(counts)}"
    )


def _groups(
    labels: list[str], by_old: list[str], by_new: list[str]
) -> tuple[Integers, Integers, int]:
    """Images of the same label and the same two predictions, which count alike in every metric.

    Returns
    -------
    Groups (g, 3) as class numbers of label, old and new prediction; their sizes (g,); and the
    number of classes c. Classes without test images, which no metric here tells apart, share the
    number c. The groups come in the order of their first images, so that exchanging the models
    leaves each group its place.
    """
    classes = {name: number for number, name in enumerate(sorted(set(labels)))}
    rows = zip(labels, by_old, by_new, strict=True)
    codes = np.array([[classes.get(name, len(classes)) for name in row] for row in rows])
    groups, first, sizes = np.unique(codes, axis=0, return_index=True, return_counts=True)
    order = np.argsort(first)
    return groups[order], sizes[order], len(classes)


def _differences(groups: Integers, counts: Integers, classes: int) -> tuple[Floats, Floats]:
    """New - old of accuracy (r,) and macro F1 (r,), of draws with group counts (r, g)."""
    label, by_old, by_new = groups.T
    gained = (by_new == label).astype(np.int64) - (by_old == label)
    accuracy: Floats = (counts @ gained) / counts.sum(axis=1)
    f1_old, f1_new = (_macro_f1(label, code, counts, classes) for code in (by_old, by_new))
    return accuracy, f1_new - f1_old


def _macro_f1(label: Integers, predicted: Integers, counts: Integers, classes: int) -> Floats:
    """Macro F1 (r,) of groups (g,) of one label and one prediction, with group counts (r, g)."""
    actual = _totals(label, counts, classes)
    found = _totals(predicted, counts, classes)
    right = _totals(np.where(predicted == label, label, classes), counts, classes)
    f1 = 2 * right / np.maximum(actual + found, 1)  # a class that is not drawn adds 0
    mean: Floats = f1.sum(axis=1) / (actual > 0).sum(axis=1)
    return mean


def _totals(codes: Integers, counts: Integers, classes: int) -> Integers:
    """Counts (r, g) added up by class (r, c); codes (g,) from c on belong to no class."""
    order = np.argsort(codes, kind="stable")
    present, starts = np.unique(codes[order], return_index=True)
    totals = np.zeros((len(counts), classes + 1), np.int64)
    totals[:, present] = np.add.reduceat(counts[:, order], starts, axis=1)
    return totals[:, :classes]


def _interval(values: Floats) -> Interval:
    """Percentile interval of a statistic's values in the draws (r,)."""
    low, high = np.quantile(values, [SIGNIFICANCE / 2, 1 - SIGNIFICANCE / 2])
    return float(low), float(high)
