"""The encoder `onnx`: real small networks, made here and run by onnxruntime."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from dvc.repo import Repo
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data
from PIL import Image
from safetensors.numpy import save

import grocery
from conftest import ROOT, Project
from grocery import runner
from grocery.core.arrays import load_arrays, save_arrays
from grocery.core.errors import ModelError, ParamsError
from grocery.core.files import digest
from grocery.data.sources import open_source
from grocery.features.backbone import Backbone, Preparation, backbone_name, open_session
from grocery.features.encoder import KIND, Encoder
from grocery.features.projection import Projection
from grocery.images.decoding import pixels
from grocery.reference import trials
from grocery.settings import load
from grocery.shards import read_table, shard_paths
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
FIRST = ("n", 3, "h", "w")
LAST = ("n", "h", "w", 3)
Dimensions = Sequence[str | int | None]


def model(
    nodes: Sequence[onnx.NodeProto],
    *,
    into: Dimensions = FIRST,
    dtype: int = TensorProto.FLOAT,
    numbers: dict[str, Any] | None = None,
    outputs: Sequence[str] = ("features",),
    out_dtype: int = TensorProto.FLOAT,
    inputs: int = 1,
) -> bytes:
    """A model of `nodes` from the input ``image`` to `outputs`."""
    graph = helper.make_graph(
        nodes,
        "a network",
        [
            helper.make_tensor_value_info(name, dtype, into)
            for name in ("image", "second", "third")[:inputs]
        ],
        [helper.make_tensor_value_info(name, out_dtype, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in (numbers or {}).items()],
    )
    opset = helper.make_opsetid("", 17)
    made: bytes = helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()
    return made


def convolution(seed: int = 0, channels: int = 24) -> dict[str, Any]:
    """Seeded weights of a 5 x 5 convolution."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(scale=0.2, size=(channels, 3, 5, 5)).astype(np.float32)
    return {"weights": weights, "bias": rng.normal(size=channels).astype(np.float32)}


def network(*last: onnx.NodeProto, into: Dimensions = FIRST, **more: Any) -> bytes:
    """Convolution and ReLU, the output ``map`` (n, 24, h, w), and then the nodes `last`."""
    channels_last = [helper.make_node("Transpose", ["image"], ["first"], perm=[0, 3, 1, 2])]
    start = "first" if into[-1] == 3 else "image"
    nodes = [
        *(channels_last if start == "first" else []),
        helper.make_node("Conv", [start, "weights", "bias"], ["sums"], strides=[2, 2]),
        helper.make_node("Relu", ["sums"], ["map"]),
        *last,
    ]
    numbers = convolution(more.pop("seed", 0)) | more.pop("numbers", {})
    return model(nodes, into=into, numbers=numbers, **more)


POOL = helper.make_node("GlobalAveragePool", ["map"], ["features"])
FLAT = [
    helper.make_node("GlobalAveragePool", ["map"], ["pooled"]),
    helper.make_node("Flatten", ["pooled"], ["features"]),
]
MAP = helper.make_node("Identity", ["map"], ["features"])
MAP_LAST = helper.make_node("Transpose", ["map"], ["features"], perm=[0, 2, 3, 1])
TOKENS = [
    helper.make_node("Transpose", ["map"], ["moved"], perm=[0, 2, 3, 1]),
    helper.make_node("Reshape", ["moved", "shape"], ["features"]),
]


def saved(folder: Path, data: bytes) -> Path:
    file = folder / "mine.onnx"
    file.write_bytes(data)
    return file


def prepared(image: np.ndarray[Any, Any], side: int = 32) -> np.ndarray[Any, Any]:
    """The input (1, 3, h, w), by the definition in params.yaml."""
    scaled = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))
    values = (scaled / 255 - np.array(HOW["mean"])) / np.array(HOW["std"])
    return values.astype(np.float32).transpose(2, 0, 1)[None]


