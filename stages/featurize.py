"""Fit the encoder on training images, and write the features of every image, shard by shard."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

from grocery.arrays import save_arrays
from grocery.compute import parallel_map
from grocery.data.shards import shard_paths
from grocery.errors import one_sentence
from grocery.features.encoder import KIND
from grocery.features.fit_encoder import encode_shard, fit_encoder
from grocery.files import replacing
from grocery.params import FeaturizeParams, load
from grocery.tracking import artifacts
from grocery.tracking.artifacts import Output
from grocery.tracking.run import stage_run

SHARDS = Path("data/prepared/shards")
ENCODER = Path("models/encoder")
FEATURES = Path("data/features")


def run(
    params: FeaturizeParams, *, shards: Path, encoder: Path, features: Path, workers: int
) -> dict[str, Any]:
    """Write the encoder to `encoder` and one feature shard a shard to `features`."""
    paths = shard_paths(shards)
    with replacing(features) as partial_features, replacing(encoder) as partial_encoder:
        scratch = partial_features / "raw"
        fitted = fit_encoder(paths, params, scratch=scratch, workers=workers)
        fitted.save_backbone(partial_encoder)
        digest = save_arrays(partial_encoder, KIND, fitted.arrays(), fitted.settings)
        encode = partial(encode_shard, encoder=fitted, scratch=scratch, output=partial_features)
        for _ in parallel_map(encode, paths, workers=workers, title="encode"):
            pass
        shutil.rmtree(scratch)
    return {"dimensions": fitted.dimensions, "encoder_digest": digest}


def main() -> None:
    """Run the stage on the paths of dvc.yaml."""
    with one_sentence("featurize"):
        params = load()
        inputs: dict[str | Output, Path] = {artifacts.DATASET: SHARDS}
        if params.featurize.encoder == "onnx":
            inputs["backbone"] = Path(params.featurize.onnx.path)
        with stage_run(
            "featurize",
            settings=params.tracking,
            config={"featurize": params.featurize.model_dump()},
            inputs=inputs,
            tags=[params.data.source],
        ) as tracked:
            result = run(
                params.featurize,
                shards=SHARDS,
                encoder=ENCODER,
                features=FEATURES,
                workers=params.compute.workers,
            )
            tracked.summary(result)
            metadata = result | params.featurize.model_dump()
            tracked.artifact(artifacts.ENCODER, ENCODER, metadata)
            tracked.artifact(artifacts.FEATURES, FEATURES, metadata)


if __name__ == "__main__":
    main()
