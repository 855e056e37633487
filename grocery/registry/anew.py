"""Models that were evaluated on different test data, evaluated anew on one test set."""

from __future__ import annotations

from collections.abc import Sequence, Set
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from grocery.core.errors import DataError, RegistryError
from grocery.images.preprocessing import Preprocessing
from grocery.parallel import parallel_map
from grocery.registry.comparison import PREDICTIONS
from grocery.release.model import Model
from grocery.shards import read_columns, read_table, shard_paths

MIN_IMAGES = 20  # fewer would tell any two models apart by luck only


class Anew(NamedTuple):
    """What models say of the same test images.

    Attributes
    ----------
    tables
        A table of predictions per model (`grocery.registry.comparison.PREDICTIONS`), all of the
        same images, in the order of the shards: by id. Images of a class that a model does not know
        count as its mistakes, as they would in production.
    left_out
        Number of test images that are not in the tables, since some model learned from them.
    """

    tables: list[pa.Table]
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
    models
        At least one.
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
