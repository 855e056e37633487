"""Features and labels side by side, split by split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from grocery.core.errors import DataError
from grocery.shards import SPLITS, features_of, read_table, shard_paths

UNLABELED = -1


@dataclass(frozen=True)
class Split:
    """The images of one split.

    Attributes
    ----------
    image_ids, paths
        Of the n images.
    features
        Unit vectors, shape (n, d).
    names
        Class names, None where an image has no label.
    labels
        Class numbers, shape (n,); `UNLABELED` where an image has no label.
    """

    image_ids: list[str]
    paths: list[str]
    features: NDArray[np.float32]
    names: list[str | None]
    labels: NDArray[np.int64]


def load_splits(shards: Path, features: Path) -> tuple[dict[str, Split], list[str], dict[str, str]]:
    """Load all splits, the class names in order, and the coarse class of each class if any.

    Raises
    ------
    DataError
        When features and shards do not belong together, a feature is not finite, or validation or
        test hold a class that training does not.
    """
    tables = []
    for image_shard in shard_paths(shards):
        rows = read_table(image_shard, ["image_id", "path", "label", "coarse", "split"])
        vectors = read_table(features / image_shard.name)
        if vectors.column("image_id") != rows.column("image_id"):
            raise DataError(
                f"{features / image_shard.name} does not hold the images of {image_shard}; "
                "run featurize again"
            )
        tables.append(rows.append_column("features", vectors.column("features")))
    table = pa.concat_tables(tables)
    if not np.isfinite(features_of(table)).all():
        raise DataError(f"{features} holds a feature that is not a finite number")
    by_split = {name: table.filter(pc.equal(table.column("split"), name)) for name in SPLITS}
    classes = sorted({name for name in by_split["train"].column("label").to_pylist() if name})
    for name in ("val", "test"):
        unseen = set(by_split[name].column("label").to_pylist()) - set(classes)
        if None in unseen:
            raise DataError(f"{shards}: {name} holds an image without a label")
        if unseen:
            raise DataError(
                f"{shards}: {name} holds {sorted(unseen)[0]!r}, a class with no training image"
            )
    numbers = {name: number for number, name in enumerate(classes)}
    pairs = zip(table.column("label").to_pylist(), table.column("coarse").to_pylist(), strict=True)
    coarse = dict(sorted({p for p in pairs if None not in p}))
    return {name: _split(rows, numbers) for name, rows in by_split.items()}, classes, coarse


def _split(rows: pa.Table, numbers: dict[str, int]) -> Split:
    names = rows.column("label").to_pylist()
    return Split(
        rows.column("image_id").to_pylist(),
        rows.column("path").to_pylist(),
        features_of(rows),
        names,
        np.array([UNLABELED if n is None else numbers[n] for n in names], dtype=np.int64),
    )
