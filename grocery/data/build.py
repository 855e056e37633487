"""From raw files to prepared shards: the pieces of work that are shared out to processes.

A shard is built in two steps, because its images' splits depend on all other shards. `decode_shard`
depends on the shard's own raw files alone; `finish_shard` adds what was decided in between.
"""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from grocery import action_cache
from grocery.action_cache import Action, values_of
from grocery.core.errors import DataError
from grocery.core.params import PrepareParams
from grocery.data.duplicates import Copies, perceptual_hash
from grocery.images.preprocessing import SRGB, Preprocessing, prepare
from grocery.images.raw import RawImage
from grocery.parallel import parallel_map
from grocery.shards import IMAGE_SCHEMA, read_table, shard_name, shard_of, write_table

# A decoded shard lacks the splits only.
_DECODED_SCHEMA = pa.schema([column for column in IMAGE_SCHEMA if column.name != "split"])
# Files that are hashed together, about.
_CHUNK = 256
# Nanoseconds that a file must have been left alone before it is known by its size and times: file
# systems may count time in steps of two seconds. DVC and git have the same rule.
SETTLED = 2_000_000_000


@dataclass(frozen=True)
class Decoded:
    """What decoding found, by image id.

    Perceptual hashes, why the others cannot be read, and what is wrong with some that can be.
    """

    hashes: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)

    def add(self, other: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over what was found elsewhere, its fields by name."""
        for name, values in other.items():
            getattr(self, name).update(values)


@dataclass(frozen=True)
class Shard:
    """A shard that is to be made: its file's name, and its images by id."""

    name: str
    copies: tuple[Copies, ...]

    def facts(self, preprocessing: Preprocessing) -> list[str]:
        """What decides the decoded shard, as text."""
        kept = [(group.image_id, group.kept) for group in self.copies]
        return [
            values_of(preprocessing.settings()),
            *(repr((i, image.path, image.label, image.coarse)) for i, image in kept),
        ]


def image_ids_of(images: Sequence[RawImage], limit: int) -> tuple[list[str], dict[str, str]]:
    """SHA-256 (hex) of each raw file, and by id why some of them cannot be read.

    A file of more than `limit` bytes is one of these, and is not read.
    Files are read in chunks, by the hash of their paths, and a chunk whose files all lie where they
    lay is not read again: their sizes, times of modification and change, and inodes are as before.
    Git's index and DVC go by the same signs.
    """
    chunks: dict[int, list[RawImage]] = {}
    count = 1 << max(0, (len(images) // _CHUNK).bit_length())
    for image in images:
        place = shard_of(hashlib.sha256(image.path.encode()).hexdigest(), count)
        chunks.setdefault(place, []).append(image)
    actions = [
        Action((chunk, limit), None if (signs := _signs(chunk)) is None else [*signs, str(limit)])
        for chunk in chunks.values()
    ]
    hashed = action_cache.do(hash_files, actions, title="hash")
    pairs = zip(chain(*chunks.values()), chain(*hashed), strict=True)
    found = {image.path: (image_id, reason) for image, (image_id, reason) in pairs}
    ids = [found[image.path][0] for image in images]
    return ids, {image_id: reason for image_id, reason in found.values() if reason}


def written_down(images: Sequence[RawImage], folder: Path) -> list[RawImage]:
    """The same images, those without a file written to the folder: read twice, made once."""
    folder.mkdir()
    made = [image for image in images if image.file is None]
    tasks = [(image, folder / str(number)) for number, image in enumerate(made)]
    files = dict(parallel_map(_write_down, tasks, title="draw"))
    fields = ((i.path, i.label, i.coarse, i.split, files.get(i.path, i.file)) for i in images)
    return [RawImage(*each) for each in fields]


def _write_down(task: tuple[RawImage, Path]) -> tuple[str, Path]:
    image, file = task
    file.write_bytes(image.read())
    return image.path, file


def hash_files(task: tuple[Sequence[RawImage], int]) -> list[tuple[str, str | None]]:
    """SHA-256 (hex) of each raw file, read now, and why it cannot be read, or None."""
    images, limit = task
    return [image.identify(limit) for image in images]


def _signs(images: Sequence[RawImage]) -> list[str] | None:
    """By what files are known; None if they are no files, or one was written moments ago."""
    settled = time.time_ns() - SETTLED
    try:
        found = [(image.file.absolute(), os.stat(image.file)) for image in images if image.file]
    except OSError:
        return None  # whoever reads it says so
    times = [(stat.st_mtime_ns, stat.st_ctime_ns) for _, stat in found]
    if len(found) < len(images) or max(chain(*times), default=0) > settled:
        return None
    return [
        f"{file} {stat.st_size} {then} {stat.st_ino}"
        for (file, stat), then in zip(found, times, strict=True)
    ]


def shards_of(copies: Sequence[Copies], shards: int) -> list[Shard]:
    """The images of each of so many shards, in order; some may hold none."""
    members: list[list[Copies]] = [[] for _ in range(shards)]
    for group in sorted(copies, key=lambda group: group.image_id):
        members[shard_of(group.image_id, shards)].append(group)
    return [Shard(shard_name(n, shards), tuple(own)) for n, own in enumerate(members)]


def decode_shard(task: tuple[Shard, Preprocessing, Path]) -> dict[str, dict[str, str]]:
    """Write a shard's canonical images, still without splits.

    Parameters
    ----------
    task
        The shard, how its images are prepared, and the file to write.

    Returns
    -------
    dict
        The fields of `Decoded`.

    Raises
    ------
    DataError, NotInstalled, OutOfMemory
        Names an image that has changed, that something optional would decode, or for which memory
        does not suffice: none is a fact about it.
    """
    shard, preprocessing, file = task
    found, rows = Decoded(), []
    for image_id, image in ((group.image_id, group.kept) for group in shard.copies):
        done = prepare(image, preprocessing)
        if done.image_id != image_id:
            raise DataError(f"{image.path} was changed while it was read; run again")
        if done.jpeg is None:
            found.reasons[image_id] = str(done.reason)
            continue
        if done.notes:
            found.notes[image_id] = done.notes
        jpeg = done.jpeg
        # Of the canonical image, so that whoever has the shard can compute it again.
        with Image.open(io.BytesIO(jpeg)) as prepared:
            found.hashes[image_id] = perceptual_hash(prepared)
        row = (image_id, image.path, image.label, image.coarse, found.hashes[image_id], jpeg)
        rows.append(dict(zip(_DECODED_SCHEMA.names, row, strict=True)))
    write_table(file, pa.Table.from_pylist(rows, schema=_DECODED_SCHEMA))
    return asdict(found)


def preprocessing_of(params: PrepareParams) -> Preprocessing:
    """How raw images are prepared."""
    return Preprocessing(
        params.image_size, params.jpeg_quality, params.max_pixels, params.max_file_bytes, SRGB
    )


# The decoded shard, splits by image id, how its images were prepared, and the file to write.
Finish = tuple[Path, Mapping[str, str], Preprocessing, Path]


def finish_shard(task: Finish) -> None:
    """Write a shard with the splits of its images, without those that have none."""
    decoded, splits, preprocessing, file = task
    table = read_table(decoded, _DECODED_SCHEMA.names)
    column: list[Any] = [splits.get(i) for i in table.column("image_id").to_pylist()]
    table = table.append_column("split", pa.array(column, pa.string()))
    table = table.filter(table.column("split").is_valid()).select(IMAGE_SCHEMA.names)
    write_table(file, table.cast(IMAGE_SCHEMA).combine_chunks(), preprocessing.settings())
