"""The numeric libraries: their versions decide bytes, so stages declare them as parameters.

libraries.yaml holds them, as the lock does. What a stage computes counts as made with these
versions, so it must not compute with others.
"""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from grocery.core.documents import parse_yaml
from grocery.core.errors import GroceryError

NUMERIC = (
    *("faiss-cpu", "numpy", "onnxruntime", "pillow", "pillow-heif", "pyarrow"),
    *("scikit-learn", "scipy"),
)


def installed() -> dict[str, str]:
    """Version of each numeric library that is installed."""
    found = {}
    for name in NUMERIC:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def check_installed(file: Path = Path("libraries.yaml")) -> None:
    """Refuse to compute with other versions than those that `file` holds, name to version.

    It is a GroceryError, also where the file lacks one. What is not installed is left alone:
    whoever needs it says so.
    """
    wanted = parse_yaml(file.read_bytes(), str(file), GroceryError)
    for name, there in installed().items():
        right = wanted.get(name) if isinstance(wanted, dict) else None
        if not isinstance(right, str):
            raise GroceryError(f"{file} has no version of {name}; `make lock` writes the file")
        if there != right:
            raise GroceryError(
                f"{name} {there} is installed, but {file} says {right}, and another version may "
                "give other bytes; `make repro` installs the lock's versions, "
                f"`make lock UPGRADE={name}` moves the lock to the newest one"
            )
