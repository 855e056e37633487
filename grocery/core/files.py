"""Outputs appear whole and together or not at all, and JSON is written one way."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any


@contextmanager
def replacing(*paths: Path, files: Collection[Path] = ()) -> Iterator[tuple[Path, ...]]:
    """Give a sibling of each path to write to, and put all of them in place at the end.

    When the block raises, and when they cannot all be put in place, `paths` are left as they were.
    When the process is killed, a later call removes what was left behind; killed while it puts them
    in place, it may leave some new and some old, and the stage counts as changed. The siblings have
    other names each time: what a process of a killed run still writes, here or on another machine,
    ends up in no output.

    Nothing need exist at `paths`. Those of them that are `files` the block must write; the others
    are folders, whose siblings are there and empty.
    """
    partials = tuple(_partial(path) for path in paths)
    for path in paths:
        _tidy(path)
    try:
        for path, partial in zip(paths, partials, strict=True):
            (path.parent if path in files else partial).mkdir(parents=True, exist_ok=True)
        yield partials
        _put_in_place(paths, partials)
    finally:
        for partial in partials:
            _remove(partial)


def _put_in_place(paths: Sequence[Path], partials: Sequence[Path]) -> None:
    """Rename all, or put back what was there."""
    begun: list[Path] = []
    try:
        for path, partial in zip(paths, partials, strict=True):
            begun.append(path)
            if path.exists():
                path.rename(_previous(path))
            partial.rename(path)
    except BaseException:
        for path in reversed(begun):
            if _previous(path).exists():
                _remove(path)
                _previous(path).rename(path)
            elif path is not begun[-1]:
                _remove(path)  # it is new
        raise
    for path in paths:
        _remove(_previous(path))


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")


def _previous(path: Path) -> Path:
    return path.with_name(f".{path.name}.previous")


def _tidy(path: Path) -> None:
    """Remove what a killed run has left beside a path."""
    if _previous(path).exists() and not path.exists():
        _previous(path).rename(path)  # killed between the two renames
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}.partial"):
        _remove(leftover)
    _remove(_previous(path))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old bytes or all of the new ones, whoever writes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write sorted, indented JSON; floats are kept to 6 decimals so that a diff is readable."""
    text = json.dumps(rounded(value), indent=2, sort_keys=True, ensure_ascii=False)
    write_bytes(path, (text + "\n").encode())


def leads_out(name: Any) -> bool:
    """Whether a name that comes with data is no plain relative POSIX path, on any system.

    True for what is absolute, has ``..`` or a drive in it, or is written in two ways.
    """
    if not isinstance(name, str) or not name or "\\" in name or "\0" in name:
        return True
    path = PurePosixPath(name)
    odd = name == "." or ".." in path.parts or name != path.as_posix()
    return odd or bool(PureWindowsPath(name).anchor)  # of what is absolute, or has a drive


def rounded(value: Any, digits: int = 6) -> Any:
    """Copy a JSON value with every float rounded to `digits` decimals."""
    if isinstance(value, float):
        return round(value, digits)
    if isinstance(value, dict):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item, digits) for item in value]
    return value


def digest(path: Path) -> str:
    """SHA-256 (hex) of a file, or of a folder's relative names and contents in sorted order."""
    if path.is_file():
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    total = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        total.update(f"{file.relative_to(path).as_posix()}\0{digest(file)}\n".encode())
    return total.hexdigest()
