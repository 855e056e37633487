import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import Project, refusal
from grocery.classifier.head import Head
from grocery.core.arrays import load_arrays, save_arrays, sealed
from grocery.core.errors import DataError, ModelError
from grocery.features.encoder import ColourDescriptor, Encoder
from grocery.features.projection import Projection
from grocery.images.decoding import canonical
from grocery.images.preprocessing import Preprocessing
from grocery.release.model import KIND, Model, Prediction
from samples import jpeg, picture

PREPARED: dict[str, Any] = {"image_size": 128, "jpeg_quality": 92, "max_pixels": 1_000_000}


def small_model() -> Model:
    rng = np.random.default_rng(0)
    describe = ColourDescriptor()
    length = len(describe(np.zeros((32, 32, 3), np.uint8)))
    components = rng.normal(size=(length, 5)).astype("float16")  # as they are stored
    projection = Projection(np.zeros(length, "f"), components.astype("f"), np.ones(5, "f"))
    encoder = Encoder({"encoder": "colour"}, describe, projection)
    head = Head(rng.normal(size=(3, 5)).astype(np.float32), np.zeros(3, np.float32), 0.5)
    coarse = {"apple": "fruit", "leek": "vegetable", "pear": "fruit"}
    return Model(encoder, head, [*coarse], coarse, Preprocessing(**PREPARED))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    small_model().save(tmp_path / "model")
    return tmp_path / "model"


refused = partial(refusal, ModelError, Model.load)


def test_a_loaded_model_says_the_same(folder: Path, tmp_path: Path) -> None:
    model = small_model()
    jpegs = [canonical(picture(seed), size=128, quality=92) for seed in range(3)]
    loaded = Model.load(folder)
    assert (loaded.predict_proba(jpegs) == model.predict_proba(jpegs)).all()
    assert loaded.digest == model.digest
    assert loaded.digest == json.loads((folder / "model.json").read_text())["sha256"]
    loaded.save(tmp_path / "again")
    for file in folder.iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_an_image_that_cannot_be_read_is_named(folder: Path, tmp_path: Path) -> None:
    model = Model.load(folder)
    cut = Image.open(io.BytesIO(jpeg(picture())[:900]))
    inside = f"pathlib.Path({str(tmp_path)!r}).rglob('*.jpg')"
    for image, sentence in [
        (str(tmp_path), f"{tmp_path} is a folder; give the images in it: {inside}"),
        (b"", "image 2 cannot be read as an image: empty file"),
        (cut, "image 2 cannot be read as an image: truncated"),
    ]:
        assert refusal(DataError, model.predict, [picture(), image]) == sentence


def test_the_best_classes_come_in_order(folder: Path) -> None:
    """And what an image is does not depend on the others."""
    model = Model.load(folder)
    jpegs = [model.prepare(picture(seed)) for seed in range(3)]
    probabilities = model.predict_proba(jpegs)
    alone = np.concatenate([model.predict_proba([one]) for one in jpegs])
    assert (alone == probabilities).all()
    for row, ranking in zip(probabilities, model.rank(jpegs, top=9), strict=True):
        said = dict(zip(model.classes, row.tolist(), strict=True))
        assert [p.confidence for p in ranking] == sorted(said.values(), reverse=True)
        assert all(p == Prediction(p.label, said[p.label], model.coarse[p.label]) for p in ranking)
    assert [ranking[:2] for ranking in model.rank(jpegs, 9)] == model.rank(jpegs, 2)
    best = [first for (first,) in model.rank(jpegs)]
    # More images than are held at once, or none.
    assert model.predict(picture(number % 3) for number in range(129)) == best * 43
    assert (model.predict([]), model.rank([], top=2)) == ([], [])

    # Of equal classes the first is predicted.
    for name in ("head_coefficients", "head_intercept"):
        change_array(folder, name, np.zeros_like)
    assert [p.label for p in Model.load(folder).predict([picture()])] == ["apple"]


def test_what_was_damaged_or_changed_is_refused(folder: Path) -> None:
    """Without a digest that is right; and arrays that are none, whatever the digest."""
    file, description = folder / "model.safetensors", folder / "model.json"
    text, data = description.read_text(), file.read_bytes()
    genuine = json.loads(text)
    names = genuine.keys() - {"kind", "format"}
    changed = [{key: genuine[key] for key in genuine if key != name} for name in names]
    changed += [genuine | {"note": "one more"}, genuine | {"coarse": {}}]
    changed += [genuine | {"preprocessing": genuine["preprocessing"] | {"image_size": 129}}]
    for other in changed:
        description.write_text(json.dumps(other))
        assert "is damaged or was changed: its digest is not the one that it" in refused(folder)
    description.write_text(json.dumps(dict(reversed(genuine.items()))))  # the same, spelt otherwise
    assert Model.load(folder).digest == genuine["sha256"]
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert "is damaged or was changed: its digest is not the one that it" in refused(folder)

    beyond = (2**62).to_bytes(8, "little") + data[8:]  # a header that ends beyond the end
    command = b"cos\nsystem\n(S'false'\ntR."  # would run when unpickled
    for damaged in (b"", beyond, command):
        file.write_bytes(damaged)
        description.write_text(json.dumps(sealed(KIND, damaged, genuine)))
        assert "model.safetensors is damaged: " in refused(folder)


