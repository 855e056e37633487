"""A file of JSON lines that several processes add to, and of which a kill costs no line.

A line is written whole, in one piece, while nobody else reads or writes, and is on the disk when
the call returns. What a kill or a full disk has left of a line stays a line of its own, or goes.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

from filelock import lock_descriptor


class Journal:
    """The lines of one file, which need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> bytes:
        """All that is in it; nothing where it does not exist."""
        try:
            with self.path.open("rb") as stream:
                lock_descriptor(stream.fileno())
                return stream.read()
        except FileNotFoundError:
            return b""

    def entries(self) -> list[dict[str, Any]]:
        """The lines; one that a kill has cut off, or that is no object, is empty."""
        return [parsed(line) for line in self.read().splitlines()]

    def add(self, entry: Mapping[str, Any]) -> None:
        """Add a line that says this; see `append`."""
        self.append(json.dumps(entry, sort_keys=True))

    def append(self, line: str) -> None:
        """Add a line, which must hold no line break.

        Raises
        ------
        OSError
            When it cannot be written; then the file is as it was.
        """
        with self.opened() as stream:
            end = stream.seek(0, os.SEEK_END)
            stream.seek(max(end - 1, 0))
            self._append(stream, stream.read(1), line)

    def extend(self, make: Callable[[bytes], str | None]) -> None:
        """Add the line that `make` gives, or none; it is told all that is there.

        Raises
        ------
        OSError
            As `add`.
        """
        with self.opened() as stream:
            stream.seek(0)
            data = stream.read()
            if (line := make(data)) is not None:
                self._append(stream, data[-1:], line)

    def empty(self, lines: int) -> bool:
        """Empty it if it holds so many lines; whether it did."""
        with self.opened() as stream:
            stream.seek(0)
            if len(stream.read().splitlines()) != lines:
                return False
            stream.truncate(0)
            return True

    @contextmanager
    def opened(self) -> Iterator[FileIO]:
        """The file, made if need be, while nobody else reads or writes it.

        The system lets go of the lock when the process ends, in whatever way.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = not self.path.exists()
        with self.path.open("a+b", buffering=0) as stream:
            lock_descriptor(stream.fileno())
            if new:
                _settle(self.path.parent)
            yield stream

    def _append(self, stream: FileIO, last: bytes, line: str) -> None:
        """Add a line to what ends in the byte `last`."""
        end = stream.seek(0, os.SEEK_END)
        data = (b"\n" if last not in (b"", b"\n") else b"") + line.encode() + b"\n"
        try:
            if stream.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(stream)
        except OSError as error:
            stream.truncate(end)
            raise OSError(error.errno, error.strerror, str(self.path)) from error


def parsed(line: bytes, hook: Callable[[dict[str, Any]], Any] | None = None) -> dict[str, Any]:
    """What a line says, see `json.loads` for the hook; nothing if it cannot be read."""
    try:
        value = json.loads(line, object_hook=hook)
    except (ValueError, TypeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


@contextmanager
def held(lock: Path) -> Iterator[int | None]:
    """Hold a lock file, or give None when somebody else does.

    The number is that of the open file. A child process that inherits it holds the lock too, even
    when this process is killed.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("ab") as file:
        yield file.fileno() if lock_descriptor(file.fileno(), blocking=False) else None


def _settle(folder: Path) -> None:
    """Have the system write that the folder has a new file."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
