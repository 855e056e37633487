"""The images of a drill: a dataset's held-out images, as they are and shifted, predicted once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from grocery.classifier.fit_head import calibrate, fit_head
from grocery.classifier.head import Head
from grocery.core.errors import DataError
from grocery.data.near_duplicates import NearDuplicates
from grocery.drill.shifts import SHIFTS, shifted
from grocery.images.decoding import pixels
from grocery.parallel import parallel_map
from grocery.reference.image_statistics import image_statistics
from grocery.release.model import Model
from grocery.shards import images_of, read_columns, shard_paths

# Most bits of the perceptual hash in which near duplicates differ; groups are never divided.
NEAR_DUPLICATE_BITS = 8

# Most images that a head is fitted on which lacks a class.
MAX_TRAINING = 3_000
_C = 10.0
_LEVEL = 0.95
_CHUNK = 50  # images a task

Floats = NDArray[np.float32]
Key = tuple[str, float] | None  # a shift and its strength; None: as they are


@dataclass(frozen=True)
class Seen:
    """What the monitor sees of n images: features (n, d) and image statistics (n, k)."""

    features: Floats
    statistics: Floats


@dataclass(frozen=True)
class HeldOut:
    """The held-out images of a dataset."""

    image_ids: list[str]  # of the n images
    labels: list[str]
    groups: NDArray[np.intp]  # (n,): number of each image's group of near duplicates
    # What is seen of all images as they are, under the key None, and of the first so many under a
    # shift, by the shift's name and strength.
    seen: dict[Key, Seen]


def held_out(
    model: Model, shards: Path, *, images: int, shifts: Collection[str] = tuple(SHIFTS)
) -> HeldOut:
    """Read and predict a dataset's test images, so many `images` also under the named shifts.

    These are chosen by content hash.

    Raises
    ------
    DataError
        When there are no labelled test images.
    """
    rows = labelled_images(shards, "test")
    if not rows:
        raise DataError(f"{shards} holds no labelled test images, so there is nothing to drill on")
    ids = [row["image_id"] for row in rows]
    groups = np.arange(len(ids))
    hashes = [row["phash"] for row in rows]
    for group in NearDuplicates(hashes, max_bits=NEAR_DUPLICATE_BITS).groups():
        groups[group] = group[0]
    jpegs = images_of(shard_paths(shards), ids)
    seen: dict[Key, Seen] = {None: _see(model, jpegs, ids, None)}
    chosen = ids[:images]  # they are in the order of their hashes
    for name, (_, _, strengths) in SHIFTS.items():
        for strength in strengths if name in shifts else ():
            seen[name, strength] = _see(model, jpegs, chosen, (name, strength))
    return HeldOut(ids, [row["label"] for row in rows], groups, seen)


def labelled_images(shards: Path, split: str) -> list[dict[str, str]]:
    """Id, label and perceptual hash of the labelled images of a split, in order of their ids."""
    table = read_columns(shards, ["image_id", "label", "split", "phash"]).to_pylist()
    rows = [row for row in table if row["split"] == split and row["label"] is not None]
    return sorted(rows, key=lambda row: str(row["image_id"]))


def _see(model: Model, jpegs: dict[str, bytes], ids: Sequence[str], key: Key) -> Seen:
    tasks = [
        [(image_id, jpegs[image_id]) for image_id in ids[start : start + _CHUNK]]
        for start in range(0, max(1, len(ids)), _CHUNK)
    ]
    title = "images" if key is None else f"{key[0]} {key[1]:g}"
    look = partial(_look, model=model, key=key)
    parts = list(parallel_map(look, tasks, title=title))
    return Seen(
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.statistics for part in parts]),
    )


def _look(task: list[tuple[str, bytes]], *, model: Model, key: Key) -> Seen:
    jpegs = [jpeg for _, jpeg in task]
    if key is not None:
        jpegs = [
            model.preprocessing.prepare(shifted(Image.fromarray(pixels(jpeg)), *key, image_id))
            for image_id, jpeg in task
        ]
    return Seen(model.features(jpegs), image_statistics(jpegs))


def heads_without(model: Model, shards: Path, classes: Sequence[str]) -> dict[str, Head]:
    """Fit a head for each of some classes that has never seen an image of it.

    It is a logistic regression that learns from the model, so that it is about as good: the
    training images have the classes that the model predicts. Calibration is on the labels of the
    validation images. No image that is of the class, or taken for it, is in either. The encoder
    stays: it was fitted without labels.
    """
    if not classes:
        return {}
    features, labels = {}, {}
    for split in ("train", "val"):
        rows = labelled_images(shards, split)[:MAX_TRAINING]
        ids = [row["image_id"] for row in rows]
        labels[split] = np.array([row["label"] for row in rows])
        features[split] = _see(model, images_of(shard_paths(shards), ids), ids, None).features
    names = np.array(model.classes)
    taught = names[model.head.logits(features["train"]).argmax(axis=1)]
    never = ~np.isin(labels["train"], taught)  # a class that the model never predicts keeps its own
    taught = np.where(never, labels["train"], taught)
    heads = {}
    for left_out in classes:
        fresh = labels["train"] != left_out
        targets = labels | {"train": np.where(fresh, taught, left_out)}
        heads[left_out] = _head_without(left_out, model.classes, features, targets)
    return heads


def _head_without(
    left_out: str,
    classes: Sequence[str],
    features: dict[str, Floats],
    labels: dict[str, NDArray[np.str_]],
) -> Head:
    numbers = {name: number for number, name in enumerate(c for c in classes if c != left_out)}
    known = {split: np.isin(names, list(numbers)) for split, names in labels.items()}
    targets = {
        split: np.array([numbers[name] for name in names[known[split]]], np.int64)
        for split, names in labels.items()
    }
    head = fit_head(features["train"][known["train"]], targets["train"], classes=len(numbers), C=_C)
    return calibrate(head, features["val"][known["val"]], targets["val"], level=_LEVEL)
