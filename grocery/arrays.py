"""Fitted things on disk: arrays in safetensors, the rest in JSON; never code.

A folder holds ``NAME.safetensors`` and ``NAME.json``. The JSON names its kind and format and
carries the SHA-256 of the arrays, so that a truncated or exchanged file is noticed. The same
content gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from grocery.errors import ModelError
from grocery.files import write_bytes

FORMAT = 1

Arrays = dict[str, NDArray[Any]]


def save_arrays(
    folder: Path, kind: str, arrays: Arrays, description: dict[str, Any], name: str = "model"
) -> str:
    """Write `arrays` and a JSON `description` to a folder; return the digest of the arrays."""
    data = _serialised(arrays)
    sha256 = hashlib.sha256(data).hexdigest()
    head = {"kind": kind, "format": FORMAT, "sha256": sha256}
    text = json.dumps(description | head, indent=2, sort_keys=True, ensure_ascii=False)
    write_bytes(folder / f"{name}.safetensors", data)
    write_bytes(folder / f"{name}.json", (text + "\n").encode())
    return sha256


def arrays_digest(arrays: Arrays) -> str:
    """The digest that `save_arrays` would record."""
    return hashlib.sha256(_serialised(arrays)).hexdigest()


def load_arrays(folder: Path, kind: str, name: str = "model") -> tuple[Arrays, dict[str, Any]]:
    """Read what `save_arrays` wrote; nothing in the files can be executed.

    Raises
    ------
    ModelError
        When a file is missing, damaged, of another kind or of another format.
    """
    file, header = folder / f"{name}.safetensors", folder / f"{name}.json"
    try:
        data = file.read_bytes()
        description = json.loads(header.read_bytes())
    except FileNotFoundError as error:
        raise ModelError(
            f"{folder} holds no {kind}: {Path(error.filename).name} is missing; "
            "run the pipeline or fetch a model first"
        ) from None
    except ValueError as error:
        raise ModelError(f"{header} is damaged: {error}") from None
    if not isinstance(description, dict) or description.get("kind") != kind:
        found = description.get("kind") if isinstance(description, dict) else None
        raise ModelError(f"{folder} holds {found!r}, not {kind!r}")
    if description.get("format") != FORMAT:
        raise ModelError(
            f"{folder} is of format {description.get('format')!r}, this version reads {FORMAT}"
        )
    if hashlib.sha256(data).hexdigest() != description.get("sha256"):
        raise ModelError(f"{file} is damaged: its digest is not the one recorded")
    try:
        return load(data), description
    except SafetensorError as error:
        raise ModelError(f"{file} is damaged: {error}") from None


def _serialised(arrays: Arrays) -> bytes:
    return save({name: np.ascontiguousarray(array) for name, array in sorted(arrays.items())})
