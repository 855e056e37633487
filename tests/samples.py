"""Small pictures, and datasets of them."""

import hashlib
import io
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from grocery.shards import IMAGE_SCHEMA, shard_name, shard_of, shard_paths, write_table


def picture(seed: int = 0, size: tuple[int, int] = (64, 48)) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    return encoded(image, "JPEG", quality=quality)


def put(folder: Path, path: str, data: bytes) -> None:
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(data)


def image_row(image: bytes, path: str, label: str | None, **changes: Any) -> dict[str, Any]:
    """A prepared image, as a row of a shard."""
    return {
        "image_id": hashlib.sha256(image).hexdigest(),
        "path": path,
        "label": label,
        "coarse": None,
        "split": "train",
        "phash": "0" * 128,
        "image": image,
    } | changes


def shard_files(
    folder: Path,
    rows: Sequence[dict[str, Any]],
    shards: int,
    prepared: Mapping[str, int] | None = None,
) -> list[Path]:
    """Prepared images in so many shards, whatever lay there before."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for index in range(shards):
        members = [row for row in rows if shard_of(row["image_id"], shards) == index]
        members.sort(key=lambda row: str(row["image_id"]))
        table = pa.Table.from_pylist(members, IMAGE_SCHEMA)
        write_table(folder / shard_name(index, shards), table, prepared)
    return shard_paths(folder)


def dataset(folder: Path, classes: str = "abc", images: int = 14) -> Path:
    for number, label in enumerate(classes):
        for i in range(images):
            put(folder, f"{label}/{i:02}.jpg", jpeg(picture(1000 * number + i)))
    return folder
