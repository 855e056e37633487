"""Decides which readable images stay and in which split, and says what was done to the data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from grocery.core.errors import DataError
from grocery.core.params import PrepareParams
from grocery.data.build import Decoded
from grocery.data.duplicates import Copies
from grocery.data.near_duplicates import NearDuplicates
from grocery.data.splits import assign, check_shares, check_splits
from grocery.shards import SPLITS


@dataclass(frozen=True)
class Outcome:
    """What was decided about a dataset's readable images.

    Attributes
    ----------
    kept
        Those that stay.
    splits
        Their splits by image id, in the same order.
    groups
        Near duplicates that were kept together, before any was dropped.
    leaked
        Those dropped, each with the near duplicate that stays instead, and its split.
    """

    kept: list[Copies]
    splits: dict[str, str]
    groups: list[list[Copies]]
    leaked: list[tuple[Copies, Copies, str]]


def refuse_bad(copies: Sequence[Copies], found: Decoded, max_bad_ratio: float) -> None:
    """Stop when more files than allowed, or all, cannot be read.

    Raises
    ------
    DataError
        Says how many, and names the first ten.
    """
    bad = quarantined(copies, found)
    files = sum(len(group.files) for group in copies)
    if len(bad) < files and len(bad) <= max_bad_ratio * files:
        return
    named = "; ".join(f"{entry['path']} ({entry['reason']})" for entry in bad[:10])
    more = f"; and {len(bad) - 10} more" if len(bad) > 10 else ""
    limit = "" if len(bad) == files else f", more than prepare.max_bad_ratio {max_bad_ratio} allows"
    raise DataError(f"{len(bad)} of {files} files cannot be read{limit}: {named}{more}")


def clean(copies: Sequence[Copies], found: Decoded, params: PrepareParams) -> Outcome:
    """Find near duplicates, assign splits, and drop what would leak from one into another.

    Parameters
    ----------
    copies
        All files, grouped by content.
    found
        Which of them can be read, and their perceptual hashes.
    params
        Ratios, and the threshold of near duplicates.

    Raises
    ------
    DataError
        When too little of a class is left, or far less of a split than was asked for.
    """
    readable = [group for group in copies if group.image_id in found.hashes]
    hashes = [found.hashes[group.image_id] for group in readable]
    near = NearDuplicates(hashes, max_bits=params.near_duplicate_bits)
    groups = near.groups()
    given = [group.kept.split for group in readable]
    for split in sorted({group.kept.split for group in copies if group.kept.split} - set(given)):
        raise DataError(f"no image of the dataset's own {split} split can be read")
    place = partial(
        assign,
        [group.image_id for group in readable],
        [group.kept.label for group in readable],
        given,
        val_ratio=params.val_ratio,
        test_ratio=params.test_ratio,
    )
    splits = place(groups)
    dropped = near.leaks(splits)
    kept = [i for i in range(len(readable)) if i not in dropped]
    if not any(given):
        labelled = [i for i, group in enumerate(readable) if group.kept.label is not None]
        wanted = place([])
        alike = len({i for group in groups for i in group} | dropped.keys())
        check_shares(
            [wanted[i] for i in labelled],
            [splits[i] for i in labelled if i not in dropped],
            cause=f"prepare.near_duplicate_bits {params.near_duplicate_bits} makes {alike} of "
            f"{len(readable)} images near duplicates",
        )
    check_splits(
        sorted({label for group in copies for label in group.labels}),
        [readable[i].kept.label for i in kept],
        [splits[i] for i in kept],
        given,
    )
    return Outcome(
        kept=[readable[i] for i in kept],
        splits={readable[i].image_id: splits[i] for i in kept},
        groups=[[readable[i] for i in group] for group in groups],
        leaked=[(readable[i], readable[of], splits[of]) for i, of in sorted(dropped.items())],
    )


def summarise(copies: Sequence[Copies], found: Decoded, outcome: Outcome) -> dict[str, Any]:
    """Say what was done to every file, by path, and count it.

    Returns
    -------
    dict
        ``counts``; ``quarantined`` (path, reason); ``duplicates`` (kept, dropped, and labels when
        these contradict each other); ``near_duplicates`` (paths of a group, and labels likewise);
        ``leaked`` (path, reason); ``noted`` (path, and what is wrong with an image that stays);
        ``splits`` (images, unlabeled, and images by class of each).
    """
    bad = quarantined(copies, found)
    duplicates: list[dict[str, Any]] = [
        {"kept": group.kept.path, "dropped": [file.path for file in group.dropped]}
        | _conflict(group.labels)
        for group in copies
        if group.dropped and group.image_id in found.hashes
    ]
    near: list[dict[str, Any]] = [
        {"paths": [image.kept.path for image in group]}
        | _conflict([image.kept.label for image in group])
        for group in outcome.groups
    ]
    leaked = [
        {"path": image.kept.path, "reason": f"near duplicate of {of.kept.path} in {split}"}
        for image, of, split in outcome.leaked
    ]
    noted = [
        {"path": group.kept.path, "note": note}
        for group in copies
        for note in found.notes.get(group.image_id, ())
    ]
    splits = {split: _census(outcome, split) for split in SPLITS}
    counts = {
        "files": sum(len(group.files) for group in copies),
        "images": len(outcome.kept),
        "classes": len({group.kept.label for group in outcome.kept} - {None}),
        "unlabeled": sum(group.kept.label is None for group in outcome.kept),
        "quarantined": len(bad),
        "duplicates": sum(len(entry["dropped"]) for entry in duplicates),
        "label_conflicts": sum("labels" in entry for entry in [*duplicates, *near]),
        "near_duplicates": sum(len(entry["paths"]) for entry in near),
        "near_duplicate_groups": len(near),
        "leaked": len(leaked),
        "noted": len(noted),
    } | {split: splits[split]["images"] for split in SPLITS}
    return {
        "counts": counts,
        "quarantined": bad,
        "duplicates": duplicates,
        "near_duplicates": near,
        "leaked": leaked,
        "noted": noted,
        "splits": splits,
    }


def quarantined(copies: Sequence[Copies], found: Decoded) -> list[dict[str, str]]:
    """Path and reason of every unreadable file, copies included."""
    bad = [
        {"path": file.path, "reason": found.reasons[group.image_id]}
        for group in copies
        if group.image_id in found.reasons
        for file in group.files
    ]
    return sorted(bad, key=lambda entry: entry["path"])


def _conflict(labels: Sequence[str | None]) -> dict[str, list[str]]:
    """An entry for labels that contradict each other, else nothing."""
    different = sorted({label for label in labels if label is not None})
    return {"labels": different} if len(different) > 1 else {}


def _census(outcome: Outcome, split: str) -> dict[str, Any]:
    """Images of a split, and of each class in it."""
    images = [group.kept for group in outcome.kept if outcome.splits[group.image_id] == split]
    classes = Counter(image.label for image in images if image.label is not None)
    return {
        "images": len(images),
        "unlabeled": len(images) - classes.total(),
        "classes": dict(sorted(classes.items())),
    }
