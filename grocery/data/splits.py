"""Which images train, which validate and which test.

Where a dataset has splits of its own they hold. Elsewhere an image's own hash decides, so adding an
image moves no other, but for two cases: a class so small that a split would lack it, and groups of
near duplicates, which stay together and may be taken along or divided otherwise by a new one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from unicodedata import normalize

from grocery.core.draws import draw
from grocery.core.errors import DataError
from grocery.shards import SPLITS

# What is measured on is worth more than what is learned from.
PROTECTION = {split: rank for rank, split in enumerate(reversed(SPLITS))}
# Fewer images than this that a split lacks are never too many.
FAR = 10


def assign(
    image_ids: Sequence[str],
    labels: Sequence[str | None],
    given: Sequence[str | None],
    groups: Sequence[Sequence[int]],
    *,
    val_ratio: float,
    test_ratio: float,
) -> list[str]:
    """Assign n images to splits.

    Images without a label train. Each class gets an image to train on and one to test on, and from
    three images (or groups) on one to validate on. Given splits hold; if they lack validation or
    test images, these are taken from the training images in the same way.

    Parameters
    ----------
    image_ids, labels, given
        Hash, class or None, and the dataset's own split or None, of each image.
    groups
        Images that repeat each other, as positions; labelled ones of a group share a split.
    val_ratio, test_ratio
        Shares for validation and test.

    Returns
    -------
    list of str
        "train", "val" or "test" for each image.
    """
    splits = [split or "train" for split in given]
    if "val" in splits:
        val_ratio = 0.0
    if "test" in splits:
        test_ratio = 0.0
    classes: dict[str | None, list[tuple[float, list[int]]]] = defaultdict(list)
    for group in _units(labels, splits, groups):
        decides = min(group, key=lambda i: image_ids[i])
        classes[labels[decides]].append((_uniform(image_ids[decides]), group))
    for label in sorted(classes, key=str):
        units = sorted(classes[label])
        tests, vals = _sizes([place for place, _ in units], val_ratio, test_ratio)
        for rank, (_, group) in enumerate(units):
            split = "test" if rank < tests else "val" if rank < tests + vals else "train"
            for i in group:
                splits[i] = split
    return splits


def check_labels(labels: Sequence[str | None], given: Sequence[str | None]) -> None:
    """Refuse, before any image is read, a dataset that nothing can be learned or measured on.

    Raises
    ------
    DataError
        One sentence that names the classes in question.
    """
    counts = Counter(label for label in labels if label is not None)
    _refuse_alike(sorted(counts))
    if not counts:
        raise DataError("no image has a label; put images into folders named after their classes")
    if len(counts) == 1:
        raise DataError(
            f"there is one class only, {min(counts)!r}; a classifier needs two or more, each a "
            "folder directly in the dataset"
        )
    splits = [split or "train" for split in given]
    if "test" in splits:
        check_splits(sorted(counts), labels, splits, given)
    single = sorted(label for label, count in counts.items() if count == 1)
    if single and "test" not in splits:
        raise DataError(
            f"{_named(single)} one image only; a class needs two, to train on and to test on"
        )


def check_splits(
    classes: Sequence[str],
    labels: Sequence[str | None],
    splits: Sequence[str],
    given: Sequence[str | None],
) -> None:
    """Refuse splits in which a class cannot be trained on, or tested where that is ours to see to.

    Parameters
    ----------
    classes
        Names of all classes that the dataset had at first.
    labels, splits, given
        Class or None, split, and the dataset's own split or None, of each image that is left.

    Raises
    ------
    DataError
        One sentence that names the classes in question.
    """
    present = set(zip(labels, splits, strict=True))
    # A dataset that brings its own test images decides which classes they show.
    needed = ("train",) if "test" in given else ("train", "test")
    for split in needed:
        lacking = [label for label in classes if (label, split) not in present]
        if lacking:
            raise DataError(
                f"{_named(lacking)} no readable image left for {split}; unreadable images, "
                "duplicates, and near duplicates of test images do not count"
            )


def check_shares(wanted: Sequence[str], splits: Sequence[str], *, cause: str) -> None:
    """Refuse splits that near duplicates have made far smaller than what was asked for.

    A split is far smaller when it lacks at least `FAR` images, and more than half: a few large
    groups make shares uneven, and with little data that is nobody's fault.

    Parameters
    ----------
    wanted
        Split of each labelled image, had none a near duplicate.
    splits
        Split of each labelled image that is left.
    cause
        The part of the sentence that says why.

    Raises
    ------
    DataError
        One sentence about the split that lacks most.
    """
    for split in sorted(SPLITS, key=lambda split: splits.count(split) - wanted.count(split)):
        asked, left = wanted.count(split), splits.count(split)
        if asked - left >= FAR and left < asked / 2:
            raise DataError(
                f"{cause}, which leaves {left} for {split} instead of about {asked}; lower it, or "
                "bring splits of your own"
            )


def _refuse_alike(classes: Sequence[str]) -> None:
    """Refuse names of classes that differ in what is easily overlooked."""
    seen: dict[str, str] = {}
    for name in classes:
        words = normalize("NFKC", name).casefold().split()
        shown = "".join(c for c in " ".join(words) if c.isprintable())
        other = seen.setdefault(shown, name)
        if other != name:
            raise DataError(
                f"the classes {other!r} and {name!r} differ in case, spaces or width only; give "
                "both the same name if they are one class, or clearer names"
            )


def _units(
    labels: Sequence[str | None], splits: Sequence[str], groups: Sequence[Sequence[int]]
) -> list[list[int]]:
    """Labelled training images, near duplicates together."""
    eligible = [
        i
        for i, (label, split) in enumerate(zip(labels, splits, strict=True))
        if label is not None and split == "train"
    ]
    grouped = {i: number for number, group in enumerate(groups) for i in group}
    units: dict[int, list[int]] = {}
    for i in eligible:
        units.setdefault(grouped.get(i, -1 - i), []).append(i)
    return list(units.values())


def _uniform(image_id: str) -> float:
    """A number in [0, 1) that an image's hash determines, independent of its shard."""
    return int.from_bytes(draw("split", image_id)[:6], "big") / 2**48


def _sizes(places: Sequence[float], val_ratio: float, test_ratio: float) -> tuple[int, int]:
    """How many of a class's units, by ascending place, test and validate.

    The places below a share are its units, unless that leaves another split of the class empty.
    """
    n = len(places)
    vals_at_least = int(n >= 3 and val_ratio > 0)
    tests = sum(place < test_ratio for place in places)
    vals = sum(place < test_ratio + val_ratio for place in places) - tests
    if test_ratio > 0:
        tests = min(max(tests, 1), max(n - 1 - vals_at_least, 0))
    vals = min(max(vals, vals_at_least), max(n - tests - 1, 0))
    return tests, vals


def _named(classes: Sequence[str]) -> str:
    """Subject and verb of a sentence about some classes."""
    shown = ", ".join(repr(name) for name in classes[:10])
    if len(classes) == 1:
        return f"class {shown} has"
    more = f" and {len(classes) - 10} more" if len(classes) > 10 else ""
    return f"classes {shown}{more} have"
