"""A world of noisy pictures, each brighter in one colour, and a model of it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from grocery.classifier.fit_head import fit_head
from grocery.data.duplicates import perceptual_hash
from grocery.features.encoder import ColourDescriptor, Encoder
from grocery.features.projection import fit_projection
from grocery.images.decoding import canonical, pixels
from grocery.images.preprocessing import Preprocessing
from grocery.reference.image_statistics import image_statistics
from grocery.reference.reference import Reference
from grocery.release.model import Model
from samples import image_row, shard_files

CLASSES = ["blue", "green", "red"]


def pictures(
    seed: int, n: int, light: float = 1.0, shares: Sequence[float] = (1 / 3, 1 / 3, 1 / 3)
) -> tuple[list[bytes], list[int]]:
    """Noisy pictures in which one channel is somewhat brighter than the others; and which one."""
    rng = np.random.default_rng(seed)
    jpegs, truth = [], rng.choice(3, size=n, p=shares).tolist()
    for one in truth:
        colour = rng.normal(110, 25, 3)
        colour[2 - one] += 40
        noisy = rng.normal(colour * light, 20 * light, (32, 32, 3)).clip(0, 255)
        jpegs.append(canonical(Image.fromarray(noisy.astype(np.uint8)), size=32, quality=90))
    return jpegs, truth


def write_release(folder: Path) -> Model:
    """A model of 150 pictures, with the reference of 300 others."""
    jpegs, truth = pictures(0, 150)
    describe = ColourDescriptor()
    raw = np.stack([describe(pixels(jpeg)) for jpeg in jpegs])
    projection = fit_projection(raw, dimensions=8, whitening=1)
    encoder = Encoder({"encoder": "colour"}, describe, projection)
    head = fit_head(encoder.project(raw), np.array(truth), classes=3, C=1.0)
    model = Model(encoder, head, CLASSES, {}, Preprocessing(32, 90, 1_000_000))
    model.save(folder)
    held_out, labels = pictures(1, 300)
    features = model.features(held_out)
    seen = {"features": features, "logits": head.logits(features)}
    seen |= {"image_statistics": image_statistics(held_out)}
    said, names = model.predict_proba(held_out), [CLASSES[one] for one in labels]
    reference = Reference.from_predictions(said, names, CLASSES, model.digest, **seen)
    reference.save(folder / "reference")
    return model


def write_shards(folder: Path, sizes: dict[str, int]) -> None:
    """One shard with so many pictures of each split."""
    rows = [
        image_row(jpeg, f"{split}/{number}.jpg", CLASSES[truth], split=split)
        | {"phash": perceptual_hash(Image.fromarray(pixels(jpeg)))}
        for seed, (split, size) in enumerate(sizes.items(), start=20)
        for number, (jpeg, truth) in enumerate(zip(*pictures(seed, size), strict=True))
    ]
    shard_files(folder, rows, 1)
