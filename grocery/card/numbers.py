"""The dataset card: what a dataset is, in numbers, for machines.

A pure function of the prepared shards, of what prepare reports, and of the suspected wrong labels.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from grocery.core.errors import DataError
from grocery.data.near_duplicates import NearDuplicates
from grocery.parallel import parallel_map
from grocery.shards import SPLITS, read_table

_LIGHT = ["image_id", "path", "label", "coarse", "split", "phash"]
# What a card takes over from prepare's report.
_TAKEN = ("source", "prepare", "quarantined", "duplicates", "leaked")


@dataclass(frozen=True)
class Suspect:
    """A label that is probably wrong, see `grocery.card.suspects`.

    Its look-alikes have the label that is `suggested`: it has the share `agreement` of their votes,
    0 to 1, and the nearest images that have it are the `witnesses`, by id, nearest first.
    """

    image_id: str
    path: str
    label: str
    suggested: str
    agreement: float
    witnesses: Sequence[str] = ()


def dataset_card(
    rows: pa.Table, report: dict[str, Any], suspects: Sequence[Suspect]
) -> dict[str, Any]:
    """Describe a dataset by its rows (see `read_rows`) and by what prepare reports.

    Returns
    -------
    dict
        ``source``, ``prepare``, ``quarantined``, ``duplicates`` and ``leaked``, as in the report;
        ``digest``; ``images``, ``labeled``, ``unlabeled``; ``splits``, ``classes`` and
        ``coarse_classes`` (images by split, of labelled ones by class); ``sizes`` (bytes, and
        quantiles of width and height in pixels); ``near_duplicates`` (with ``across_splits``, the
        number of images that repeat one of another split, counted here and not taken from the
        report);
        ``suspected_labels`` (each with its ``split``).
    """
    labels, coarse, splits = (
        rows.column(name).to_pylist() for name in ("label", "coarse", "split")
    )
    labeled = sum(label is not None for label in labels)
    split_of = dict(zip(rows.column("image_id").to_pylist(), splits, strict=True))
    by_class = _by_split(labels, splits)
    coarse_of = {label: c for label, c in zip(labels, coarse, strict=True) if label is not None}
    return {
        **{name: report[name] for name in _TAKEN},
        "digest": content_digest(rows),
        "images": len(labels),
        "labeled": labeled,
        "unlabeled": len(labels) - labeled,
        "splits": {
            split: {
                "images": splits.count(split),
                "labeled": sum(counts[split] for counts in by_class.values()),
            }
            for split in SPLITS
        },
        "classes": {
            label: {"coarse": coarse_of[label], **counts} for label, counts in by_class.items()
        },
        "coarse_classes": _by_split(coarse, splits),
        "sizes": {
            "bytes": int(np.sum(rows.column("bytes").to_numpy(), dtype=np.int64)),
            "width": _quantiles(rows.column("width")),
            "height": _quantiles(rows.column("height")),
        },
        "near_duplicates": _near_duplicates(rows, report["prepare"]["near_duplicate_bits"]),
        "suspected_labels": [asdict(s) | {"split": split_of.get(s.image_id)} for s in suspects],
    }


def content_digest(rows: pa.Table) -> str:
    """SHA-256 (hex) of which images there are, and their labels and splits.

    It depends neither on the number of shards nor on how Parquet stores them, nor on where the
    images came from.
    """
    columns = (rows.column(name).to_pylist() for name in ("image_id", "label", "coarse", "split"))
    total = hashlib.sha256()
    for row in sorted(zip(*columns, strict=True), key=lambda row: row[0]):
        total.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return total.hexdigest()


def read_rows(shards: Sequence[Path]) -> pa.Table:
    """All images of prepared shards: for each all but its pixels, and instead of these its size.

    Of the canonical image ``bytes``, and ``width`` and ``height`` in pixels.
    """
    return pa.concat_tables(parallel_map(_measure, shards, title="measure"))


def read_report(path: Path) -> dict[str, Any]:
    """Read prepare's report.

    Raises
    ------
    DataError
        When it is damaged or lacks a part.
    """
    try:
        report: dict[str, Any] = json.loads(path.read_bytes())
        for part in _TAKEN:
            report[part]
        report["prepare"]["near_duplicate_bits"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a report of prepare; run prepare again") from error
    return report


def _measure(shard: Path) -> pa.Table:
    """Rows of a shard, and the sizes of their images."""
    table = read_table(shard, [*_LIGHT, "image"])
    sizes = [_size(jpeg.as_py(), shard) for jpeg in table.column("image")]
    table = table.drop_columns(["image"])
    for i, name in enumerate(("bytes", "width", "height")):
        table = table.append_column(name, pa.array([size[i] for size in sizes], pa.int64()))
    return table


def _size(jpeg: bytes, shard: Path) -> tuple[int, int, int]:
    """Bytes, width and height; of the image only the header is read."""
    try:
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
            return len(jpeg), image.width, image.height
    except OSError as error:
        raise DataError(f"{shard} holds an image that cannot be read: {error}") from error


def _by_split(names: Sequence[str | None], splits: Sequence[str]) -> dict[str, dict[str, int]]:
    """Images of each name, by split; rows without a name are left out."""
    counts = Counter(zip(names, splits, strict=True))
    return {
        name: {split: counts[name, split] for split in SPLITS}
        for name in sorted({name for name in names if name is not None})
    }


def _quantiles(column: pa.ChunkedArray) -> dict[str, int]:
    """Least, quartiles and largest of a column; each is one of its values."""
    if not len(column):
        return {}
    values = np.quantile(column.to_numpy(), [0, 0.25, 0.5, 0.75, 1], method="nearest")
    return dict(zip(("min", "lower", "median", "upper", "max"), map(int, values), strict=True))


def _near_duplicates(rows: pa.Table, max_bits: int) -> dict[str, Any]:
    """Count groups of near duplicates, and name the images that repeat one of another split."""
    paths, splits = rows.column("path").to_pylist(), rows.column("split").to_pylist()
    near = NearDuplicates(rows.column("phash").to_pylist(), max_bits=max_bits)
    groups, across = near.groups(), near.leaks(splits)
    return {
        "groups": len(groups),
        "images": sum(len(group) for group in groups),
        "across_splits": len(across),
        "across": sorted(sorted((paths[i], paths[of])) for i, of in across.items()),
    }