SAME_VECTOR = {
    "(n, d)": network(*FLAT),
    "(n, d, 1, 1)": network(POOL),
    "(n, d, h, w)": network(MAP),
    "(n, tokens, d)": network(*TOKENS, numbers={"shape": np.array([0, -1, 24])}),
    "(n, h, w, d)": network(MAP_LAST, into=LAST),
    "all fixed": network(POOL, into=(1, 3, 32, 32)),
    "a batch of four": network(POOL, into=(4, 3, 32, 32)),
    "nothing fixed": network(POOL, into=(None, None, None, None)),
    "channels last": network(*FLAT, into=("n", 32, 32, 3)),
}


@pytest.mark.parametrize("data", SAME_VECTOR.values(), ids=SAME_VECTOR)
def test_the_vector_is_the_networks_own(tmp_path: Path, data: bytes) -> None:
    """Whatever the layout, the batch and the shape of the output: the pooled convolution."""
    direct = onnxruntime.InferenceSession(network(*FLAT), providers=["CPUExecutionProvider"])
    (expected,) = direct.run(None, {"image": prepared(IMAGE)})
    vector = Backbone.from_file(saved(tmp_path, data), **HOW)(IMAGE)
    assert vector.dtype == np.float32
    assert expected.std() > 0.1
    np.testing.assert_allclose(vector, expected[0], rtol=1e-4, atol=1e-5)


def test_another_output_by_name(tmp_path: Path) -> None:
    double = helper.make_node("Add", ["features", "features"], ["twice"])
    file = saved(tmp_path, network(*FLAT, double, outputs=("features", "twice")))
    first = Backbone.from_file(file, **HOW)
    second = Backbone.from_file(file, **HOW | {"output": "twice"})
    assert first.preparation.output == "features"
    assert (second(IMAGE) == 2 * first(IMAGE)).all()


