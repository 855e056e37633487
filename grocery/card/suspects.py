"""Finds labels that are probably wrong: those that an image's look-alikes contradict.

Each labelled image asks its nearest neighbours, by cosine on centred colour descriptors. A vote
weighs the inverse fourth power of the distance, so that another photograph of the same thing says
more than many of the same shelf (distance-weighted neighbours: Dudani, IEEE Trans. SMC 1976; as a
test of labels: Wilson's editing, IEEE Trans. SMC 1972).

A dataset of more than `MOST` labelled images is divided by content hash, and each part is looked at
by itself. So the work grows with the number of images and not with its square, memory does not grow
at all, and one changed image changes one part, unless the number of parts changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from math import ceil, log2
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from grocery import action_cache
from grocery.action_cache import Action, values_of
from grocery.card.numbers import Suspect
from grocery.core.files import digest
from grocery.core.linear import unit_length
from grocery.features.colour import DIMENSIONS, colour_descriptor
from grocery.images.decoding import pixels
from grocery.parallel import parallel_map
from grocery.shards import read_table, shard_of

POWER = 4
# Nearer than this are near duplicates, and equally near.
LEAST_DISTANCE = 1e-3
# Neighbours that are named as witnesses.
WITNESSES = 3
# Labelled images, about, that are compared with each other.
MOST = 8_192

# Fixed, so that neither memory nor the order of a sum depends on the number of workers.
_BLOCK = 1024


def find_suspects(
    shards: Sequence[Path], *, labelled: int, neighbors: int, agreement: float
) -> list[Suspect]:
    """Look for wrong labels among the `labelled` images of all prepared shards; see `suspects`.

    The shards are a power of two, in order. Parts that have not changed are not looked at again.
    """
    parts = parts_of(labelled)
    together = max(1, len(shards) // parts)
    settings = values_of({"neighbors": neighbors, "agreement": agreement, "parts": parts})
    digests = list(parallel_map(digest, shards, title="compare", prefer="threads"))
    actions = [
        Action(tuple(shards[i : i + together]), [settings, *digests[i : i + together]])
        for i in range(0, len(shards), together)
    ]
    look = partial(_suspects_of, parts=parts, neighbors=neighbors, agreement=agreement)
    found = action_cache.do(look, actions, title="look for suspects")
    return sorted((Suspect(**values) for some in found for values in some), key=_surest)


def parts_of(labelled: int) -> int:
    """In how many parts so many labelled images are looked at: a power of two."""
    return 1 << max(0, ceil(log2(max(1, labelled) / MOST)))


def _suspects_of(
    shards: Sequence[Path], *, parts: int, neighbors: int, agreement: float
) -> list[dict[str, Any]]:
    """What is suspected in some shards, which hold one part or several whole ones."""
    described = list(parallel_map(_describe, shards, title="describe"))
    rows = pa.concat_tables([table for table, _ in described])
    descriptors = np.concatenate([d for _, d in described])
    part = np.array([shard_of(i, parts) for i in rows.column("image_id").to_pylist()], np.intp)
    return [
        asdict(suspect)
        for number in np.unique(part)
        for suspect in suspects(
            rows.filter(pa.array(part == number)),
            descriptors[part == number],
            neighbors=neighbors,
            agreement=agreement,
        )
    ]


def _surest(suspect: Suspect) -> tuple[float, str]:
    return -suspect.agreement, suspect.path


def suspects(
    rows: pa.Table, descriptors: NDArray[np.float32], *, neighbors: int, agreement: float
) -> list[Suspect]:
    """List the labels that neighbours contradict, the surest first.

    Parameters
    ----------
    rows, descriptors
        ``image_id``, ``path`` and ``label`` of n labelled images; their descriptors, shape (n, d).
    neighbors
        Neighbours that are asked; all others where there are fewer.
    agreement
        Least share of the votes that one and the same other label must have.
    """
    ids, paths, labels = (rows.column(name).to_pylist() for name in ("image_id", "path", "label"))
    if len(ids) < 2:
        return []
    names, numbers = np.unique(np.array(labels), return_inverse=True)
    nearest, distance = _neighbours(descriptors, min(neighbors, len(ids) - 1))
    weights = np.maximum(distance, LEAST_DISTANCE).astype(np.float64) ** -POWER
    # A wrong label also speaks against the right ones around it. So there is a first round, and
    # whoever is suspected then has no vote in the second.
    _, share = _verdicts(nearest, weights, numbers, len(names))
    weights[(share >= agreement)[nearest]] = 0
    other, share = _verdicts(nearest, weights, numbers, len(names))
    found = []
    for row in np.flatnonzero(share >= agreement):
        agreeing = (numbers[nearest[row]] == other[row]) & (weights[row] > 0)
        found.append(
            Suspect(
                image_id=ids[row],
                path=paths[row],
                label=labels[row],
                suggested=str(names[other[row]]),
                agreement=round(float(share[row]), 6),
                witnesses=[ids[i] for i in nearest[row][agreeing][:WITNESSES]],
            )
        )
    return sorted(found, key=_surest)


def _describe(shard: Path) -> tuple[pa.Table, NDArray[np.float32]]:
    """Labelled rows of a shard and their descriptors, shape (n, d)."""
    table = read_table(shard, ["image_id", "path", "label", "image"])
    table = table.filter(table.column("label").is_valid())
    descriptors = np.zeros((len(table), DIMENSIONS), np.float32)
    for row, jpeg in enumerate(table.column("image")):
        descriptors[row] = colour_descriptor(pixels(jpeg.as_py()))
    return table.drop_columns(["image"]), descriptors


def _neighbours(
    descriptors: NDArray[np.float32], count: int
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Nearest `count` others of each point, nearest first, and their cosine distances, (n, k)."""
    points = unit_length(descriptors - descriptors.mean(axis=0))
    blocks = []
    for start in range(0, len(points), _BLOCK):
        block = points[start : start + _BLOCK]
        distance = 1 - block @ points.T
        distance[np.arange(len(block)), np.arange(start, start + len(block))] = np.inf
        nearest = np.sort(np.argpartition(distance, count - 1, axis=1)[:, :count], axis=1)
        near = np.take_along_axis(distance, nearest, axis=1)
        order = np.argsort(near, axis=1, kind="stable")
        blocks.append([np.take_along_axis(values, order, axis=1) for values in (nearest, near)])
    nearest, near = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return nearest, near


def _verdicts(
    nearest: NDArray[np.intp], weights: NDArray[np.float64], numbers: NDArray[np.intp], names: int
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The other label with most votes for each image, and its share of all votes; both (n,)."""
    other, share = np.zeros(len(nearest), np.intp), np.zeros(len(nearest))
    for start in range(0, len(nearest), _BLOCK):
        rows = slice(start, start + _BLOCK)
        voters = nearest[rows]
        at = np.arange(len(voters))
        votes = np.zeros((len(voters), names))
        np.add.at(votes, (at[:, None], numbers[voters]), weights[rows])
        total = votes.sum(axis=1)
        votes[at, numbers[rows]] = 0
        other[rows] = votes.argmax(axis=1)
        share[rows] = np.divide(votes.max(axis=1), total, out=np.zeros(len(at)), where=total > 0)
    return other, share
