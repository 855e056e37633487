"""Fit the encoder on training images, and write the features of every image, shard by shard."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from grocery import action_cache
from grocery.action_cache import Action, values_of
from grocery.core.arrays import load_arrays
from grocery.core.files import digest, write_bytes
from grocery.core.params import FeaturizeParams
from grocery.core.stage import Report, reads, writes
from grocery.features.backbone import backbone_name, backbones_at
from grocery.features.encoder import KIND, Encoder
from grocery.features.fit_encoder import (
    encode_shard,
    fit_encoder,
    fit_sample,
    image_digests,
    sample_digests,
)
from grocery.parallel import parallel_map
from grocery.shards import read_preprocessing, shard_paths


@dataclass(frozen=True)
class Paths:
    """What the stage reads and writes."""

    shards: Path = reads("data/prepared/shards")
    backbone: Path = reads("${featurize.onnx.path}")
    encoder: Path = writes("models/encoder")
    features: Path = writes("data/features")


def run(params: FeaturizeParams, paths: Paths, report: Report) -> dict[str, Any]:
    """Write the encoder, and one feature shard per shard.

    The encoder depends on the images of its sample alone, and a feature shard on the encoder and
    its own images alone.
    """
    shards = shard_paths(paths.shards)
    images = list(parallel_map(image_digests, shards, title="compare", prefer="threads"))
    sample = fit_sample(shards, params)
    settings = values_of(params.model_dump() | {"preprocessing": read_preprocessing(shards)})
    networks = backbones_at(paths.backbone) if "onnx" in params.encoders else []
    backbone = " ".join(digest(path) for path in networks)

    scratch = paths.features / "raw"
    scratch.mkdir()
    files = tuple(paths.encoder / name for name in ("model.safetensors", "model.json"))
    fit = partial(
        fit_encoder,
        params=params,
        backbones=networks,
        sample=sample,
        scratch=scratch,
        folder=paths.encoder,
    )
    inputs = [settings, backbone, *sample_digests(images, sample)]
    action_cache.do(fit, [Action(shards, inputs, files)], title="fit the encoder")
    arrays, description = load_arrays(paths.encoder, KIND)
    for place, path in enumerate(networks):
        write_bytes(paths.encoder / backbone_name(place), path.read_bytes())
    encoder = Encoder.from_arrays(arrays, description["settings"], paths.encoder)
    identity = digest(files[0])

    encode = partial(encode_shard, encoder=encoder, scratch=scratch)
    encoded = [paths.features / shard.name for shard in shards]
    actions = [
        Action(
            (shard, file),
            [settings, backbone, identity, *(f"{i} {sha256}" for i, sha256 in found.items())],
            (file,),
        )
        for shard, file, found in zip(shards, encoded, images, strict=True)
    ]
    action_cache.do(encode, actions, title="encode")
    shutil.rmtree(scratch)
    return {"dimensions": encoder.dimensions, "encoder_digest": identity}
