"""Drawing the batches of a drill from held-out images.

For every batch the held-out images are divided again, near duplicates together: the reference is
made of one half, the batch is drawn from the other without replacement. So no image is in both, and
the rates are not those of one lucky division. A batch larger than half takes what it needs, and the
reference is made of the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grocery.classifier.head import Head
from grocery.core.draws import generator_of
from grocery.drill.held_out import HeldOut, Key
from grocery.drill.shifts import SHIFTS
from grocery.reference.reference import MAX_SAMPLE, Reference

CLEAN, CHECKED = "none", "none, labels checked"

# Shifts of what is photographed and of labels; strengths as in `grocery.drill.shifts`.
IMBALANCE = (4.0, 16.0, 64.0)  # how much more often the commonest class comes than the rarest
MISSING = (0.1, 0.25, 0.5)  # share of the classes that are missing; at least one is
UNKNOWN = (0.1, 0.2, 0.4)  # share of the batch that shows a product the model was not taught
RELABELLED = (0.1, 0.2, 0.4)  # share of the batch's labels that name another class

Floats = NDArray[np.float32]
Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Condition:
    """A shift at one strength, of batches of one size."""

    shift: str
    strength: float
    size: int


@dataclass(frozen=True)
class Drawn:
    """One batch of n images, and what it is compared with."""

    reference: Reference  # of other held-out images
    logits: Floats  # (n, c)
    probabilities: Floats  # (n, c)
    features: Floats  # (n, d)
    image_statistics: Floats  # (n, k)
    labels: list[str | None]  # what the monitor is told; None where it is not
    accuracy: float  # true share of right predictions
    # What it was without the shift: on the same images as they are, of which the unknown products
    # are left out. Where the shift changes no image, on all held-out images.
    before: float


def conditions(sizes: Sequence[int]) -> list[Condition]:
    """All shifts and strengths at all sizes; clean batches first."""
    strengths: dict[str, Sequence[float]] = {CLEAN: (0.0,), CHECKED: (0.0,)}
    strengths |= {name: shift[2] for name, shift in SHIFTS.items()}
    strengths |= {"class imbalance": IMBALANCE, "missing class": MISSING}
    strengths |= {"unknown product": UNKNOWN, "relabelling": RELABELLED}
    return [
        Condition(name, strength, size)
        for name, values in strengths.items()
        for strength in values
        for size in sizes
    ]


class Stage:
    """Where batches are drawn."""

    def __init__(self, images: HeldOut, heads: dict[str, Head], classes: Sequence[str]) -> None:
        self.images = images
        self.labels = np.array(images.labels)
        self.heads = heads
        self.classes = {
            left_out: [name for name in classes if name != left_out] for left_out in heads
        }
        self._logits: dict[tuple[str, Key], Floats] = {}

    def logits(self, left_out: str, key: Key) -> Floats:
        """What the head without a class (or "", the model's) says of the images under a shift."""
        if (left_out, key) not in self._logits:
            features = self.images.seen[key].features
            self._logits[left_out, key] = self.heads[left_out].logits(features)
        return self._logits[left_out, key]

    def draw(self, condition: Condition, number: int) -> Drawn | None:
        """Draw one batch; the condition and the number decide what is in it.

        None when there are too few images of a kind.
        """
        strength = f"{condition.strength:g}"
        generator = generator_of(condition.shift, strength, condition.size, number)
        left_out = ""
        if condition.shift == "unknown product":
            names = sorted(set(self.heads) - {""})
            left_out = names[number % len(names)]
        key = (condition.shift, condition.strength) if condition.shift in SHIFTS else None
        available = len(self.images.seen[key].features)  # the first so many images
        before, pool = self._divided(generator, condition.size, available, left_out)
        rows = self._drawn(generator, pool, condition, left_out)
        if rows is None or len(rows) < condition.size:
            return None
        labels: list[str | None] = [None] * len(rows)
        if condition.shift in (CHECKED, "relabelling"):
            labels = self.labels[rows].tolist()
        if condition.shift == "relabelling":
            labels = self._relabelled(generator, labels, condition.strength)
        seen, logits = self.images.seen[key], self.logits(left_out, key)[rows]
        right = self._right(left_out, logits, rows)
        return Drawn(
            reference=self._reference(before, left_out),
            logits=logits,
            probabilities=self.heads[left_out].calibrate(logits),
            features=seen.features[rows],
            image_statistics=seen.statistics[rows],
            labels=labels,
            accuracy=float(right.mean()),
            before=self._before(condition, rows, left_out),
        )

    def _right(self, left_out: str, logits: Floats, rows: Rows) -> NDArray[np.bool_]:
        """Which of some rows the head predicts right."""
        names = np.array(self.classes[left_out])[logits.argmax(axis=1)]
        right: NDArray[np.bool_] = names == self.labels[rows]
        return right

    def _before(self, condition: Condition, rows: Rows, left_out: str) -> float:
        """Accuracy on the same images as they are, without strange ones; see `Drawn`."""
        if condition.shift not in (*SHIFTS, "unknown product", "relabelling"):
            rows = np.arange(len(self.labels))
        rows = rows[self.labels[rows] != left_out]
        return float(self._right(left_out, self.logits(left_out, None)[rows], rows).mean())

    def _divided(
        self, generator: np.random.Generator, size: int, available: int, left_out: str
    ) -> tuple[Rows, Rows]:
        """Rows for the reference and rows to draw from; groups of near duplicates stay whole."""
        groups = self.images.groups
        order = generator.permutation(len(groups))
        place = np.empty(len(groups), np.intp)
        place[order] = np.arange(len(groups))
        # Each image takes the place of its group's first, so that groups stay together.
        shuffled = np.argsort(place[groups], kind="stable")
        in_pool = np.arange(len(groups)) < available
        drawable = np.cumsum(in_pool[shuffled])
        share = max(int(drawable[-1]) // 2, min(size, int(drawable[-1])))
        cut = max(len(groups) // 2, int(np.searchsorted(drawable, share)) + 1)
        while cut < len(groups) and groups[shuffled[cut - 1]] == groups[shuffled[cut]]:
            cut += 1
        drawn, kept = shuffled[:cut], shuffled[cut:]
        return kept[self.labels[kept] != left_out], drawn[in_pool[drawn]]

    def _drawn(
        self, generator: np.random.Generator, pool: Rows, condition: Condition, left_out: str
    ) -> Rows | None:
        """Rows of a batch, drawn without replacement; None when there are too few strange ones."""
        size, names = condition.size, self.labels[pool]
        known = pool[names != left_out]
        if condition.shift == "unknown product":
            # None of them is in the reference, so all may be drawn.
            strange = generator.permutation(np.flatnonzero(self.labels == left_out))
            wanted = round(condition.strength * size)
            if len(strange) < wanted:
                return None
            strange = strange[:wanted]
            rest = generator.permutation(known)[: size - len(strange)]
            return np.concatenate([strange, rest])
        if condition.shift == "class imbalance":
            classes = generator.permutation(np.unique(self.labels))
            ranks = {name: rank / max(1, len(classes) - 1) for rank, name in enumerate(classes)}
            logs = np.array([-np.log(condition.strength) * ranks[name] for name in names])
            # The largest of logarithms plus Gumbel noise are a weighted draw.
            keys = logs + generator.gumbel(size=len(pool))
            return pool[np.argsort(-keys, kind="stable")][:size]
        if condition.shift == "missing class":
            classes = generator.permutation(np.unique(self.labels))
            missing = classes[: max(1, round(condition.strength * len(classes)))]
            known = pool[~np.isin(names, missing)]
        return generator.permutation(known)[:size]

    def _reference(self, rows: Rows, left_out: str) -> Reference:
        seen, sample = self.images.seen[None], rows[:MAX_SAMPLE]
        logits = self.logits(left_out, None)
        return Reference.from_predictions(
            self.heads[left_out].calibrate(logits[rows]),
            self.labels[rows].tolist(),
            self.classes[left_out],
            "drill",
            features=seen.features[sample],
            logits=logits[sample],
            image_statistics=seen.statistics[sample],
        )

    def _relabelled(
        self, generator: np.random.Generator, labels: Sequence[str | None], share: float
    ) -> list[str | None]:
        changed = list(labels)
        classes = self.classes[""]
        for row in generator.permutation(len(labels))[: round(share * len(labels))]:
            others = [name for name in classes if name != labels[row]]
            changed[row] = others[int(generator.integers(len(others)))]
        return changed
