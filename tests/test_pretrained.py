"""`grocery backbone`: a package of weights to an ONNX file, and files that mean no good."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from dvc.repo import Repo

from conftest import Project, refusal
from grocery.cli.backbone import NAMES
from grocery.core.errors import ModelError
from grocery.features.backbone import Backbone
from grocery.pretrained.efficientnet import LITE, installed_weights, onnx_of
from grocery.pretrained.weights import read_weights
from registry_project import git, grocery

LITE0 = LITE["efficientnet-lite0"]

# The SHA-256 of the ONNX file; the largest of PyTorch's own features of the test's image, by
# efficientnet-lite-pytorch 0.1.0, torch 2.13, ``model.extract_features(x).mean((2, 3))``; and the
# length of the whole vector.
BY_TORCH = {
    "efficientnet-lite0": (
        "2af89acd3c853351cb55dab273c019797d520fce8539fa28b93bbe60e01f2db2",
        {659: 4.297934, 113: 3.678007, 492: 3.595197, 226: 3.195996, 1137: 3.134298, 761: 2.941712},
        14.001181,
    ),
    "efficientnet-lite2": (
        "bc874b1930c8f9b0385c4d36e556b227b2f601f64120fdd567de77b502963a11",
        {716: 4.433783, 139: 4.362296, 302: 3.840998, 260: 3.616666, 291: 3.479204, 850: 3.305496},
        16.406912,
    ),
}


@pytest.mark.parametrize("name", BY_TORCH)
def test_the_features_are_those_of_pytorch(name: str, tmp_path: Path) -> None:
    """Of the packages in the lock, prepared as the file itself says; the same bytes everywhere."""
    lite, file = LITE[name], tmp_path / f"{name}.onnx"
    sha256, largest, length = BY_TORCH[name]
    data = onnx_of(lite, installed_weights(lite))
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    assert hashlib.sha256(data).hexdigest() == sha256
    file.write_bytes(data)
    backbone = Backbone.from_file(file, square_root=False)
    side = lite.input_size
    pixels = np.arange(side * side * 3) // 3 * 7919 % 251
    features = backbone(pixels.astype(np.uint8).reshape(side, side, 3))
    assert features.shape == (1280,)
    np.testing.assert_allclose(features[[*largest]], [*largest.values()], atol=1e-5)
    assert np.linalg.norm(features) == pytest.approx(length, abs=1e-4)
    said = backbone.settings()
    assert said["input_size"] == side
    assert (said["mean"], said["std"]) == ([0.49803922] * 3, [0.50196078] * 3)
    assert said["licence"] == "Apache-2.0"
    assert lite.sha256 in said["origin"]


def test_a_package_that_is_missing_or_another() -> None:
    with pytest.raises(ModelError, match="the package tiny-pytorch-model: `make extras`"):
        installed_weights(replace(LITE0, name="tiny"))
    with pytest.raises(ModelError, match="does not hold the weights that are known"):
        installed_weights(replace(LITE0, sha256="0" * 64))


def test_one_command_brings_each_network(project: Project) -> None:
    said = grocery(project, "backbone", *NAMES, PATH="/usr/bin:/bin").out  # nothing is activated
    folder = "models/backbones/efficientnet-lite0+efficientnet-lite2"
    assert f"featurize.onnx.path={folder}" in said
    found = {f.name for f in (project.path / folder).iterdir()}
    assert found == {f"{name}.onnx" for name in LITE}  # all that there are
    assert "models/backbones/.gitignore" in git(project, "status", "--porcelain", "-uall")
    with Repo(str(project.path)) as repo:
        assert repo.status(str(project.path / f"{folder}.dvc")) == {}


BEGINNING = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19." + b"\x80\x02M\xe9\x03." + b"\x80\x02}."


def word(text: str) -> bytes:
    return b"X" + len(text).to_bytes(4, "little") + text.encode()


def weights(*tensors: tuple[str, np.ndarray], before: bytes = b"", first: int = 100) -> bytes:
    """A file of the old format: what it says of its tensors, which it numbers, and their values."""
    body, listed, raw = b"ccollections\nOrderedDict\n" + before, b"", b""
    for number, (name, values) in enumerate(tensors, 100):
        body += word(name) + b"ctorch\nFloatStorage\n" + word(str(number))
        listed += word(str(number - 100 + first))
        raw += len(values).to_bytes(8, "little") + values.tobytes()
    return BEGINNING + b"\x80\x02" + body + b"." + b"\x80\x02](" + listed + b"e." + raw


ONE = ("a.weight", np.arange(3, dtype=np.float32))


def test_numbers_are_found_by_their_names() -> None:
    counter, two = ("a.num_batches_tracked", np.array([7])), ("b.weight", np.array([9], np.float32))
    found = read_weights(weights(ONE, counter, two), "it")
    named = {name: values.tolist() for name, values in found.items()}
    assert named == {"a.weight": [0, 1, 2], "b.weight": [9]}


MARKER = "a-pickle-was-executed"
RUNS = f"cos\nsystem\n(X{chr(6 + len(MARKER))}\0\0\0touch {MARKER}tR".encode()
WHOLE = weights(ONE)
BY_WORDS = b"X\x02\0\0\0osX\x06\0\0\0system\x93"
TOO_MANY = WHOLE.replace((3).to_bytes(8, "little"), (2**62).to_bytes(8, "little"))
HOSTILE = {
    "a program in it": (weights(ONE, before=RUNS), "says 'GLOBAL os system', which no file of"),
    "a program alone": (RUNS + b".", "is not a whole file of PyTorch's old format"),
    "a program by its words": (weights(ONE, before=BY_WORDS), "says 'STACK_GLOBAL', which no"),
    "a program by its number": (weights(ONE, before=b"\x82\x01"), "says 'EXT1 1', which no"),
    "a ZIP, as PyTorch writes today": (b"PK\x03\x04" + bytes(40), "is not a whole file"),
    "cut off in a pickle": (WHOLE[:60], "is not a whole file"),
    "cut off in its numbers": (WHOLE[:-1], "is not whole"),
    "something behind it": (WHOLE + b"\0", "goes on after its last tensor"),
    "too many numbers": (TOO_MANY, "is damaged: a tensor has 4611686018427387904 numbers"),
    "a key that nothing has": (weights(ONE, first=7), "its numbers are not those that it names"),
    "another magic number": (WHOLE.replace(b"\x9cF", b"\x9cG"), "is not a file of PyTorch's old"),
}


@pytest.mark.parametrize(("data", "sentence"), HOSTILE.values(), ids=HOSTILE)
def test_a_file_that_means_no_good_is_refused(data: bytes, sentence: str, here: Path) -> None:
    assert sentence in refusal(ModelError, read_weights, data, "evil.pth")
    assert not (here / MARKER).exists()


def test_weights_of_another_network() -> None:
    with pytest.raises(ModelError, match=r"_conv_stem\.weight are missing, but they should be \(3"):
        onnx_of(LITE0, weights(ONE))
    few = weights(("_conv_stem.weight", np.zeros(5, np.float32)))
    with pytest.raises(ModelError, match=r"_conv_stem\.weight are of 5 numbers, but"):
        onnx_of(LITE0, few)
