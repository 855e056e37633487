"""Several models on the same test images: what a comparison needs where none is recorded."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from grocery.comparison.difference import PREDICTIONS
from grocery.core.errors import DataError, RegistryError
from grocery.images.preprocessing import Preprocessing
from grocery.parallel import parallel_map
from grocery.release.model import Model
from grocery.shards import read_columns, read_preprocessing, read_table, shard_paths

MIN_IMAGES = 20  # fewer would tell any two models apart by luck only


@dataclass(frozen=True)
class Source:
    """The test images of a dataset, but for those of some classes."""

    # Folder of the prepared shards.
    shards: Path
    without: Set[str] = frozenset()


class Anew(NamedTuple):
    """What models say of the same test images."""

    # A table per model (`grocery.comparison.difference.PREDICTIONS`), all of the same images. Those
    # of a class that a model does not know count as its mistakes, as they would in production.
    tables: list[pa.Table]
    # Number of test images of each source in the tables.
    images: list[int]
    # Number of test images that are not in the tables, since some model learned from them.
    left_out: int


def seen_images(shards: Path) -> set[str]:
    """Ids of the images that a model made from these prepared shards learned from.

    They are those of train and val, the unlabelled ones too.
    """
    rows = read_columns(shards, ["image_id", "split"]).to_pylist()
    return {row["image_id"] for row in rows if row["split"] != "test"}


def evaluate_anew(
    models: Sequence[Model], sources: Sequence[Source], seen: Sequence[Set[str]]
) -> Anew:
    """Predict the test images of some datasets with each of several models.

    An image that any of the models has seen is left out for all: it would flatter that model. An
    image is known by the bytes of its raw file; a near duplicate of one that was seen is not found.

    A model is given the canonical images of the shards as they are if they were made as it wants
    them. Otherwise it prepares them again, though the raw images, which are not at hand, would
    serve it better: the images have then passed through JPEG twice, and are no larger than the
    dataset has them.

    Parameters
    ----------
    sources
        One shard is in memory at a time, for each worker. An image that is in two of them counts in
        the first.
    seen
        For each model the ids of the images that it learned from, see `seen_images`.

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
    taken: set[str] = set()
    left_out: set[str] = set()
    work: list[_Work] = []
    images = []
    for source in sources:
        before = len(taken)
        for path in shard_paths(source.shards):
            rows = []
            found = read_table(path, ["image_id", "label", "split"]).to_pylist()
            for number, row in enumerate(found):
                image_id = row["image_id"]
                if row["split"] != "test" or row["label"] in source.without or image_id in taken:
                    continue
                if image_id in excluded:
                    left_out.add(image_id)
                    continue
                taken.add(image_id)
                rows.append(number)
            if rows:
                work.append(_Work(path, rows, _prepared(source.shards)))
        images.append(len(taken) - before)
    if len(taken) < MIN_IMAGES:
        raise RegistryError(
            f"of the {len(taken) + len(left_out)} test images in {sources[0].shards}, {len(taken)} "
            f"are new to all models; at least {MIN_IMAGES} are needed to compare them"
        )
    parts = parallel_map(partial(_predict_shard, models=models), work, title="evaluate anew")
    tables = [pa.concat_tables(of_model) for of_model in zip(*parts, strict=True)]
    return Anew(tables, images, len(left_out))


class _Work(NamedTuple):
    """Some rows of a shard, and how its images were prepared."""

    shard: Path
    rows: list[int]
    prepared: Preprocessing


def _prepared(shards: Path) -> Preprocessing:
    return Preprocessing.of(read_preprocessing(shard_paths(shards)), f"data in {shards}")


def _predict_shard(work: _Work, *, models: Sequence[Model]) -> list[pa.Table]:
    """Predictions of each model for some rows of a shard."""
    table = read_table(work.shard, ["image_id", "path", "label", "image"]).take(work.rows)
    try:
        return [_predictions(model, table, work.prepared) for model in models]
    except DataError as error:
        raise DataError(f"{work.shard}: {error}") from None


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
