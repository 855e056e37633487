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

from grocery.core.errors import ModelError
from grocery.core.files import write_bytes

FORMAT = 2

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
        When a file is missing, damaged, of another kind or of another format, or when an array
        holds NaN or infinite values.
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
    except OSError as error:
        raise ModelError(
            f"{folder} holds no {kind} that can be read: "
            f"{Path(error.filename or file).name}: {error.strerror}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{header} is damaged: {error}") from None
    _check_description(description, kind, folder, header)
    if hashlib.sha256(data).hexdigest() != description.get("sha256"):
        raise ModelError(
            f"{file} is damaged or of another model: its digest is not the one in {header.name}"
        )
    try:
        arrays: Arrays = load(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise ModelError(f"{file} is damaged: {error}") from None
    for key, array in sorted(arrays.items()):
        if not np.isfinite(array).all():
            raise ModelError(f"{file} cannot be used: {key!r} holds NaN or infinite values")
    return arrays, description


def _check_description(description: Any, kind: str, folder: Path, header: Path) -> None:
    """Refuse JSON that is no object, and a folder of another kind or format."""
    if not isinstance(description, dict):
        raise ModelError(f"{header} is damaged: it holds no JSON object")
    if description.get("kind") != kind:
        raise ModelError(f"{folder} holds {description.get('kind')!r}, not {kind!r}")
    if description.get("format") != FORMAT:
        raise ModelError(
            f"{folder} is of format {description.get('format')!r}, this version reads {FORMAT}"
        )


def _serialised(arrays: Arrays) -> bytes:
    return save({name: np.ascontiguousarray(array) for name, array in sorted(arrays.items())})
