"""SHA-256 of files that lie where they lay, remembered by what the file system says of them.

A file counts as unchanged while its size, its times of modification and change, and its inode are
as they were. Git's index and DVC go by the same signs: a change that shows in none of them starts
no stage. As theirs, a file's signs say nothing when it was written moments before it was read, for
it may be written again within the same tick of the clock; such a file is read anew the next time.
"""

from __future__ import annotations

import io
import os
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from grocery.core.files import write_bytes

# Nanoseconds that a file must have been left alone before its signs are trusted; file systems may
# count time in steps of two seconds.
SETTLED = 2_000_000_000

_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("modified", pa.int64(), nullable=False),
        pa.field("changed", pa.int64(), nullable=False),
        pa.field("inode", pa.uint64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
    ]
)

Signs = tuple[int, int, int, int]


class Fingerprints:
    """What files hashed to, as long as they are the same files.

    Parameters
    ----------
    file
        Where it is remembered; None for nowhere, so that nothing is known.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._known: dict[str, tuple[Signs, str]] = {}
        self._fresh: dict[str, tuple[Signs, str]] = {}
        self._settled = 0
        if file is None:
            return
        try:
            table = pq.read_table(io.BytesIO(file.read_bytes()), schema=_SCHEMA)
        except (OSError, pa.ArrowException):
            return  # nothing is known, and every file is read
        path, *signs, sha256 = (column.to_pylist() for column in table.columns)
        self._known = dict(
            zip(path, zip(zip(*signs, strict=True), sha256, strict=True), strict=True)
        )

    def look(self, path: Path) -> tuple[Signs | None, str | None]:
        """The signs of a file now, and its hash if it is known; call it before reading the file."""
        try:
            found = os.stat(path)
        except OSError:
            return None, None  # whoever reads it says so
        signs = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
        if max(signs[1:3]) > time.time_ns() - SETTLED:
            return None, None
        before, sha256 = self._known.get(str(path), (None, None))
        return signs, sha256 if before == signs else None

    def learn(self, path: Path, signs: Signs | None, sha256: str) -> None:
        """Remember a file's hash with the signs that it had before it was read."""
        if signs is not None:
            self._fresh[str(path)] = (signs, sha256)

    def save(self) -> None:
        """Write down what has been learned; all else is forgotten."""
        if self._file is None:
            return
        rows = [
            dict(zip(_SCHEMA.names, (path, *signs, sha256), strict=True))
            for path, (signs, sha256) in sorted(self._fresh.items())
        ]
        table = pa.Table.from_pylist(rows, schema=_SCHEMA)
        stream = io.BytesIO()
        pq.write_table(table, stream)
        write_bytes(self._file, stream.getvalue())
