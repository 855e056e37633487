"""An ONNX file, written field by field: the few of the format that a network of convolutions needs.

The numbers of the fields are those of ``onnx.proto`` (opset 17). Equal networks give equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_IR_VERSION, _OPSET = 8, 17
_FLOAT = 1  # TensorProto.FLOAT
_INT, _STRING, _INTS = 2, 3, 7  # AttributeProto's types

Value = int | str | Sequence[int]


@dataclass
class Network:
    """A network that grows node by node, from the input ``image``: any size and any batch."""

    nodes: list[bytes] = field(default_factory=list)
    numbers: list[bytes] = field(default_factory=list)

    def tensor(self, name: str, values: NDArray[np.float32]) -> str:
        """Keep numbers under a name, which is given back."""
        self.numbers.append(
            b"".join(_field(1, side) for side in values.shape)
            + _field(2, _FLOAT)
            + _field(8, name)
            + _field(9, values.astype("<f4").tobytes())
        )
        return name

    def node(self, kind: str, inputs: Iterable[str], output: str, **attributes: Value) -> str:
        """Add a node, and give back the name of its output."""
        self.nodes.append(
            b"".join(_field(1, name) for name in inputs)
            + _field(2, output)
            + _field(4, kind)
            + b"".join(_field(5, _attribute(*item)) for item in sorted(attributes.items()))
        )
        return output

    def serialised(self, output: str, length: int, metadata: Mapping[str, str]) -> bytes:
        """The file; its output has shape (n, length)."""
        graph = (
            b"".join(_field(1, node) for node in self.nodes)
            + _field(2, "network")
            + b"".join(_field(5, tensor) for tensor in self.numbers)
            + _field(11, _described("image", "n", 3, "h", "w"))
            + _field(12, _described(output, "n", length))
        )
        return (
            _field(1, _IR_VERSION)
            + _field(2, "grocery")
            + _field(7, graph)
            + _field(8, _field(1, "") + _field(2, _OPSET))
            + b"".join(_field(14, _field(1, k) + _field(2, v)) for k, v in sorted(metadata.items()))
        )


def _attribute(name: str, value: Value) -> bytes:
    if isinstance(value, int):
        return _field(1, name) + _field(3, value) + _field(20, _INT)
    if isinstance(value, str):
        return _field(1, name) + _field(4, value) + _field(20, _STRING)
    return _field(1, name) + b"".join(_field(8, each) for each in value) + _field(20, _INTS)


def _described(name: str, *shape: int | str) -> bytes:
    """A ValueInfoProto: a tensor of floats, its sides sizes or names."""
    sides = b"".join(_field(1, _field(1 if isinstance(s, int) else 2, s)) for s in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, _FLOAT) + _field(2, sides)))


def _field(number: int, value: int | str | bytes) -> bytes:
    """A field of protobuf: a whole number, or a length and what is so long."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    content = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])
