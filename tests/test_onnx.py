"""The encoder `onnx`: real small networks, made here and run by onnxruntime."""

import hashlib
import io
import json
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from dvc.repo import Repo
from onnx import numpy_helper
from onnx.parser import parse_model
from PIL import Image
from safetensors.numpy import save

import grocery
from conftest import ROOT, Project, refusal
from grocery import runner
from grocery.core.arrays import load_arrays, save_arrays
from grocery.core.errors import ModelError, ParamsError
from grocery.core.files import digest
from grocery.data.sources import open_source
from grocery.features import backbone
from grocery.features.backbone import Backbone, Preparation, backbone_name, open_session
from grocery.features.encoder import KIND, Encoder
from grocery.features.projection import Projection
from grocery.reference import trials
from grocery.settings import load
from grocery.shards import read_table
from registry_project import inside

HOW: dict[str, Any] = {
    "input_size": 32,
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "output": "",
    "square_root": False,
}
BACKBONE = backbone_name(0)
IMAGE = np.random.default_rng(5).integers(0, 256, (48, 60, 3), dtype=np.uint8)
HEADER = '<ir_version: 8, opset_import: ["": 17, "own": 1]> net'


def network(
    last: str,
    shape: str = "n,3,h,w",
    *,
    also: str = "",
    out: str = "float[] features",
    seed: int = 0,
    notes: dict[str, str] | None = None,
) -> bytes:
    """Convolution and ReLU, the output ``sums`` (n, 24, h, w), and then the nodes `last`.

    In ONNX's own language: https://onnx.ai/onnx/repo-docs/Syntax.html. It has an image of `shape`
    as its input, and `also` another, and says `notes` of itself.
    """
    turned = "Transpose<perm = [0, 3, 1, 2]>" if shape.endswith(",3") else "Identity"
    nodes = f"""
        first = {turned}(image)
        convolved = Conv<strides = [2, 2]>(first, weights, bias)
        sums = Relu(convolved)
        {last}
    """
    made = parse_model(f"{HEADER} (float[{shape}] image{also}) => ({out}) {{ {nodes} }}")
    rng = np.random.default_rng(seed)
    weights = rng.normal(scale=0.2, size=(24, 3, 5, 5)).astype(np.float32)
    bias = rng.normal(size=24).astype(np.float32)
    for name, numbers in (("weights", weights), ("bias", bias)):
        made.graph.initializer.append(numpy_helper.from_array(numbers, name))
    for key, value in (notes or {}).items():
        made.metadata_props.add(key=key, value=value)
    return bytes(made.SerializeToString())


POOL = "features = GlobalAveragePool(sums)"
FLAT = "pooled = GlobalAveragePool(sums) features = Flatten(pooled)"
TOKENS = """
    moved = Transpose<perm = [0, 2, 3, 1]>(sums)
    shape = Constant<value_ints = [0, -1, 24]>()
    features = Reshape(moved, shape)
"""


def saved(folder: Path, data: bytes) -> Path:
    file = folder / "mine.onnx"
    file.write_bytes(data)
    return file


LAST = "features = Transpose<perm = [0, 2, 3, 1]>(sums)"
SAME_VECTOR = {
    "(n, d)": network(FLAT),
    "(n, d, 1, 1)": network(POOL),
    "(n, d, h, w)": network("features = Identity(sums)"),
    "(n, tokens, d)": network(TOKENS),
    "(n, h, w, d)": network(LAST, "n,h,w,3"),
    "a fixed batch": network(POOL, "4,3,32,32"),
    "nothing fixed": network(POOL, "?,?,?,?"),
    "channels last": network(FLAT, "n,32,32,3"),
}


@pytest.mark.parametrize("data", SAME_VECTOR.values(), ids=SAME_VECTOR)
def test_the_vector_is_the_networks_own(tmp_path: Path, data: bytes) -> None:
    """Whatever the layout, the batch and the shape of the output: the pooled convolution."""
    scaled = np.asarray(Image.fromarray(IMAGE).resize((32, 32), Image.Resampling.BICUBIC))
    values = (scaled / 255 - np.array(HOW["mean"])) / np.array(HOW["std"])
    given = values.astype(np.float32).transpose(2, 0, 1)[None]
    direct = onnxruntime.InferenceSession(network(FLAT), providers=["CPUExecutionProvider"])
    (expected,) = direct.run(None, {"image": given})
    vector = Backbone.from_file(saved(tmp_path, data), **HOW)(IMAGE)
    assert vector.dtype == np.float32
    assert expected.std() > 0.1
    np.testing.assert_allclose(vector, expected[0], rtol=1e-4, atol=1e-5)


