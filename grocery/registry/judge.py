"""One version against another: on the same test images, or on the newer one's for both."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from grocery.core.errors import RegistryError
from grocery.images.preprocessing import Preprocessing
from grocery.registry.anew import Anew, evaluate_anew, seen_images
from grocery.registry.candidate import EVALUATION, PREDICTIONS, SHARDS
from grocery.registry.comparison import Difference, compare, data_digest, read_predictions
from grocery.registry.git import Git
from grocery.registry.objects import Objects
from grocery.registry.records import json_at, recorded_hashes
from grocery.registry.serving import keep, kept, release_of
from grocery.registry.state import Version
from grocery.release.model import Model
from grocery.shards import read_preprocessing, shard_paths

_NOISE = 1e-9  # what the difference of two accuracies may be off


@dataclass(frozen=True)
class Measured:
    """Versions by their predictions of the same test images.

    Attributes
    ----------
    tables
        A table of predictions a version (`grocery.registry.comparison.PREDICTIONS`).
    anew
        What was found when they had to be evaluated anew; None when what was stored could be used.
    data
        The version whose test images they are.
    """

    tables: Sequence[pa.Table]
    anew: Anew | None
    data: Version

    @property
    def note(self) -> str:
        """Where the figures come from, if they are not the stored ones."""
        if self.anew is None:
            return ""
        text = f"evaluated anew on the {len(self.tables[0])} test images of {self.data.name}"
        if self.anew.left_out:
            text += f" that are new to all ({self.anew.left_out} left out)"
        return text


@dataclass(frozen=True)
class Judgement:
    """Whether a version may go to production.

    Attributes
    ----------
    passed
        Whether it may.
    sentence
        Why, or why not.
    against
        Name of the version that it was compared with, if there was one.
    difference
        How they differ.
    note
        Where the figures come from, if they are not the stored ones.
    """

    passed: bool
    sentence: str
    against: str | None = None
    difference: Difference | None = None
    note: str = ""

    def document(self) -> dict[str, Any]:
        """The judgement as JSON."""
        difference = self.difference.document() if self.difference else None
        return {**vars(self), "difference": difference}


def judge(
    objects: Objects, git: Git, version: Version, present: Version | None, *, margin: float
) -> Judgement:
    """Ask of a version what production asks: to beat the present one, by a margin of accuracy.

    Parameters
    ----------
    present
        The version in production, if there is one.
    margin
        Smallest gain of test accuracy.
    """
    if json_at(git, version.commit, "metrics/register.json").get("accepted") is not True:
        return Judgement(False, f"{version.name} was rejected when it was made")
    if present is None:
        return Judgement(True, "production had no version")
    measured = measure(objects, git, [present, version])
    difference = compare(*measured.tables, names=(present.name, version.name))
    gain = difference.difference
    passed = gain > 0 and gain >= margin - _NOISE
    words = "beats" if passed else "does not beat"
    sentence = (
        f"{version.name} {words} {present.name}, which is in production, by the margin of "
        f"{margin:g}: test accuracy {difference.new:.4f} against {difference.old:.4f}; "
        f"{difference.sentence(present.name, version.name)}"
    )
    if measured.note:
        sentence += f"; both were {measured.note}"
    return Judgement(passed, sentence, present.name, difference, measured.note)


def stored_predictions(objects: Objects, git: Git, version: Version) -> pa.Table:
    """The test predictions that a version's pipeline stored.

    Raises
    ------
    RegistryError
        When they cannot be had.
    """
    md5 = recorded_hashes(git, version.commit).get(EVALUATION)
    if md5 is None:
        raise RegistryError(f"the commit of {version.name} has no {EVALUATION}")
    return read_predictions(objects.file(md5, PREDICTIONS), version.name)


def same_test_data(tables: Sequence[pa.Table]) -> bool:
    """Whether all predictions are of the same test images with the same labels."""
    return len({data_digest(table) for table in tables}) == 1


def measure(objects: Objects, git: Git, versions: Sequence[Version]) -> Measured:
    """Predictions of several versions for the same test images.

    What they stored is used if their test data are the same; otherwise all are evaluated on the
    test images of the one that was registered last, but for those that any of them learned from.

    Raises
    ------
    RegistryError
        When something that it takes cannot be had, or too few test images are left.
    """
    newest = max(versions, key=lambda version: version.tag.time)
    tables = [stored_predictions(objects, git, version) for version in versions]
    if same_test_data(tables):
        return Measured(tables, None, newest)
    with tempfile.TemporaryDirectory(prefix="grocery-") as scratch:
        shards = {v.name: _shards(objects, git, v, Path(scratch)) for v in versions}
        anew = evaluate_anew(
            [release(objects, git, version) for version in versions],
            shards[newest.name],
            [seen_images(shards[version.name]) for version in versions],
            Preprocessing.of(
                read_preprocessing(shard_paths(shards[newest.name])), f"data of {newest.name}"
            ),
        )
    return Measured(anew.tables, anew, newest)


def release(objects: Objects, git: Git, version: Version) -> Model:
    """The model of a version, verified."""
    md5 = release_of(git, version)
    folder = kept(md5) or keep(md5, partial(objects.get, md5), version.said("model", "digest"))
    return Model.load(folder)


def _shards(objects: Objects, git: Git, version: Version, scratch: Path) -> Path:
    """The prepared dataset of a version, in a folder that equal datasets share."""
    md5 = recorded_hashes(git, version.commit).get(SHARDS)
    if md5 is None:
        raise RegistryError(f"the commit of {version.name} has no {SHARDS}")
    folder = scratch / md5
    if not folder.is_dir():
        objects.get(md5, folder)
    return folder
