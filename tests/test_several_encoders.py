"""Several encoders side by side: small networks of test_onnx.py, and the colour histogram."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grocery.core.arrays import load_arrays, save_arrays
from grocery.core.errors import ModelError, ParamsError
from grocery.features.backbone import Backbone, backbones_at
from grocery.features.encoder import KIND, ColourDescriptor, Encoder, side_by_side
from grocery.features.projection import fit_projection
from test_onnx import FLAT, HOW, network, saved

RNG = np.random.default_rng(3)
IMAGES = [RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8) for _ in range(12)]


def parts(folder: Path) -> list[Encoder]:
    """The colour histogram in four dimensions, and two networks in three each."""
    kinds: list[tuple[dict[str, Any], Any, int]] = [({"encoder": "colour"}, ColourDescriptor(), 4)]
    for seed in range(2):
        file = folder / f"{seed}.onnx"
        file.write_bytes(network(FLAT, seed=seed))
        backbone = Backbone.from_file(file, **HOW)
        kinds.append(({"encoder": "onnx", "backbone": backbone.settings()}, backbone, 3))
    found = []
    for settings, describe, dimensions in kinds:
        raw = np.stack([describe(image) for image in IMAGES])
        found.append(Encoder(settings, describe, fit_projection(raw, dimensions=dimensions)))
    return found


WEIGHTS = [0.5, 0.2, 0.3]


def test_the_similarity_is_the_weighted_mean_of_the_similarities(tmp_path: Path) -> None:
    alone = parts(tmp_path)
    vectors = side_by_side(alone, WEIGHTS)(IMAGES)
    assert vectors.shape == (len(IMAGES), 10)
    own = [encoder(IMAGES) for encoder in alone]
    expected = sum(w * (v @ v.T) for w, v in zip(WEIGHTS, own, strict=True))
    np.testing.assert_allclose(vectors @ vectors.T, expected, atol=1e-5)
    # What keeps the leading entries alone, as a reference does, keeps the leading ones of each.
    leading = [v[:, 0] * np.sqrt(w) for w, v in zip(WEIGHTS, own, strict=True)]
    np.testing.assert_allclose(vectors[:, :3], np.stack(leading, axis=1), atol=1e-5)
    for weight in (0.0, float("nan"), "1"):  # no params file could ask for it
        with pytest.raises(ValueError, match=f"the weight of an encoder is {weight!r}, but it"):
            side_by_side(alone, [0.5, 0.5, weight])  # type: ignore[list-item]


def test_they_are_saved_and_loaded_as_one(tmp_path: Path) -> None:
    made, folder = side_by_side(parts(tmp_path), WEIGHTS), tmp_path / "saved"
    made.save_backbones(folder)
    save_arrays(folder, KIND, made.arrays(), made.settings)
    for file in tmp_path.glob("*.onnx"):
        file.unlink()  # only the copies are needed
    again = Encoder.from_arrays(*load_arrays(folder, KIND), folder)
    again.save_backbones(tmp_path / "again")
    copies = sorted((tmp_path / "again").iterdir())
    assert [file.name for file in copies] == ["backbone-2.onnx", "backbone.onnx"]
    assert [file.read_bytes() for file in copies] == [network(FLAT, seed=s) for s in (1, 0)]
    assert (again.settings, again.dimensions) == (made.settings, 10)
    np.testing.assert_allclose(again(IMAGES), made(IMAGES), atol=2e-3)  # in half precision
    # A row's bytes do not depend on the rows beside it, whichever part they are from.
    whole = again(IMAGES)
    assert [again([image]).tobytes() for image in IMAGES] == [row.tobytes() for row in whole]


def test_a_folder_of_networks(tmp_path: Path) -> None:
    for name in ("b.onnx", "a.onnx", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert backbones_at(tmp_path) == [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    assert backbones_at(tmp_path / "a.onnx") == [tmp_path / "a.onnx"]
    (tmp_path / "none").mkdir()
    with pytest.raises(ParamsError, match="none, a folder without an ONNX file"):
        backbones_at(tmp_path / "none")


def test_a_file_says_how_its_images_are_prepared(tmp_path: Path) -> None:
    notes = {"input_size": "48", "mean": "0.5 0.4 0.3", "std": "0.25 0.25 0.25", "licence": "MIT"}
    file = saved(tmp_path, network(FLAT, notes=notes))
    own = Backbone.from_file(file)
    assert (own.preparation.input_size, own.preparation.mean) == (48, [0.5, 0.4, 0.3])
    assert own.settings()["licence"] == "MIT"
    again = Backbone.from_settings(own.settings(), file)
    assert again(IMAGES[0]).tobytes() == own(IMAGES[0]).tobytes()
    assert again.settings() == own.settings()
    plain = Backbone.from_file(file, square_root=False)(IMAGES[0])
    np.testing.assert_allclose(own(IMAGES[0]), np.sign(plain) * np.abs(plain) ** 0.5, rtol=1e-6)
    given = Backbone.from_file(file, input_size=32).preparation
    assert (given.input_size, given.std) == (32, [0.25] * 3)
    file.write_bytes(network(FLAT))
    usual = Backbone.from_file(file).preparation
    assert (usual.input_size, usual.mean[0], usual.std[0]) == (224, 0.485, 0.229)


@pytest.mark.parametrize(
    "notes", [{"mean": "a b c"}, {"mean": "0.5"}, {"input_size": "1e999"}, {"std": "0.5 0.5 0"}]
)
def test_a_file_that_says_nonsense(tmp_path: Path, notes: dict[str, str]) -> None:
    file = saved(tmp_path, network(FLAT, notes=notes))
    with pytest.raises(ModelError, match=r"mine\.onnx (has|says among its) metadata"):
        Backbone.from_file(file)
