"""Fitting an encoder on a sample of the training images, and encoding shards with it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grocery.core.arrays import save_arrays
from grocery.core.draws import draw, generator_of
from grocery.core.errors import DataError, ParamsError
from grocery.core.params import EncoderParams, FeaturizeParams
from grocery.features.backbone import Backbone
from grocery.features.encoder import (
    KIND,
    ColourDescriptor,
    Descriptor,
    DescriptorsInARow,
    Encoder,
    side_by_side,
)
from grocery.features.fisher import LOCAL_DIMENSIONS, Grid, fit_fisher, local_descriptors
from grocery.features.projection import fit_projection
from grocery.images.decoding import pixels
from grocery.parallel import parallel_map
from grocery.shards import (
    feature_table,
    read_columns,
    read_preprocessing,
    read_table,
    write_table,
)

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]

_BLANK = np.zeros((32, 32, 3), np.uint8)  # an image that is described to see how long a vector is
_BATCH = 64  # images whose raw vectors are held at once
_SAMPLED_DESCRIPTORS = 240_000  # local descriptors that the vocabulary is fitted on, in all
_SAMPLED_PER_IMAGE = 200


def fit_encoder(
    shards: Sequence[Path],
    *,
    params: FeaturizeParams,
    backbones: Sequence[Path],
    sample: frozenset[str],
    scratch: Path,
    folder: Path,
) -> None:
    """Fit the encoder that `params` name, and write it to a folder without its networks.

    It is fitted on a sample of the training images (see `fit_sample`), whose raw vectors are left
    in `scratch` for `encode_shard` to use again.

    Raises
    ------
    DataError
        When there are fewer than two training images.
    ParamsError
        When the encoders have too many dimensions together.
    """
    if len(sample) < 2:
        raise DataError(f"{shards[0].parent} holds {len(sample)} training images; 2 are needed")
    found = list(_descriptors(shards, params, backbones, sample))
    row = DescriptorsInARow([describe for _, describe in found])
    scratch.mkdir(parents=True, exist_ok=True)
    keep = partial(_describe_shard, sample=sample, describe=row, scratch=scratch)
    kept = list(parallel_map(keep, shards, title="describe"))
    raw = np.concatenate([np.load(path, allow_pickle=False) for path in kept])
    parts, weights, start = [], [], 0
    for settings, describe in found:
        kind = settings["encoder"]
        how: EncoderParams = getattr(params, kind)
        end = start + len(describe(_BLANK))
        # Whitened to as many dimensions as there are points, any points are equally far from each
        # other: half as many leave a geometry.
        dimensions = min(how.dimensions, max(1, len(raw) // 2))
        own = np.ascontiguousarray(raw[:, start:end])
        projection = fit_projection(own, dimensions=dimensions, whitening=how.whitening)
        if not projection.components.size:
            raise DataError(f"the encoder {kind} gives all training images the same vector")
        parts.append(Encoder(settings, describe, projection))
        weights.append(how.weight / (len(backbones) if kind == "onnx" else 1))
        start = end
    try:
        encoder = side_by_side(parts, weights) if len(parts) > 1 else parts[0]
    except ValueError as error:
        raise ParamsError(f"featurize: {error}") from None
    description = {
        "settings": encoder.settings,
        "featurize": params.model_dump(),
        "preprocessing": read_preprocessing(shards),
    }
    save_arrays(folder, KIND, encoder.arrays(), description)


def _descriptors(
    shards: Sequence[Path],
    params: FeaturizeParams,
    backbones: Sequence[Path],
    sample: frozenset[str],
) -> Iterator[tuple[dict[str, Any], Descriptor]]:
    """Each descriptor, with what its encoder's settings say of it; fitted where it can be."""
    for kind in params.encoders:
        settings: dict[str, Any] = {"encoder": kind}
        if kind == "fisher":
            how, seed = params.fisher, params.seed
            grid = Grid(how.cell, list(how.scales), how.chroma, how.align)
            per_image = max(1, min(_SAMPLED_PER_IMAGE, _SAMPLED_DESCRIPTORS // len(sample)))
            some = partial(_sample_shard, sample=sample, per_image=per_image, grid=grid, seed=seed)
            fisher = fit_fisher(
                np.concatenate(list(parallel_map(some, shards, title="sample"))),
                grid,
                dimensions=how.descriptor_dimensions,
                components=how.components,
                rng=generator_of("vocabulary", seed),
            )
            yield settings | {"grid": asdict(grid)}, fisher
        elif kind == "colour":
            yield settings, ColourDescriptor()
        else:
            given = params.onnx.model_dump(
                include={"input_size", "mean", "std", "output", "square_root"}
            )
            for path in backbones:
                network = Backbone.from_file(path, **given)
                yield settings | {"backbone": network.settings()}, network


def encode_shard(task: tuple[Path, Path], *, encoder: Encoder, scratch: Path) -> None:
    """Write the feature shard of an image shard; a task is both paths.

    Raw vectors that `fit_encoder` left in `scratch` are used as they are.
    """
    shard, file = task
    known = _load_raw(shard, scratch)
    ids, jpegs = read_table(shard, ["image_id", "image"]).columns
    ids = ids.to_pylist()
    features = np.empty((len(ids), encoder.dimensions), np.float32)
    for start in range(0, len(ids), _BATCH):
        batch = slice(start, start + _BATCH)
        raw = [
            known[i] if i in known else encoder.describe(pixels(jpeg.as_py()))
            for i, jpeg in zip(ids[batch], jpegs[batch], strict=True)
        ]
        features[batch] = encoder.project(np.stack(raw))
    write_table(file, feature_table(ids, features))


def fit_sample(shards: Sequence[Path], params: FeaturizeParams) -> frozenset[str]:
    """Ids of the training images that the encoder is fitted on.

    Those `fit_images` that are drawn first, so a new image rarely changes them.
    """
    rows = read_columns(shards[0].parent, ["image_id", "split"]).to_pylist()
    training = [row["image_id"] for row in rows if row["split"] == "train"]
    place = {i: draw("encoder", params.seed, i) for i in training}
    return frozenset(sorted(training, key=place.__getitem__)[: params.fit_images])


def image_digests(shard: Path) -> dict[str, str]:
    """SHA-256 (hex) of each canonical image of a shard, by image id."""
    ids, images = (
        column.to_pylist() for column in read_table(shard, ["image_id", "image"]).columns
    )
    return {i: hashlib.sha256(jpeg).hexdigest() for i, jpeg in zip(ids, images, strict=True)}


def sample_digests(images: Sequence[Mapping[str, str]], sample: frozenset[str]) -> list[str]:
    """The images that the encoder is fitted on, with their content, by shard.

    A shard ends with a line of its own: which shard an image is in decides the order of sums.
    """
    return [
        line
        for shard in images
        for line in (*(f"{i} {sha256}" for i, sha256 in shard.items() if i in sample), "")
    ]


def _sampled_images(shard: Path, sample: frozenset[str]) -> list[tuple[str, Pixels]]:
    ids, jpegs = (column.to_pylist() for column in read_table(shard, ["image_id", "image"]).columns)
    return [(i, pixels(jpeg)) for i, jpeg in zip(ids, jpegs, strict=True) if i in sample]


def _sample_shard(
    shard: Path, *, sample: frozenset[str], per_image: int, grid: Grid, seed: int
) -> Floats:
    """Some local descriptors of a shard's sampled images, each image with its own generator."""
    drawn = [np.empty((0, LOCAL_DIMENSIONS), np.float32)]
    for image_id, image in _sampled_images(shard, sample):
        found = local_descriptors(image, grid)
        rng = generator_of("descriptors", seed, image_id)
        drawn.append(found[rng.choice(len(found), min(per_image, len(found)), replace=False)])
    return np.concatenate(drawn)


def _describe_shard(
    shard: Path, *, sample: frozenset[str], describe: Descriptor, scratch: Path
) -> Path:
    """Leave the raw vectors of a shard's sampled images in `scratch`."""
    images = dict(_sampled_images(shard, sample))
    length = len(describe(_BLANK))
    raw = np.empty((len(images), length), np.float32)
    for row, image in enumerate(images.values()):
        raw[row] = describe(image)
    ids = np.array(list(images), dtype="S64")
    np.save(scratch / f"{shard.stem}.ids.npy", ids, allow_pickle=False)
    np.save(scratch / f"{shard.stem}.raw.npy", raw, allow_pickle=False)
    return scratch / f"{shard.stem}.raw.npy"


def _load_raw(shard: Path, scratch: Path) -> dict[str, Floats]:
    if not (scratch / f"{shard.stem}.ids.npy").is_file():
        return {}
    ids = np.load(scratch / f"{shard.stem}.ids.npy", allow_pickle=False)
    raw = np.load(scratch / f"{shard.stem}.raw.npy", allow_pickle=False, mmap_mode="r")
    return {image_id.decode(): vector for image_id, vector in zip(ids, raw, strict=True)}