def test_it_travels_to_a_worker_by_its_path(tmp_path: Path) -> None:
    """And is opened there once, however many tasks bring it."""
    backbone = Backbone.from_file(saved(tmp_path, network(POOL)), **HOW)
    data = pickle.dumps(backbone)
    assert len(data) < 1000 < backbone.path.stat().st_size
    code = """
import pickle, sys, onnxruntime
opened = []
class Counted(onnxruntime.InferenceSession):
    def __init__(self, *a, **k):
        opened.append(1)
        super().__init__(*a, **k)
onnxruntime.InferenceSession = Counted
import numpy as np
data, image = pickle.load(sys.stdin.buffer)
vectors = [pickle.loads(data)(image).tobytes() for _ in range(3)]
assert len(opened) == 1 and len(set(vectors)) == 1
sys.stdout.buffer.write(vectors[0])
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps((data, IMAGE)),
        capture_output=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout == backbone(IMAGE).tobytes()


# --- Refusals ------------------------------------------------------------------------------------

RANDOM = helper.make_node("RandomUniformLike", ["map"], ["features"])
INFINITE = helper.make_node("Div", ["map", "zero"], ["features"])
CLASS = helper.make_node("ArgMax", ["map"], ["features"], axis=1, keepdims=1)
NUMBER = helper.make_node("ReduceMean", ["map"], ["features"], keepdims=0)
ONE = helper.make_node("ReduceMean", ["map"], ["features"], axes=[1, 2, 3], keepdims=1)
SAME = helper.make_node("Identity", ["image"], ["features"])
WRONG = helper.make_node("MatMul", ["image", "weights"], ["features"])
UNKNOWN = helper.make_node("Mine", ["image"], ["features"], domain="my.own")


def zipped(name: str) -> bytes:
    """A ZIP file with one file in it."""
    with zipfile.ZipFile(made := io.BytesIO(), "w") as archive:
        archive.writestr(name, "content")
    return made.getvalue()


REFUSED = {
    "a page": (b"<html>404</html>", "is not an ONNX file"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\n", "is not an ONNX file"),
    "a wheel": (zipped("net-1.0.dist-info/METADATA"), "one, but a Python package; install it"),
    "PyTorch": (zipped("archive/data.pkl"), "but weights of PyTorch or Keras; export the"),
    "old PyTorch": (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", "but weights of PyTorch"),
    "safetensors": (save({"a": np.zeros(9)}), "safetensors, which are weights alone; export the"),
    "truncated": (network(POOL)[:-200], "is not an ONNX file, or not a whole one"),
    "no graph": (b"\x08\x08", "is not an ONNX file, or not a whole one"),
    "three inputs": (
        network(POOL, inputs=3),
        "inputs image, second, third; a backbone has one",
    ),
    "grey": (network(POOL, into=("n", 1, 32, 32)), "of shape ('n', 1, 32, 32); a backbone's is"),
    "three axes": (model([SAME], into=("n", 3, "h")), "is tensor(float) of shape ('n', 3, 'h'); a"),
    "whole numbers": (
        model([SAME], dtype=TensorProto.UINT8, out_dtype=TensorProto.UINT8),
        "is tensor(uint8) of shape ('n', 3, 'h', 'w'); a backbone's is float32",
    ),
    "a large batch": (network(POOL, into=(65, 3, 32, 32)), "is a batch of 65 images, and 64 are"),
    "another size": (network(POOL, into=(1, 3, 48, 64)), "of 64 x 48 pixels, but featurize.onnx."),
    "a class": (network(CLASS, out_dtype=TensorProto.INT64), "is int64 of shape (1, 1, 14, 14); a"),
    "a number": (network(NUMBER), "is no array; a description"),
    "one number": (network(ONE), "is float32 of shape (1, 1, 1, 1); a description is two or more"),
    "random": (network(RANDOM), "gives one image another vector each time"),
    "not finite": (
        network(INFINITE, numbers={"zero": np.zeros(1, np.float32)}),
        "gives an image values that are not finite numbers",
    ),
    "an unknown operator": (model([UNKNOWN]), "cannot be used: "),
    "shapes": (model([WRONG], numbers=convolution()), "cannot be run on an image: "),
}


@pytest.mark.parametrize(("data", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_backbone_is_refused_in_a_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], data: bytes, sentence: str
) -> None:
    file = saved(tmp_path, data)
    with pytest.raises(ModelError) as caught:
        Backbone.from_file(file, **HOW)
    said = str(caught.value)
    assert str(file) in said
    assert sentence in said
    assert "\n" not in said
    assert "ONNXRuntimeError" not in said
    assert capfd.readouterr().err == ""  # onnxruntime prints nothing beside it


def test_no_backbone(tmp_path: Path) -> None:
    none = "encoder is onnx and .*/none.onnx stands for no backbone; set featurize.onnx.path"
    with pytest.raises(ParamsError, match=none):
        Backbone.from_file(ROOT / "models/backbones/none.onnx", **HOW)
    with pytest.raises(ModelError, match=r"missing\.onnx cannot be read: No such file"):
        Backbone.from_file(tmp_path / "missing.onnx", **HOW)
    file = saved(tmp_path, network(POOL))
    with pytest.raises(ParamsError, match=r"'logits', but the outputs of .* are features"):
        Backbone.from_file(file, **HOW | {"output": "logits"})


def test_without_the_package_one_sentence_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed
    with pytest.raises(ModelError, match="onnx needs the package onnxruntime: `make extras`"):
        Backbone.from_file(saved(tmp_path, network(POOL)), **HOW)


# --- A backbone is one file ----------------------------------------------------------------------


def external(tensor: onnx.TensorProto, location: str, offset: int = 0) -> onnx.TensorProto:
    """The same tensor with its numbers in the file `location`."""
    moved = TensorProto()
    moved.CopyFrom(tensor)
    set_external_data(moved, location, offset, len(tensor.raw_data))
    moved.ClearField("raw_data")
    return moved


def scaled(where: str, factor: onnx.TensorProto) -> bytes:
    """A network that multiplies the image by numbers that lie in one of the possible places."""
    image, out = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, "h", "w"])
        for name in ("image", "map")
    )
    scale = helper.make_node("MatMul", ["image", "factor"], ["map"])
    constant = helper.make_node("Constant", [], ["factor"], value=factor)
    nodes, initializers, functions = [scale], [], []
    if where == "an initializer":
        initializers = [factor]
    elif where == "a constant":
        nodes = [constant, scale]
    elif where == "a function":
        versions = [helper.make_opsetid("", 17)]
        body = helper.make_function("own", "Scale", ["image"], ["map"], [constant, scale], versions)
        nodes, functions = [helper.make_node("Scale", ["image"], ["map"], domain="own")], [body]
    else:  # a branch
        given = helper.make_tensor_value_info("factor", TensorProto.FLOAT, [2, 2])
        nodes_in, held = ([constant], []) if where == "a branch's constant" else ([], [factor])
        branch = helper.make_graph(nodes_in, "branch", [], [given], held)
        yes = numpy_helper.from_array(np.array(True), "yes")
        choice = helper.make_node("If", ["yes"], ["factor"], then_branch=branch, else_branch=branch)
        nodes, initializers = [choice, scale], [yes]
    graph = helper.make_graph(nodes, "scaled", [image], [out], initializers)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    made = helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=8)
    return bytes(made.SerializeToString())


WHERE = ["an initializer", "a constant", "a function", "a branch", "a branch's constant"]


@pytest.mark.parametrize("where", WHERE)
def test_numbers_in_another_file_are_refused(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Onnxruntime itself would read them, from the current directory."""
    factor = numpy_helper.from_array(2 * np.eye(2, dtype=np.float32), "factor")
    (tmp_path / "factor.bin").write_bytes(factor.raw_data)
    monkeypatch.chdir(tmp_path)
    whole = saved(tmp_path, scaled(where, factor))
    image = np.ones((1, 3, 2, 2), np.float32)
    assert (open_session(whole, whole.read_bytes()).run(None, {"image": image})[0] == 2).all()

    outside = scaled(where, external(factor, "factor.bin"))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = onnxruntime.InferenceSession(outside, options, providers=["CPUExecutionProvider"])
    assert (plain.run(None, {"image": image})[0] == 2).all()
    memory = 2 * np.eye(2, dtype=np.float32)
    for tensor in (
        external(factor, "factor.bin"),
        external(factor, f"../{tmp_path.name}/factor.bin"),
        external(factor, str(tmp_path / "factor.bin")),
        external(factor, "*/_ORT_MEM_ADDR_/*", memory.ctypes.data),
    ):
        with pytest.raises(ModelError) as caught:
            open_session(whole, scaled(where, tensor))
        if "branch" not in where:  # there onnxruntime gives another reason first
            assert "mine.onnx keeps numbers in other files; a backbone" in str(caught.value)


