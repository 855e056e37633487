"""One version against another: on the same test images, or on the newer one's for both."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from grocery.core.errors import DataError, RegistryError
from grocery.images.preprocessing import Preprocessing
from grocery.parallel import parallel_map
from grocery.registry.candidate import EVALUATION, PREDICTIONS_FILE, SHARDS
from grocery.registry.comparison import (
    PREDICTIONS,
    Difference,
    compare,
    data_digest,
    read_predictions,
)
from grocery.registry.records import json_at, recorded_hashes
from grocery.registry.serving import verified
from grocery.registry.state import Version
from grocery.registry.store import Store
from grocery.release.model import Model
from grocery.shards import read_columns, read_preprocessing, read_table, shard_paths

MIN_IMAGES = 20  # fewer would tell any two models apart by luck only
_NOISE = 1e-9  # what the difference of two accuracies may be off


@dataclass(frozen=True)
class Decision:
    """Whether a version may go to production, why or why not, and how it differs from which.

    `note` says where the figures come from, if they are not the stored ones.
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
    """Ask of a version what production asks: to beat the present one by a margin of accuracy."""
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
    """The test predictions that a version's pipeline stored."""
    return read_predictions(
        store.file(_hash_of(store, version, EVALUATION), PREDICTIONS_FILE), version.name
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


class Anew(NamedTuple):
    """What models say of the same test images."""

    # A table of predictions per model (`grocery.registry.comparison.PREDICTIONS`), all of the same
    # images, in the order of the shards: by id. Images of a class that a model does not know count
    # as its mistakes, as they would in production.
    tables: list[pa.Table]
    # Number of test images that are not in the tables, since some model learned from them.
    left_out: int


def seen_images(shards: Path) -> set[str]:
    """Ids of the images that a model made from these prepared shards learned from.

    They are those of train and val, the unlabelled ones too.
    """
    rows = read_columns(shards, ["image_id", "split"]).to_pylist()
    return {row["image_id"] for row in rows if row["split"] != "test"}


def evaluate_anew(
    models: Sequence[Model],
    shards: Path,
    seen: Sequence[Set[str]],
    prepared: Preprocessing,
) -> Anew:
    """Predict the test images of one dataset with each of several models.

    An image that any of the models has seen is left out for all: it would flatter that model. An
    image is known by the bytes of its raw file; a near duplicate of one that was seen is not found.

    A model is given the canonical images of the shards as they are if they were made as it wants
    them. Otherwise it prepares them again, though the raw images, which are not at hand, would
    serve it better: the images have then passed through JPEG twice, and are no larger than the
    dataset has them.

    Parameters
    ----------
    shards
        Folder of the dataset's prepared shards; one is in memory at a time, for each worker.
    seen
        For each model the ids of the images that it learned from, see `seen_images`.
    prepared
        How the images of the shards were prepared.

    Raises
    ------
    RegistryError
        When fewer than `MIN_IMAGES` test images are left.
    DataError
        When the shards cannot be read.
    """
    if len(models) != len(seen):
        raise ValueError(f"{len(models)} models, but the seen images of {len(seen)}")
    excluded = frozenset().union(*seen)
    work: list[tuple[Path, list[int]]] = []
    total = 0
    for path in shard_paths(shards):
        found = enumerate(read_table(path, ["image_id", "split"]).to_pylist())
        ids = {number: row["image_id"] for number, row in found if row["split"] == "test"}
        total += len(ids)
        if rows := [number for number, image_id in ids.items() if image_id not in excluded]:
            work.append((path, rows))
    images = sum(len(rows) for _, rows in work)
    if images < MIN_IMAGES:
        raise RegistryError(
            f"of the {total} test images in {shards}, {images} are new to all models; "
            f"at least {MIN_IMAGES} are needed to compare them"
        )
    predict = partial(_predict_shard, models=models, prepared=prepared)
    parts = parallel_map(predict, work, title="evaluate anew")
    return Anew(
        [pa.concat_tables(of_model) for of_model in zip(*parts, strict=True)], total - images
    )


def _predict_shard(
    work: tuple[Path, list[int]], *, models: Sequence[Model], prepared: Preprocessing
) -> list[pa.Table]:
    """Predictions of each model for some rows of a shard."""
    shard, rows = work
    table = read_table(shard, ["image_id", "path", "label", "image"]).take(rows)
    try:
        return [_predictions(model, table, prepared) for model in models]
    except DataError as error:
        raise DataError(f"{shard}: {error}") from None


def _predictions(model: Model, images: pa.Table, prepared: Preprocessing) -> pa.Table:
    jpegs, paths = (images.column(name).to_pylist() for name in ("image", "path"))
    if not model.preprocessing.gives_the_same_as(prepared):
        jpegs = [model.prepare(jpeg, path) for jpeg, path in zip(jpegs, paths, strict=True)]
    best = [ranked[0] for ranked in model.rank(jpegs)]
    columns = {name: images.column(name) for name in ("image_id", "path", "label")} | {
        "predicted": [prediction.label for prediction in best],
        "confidence": [prediction.confidence for prediction in best],
    }
    return pa.table(columns, schema=PREDICTIONS)
