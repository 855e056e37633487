"""Chooses the reader of a raw dataset by what its folder holds.

Listing a dataset opens no image; `grocery.images.decoding.decode` alone says what is one.
"""

from __future__ import annotations

from pathlib import Path

from grocery.core.errors import DataError
from grocery.data.folders import FolderSource, refuse_link
from grocery.data.grocery_store import CLASSES, LISTS, GroceryStoreSource
from grocery.images.raw import Source
from grocery.synthetic.source import RECIPE, SyntheticSource


def open_source(folder: Path) -> Source:
    """Choose the reader of a raw dataset.

    Raises
    ------
    DataError
        When the folder is missing, and then it says how to get it; when it or the file that
        describes it is a symbolic link.
    """
    refuse_link(folder)
    if not folder.is_dir():
        raise DataError(_missing(folder))
    wanted = [*LISTS.values(), CLASSES]
    for name in (RECIPE, *wanted):
        refuse_link(folder / name)
    if (folder / RECIPE).is_file():
        return SyntheticSource(folder)
    present = [name for name in wanted if (folder / name).is_file()]
    if present == wanted:
        return GroceryStoreSource(folder)
    if any(name in present for name in LISTS.values()):
        lacking = ", ".join(name for name in wanted if name not in present)
        raise DataError(f"{folder} has {', '.join(present)} but lacks {lacking}")
    return FolderSource(folder)


def _missing(folder: Path) -> str:
    """Say how a missing dataset can be had."""
    if folder.exists():
        return f"{folder} is not a folder"
    tracked = folder.with_name(f"{folder.name}.dvc")
    if tracked.is_file():
        return f"{folder} is not here yet; get it with: dvc pull {tracked}"
    names = set()
    if folder.parent.is_dir():
        for entry in folder.parent.iterdir():
            if entry.is_dir() or entry.suffix == ".dvc":
                names.add(entry.name.removesuffix(".dvc"))
    known = ", ".join(sorted(name for name in names if not name.startswith(".")))
    return f"{folder} is missing; {folder.parent} has {known or 'no datasets'}"
