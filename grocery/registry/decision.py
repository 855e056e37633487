"""One version against another: on the same test images, or on the newer one's for both."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from grocery.core.errors import RegistryError
from grocery.images.preprocessing import Preprocessing
from grocery.registry.anew import evaluate_anew, seen_images
from grocery.registry.candidate import EVALUATION, PREDICTIONS, SHARDS
from grocery.registry.comparison import Difference, compare, data_digest, read_predictions
from grocery.registry.records import json_at, recorded_hashes
from grocery.registry.serving import verified
from grocery.registry.state import Version
from grocery.registry.store import Store
from grocery.release.model import Model
from grocery.shards import read_preprocessing, shard_paths

_NOISE = 1e-9  # what the difference of two accuracies may be off


@dataclass(frozen=True)
class Decision:
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
        """The decision as JSON."""
        difference = self.difference.document() if self.difference else None
        return {**vars(self), "difference": difference}


def decide(store: Store, version: Version, present: Version | None, *, margin: float) -> Decision:
    """Ask of a version what production asks: to beat the present one, by a margin of accuracy.

    Parameters
    ----------
    present
        The version in production, if there is one.
    margin
        Smallest gain of test accuracy.
    """
    if json_at(store.git, version.commit, "metrics/register.json").get("accepted") is not True:
        return Decision(False, f"{version.name} was rejected when it was made")
    if present is None:
        return Decision(True, "production had no version")
    tables, note = measure(store, [present, version])
    difference = compare(*tables, names=(present.name, version.name))
    gain = difference.difference
    passed = gain > 0 and gain >= margin - _NOISE
    words = "beats" if passed else "does not beat"
    sentence = (
        f"{version.name} {words} {present.name}, which is in production, by the margin of "
        f"{margin:g}: test accuracy {difference.new:.4f} against {difference.old:.4f}; "
        f"{difference.sentence(present.name, version.name)}"
    )
    if note:
        sentence += f"; both were {note}"
    return Decision(passed, sentence, present.name, difference, note)


def stored_predictions(store: Store, version: Version) -> pa.Table:
    """The test predictions that a version's pipeline stored.

    Raises
    ------
    RegistryError
        When they cannot be had.
    """
    return read_predictions(
        store.file(_hash_of(store, version, EVALUATION), PREDICTIONS), version.name
    )


def same_test_data(tables: Sequence[pa.Table]) -> bool:
    """Whether all predictions are of the same test images with the same labels."""
    return len({data_digest(table) for table in tables}) == 1


def measure(store: Store, versions: Sequence[Version]) -> tuple[list[pa.Table], str]:
    """Predictions of several versions for the same test images.

    What they stored is used if their test data are the same; otherwise all are evaluated on the
    test images of the one that was registered last, but for those that any of them learned from.

    Returns
    -------
    A table of predictions a version (`grocery.registry.comparison.PREDICTIONS`), and where they
    come from, if they are not the stored ones.

    Raises
    ------
    RegistryError
        When something that it takes cannot be had, or too few test images are left.
    """
    tables = [stored_predictions(store, version) for version in versions]
    if same_test_data(tables):
        return tables, ""
    newest = max(versions, key=lambda version: version.tag.time)
    with tempfile.TemporaryDirectory(prefix="grocery-") as scratch:
        shards = {version.name: _shards(store, version, Path(scratch)) for version in versions}
        images = shards[newest.name]
        prepared = read_preprocessing(shard_paths(images))
        anew = evaluate_anew(
            [Model.load(verified(store, version).folder) for version in versions],
            images,
            [seen_images(shards[version.name]) for version in versions],
            Preprocessing.of(prepared, f"data of {newest.name}"),
        )
    note = f"evaluated anew on the {len(anew.tables[0])} test images of {newest.name}"
    if anew.left_out:
        note += f" that are new to all ({anew.left_out} left out)"
    return anew.tables, note


def _hash_of(store: Store, version: Version, path: str) -> str:
    md5 = recorded_hashes(store.git, version.commit).get(path)
    if md5 is None:
        raise RegistryError(f"the commit of {version.name} has no {path}")
    return md5


def _shards(store: Store, version: Version, scratch: Path) -> Path:
    """The prepared dataset of a version, in a folder that equal datasets share."""
    md5 = _hash_of(store, version, SHARDS)
    folder = scratch / md5
    if not folder.is_dir():
        store.get(md5, folder)
    return folder
