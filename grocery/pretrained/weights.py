"""The numbers in a file of PyTorch's format before 1.6, without executing its pickles.

Such a file is five pickles and then the raw numbers. The pickles are only listed, by
`pickletools`, and what they say in words is enough: the name of each tensor and the key of its
storage, and the order of the keys. Shapes come from whoever knows the network.
"""

from __future__ import annotations

import io
import pickletools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grocery.core.errors import ModelError

_BEGINNING = [("LONG1", 0x1950A86A20F9469CFC6C), ("BININT2", 1001)]  # magic number, version
_GLOBALS = frozenset(
    {
        "collections OrderedDict",
        "torch FloatStorage",
        "torch LongStorage",
        "torch._utils _rebuild_tensor_v2",
    }
)
_OPCODES = frozenset(
    "PROTO STOP GLOBAL REDUCE BUILD BINPERSID BINUNICODE BINPUT LONG_BINPUT BINGET LONG_BINGET "  # noqa: SIM905
    "BININT BININT1 BININT2 NONE NEWFALSE MARK TUPLE TUPLE1 TUPLE2 EMPTY_TUPLE EMPTY_LIST APPENDS "
    "EMPTY_DICT SETITEM SETITEMS".split()
)
_COUNTER = ".num_batches_tracked"  # of batch normalisation, in 64-bit whole numbers


def read_weights(data: bytes, name: str) -> dict[str, NDArray[np.float32]]:
    """The flat tensors of a file, by name; sentences call the file `name`.

    Raises
    ------
    ModelError
        When it is not of that format, or says more than that format has to say.
    """
    stream = io.BytesIO(data)
    try:
        magic, version, _, tensors, keys = (list(pickletools.genops(stream)) for _ in range(5))
    except (ValueError, EOFError, UnicodeError) as error:
        raise ModelError(f"{name} is not a whole file of PyTorch's old format: {error}") from None
    if [(op.name, value) for op, value, _ in (magic[1], version[1])] != _BEGINNING:
        raise ModelError(f"{name} is not a file of PyTorch's old format")
    for op, value, _ in (*tensors, *keys):
        if op.name not in _OPCODES or (op.name == "GLOBAL" and value not in _GLOBALS):
            said = f"{op.name} {value}" if value is not None else op.name
            raise ModelError(f"{name} says {said!r:.80}, which no file of weights needs to say")
    stored: dict[str, str] = {}  # the key of a storage to the name of its tensor
    tensor = ""
    for word in _words(tensors):
        if word.isdecimal():
            stored[word] = tensor
        elif "." in word:
            tensor = word
    found = {}
    for key in _words(keys):
        kind = np.dtype("<i8" if stored.get(key, "").endswith(_COUNTER) else "<f4")
        count = int.from_bytes(stream.read(8), "little")
        if count * kind.itemsize > len(data):
            raise ModelError(f"{name} is damaged: a tensor has {count} numbers")
        raw = stream.read(count * kind.itemsize)
        if key not in stored or len(raw) < count * kind.itemsize:
            raise ModelError(f"{name} is not whole, or its numbers are not those that it names")
        if kind == np.float32:
            found[stored[key]] = np.frombuffer(raw, np.float32)
    if stream.read(1):
        raise ModelError(f"{name} goes on after its last tensor")
    return found


def _words(pickle: list[Any]) -> list[str]:
    return [value for op, value, _ in pickle if op.name == "BINUNICODE"]
