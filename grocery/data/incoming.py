"""Batches of incoming images, on which the monitor judges a release.

A dataset that brings no batches gets drills: three small ones cut from its test images, of which
the monitor should let the first pass and sound an alarm for the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from grocery.core.draws import draw
from grocery.core.params import PrepareParams
from grocery.data.build import preprocessing_of
from grocery.images.decoding import pixels
from grocery.images.preprocessing import Preprocessing, prepare
from grocery.images.raw import RawImage
from grocery.shards import BATCH_SCHEMA, DRILL, images_of, read_columns, shard_paths, write_table

# Least and most images of a drill, and the share of the test images that all drills may take.
LEAST_IMAGES, DRILL_IMAGES = 20, 200
DRILL_SHARE = 0.3
# Brightness of the drill "dim".
DIM = 0.35
_DONE = {
    "clean": "nothing was changed",
    "dim": "photographs are darker",
    "shares": "only a third of the classes comes in",
}


def write_batch(
    task: tuple[str, list[RawImage]], *, params: PrepareParams, folder: Path
) -> dict[str, list[dict[str, str]]]:
    """Decode a batch, of a name and images, and write it to ``NAME.parquet``, sorted by path.

    Gives ``quarantined``, with ``path`` and ``reason`` of each image that cannot be read, and where
    something is wrong with others ``noted``, with ``path`` and ``note``.
    """
    name, images = task
    preprocessing = preprocessing_of(params)
    unreadable, noted, rows = [], [], []
    for raw in sorted(images, key=lambda raw: raw.path):
        done = prepare(raw, preprocessing)
        if done.reason is not None:
            unreadable.append({"path": raw.path, "reason": done.reason})
        noted += [{"path": raw.path, "note": note} for note in done.notes]
        row = (done.image_id, raw.path, raw.label, done.jpeg)
        rows.append(dict(zip(BATCH_SCHEMA.names, row, strict=True)))
    _write(folder, name, rows, preprocessing, images[0].drill if images else None)
    return {"quarantined": unreadable} | ({"noted": noted} if noted else {})


def write_drills(shards: Path, *, params: PrepareParams, folder: Path) -> dict[str, int]:
    """Cut the drills from a dataset's test images, and give the number of images of each.

    They keep their ids, so that evaluation can leave them out of what a batch is compared with.
    """
    facts = read_columns(shards, ["image_id", "path", "label", "split"]).to_pylist()
    tests = sorted((f for f in facts if f["split"] == "test"), key=lambda fact: fact["path"])
    drills = choose_drills([row["image_id"] for row in tests], [row["label"] for row in tests])
    wanted = {image_id for image_ids in drills.values() for image_id in image_ids}
    images, how = images_of(shard_paths(shards), wanted), preprocessing_of(params)
    for name, image_ids in drills.items():
        chosen = {image_id: images[image_id] for image_id in image_ids}
        if name == "dim":
            chosen = {image_id: _dimmed(jpeg, how) for image_id, jpeg in chosen.items()}
        rows = [{**f, "image": chosen[f["image_id"]]} for f in tests if f["image_id"] in chosen]
        _write(folder, name, rows, how, _DONE[name])
    return {name: len(image_ids) for name, image_ids in drills.items()}


def choose_drills(image_ids: Sequence[str], labels: Sequence[str]) -> dict[str, list[str]]:
    """Choose each drill's test images by content hash; no image is in two.

    There are none where they would be too small to say anything.
    ``clean`` and ``dim`` are drawn from all images, ``shares`` from a third of the classes.
    """
    size = min(DRILL_IMAGES, int(DRILL_SHARE * len(image_ids) / 3))
    if size < LEAST_IMAGES:
        return {}
    order = sorted(zip(image_ids, labels, strict=True), key=lambda item: draw("drill", item[0]))
    classes = sorted(set(labels), key=lambda name: draw("drill", name))
    favoured = set(classes[: max(1, round(len(classes) / 3))])
    # Last, so that the other two show every class as often as it comes.
    rest = [item for item in order[2 * size :] if item[1] in favoured]
    chosen = {"clean": order[:size], "dim": order[size : 2 * size], "shares": rest[:size]}
    return {name: [image_id for image_id, _ in items] for name, items in chosen.items()}


def _dimmed(jpeg: bytes, preprocessing: Preprocessing) -> bytes:
    levels = [round(DIM * level) for level in range(256)]
    return preprocessing.prepare(Image.fromarray(pixels(jpeg)).point(levels * 3))


def _write(
    folder: Path, name: str, rows: Sequence[dict[str, Any]], how: Preprocessing, drill: str | None
) -> None:
    schema = BATCH_SCHEMA if drill is None else BATCH_SCHEMA.with_metadata({DRILL: drill})
    table = pa.Table.from_pylist(rows, schema=schema)
    write_table(folder / f"{name}.parquet", table, how.settings())
