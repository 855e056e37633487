"""What DVC calls the content of a file or a folder: the hash that stands in dvc.lock."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Content:
    """The content of a file or a folder."""

    # DVC's hash (hex). A folder's ends in ``.dir`` and is the MD5 of `listing`.
    md5: str
    # MD5 (hex) of every file by its relative POSIX path, sorted; of a file, by its name.
    files: Mapping[str, str]
    # Bytes of every file, under the same names.
    sizes: Mapping[str, int]

    @property
    def listing(self) -> bytes:
        """The files and their hashes as JSON: of a folder, the very bytes that DVC hashes."""
        return _listing(self.files)


def read_content(path: Path) -> Content:
    """Hash a file, or all files of a folder, as DVC 3 does.

    Raises
    ------
    FileNotFoundError
        When there is nothing at `path`.
    """
    found = {path.name: path}
    if path.is_dir():
        found = {f.relative_to(path).as_posix(): f for f in path.rglob("*") if f.is_file()}
    files = {name: md5_of_file(found[name]) for name in sorted(found)}
    sizes = {name: found[name].stat().st_size for name in files}
    return Content(folder_md5(files) if path.is_dir() else files[path.name], files, sizes)


def folder_md5(files: Mapping[str, str]) -> str:
    """DVC's hash of a folder, from the MD5 (hex) of every file by its relative POSIX path."""
    return f"{md5_of(_listing(files))}.dir"


def md5_of(data: bytes) -> str:
    """MD5 (hex)."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _listing(files: Mapping[str, str]) -> bytes:
    rows = [{"md5": md5, "relpath": name} for name, md5 in sorted(files.items())]
    return json.dumps(rows, sort_keys=True).encode()


def md5_of_file(file: Path) -> str:
    """MD5 (hex) of its content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