def test_another_output_by_name(tmp_path: Path) -> None:
    twice = f"{FLAT} twice = Add(features, features)"
    file = saved(tmp_path, network(twice, out="float[] features, float[] twice"))
    first = Backbone.from_file(file, **HOW)
    second = Backbone.from_file(file, **HOW | {"output": "twice"})
    assert first.preparation.output == "features"
    assert (second(IMAGE) == 2 * first(IMAGE)).all()
    with pytest.raises(ParamsError, match=r"'logits', but the outputs of .* are features, twice"):
        Backbone.from_file(file, **HOW | {"output": "logits"})


def test_it_travels_to_workers_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is opened there once, however many tasks bring it."""
    here = Backbone.from_file(saved(tmp_path, network(POOL)), **HOW)
    data, opened = pickle.dumps(here), []

    def counted(path: Path, data: bytes) -> Any:
        opened.append(path)
        return open_session(path, data)

    monkeypatch.setattr(backbone, "open_session", counted)
    assert len(data) < 1000 < here.path.stat().st_size
    vectors = {pickle.loads(data)(IMAGE).tobytes() for _ in range(3)}
    assert vectors == {here(IMAGE).tobytes()}
    assert opened == [here.path]


def model(text: str) -> bytes:
    """What stands behind the header, alone."""
    return bytes(parse_model(f"{HEADER} {text}").SerializeToString())


def same(image: str) -> bytes:
    return model(f"({image} image) => ({image} features) {{ features = Identity(image) }}")


def zipped(name: str) -> bytes:
    """A ZIP file with one file in it."""
    with zipfile.ZipFile(made := io.BytesIO(), "w") as archive:
        archive.writestr(name, "content")
    return made.getvalue()


CLASS = "features = ArgMax<axis = 1>(sums)"
NUMBER = "features = ReduceMean<keepdims = 0>(sums)"
ONE = "features = ReduceMean<axes = [1, 2, 3]>(sums)"
RANDOM = "features = RandomUniformLike(sums)"
INFINITE = "zero = Constant<value_float = 0.0>() features = Div(sums, zero)"
REFUSED = {
    "a page": (b"<html>404</html>", "is not an ONNX file"),
    "a wheel": (zipped("net-1.0.dist-info/METADATA"), "one, but a Python package; install it"),
    "PyTorch": (zipped("archive/data.pkl"), "but weights of PyTorch or Keras; export the"),
    "old PyTorch": (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", "but weights of PyTorch"),
    "safetensors": (save({"a": np.zeros(9)}), "safetensors, which are weights alone; export the"),
    "truncated": (network(POOL)[:-200], "is not an ONNX file, or not a whole one"),
    "two inputs": (network(POOL, also=", float second"), "inputs image, second; a backbone has"),
    "grey": (network(POOL, "n,1,32,32"), "of shape ('n', 1, 32, 32); a backbone's is"),
    "three axes": (same("float[n,3,h]"), "is tensor(float) of shape ('n', 3, 'h'); a"),
    "whole numbers": (same("uint8[n,3,h,w]"), "is tensor(uint8) of shape ('n', 3, 'h', 'w'); a"),
    "a large batch": (network(POOL, "65,3,32,32"), "is a batch of 65 images, and 64 are"),
    "another size": (
        network(POOL, "1,3,48,64"),
        "of 64 x 48 pixels, but featurize.onnx.input_size, or",
    ),
    "a class": (network(CLASS, out="int64[] features"), "is int64 of shape (1, 1, 14, 14); a"),
    "a number": (network(NUMBER), "is no array; a description"),
    "one number": (network(ONE), "is float32 of shape (1, 1, 1, 1); a description is two or more"),
    "random": (network(RANDOM), "gives one image another vector each time"),
    "not finite": (network(INFINITE), "gives an image values that are not finite numbers"),
    "an unknown operator": (network("features = own.Mine(sums)"), "cannot be used: "),
    "shapes": (network("features = MatMul(image, weights)"), "cannot be run on an image: "),
}


@pytest.mark.parametrize(("data", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_backbone_is_refused_in_a_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], data: bytes, sentence: str
) -> None:
    file = saved(tmp_path, data)
    said = refusal(ModelError, Backbone.from_file, file, **HOW)
    assert str(file) in said
    assert sentence in said
    assert "ONNXRuntimeError" not in said
    assert capfd.readouterr().err == ""  # onnxruntime prints nothing beside it


def test_no_backbone_or_nothing_to_run_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    none = "encoder is onnx and .*/none.onnx stands for no backbone; set featurize.onnx.path"
    with pytest.raises(ParamsError, match=none):
        Backbone.from_file(ROOT / "models/backbones/none.onnx", **HOW)
    with pytest.raises(ModelError, match=r"missing\.onnx cannot be read: No such file"):
        Backbone.from_file(tmp_path / "missing.onnx", **HOW)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed
    with pytest.raises(ModelError, match="onnx needs the package onnxruntime: `make extras`"):
        Backbone.from_file(saved(tmp_path, network(POOL)), **HOW)


CONSTANT = "factor = Constant<value = float[2,2] it NUMBERS>()"
SCALED = "scaled = MatMul(image, factor)"
TYPES = "(float[n,3,h,w] image) => (float[n,3,h,w] scaled)"
BRANCH = "= same () => (float[2,2] factor) HELD"
CHOICE = f"factor = If(yes)<then_branch {BRANCH}, else_branch {BRANCH}>"
CHOSEN = f"{TYPES} <bool yes = {{1}}> {{ {CHOICE} {SCALED} }}"
WHERE = {
    "an initializer": f"{TYPES} <float[2,2] factor = NUMBERS> {{ {SCALED} }}",
    "a constant": f"{TYPES} {{ {CONSTANT} {SCALED} }}",
    "a function": f"""{TYPES} {{ scaled = own.Scale(image) }}
        <domain: "own", opset_import: ["": 17]> Scale (image) => (scaled) {{ {CONSTANT} {SCALED} }}
    """,
    "a branch": CHOSEN.replace("HELD", "<float[2,2] factor = NUMBERS> {}"),
    "a branch's constant": CHOSEN.replace("HELD", f"{{ {CONSTANT} }}"),
}


@pytest.mark.parametrize("where", WHERE)
def test_numbers_in_another_file_are_refused(where: str, here: Path) -> None:
    """Onnxruntime itself would read them, from the current directory."""
    numbers = 2 * np.eye(2, dtype=np.float32)
    numbers.tofile("factor.bin")
    image = np.ones((1, 3, 2, 2), np.float32)

    def scaled(text: str) -> bytes:
        return model(WHERE[where].replace("NUMBERS", text))

    def outside(location: str, offset: int = 0) -> bytes:
        return scaled(f'["location": "{location}", "offset": "{offset}", "length": "16"]')

    whole = open_session(Path("mine.onnx"), scaled("{2, 0, 0, 2}"))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = onnxruntime.InferenceSession(outside("factor.bin"), options)
    for session in (whole, plain):
        assert (session.run(None, {"image": image})[0] == 2).all()

    for data in (
        outside("factor.bin"),
        outside(f"../{here.name}/factor.bin"),
        outside(str(here / "factor.bin")),
        outside("*/_ORT_MEM_ADDR_/*", numbers.ctypes.data),
    ):
        said = refusal(ModelError, open_session, Path("mine.onnx"), data)
        if "branch" not in where:  # there onnxruntime gives another reason first
            assert "mine.onnx keeps numbers in other files; a backbone" in said


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"input_size": 100_000}, "input_size is 100000, but it should be a whole number from 16"),
        ({"mean": [0.5, 0.5]}, "mean has 2 numbers, not 3"),
        ({"std": [0.2, 0.2, 0]}, "a std of the backbone is 0, but it should be 0.001 to 10"),
        ({"mean": ["0.5"] * 3}, "a mean of the backbone is '0.5', but"),
    ],
)
def test_a_preparation_that_no_params_file_asks_for(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Preparation(**HOW | change)


def test_another_backbone_is_refused(tmp_path: Path) -> None:
    fitted = Backbone.from_file(saved(tmp_path, network(POOL)), **HOW)
    settings: dict[str, Any] = {"encoder": "onnx", "backbone": fitted.settings()}
    projection = Projection(np.zeros(24, "f"), np.eye(24, 5, dtype="f"), np.ones(5, "f"))
    made = Encoder(settings, fitted, projection)
    made.save_backbones(tmp_path)
    genuine = save_arrays(tmp_path, KIND, made.arrays(), settings)

    def load_encoder() -> Encoder:
        return Encoder.from_arrays(*load_arrays(tmp_path, KIND), tmp_path)

    kept = tmp_path / BACKBONE
    kept.write_bytes(network(POOL, seed=1))
    assert "backbone.onnx is not the backbone that the" in refusal(ModelError, load_encoder)
    settings["backbone"]["sha256"] = digest(kept)
    assert save_arrays(tmp_path, KIND, made.arrays(), settings) != genuine  # the file counts in it
    load_encoder()
    settings["backbone"]["sha256"] = None  # no hash is not any hash
    save_arrays(tmp_path, KIND, made.arrays(), settings)
    assert "backbone.onnx is not the backbone that the" in refusal(ModelError, load_encoder)
    kept.unlink()
    assert "backbone.onnx cannot be read: No such file" in refusal(ModelError, load_encoder)


MINE = "models/backbones/mine"


@pytest.mark.filterwarnings("ignore::DeprecationWarning:dvc")
def test_the_pipeline_with_two_backbones(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the colours; brought as docs/onnx.md says: `dvc add`, and two parameters."""
    monkeypatch.setattr(trials, "IMAGES", 5)  # what a reference tries out takes longest
    networks = [network(FLAT), network(FLAT, seed=2)]
    (project.path / MINE).mkdir()
    for name, data in zip("ab", networks, strict=True):
        (project.path / MINE / f"{name}.onnx").write_bytes(data)
    with Repo(str(project.path)) as repo:
        repo.add(str(project.path / MINE))
    project.commit("Two backbones")
    tracked = project.run("git", "ls-files", "models/backbones").stdout.split()
    names = (".gitignore", "mine.dvc", "none.onnx")
    assert tracked == [f"models/backbones/{name}" for name in names]

    chosen = ("-S", "featurize.encoder=[colour,onnx]", "-S", f"featurize.onnx.path={MINE}")
    said = project.run("dvc", "exp", "run", "featurize", *chosen).stdout
    assert "Running stage 'featurize'" in said
    assert "Running stage 'prepare'" not in said
    assert project.run("git", "status", "--porcelain", "models/backbones").stdout == ""
    assert MINE in {dep["path"] for dep in project.lock()["featurize"]["deps"]}

    with inside(project.path):
        params = load()
        for stage in ("train", "evaluate", "register"):
            runner.run(stage, params)
    folder = project.path / "models/release"
    described = json.loads((folder / "model.json").read_text())
    _, *found = described["encoder"]["encoder"]
    assert [part["weight"] for part in found] == [0.25, 0.25]
    for place, data in enumerate(networks):
        assert found[place]["backbone"]["sha256"] == hashlib.sha256(data).hexdigest()
        assert (folder / backbone_name(place)).read_bytes() == data

    # The release says of a raw file what the pipeline said of its shard, to the last bit.
    recorded = read_table(project.path / "metrics/evaluation/predictions.parquet").to_pylist()
    raw = {i.path: i for i in open_source(project.path / "data/raw/synthetic").images()}
    predictions = grocery.load_model(folder).predict(raw[row["path"]].read() for row in recorded)
    for row, said_again in zip(recorded, predictions, strict=True):
        assert (said_again.label, said_again.confidence) == (row["predicted"], row["confidence"])
    assert sum(row["predicted"] == row["label"] for row in recorded) > 0.5 * len(recorded)

    # What is remembered is not that of another file.
    outputs = [project.path / name for name in ("models/encoder", "data/features")]
    before = [digest(path) for path in outputs]
    (project.path / MINE / "a.onnx").write_bytes(network(FLAT, seed=1))
    with inside(project.path):
        runner.run("featurize", params)
    assert (outputs[0] / BACKBONE).read_bytes() == network(FLAT, seed=1)
    assert all(digest(path) != old for path, old in zip(outputs, before, strict=True))
