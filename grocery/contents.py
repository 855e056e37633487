"""What DVC calls the content of a file or a folder: the hash that stands in dvc.lock."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Content:
    """The content of a file or a folder.

    Attributes
    ----------
    md5
        DVC's hash (hex). A folder's ends in ``.dir`` and is the MD5 of `listing`.
    files
        MD5 (hex) of every file by its relative POSIX path, sorted; of a file, by its name.
    sizes
        Bytes of every file, under the same names.
    """

    md5: str
    files: Mapping[str, str]
    sizes: Mapping[str, int]

    @property
    def listing(self) -> bytes:
        """The files and their hashes as JSON: of a folder, the very bytes that DVC hashes."""
        rows = [{"md5": md5, "relpath": name} for name, md5 in self.files.items()]
        return json.dumps(rows, sort_keys=True).encode()


def read_content(path: Path) -> Content:
    """Hash a file, or all files of a folder, as DVC 3 does.

    Raises
    ------
    FileNotFoundError
        When there is nothing at `path`.
    """
    if not path.is_dir():
        md5 = _md5(path)
        return Content(md5, {path.name: md5}, {path.name: path.stat().st_size})
    found = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    names = sorted(found)
    return _folder(
        {name: _md5(found[name]) for name in names},
        {name: found[name].stat().st_size for name in names},
    )


def content_of(files: Mapping[str, bytes]) -> Content:
    """The content of a folder that holds these files, by relative POSIX path."""
    names = sorted(files)
    md5s = {name: hashlib.md5(files[name], usedforsecurity=False).hexdigest() for name in names}
    return _folder(md5s, {name: len(files[name]) for name in names})


def _folder(files: Mapping[str, str], sizes: Mapping[str, int]) -> Content:
    content = Content("", files, sizes)
    whole = hashlib.md5(content.listing, usedforsecurity=False).hexdigest()
    return Content(f"{whole}.dir", files, sizes)


def _md5(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
