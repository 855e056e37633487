"""Chooses the reader of a raw dataset by what its folder holds.

Listing a dataset opens no image; `grocery.images.decoding.decode` alone says what is one.
"""

from __future__ import annotations

from pathlib import Path

from grocery.core.documents import parse_yaml
from grocery.core.errors import DataError, meant
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
    """Say which datasets there are, and how one that is not here can be had."""
    if folder.exists():
        return f"{folder} is not a folder"
    raw = folder.parent
    known = _downloads(raw) | {file.stem: "dvc pull" for file in raw.glob("*.dvc")}
    known |= {entry.name: "" for entry in raw.glob("[!.]*") if entry.is_dir()}
    names = [f"{name} (get it with: {how})" if how else name for name, how in sorted(known.items())]
    near, can_be = meant(folder.name, known), ", ".join(names) or "nothing yet"
    return f"{folder} is missing{near}; data.source can be {can_be}"


def _downloads(raw: Path) -> dict[str, str]:
    """How to get each public dataset of dvc.yaml; it says so, and is no input."""
    file = Path("dvc.yaml")
    document = parse_yaml(file.read_bytes(), str(file), DataError) if file.is_file() else {}
    return {
        each["name"]: f"dvc get {each['url']} {each['path']} --rev {each['rev']} "
        f"-o {raw / each['name']}"
        for each in document.get("datasets", ())
    }
