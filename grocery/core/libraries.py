"""The numeric libraries: their versions decide bytes, so stages declare them as parameters.

libraries.yaml holds them, as the lock does. What a stage computes counts as made with these
versions, so it must not compute with others.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from grocery.core.documents import parse_yaml
from grocery.core.errors import GroceryError

LIBRARIES = Path("libraries.yaml")


def check_installed(names: Iterable[str], file: Path = LIBRARIES) -> None:
    """Refuse to compute with other versions than the ones that are written down.

    Parameters
    ----------
    names
        Distributions, such as ``scikit-learn``. One that is not installed is left alone: whoever
        needs it says so.
    file
        Name to version.

    Raises
    ------
    GroceryError
        When a version is another one, or the file does not hold it.
    """
    wanted = parse_yaml(file.read_bytes(), str(file), GroceryError)
    for name in names:
        right = wanted.get(name) if isinstance(wanted, dict) else None
        if not isinstance(right, str):
            raise GroceryError(f"{file} has no version of {name}; `make lock` writes the file")
        try:
            installed = version(name)
        except PackageNotFoundError:
            continue
        if installed != right:
            raise GroceryError(
                f"{name} {installed} is installed, but {file} says {right}, and another version "
                "may give other bytes; `make repro` installs the lock's versions, "
                f"`make lock UPGRADE={name}` moves the lock to the newest one"
            )
