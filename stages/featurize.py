"""Fit the encoder on training images, and write the features of every image, shard by shard."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

from grocery.core.arrays import load_arrays, save_arrays
from grocery.core.errors import one_sentence
from grocery.core.files import replacing
from grocery.core.params import FeaturizeParams
from grocery.features.encoder import KIND, Encoder
from grocery.features.fit_encoder import (
    backbone_digest,
    encode_shard,
    fit_encoder,
    fit_sample,
    image_digests,
    sample_digests,
)
from grocery.parallel import engine, parallel_map
from grocery.reuse import Memory, digest_of, maker
from grocery.settings import load
from grocery.shards import shard_paths
from grocery.tracking import artifacts
from grocery.tracking.artifacts import Output
from grocery.tracking.run import stage_run

SHARDS = Path("data/prepared/shards")
ENCODER = Path("models/encoder")
FEATURES = Path("data/features")

ENCODER_FILES = ("model.safetensors", "model.json")


def run(
    params: FeaturizeParams,
    *,
    shards: Path,
    encoder: Path,
    features: Path,
    workers: int,
    memory: Memory | None = None,
) -> dict[str, Any]:
    """Write the encoder to `encoder` and one feature shard a shard to `features`.

    What is there already and would be made again as it is, is kept (see `grocery.reuse`): an
    encoder of the same sample, and the features of shards whose images have not changed.
    """
    paths = shard_paths(shards)
    memory, here = memory or Memory(), maker([params.model_dump(), backbone_digest(params)])
    compared = parallel_map(
        image_digests, paths, workers=workers, title="compare", prefer="threads"
    )
    images = list(compared)
    sample = fit_sample(paths, params)
    fitting = digest_of([here, *sample_digests(images, sample)])
    with replacing(features) as partial_features, replacing(encoder) as partial_encoder:
        scratch = partial_features / "raw"
        scratch.mkdir()
        fitted = _kept_encoder(memory, encoder, fitting, params) or fit_encoder(
            paths, params, sample=sample, scratch=scratch, workers=workers
        )
        fitted.save_backbone(partial_encoder)
        arrays_sha256 = save_arrays(partial_encoder, KIND, fitted.arrays(), fitted.settings)
        wanted = {
            path: digest_of(
                [here, arrays_sha256, *(f"{i} {sha256}" for i, sha256 in found.items())]
            )
            for path, found in zip(paths, images, strict=True)
        }
        changed = [
            path
            for path in paths
            if not memory.keep(features / path.name, partial_features / path.name, wanted[path])
        ]
        encode = partial(encode_shard, encoder=fitted, scratch=scratch, output=partial_features)
        for _ in parallel_map(encode, changed, workers=workers, title="encode"):
            pass
        shutil.rmtree(scratch)
    for path in changed:
        memory.note(features / path.name, wanted[path])
    for name in ENCODER_FILES:
        memory.note(encoder / name, fitting)
    memory.save()
    return {"dimensions": fitted.dimensions, "encoder_digest": arrays_sha256}


def _kept_encoder(
    memory: Memory, folder: Path, fitting: str, params: FeaturizeParams
) -> Encoder | None:
    """The encoder that lies in a folder, if it is the one that would be fitted."""
    if not all(memory.made(folder / name, fitting) for name in ENCODER_FILES):
        return None
    arrays, settings = load_arrays(folder, KIND)
    return Encoder.from_arrays(arrays, settings, Path(params.onnx.path))


def main() -> None:
    """Run the stage on the paths of dvc.yaml."""
    with one_sentence("featurize"):
        params = load()
        inputs: dict[str | Output, Path] = {artifacts.DATASET: SHARDS}
        if params.featurize.encoder == "onnx":
            inputs["backbone"] = Path(params.featurize.onnx.path)
        with (
            stage_run(
                "featurize",
                settings=params.tracking,
                config={"featurize": params.featurize.model_dump()},
                inputs=inputs,
                tags=[params.data.source],
            ) as tracked,
            engine(params.compute.backend, params.compute.address),
        ):
            result = run(
                params.featurize,
                shards=SHARDS,
                encoder=ENCODER,
                features=FEATURES,
                workers=params.compute.workers,
                memory=Memory.of_stage("featurize"),
            )
            tracked.summary(result)
            metadata = result | params.featurize.model_dump()
            tracked.artifact(artifacts.ENCODER, ENCODER, metadata)
            tracked.artifact(artifacts.FEATURES, FEATURES, metadata)


if __name__ == "__main__":
    main()
