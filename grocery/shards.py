"""The shard: the unit of storage, hashing, recomputation and distribution.

A shard is a Parquet file that holds the images whose SHA-256 begins with the shard's bits, sorted
by that hash. Which shard an image lies in is thus decided by its content alone, so one new image
changes one shard.

Prepared shards (`IMAGE_SCHEMA`) hold

=========== ==================================================================================
image_id    SHA-256 (hex) of the raw file; the image's identity everywhere in this project
path        where it came from, relative to the raw dataset, with forward slashes
label       class name, or null for an image that has no label at all
coarse      name of the coarse class, or null where the dataset has none
split       "train", "val" or "test"
phash       perceptual hash (hex), see `grocery.data.duplicates`
image       the canonical image as JPEG bytes, see `grocery.images.decoding`
=========== ==================================================================================

The metadata of a shard's schema says how its images were prepared, see `read_preprocessing`.

Feature shards hold ``image_id`` and ``features`` (float32), rows in the same order.
Incoming batches (`BATCH_SCHEMA`) hold ``image_id``, ``path``, ``label`` (or null) and ``image``;
an image that could not be read has a null ``image``. They may say how their images were prepared.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from grocery.core.errors import DataError

SPLITS = ("train", "val", "test")

# Keys in the metadata of a file's schema.
_PREPROCESSING = b"preprocessing"
DRILL = b"drill"  # of a batch that the pipeline made: what was done on purpose, in words

_ID, _PATH, _SPLIT, _PHASH = (
    pa.field(name, pa.string(), nullable=False) for name in ("image_id", "path", "split", "phash")
)
_LABEL, _COARSE = (pa.field(name, pa.string()) for name in ("label", "coarse"))
_IMAGE = pa.field("image", pa.binary())

IMAGE_SCHEMA = pa.schema([_ID, _PATH, _LABEL, _COARSE, _SPLIT, _PHASH, _IMAGE.with_nullable(False)])
BATCH_SCHEMA = pa.schema([_ID, _PATH, _LABEL, _IMAGE])


def shard_of(image_id: str, shards: int) -> int:
    """Number of the shard, of `shards` (a power of two), that an image lies in.

    The leading bits of the hash decide, so doubling `shards` splits each shard in two.
    """
    return int(image_id[:8], 16) >> (32 - (shards.bit_length() - 1))


def shard_name(index: int, shards: int) -> str:
    """File name of shard `index` of `shards`."""
    return f"shard-{index:05d}-of-{shards:05d}.parquet"


def shard_paths(folder: Path) -> list[Path]:
    """Paths of a folder's shards, in order.

    Raises
    ------
    DataError
        When the folder holds none.
    """
    paths = sorted(folder.glob("shard-*-of-*.parquet"))
    if not paths:
        raise DataError(f"{folder} holds no shards; run the stage that makes them first")
    return paths


def write_table(
    path: Path, table: pa.Table, preprocessing: Mapping[str, int] | None = None
) -> None:
    """Write one Parquet file; equal tables give equal bytes.

    Of images `preprocessing` says how they were prepared (`grocery.images.preprocessing`).

    Neither images (JPEG) nor features (whitened floats) shrink under compression, and without it
    the bytes do not depend on a codec's version.
    """
    if preprocessing is not None:
        said = json.dumps(dict(preprocessing), sort_keys=True)
        others = table.schema.metadata or {}
        table = table.replace_schema_metadata(others | {_PREPROCESSING: said})
    pq.write_table(table, path, compression="none", use_dictionary=False, write_statistics=False)


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read one Parquet file, all of it or only `columns`.

    Raises
    ------
    DataError
        When the file is not a whole Parquet file or lacks a column.
    """
    try:
        # A dataset of one file (`pq.read_table`) takes four times as long to open.
        with pq.ParquetFile(path) as file:
            missing = sorted(set(columns or ()) - set(file.schema_arrow.names))
            if missing:
                raise DataError(f"{path} cannot be read as a shard: it has no column {missing[0]}")
            if columns is None:
                return file.read()
            return file.read(columns=list(columns)).select(list(columns))
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} cannot be read as a shard: {error}") from error


def how_prepared(path: Path) -> Any:
    """What a Parquet file says of how its images were prepared, or None."""
    try:
        with pq.ParquetFile(path) as file:
            said = (file.schema_arrow.metadata or {}).get(_PREPROCESSING)
        return None if said is None else json.loads(said)
    except (pa.ArrowInvalid, OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as a shard: {error}") from error


def read_preprocessing(shards: Sequence[Path]) -> Any:
    """How the images of prepared shards were prepared: the settings of a `Preprocessing`.

    Raises
    ------
    DataError
        When a shard does not say it, or was prepared otherwise than the first.
    """
    first = how_prepared(shards[0])
    for shard in shards:
        said = how_prepared(shard)
        if said is None:
            raise DataError(f"{shard} does not say how its images were prepared; run prepare again")
        if said != first:
            raise DataError(f"{shard} was prepared otherwise than {shards[0]}; run prepare again")
    return first


def read_columns(folder: Path, columns: Sequence[str]) -> pa.Table:
    """Read the same `columns` of all of a folder's shards, in order of shard and row."""
    return pa.concat_tables([read_table(path, columns) for path in shard_paths(folder)])


def images_of(shards: Sequence[Path], image_ids: Collection[str]) -> dict[str, bytes]:
    """Read some images, JPEG bytes by id, of prepared shards; one shard is in memory at a time."""
    wanted = set(image_ids)
    found: dict[str, bytes] = {}
    for shard in shards:
        ids = read_table(shard, ["image_id"]).column("image_id").to_pylist()
        rows = [row for row, image_id in enumerate(ids) if image_id in wanted]
        if rows:
            images = read_table(shard, ["image"]).column("image")
            found |= {ids[row]: images[row].as_py() for row in rows}
    return found


def feature_table(image_ids: Sequence[str], features: NDArray[np.float32]) -> pa.Table:
    """Table of a feature shard from ids (n) and features (n, d)."""
    flat = pa.array(np.ascontiguousarray(features, dtype=np.float32).reshape(-1))
    vectors = pa.FixedSizeListArray.from_arrays(flat, features.shape[1])
    schema = pa.schema([_ID, pa.field("features", vectors.type, nullable=False)])
    return pa.table([pa.array(list(image_ids), pa.string()), vectors], schema=schema)


def features_of(table: pa.Table) -> NDArray[np.float32]:
    """The ``features`` column of a table as an array of shape (n, d)."""
    column = table.column("features")
    flat = np.asarray(column.combine_chunks().flatten(), dtype=np.float32)
    return flat.reshape(len(table), column.type.list_size)
