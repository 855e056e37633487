"""From raw files to prepared shards: the pieces of work that are shared out to processes.

A shard is built in two steps, because its images' splits depend on all other shards. `decode_shard`
depends on the shard's own raw files alone; `finish_shard` adds what was decided in between.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
from PIL import Image

from grocery.core.errors import memory_for
from grocery.core.params import PrepareParams
from grocery.data.duplicates import Copies, perceptual_hash
from grocery.data.raw import RawImage
from grocery.images.decoding import UnreadableImage, canonical, decode
from grocery.shards import IMAGE_SCHEMA, read_table, write_table

# A decoded shard lacks the splits only.
_DECODED_SCHEMA = pa.schema([column for column in IMAGE_SCHEMA if column.name != "split"])


@dataclass(frozen=True)
class Held:
    """What an earlier shard holds.

    Attributes
    ----------
    hashes, splits
        Perceptual hash and split of each image, by image id.
    same
        Whether these are the images of the shard to be made, from the same files.
    """

    hashes: dict[str, str]
    splits: dict[str, str]
    same: bool


@dataclass(frozen=True)
class Decoded:
    """What decoding a shard found, by image id.

    Attributes
    ----------
    hashes
        Perceptual hashes of the readable images.
    reasons
        Why the others cannot be read.
    """

    hashes: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


def hash_files(images: Sequence[RawImage]) -> list[str]:
    """SHA-256 (hex) of each raw file."""
    return [hashlib.sha256(image.read()).hexdigest() for image in images]


def canonical_image(data: bytes, params: PrepareParams) -> bytes:
    """A raw file's canonical image.

    Raises
    ------
    UnreadableImage
        See `grocery.images.decoding.decode`.
    """
    image = decode(data, max_pixels=params.max_pixels)
    return canonical(image, size=params.image_size, quality=params.jpeg_quality)


def held(copies: Sequence[Copies], earlier: Path) -> Held:
    """Look up what an earlier shard holds, to be compared with the images it should hold now."""
    wanted = sorted((g.image_id, g.kept.path, g.kept.label, g.kept.coarse) for g in copies)
    table = read_table(earlier, ["image_id", "path", "label", "coarse", "phash", "split"])
    *facts, hashes, splits = (column.to_pylist() for column in table.columns)
    ids = facts[0]
    return Held(
        dict(zip(ids, hashes, strict=True)),
        dict(zip(ids, splits, strict=True)),
        same=list(zip(*facts, strict=True)) == wanted,
    )


def decode_shard(
    task: tuple[str, list[Copies], Path | None, Mapping[str, str]],
    *,
    params: PrepareParams,
    folder: Path,
) -> Decoded:
    """Write a shard's canonical images, still without splits.

    Parameters
    ----------
    task
        The shard's file name and its images, in any order; a shard that was made in the same way
        before, or None, whose images need not be decoded again; and the ids of images that could
        not be read then, with the reasons.
    params
        Size, quality and limits.
    folder
        Where to write the file.
    """
    name, copies, earlier, reasons = task
    found = Decoded()
    known = _earlier_images(earlier) if earlier else {}
    rows = []
    for group in sorted(copies, key=lambda group: group.image_id):
        image = group.kept
        try:
            if group.image_id in reasons:
                raise UnreadableImage(reasons[group.image_id])
            phash, jpeg = known.get(group.image_id) or _decoded(image, params)
        except UnreadableImage as error:
            found.reasons[group.image_id] = str(error)
            continue
        found.hashes[group.image_id] = phash
        rows.append(
            {
                "image_id": group.image_id,
                "path": image.path,
                "label": image.label,
                "coarse": image.coarse,
                "phash": phash,
                "image": jpeg,
            }
        )
    write_table(folder / name, pa.Table.from_pylist(rows, schema=_DECODED_SCHEMA))
    return found


def _decoded(image: RawImage, params: PrepareParams) -> tuple[str, bytes]:
    """A raw image's perceptual hash and canonical image."""
    with memory_for(image.path):
        jpeg = canonical_image(image.read(), params)
    # Of the canonical image, so that whoever has the shard can compute it again.
    with Image.open(io.BytesIO(jpeg)) as prepared:
        return perceptual_hash(prepared), jpeg


def _earlier_images(shard: Path) -> dict[str, tuple[str, bytes]]:
    """Perceptual hash and canonical image of each image in a prepared shard."""
    table = read_table(shard, ["image_id", "phash", "image"])
    columns = (table.column(name).to_pylist() for name in ("image_id", "phash", "image"))
    return {image_id: (phash, jpeg) for image_id, phash, jpeg in zip(*columns, strict=True)}


def finish_shard(
    task: tuple[str, Mapping[str, str], Path | None], *, decoded: Path, output: Path
) -> None:
    """Write a shard with the splits of its images, without those that have none.

    Parameters
    ----------
    task
        The shard's file name; split by id of the images that stay; and an earlier shard that
        holds these images, so that it was not decoded, else None.
    decoded, output
        Folder that `decode_shard` wrote to, and folder of the finished shards.
    """
    name, splits, earlier = task
    table = read_table(earlier or decoded / name, _DECODED_SCHEMA.names)
    column = [splits.get(image_id) for image_id in table.column("image_id").to_pylist()]
    table = table.append_column("split", pa.array(column, pa.string()))
    table = table.filter(table.column("split").is_valid()).select(IMAGE_SCHEMA.names)
    write_table(output / name, table.cast(IMAGE_SCHEMA).combine_chunks())