def change_array(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Save the model again with one array changed, so that its digest is right."""
    arrays, description = load_arrays(folder, KIND)
    arrays[name] = change(arrays[name].copy())
    save_arrays(folder, KIND, arrays, description)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"classes": ["apple"]}, "not a whole"),
        ({"classes": ["apple", "leek", "apple"]}, "two of its classes have the same name"),
        ({"classes": []}, "not a whole"),
        ({"classes": [1, 2, 3]}, "not a list of names"),
        ({"coarse": {"apple": None}}, "not a list of names"),
        ({"coarse": []}, "not a whole"),
        ({"encoder": {}}, "it lacks 'encoder'"),
        ({"encoder": {"encoder": "vit"}}, "encoder 'vit'; this version knows fisher, colour and"),
        ({"preprocessing": {"image_size": 128}}, "not a whole"),
        ({"preprocessing": PREPARED | {"colour": 1}}, "not a whole"),
        *(
            ({"preprocessing": PREPARED | {name: value}}, f"{name} is {value!r}, but it should be")
            for name in PREPARED
            for value in ("128", 0, None, True, 100.0, 10**12)
        ),
    ],
)
def test_an_unfit_description(folder: Path, changes: dict[str, object], sentence: str) -> None:
    arrays, description = load_arrays(folder, KIND)
    save_arrays(folder, KIND, arrays, description | changes)
    assert sentence in refused(folder)


def test_what_is_not_a_model(folder: Path, tmp_path: Path) -> None:
    file = folder / "model.json"
    genuine = json.loads(file.read_text())
    for changes, sentence in [
        ({"format": 2}, "format 2, this version reads 3"),
        ({"kind": "other"}, "'other', not 'grocery-model'"),
        ({"note": float("nan")}, "model.json is damaged: "),
        ({"note": "\ud800"}, "model.json is damaged: "),
    ]:
        file.write_text(json.dumps(genuine | changes))
        assert sentence in refused(folder)
    for text in ("", "[1]", "[" * 9999):
        file.write_text(text)
        assert refused(folder).startswith(f"{file} is damaged: ")
    assert refused(tmp_path) == (
        f"{tmp_path} holds no grocery-model: model.safetensors is missing; "
        "run the pipeline or fetch a model first"
    )
    assert refused(file).endswith("model.safetensors: Not a directory")
    file.unlink()
    assert "model.json is missing" in refused(folder)
    file.mkdir()
    assert refused(folder).endswith("model.json: Is a directory")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("components", lambda components: components[:, :-1]),
        ("scale", lambda scale: scale * 0),
        ("head_intercept", lambda intercept: intercept[:1]),
        ("head_calibration", lambda calibration: calibration * 0),
        ("head_calibration", lambda calibration: np.array([1, 3], np.float32)),
        ("head_calibration", lambda calibration: np.array([1, -2], np.float32)),
        # No bytes, and sides that whatever is computed from them would have.
        ("components", lambda components: np.empty((0, 10**12), np.float16)),
        ("head_coefficients", lambda coefficients: np.empty((0, 10**12), np.float32)),
        ("components", lambda components: components.astype(np.float32)),
        ("scale", lambda scale: scale.astype(np.float64)),
    ],
)
def test_arrays_that_do_not_match(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    change_array(folder, name, change)
    assert refused(folder).startswith(f"{folder} is not a whole grocery-model: ")


def test_a_head_of_another_encoder(folder: Path) -> None:
    change_array(folder, "head_coefficients", lambda coefficients: coefficients[:, :4])
    assert refused(folder) == (
        f"{folder} is not a whole grocery-model: its head has coefficients (3, 4) and intercept "
        "(3,), for 3 classes and an encoder of 5 dimensions"
    )


def test_every_array_of_a_release_counts(built: Project, tmp_path: Path) -> None:
    """Without an array, with a shorter one or with a NaN nothing is loaded."""
    release = built.path / "models/release"
    arrays, description = load_arrays(release, KIND)
    for name, array in arrays.items():
        others = {key: value for key, value in arrays.items() if key != name}
        save_arrays(tmp_path, KIND, others, description)
        assert refused(tmp_path).endswith(f"it lacks {name!r}")
        save_arrays(tmp_path, KIND, others | {name: array[:-1]}, description)
        assert "is not a whole grocery-model" in refused(tmp_path)
        spoilt = array.copy()
        spoilt.flat[-1] = np.nan
        save_arrays(tmp_path, KIND, others | {name: spoilt}, description)
        assert refused(tmp_path).endswith(f"{name!r} holds NaN or infinite values")
