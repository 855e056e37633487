"""Opening an ONNX file so that nothing but what stands in it counts.

A tensor in an ONNX file may name another file and an offset instead of holding numbers (*external
data*). Such a backbone is not what its hash says, and onnxruntime looks for the file in the current
directory even when it gets the model as bytes. So this is settled before onnxruntime sees a file,
by walking through its protobuf encoding: https://protobuf.dev/programming-guides/encoding, with the
field numbers of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grocery.core.errors import ModelError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIDTH = {_FIXED64: 8, _FIXED32: 4}

# The messages that tensors can lie in: number of a field -> the message that it holds.
NESTED: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {},
}
_GRAPH = 7  # of a model
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # of a tensor


class NotOnnx(ValueError):
    """The bytes are no ONNX model."""


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
    try:
        external = has_external_data(data)
    except NotOnnx as error:
        raise ModelError(f"{path} is not an ONNX file: {error}") from None
    if external:
        raise ModelError(
            f"{path} keeps numbers in other files; a backbone must be one file, so save it without "
            "external data"
        )
    options = onnxruntime.SessionOptions()
    # The pipeline is parallel over shards, and one thread adds in one order.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # Errors are raised; onnxruntime would print them too.
    options.log_severity_level = 4
    options.add_session_config_entry("session.load_model_format", "ONNX")
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no base of their own
        raise ModelError(f"{path} cannot be used: {runtime_reason(error)}") from None


def runtime_reason(error: Exception) -> str:
    """What onnxruntime says, on one line of bounded length, without its codes."""
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", " ".join(str(error).split()))
    return text if len(text) <= 200 else text[:199] + "…"


def has_external_data(model: bytes) -> bool:
    """Whether a tensor anywhere in an ONNX model lies in another file.

    Raises
    ------
    NotOnnx
        When the bytes are no protobuf message, or one without a graph.
    """
    external = graph = False
    pending = [("ModelProto", memoryview(model))]
    while pending:
        kind, message = pending.pop()
        for field, wire_type, value in _fields(message):
            if kind == "TensorProto":
                external |= field == _EXTERNAL_DATA or (field == _DATA_LOCATION and value != 0)
            nested = NESTED[kind].get(field)
            if nested and wire_type == _BYTES and isinstance(value, memoryview):
                graph |= kind == "ModelProto" and field == _GRAPH
                pending.append((nested, value))
    if not graph:
        raise NotOnnx("it holds no graph")
    return external


def _fields(message: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Number, wire type and value of each field of a message, in order."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        # Parsers keep 32 bits of a tag: what they would read differently is refused.
        field, wire_type = tag >> 3, tag & 7
        if not 0 < field < 2**29:
            raise NotOnnx("a field has no number")
        value: int | memoryview
        if wire_type == _VARINT:
            value, place = _varint(message, place)
        else:
            if wire_type == _BYTES:
                length, place = _varint(message, place)
            elif wire_type in _WIDTH:
                length = _WIDTH[wire_type]
            else:
                raise NotOnnx("a field is of an unknown type")
            if length > len(message) - place:
                raise NotOnnx("it ends in the middle of a field")
            value, place = message[place : place + length], place + length
        yield field, wire_type, value


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """The whole number that begins at `place`, and the place after it."""
    value = 0
    for position, byte in enumerate(message[place : place + 10]):
        value |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:
            return value, place + position + 1
    raise NotOnnx("it ends in the middle of a number")
