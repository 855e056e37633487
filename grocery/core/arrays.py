"""Fitted things on disk: arrays in safetensors, the rest in JSON; never code.

A folder holds ``NAME.safetensors`` and ``NAME.json``. The JSON names its kind and format and
carries one SHA-256 of the arrays' bytes and of all else that it says, so that a damaged, exchanged
or edited file is noticed, be it by one name or number. The same content gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from grocery.core.bounds import Bounds
from grocery.core.errors import ModelError
from grocery.core.files import write_bytes

FORMAT = 3

Arrays = dict[str, NDArray[Any]]


def save_arrays(
    folder: Path, kind: str, arrays: Arrays, description: Mapping[str, Any], name: str = "model"
) -> str:
    """Write `arrays` and a JSON `description` to a folder; return the digest of both."""
    data = serialised(arrays)
    whole = sealed(kind, data, description)
    text = json.dumps(whole, indent=2, sort_keys=True, ensure_ascii=False)
    write_bytes(folder / f"{name}.safetensors", data)
    write_bytes(folder / f"{name}.json", (text + "\n").encode())
    return str(whole["sha256"])


def digest_of(kind: str, arrays: Arrays, description: Mapping[str, Any]) -> str:
    """The digest that `save_arrays` would record."""
    return str(sealed(kind, serialised(arrays), description)["sha256"])


def sealed(kind: str, data: bytes, description: Mapping[str, Any]) -> dict[str, Any]:
    """The description with its kind, its format, and the digest of it and of serialised arrays."""
    whole = {**description, "kind": kind, "format": FORMAT}
    return whole | {"sha256": _digest(data, whole)}


def serialised(arrays: Arrays) -> bytes:
    """Arrays as safetensors; equal arrays give equal bytes."""
    return save({name: np.ascontiguousarray(array) for name, array in sorted(arrays.items())})


def load_arrays(folder: Path, kind: str, name: str = "model") -> tuple[Arrays, dict[str, Any]]:
    """Read what `save_arrays` wrote; nothing in the files can be executed.

    Gives the arrays, and the description with its kind, its format and, as ``sha256``, the digest.

    Raises
    ------
    ModelError
        When a file is missing, damaged, of another kind or of another format, when the files are
        not those that the digest is of, or when an array holds NaN or infinite values.
    """
    file, header = folder / f"{name}.safetensors", folder / f"{name}.json"
    try:
        data = file.read_bytes()
        description = json.loads(header.read_bytes())
        if not isinstance(description, dict):
            raise ValueError("it holds no JSON object")
        digest = _digest(data, description)
    except OSError as error:
        found, what = Path(error.filename or file).name, f"{folder} holds no {kind}"
        if isinstance(error, FileNotFoundError):
            hint = "run the pipeline or fetch a model first"
            raise ModelError(f"{what}: {found} is missing; {hint}") from None
        raise ModelError(f"{what} that can be read: {found}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{header} is damaged: {error}") from None
    if description.get("kind") != kind:
        raise ModelError(f"{folder} holds {description.get('kind')!r:.80}, not {kind!r}")
    if description.get("format") != FORMAT:
        raise ModelError(
            f"{folder} is of format {description.get('format')!r:.80}, this version reads {FORMAT}"
        )
    if description.get("sha256") != digest:
        raise ModelError(
            f"the {kind} in {folder} is damaged or was changed: its digest is not the one that it "
            "carries"
        )
    try:
        arrays: Arrays = load(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise ModelError(f"{file} is damaged: {error}") from None
    for key, array in sorted(arrays.items()):
        if not np.isfinite(array).all():
            raise ModelError(f"{file} cannot be used: {key!r} holds NaN or infinite values")
    return arrays, description


def array_of(
    arrays: Arrays, name: str, *shape: int | Bounds, dtype: DTypeLike = np.float32
) -> NDArray[Any]:
    """One of the arrays that were loaded.

    Raises
    ------
    ValueError
        When it has another type or shape; each side is a number or has bounds. An array of no
        entries can have sides of any length, and what is computed from it takes memory.
    KeyError
        When it is not there.
    """
    array = arrays[name]
    if array.dtype != dtype or array.ndim != len(shape):
        raise ValueError(f"its {name} are {array.dtype} of {array.ndim} dimensions")
    for found, wanted in zip(array.shape, shape, strict=True):
        limits = wanted if isinstance(wanted, Bounds) else Bounds(wanted, wanted)
        limits.check(f"a side of its {name}", found)
    return array


def _digest(data: bytes, description: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of a description in its one spelling, on one line, and of the arrays after it.

    A description that holds what JSON has no word for, NaN or half of a character, is a ValueError.
    """
    said = {key: value for key, value in description.items() if key != "sha256"}
    line = json.dumps(
        said, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    total = hashlib.sha256(f"{line}\n".encode())
    total.update(data)
    return total.hexdigest()
