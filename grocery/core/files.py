"""Outputs appear whole or not at all, and JSON is written one way."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give an empty sibling folder to write in, and put it in place of `path` at the end.

    When the block raises, `path` is left as it was. When the process is killed, a later call
    removes what was left behind. The sibling has another name each time: what a process of a killed
    run still writes, here or on another machine, ends up in no output.

    Parameters
    ----------
    path
        The folder to replace; it need not exist.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    previous = path.with_name(f".{path.name}.previous")
    if previous.exists() and not path.exists():
        previous.rename(path)  # killed between the two renames below
    token = "[0-9a-f]" * 8
    for leftover in (
        *path.parent.glob(f".{glob.escape(path.name)}.{token}.partial"),
        path.with_name(f".{path.name}.partial"),  # of a version of this code before
        previous,
    ):
        if leftover.is_file():
            leftover.unlink()
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if path.exists():
        path.rename(previous)
    partial.rename(path)
    shutil.rmtree(previous, ignore_errors=True)


def same_file(path: Path, target: Path) -> None:
    """Give a file that stays as it is a second name, without a copy where there can be none.

    It remains the same file to those that know files by inode and time, as DVC does.
    """
    if not path.is_symlink():
        try:
            os.link(path, target)
            return
        except OSError:
            pass  # a file system without hard links, or another one
    shutil.copyfile(path, target)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old bytes or all of the new ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write sorted, indented JSON; floats are kept to 6 decimals so that a diff is readable."""
    text = json.dumps(rounded(value), indent=2, sort_keys=True, ensure_ascii=False)
    write_bytes(path, (text + "\n").encode())


def write_metrics(path: Path, value: Mapping[str, Any], headline: Collection[str]) -> None:
    """Write a stage's metrics, and beside them the few that are compared, as ``headline/NAME``.

    The latter are the columns of ``dvc exp show``.
    """
    few = {name: value[name] for name in headline if name in value}
    write_json(path.parent / "headline" / path.name, few)
    write_json(path, value)


def leads_out(name: Any) -> bool:
    """Whether a name that comes with data is no plain relative POSIX path, on any system.

    True for what is absolute, has ``..`` or a drive in it, or is written in two ways.
    """
    if not isinstance(name, str) or not name or "\\" in name or "\0" in name:
        return True
    path = PurePosixPath(name)
    return (
        path.is_absolute()
        or ".." in path.parts
        or name != path.as_posix()
        or name == "."
        or bool(PureWindowsPath(name).anchor)
    )


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
