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
from fcntl import LOCK_SH, flock
from io import FileIO
from pathlib import Path
from typing import Any

from filelock import lock_descriptor


class Journal:
    """The lines of one file, which need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, start: int = 0) -> bytes:
        """All that is in it from some byte on; nothing where it does not exist."""
        try:
            with self.path.open("rb") as stream:
                lock_descriptor(stream.fileno())
                stream.seek(start)
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
            self._append(stream, line)

    def extend(self, make: Callable[[bytes], str | None], start: int = 0) -> None:
        """Add the line that `make` gives, or none; it is told all that is there from `start` on.

        Raises
        ------
        OSError
            As `add`.
        """
        with self.opened() as stream:
            stream.seek(start)
            if (line := make(stream.read())) is not None:
                self._append(stream, line)

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

    def _append(self, stream: FileIO, line: str) -> None:
        end = stream.seek(0, os.SEEK_END)
        stream.seek(max(end - 1, 0))
        cut_off = stream.read(1) not in (b"", b"\n")
        data = (b"\n" if cut_off else b"") + line.encode() + b"\n"
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


@contextmanager
def shared(lock: Path) -> Iterator[bool]:
    """Hold a lock file together with others; whether nobody held it when we came.

    The system lets go of it when the process ends, in whatever way.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("ab") as file:
        alone = lock_descriptor(file.fileno(), blocking=False)
        flock(file, LOCK_SH)
        yield alone


def _settle(folder: Path) -> None:
    """Have the system write that the folder has a new file."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