# --- Saved beside the arrays ---------------------------------------------------------------------


def save_encoder(folder: Path, data: bytes) -> None:
    """Save an encoder of the backbone in `folder`."""
    backbone = Backbone.from_file(saved(folder, data), **HOW)
    components = np.random.default_rng(0).normal(size=(24, 5)).astype(np.float16)
    made = Encoder(
        {"encoder": "onnx", "backbone": backbone.settings()},
        backbone,
        Projection(np.zeros(24, np.float32), components.astype(np.float32), np.ones(5, np.float32)),
    )
    made.save_backbones(folder)
    save_arrays(folder, KIND, made.arrays(), made.settings)


def loaded(folder: Path) -> Encoder:
    return Encoder.from_arrays(*load_arrays(folder, KIND), folder)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"input_size": 100_000}, "input_size is 100000, but it should be a whole number from 16"),
        ({"mean": [0.5, 0.5]}, "mean has 2 numbers, not 3"),
        ({"std": [0.2, 0.2, 0]}, "a std of the backbone is 0, but it should be 0.001 to 10"),
        ({"mean": ["0.5"] * 3}, "a mean of the backbone is '0.5', but"),
    ],
)
def test_a_preparation_that_no_params_file_could_ask_for(
    change: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        Preparation(**HOW | change)


def test_another_backbone_is_refused(tmp_path: Path) -> None:
    save_encoder(tmp_path, network(POOL))
    genuine = json.loads((tmp_path / "model.json").read_text())["sha256"]
    (tmp_path / BACKBONE).write_bytes(network(POOL, seed=1))
    with pytest.raises(ModelError, match=r"backbone\.onnx is not the backbone that the"):
        loaded(tmp_path)
    arrays, settings = load_arrays(tmp_path, KIND)
    settings["backbone"]["sha256"] = digest(tmp_path / BACKBONE)
    assert save_arrays(tmp_path, KIND, arrays, settings) != genuine  # the file counts in the digest
    loaded(tmp_path)
    settings["backbone"]["sha256"] = None  # no hash is not any hash
    save_arrays(tmp_path, KIND, arrays, settings)
    with pytest.raises(ModelError, match=r"backbone\.onnx is not the backbone that the"):
        loaded(tmp_path)
    (tmp_path / BACKBONE).unlink()
    with pytest.raises(ModelError, match=r"backbone\.onnx cannot be read: No such file"):
        loaded(tmp_path)


# --- The whole pipeline --------------------------------------------------------------------------

MINE = "models/backbones/mine"
OUTPUTS = ["models/encoder", "data/features"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:dvc")
def test_the_pipeline_with_two_backbones_beside_the_colours(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brought as docs/onnx.md says: `dvc add`, and two parameters."""
    monkeypatch.setattr(trials, "IMAGES", 5)  # what a reference tries out takes longest
    networks = [network(*FLAT), network(*FLAT, seed=2)]
    (project.path / MINE).mkdir()
    for name, data in zip("ab", networks, strict=True):
        (project.path / MINE / f"{name}.onnx").write_bytes(data)
    with Repo(str(project.path)) as repo:
        repo.add(str(project.path / MINE))
    project.commit("Two backbones")
    tracked = project.run("git", "ls-files", "models").stdout.split()
    assert {f"{MINE}.dvc", "models/backbones/none.onnx"} <= set(tracked)
    assert not [path for path in tracked if path.startswith(f"{MINE}/")]

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

    release = grocery.load_model(folder)
    shard = shard_paths(project.path / "data/prepared/shards")[0]
    images = read_table(shard, ["image_id", "image"]).to_pylist()
    features = read_table(project.path / "data/features" / shard.name).to_pylist()
    assert len(images) == len(features) > 5
    for image, row in zip(images, features, strict=True):
        assert image["image_id"] == row["image_id"]
        vector = np.array(row["features"], np.float32)
        assert release.encoder([pixels(image["image"])])[0].tobytes() == vector.tobytes()

    recorded = read_table(project.path / "metrics/evaluation/predictions.parquet").to_pylist()
    raw = {i.path: i for i in open_source(project.path / "data/raw/synthetic").images()}
    predictions = release.predict(raw[row["path"]].read() for row in recorded)
    for row, said_again in zip(recorded, predictions, strict=True):
        assert (said_again.label, said_again.confidence) == (row["predicted"], row["confidence"])
    assert sum(row["predicted"] == row["label"] for row in recorded) > 0.5 * len(recorded)

    # What is remembered is not that of another file.
    before = {name: digest(project.path / name) for name in OUTPUTS}
    (project.path / MINE / "a.onnx").write_bytes(network(*FLAT, seed=1))
    with inside(project.path):
        runner.run("featurize", params)
    kept = project.path / "models/encoder" / BACKBONE
    assert kept.read_bytes() == network(*FLAT, seed=1)
    for name in OUTPUTS:
        assert digest(project.path / name) != before[name]
