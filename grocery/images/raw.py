"""An image of a raw dataset, before anything has been read or decoded."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from grocery.core.bounds import FILE_BYTES
from grocery.core.errors import DataError, UnreadableImage

# Facts about a file; other errors, such as too many open files, are of a run.
_DENIED = (FileNotFoundError, IsADirectoryError, PermissionError)


def opened(file: str | os.PathLike[str], limit: int) -> io.BufferedReader:
    """Open a plain file of at most `limit` bytes; a link to one is followed.

    Raises
    ------
    UnreadableImage
        When it is a pipe or a device, which may never end, or too large.
    """

    def at_once(path: str, how: int) -> int:
        return os.open(path, how | os.O_NONBLOCK)  # or a pipe would wait for its writer

    stream = open(file, "rb", opener=at_once)  # noqa: SIM115
    status = os.fstat(stream.fileno())
    if stat.S_ISREG(status.st_mode) and status.st_size <= limit:
        return stream
    stream.close()
    size, allowed = f"{status.st_size:,} bytes", f"prepare.max_file_bytes allows {limit:,}"
    large = f"too large a file: {size}; {allowed}"
    special = "no plain file, but a pipe or a device"
    raise UnreadableImage(large if stat.S_ISREG(status.st_mode) else special)


def identify(file: Path, limit: int = FILE_BYTES) -> tuple[str, str | None]:
    """SHA-256 (hex) of a file, read in pieces; and why it cannot be read, or None.

    A file that is too large, or may not be read, is not read: the reason stands for what it holds.
    """
    try:
        with opened(file, limit) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest(), None
    except _DENIED as error:
        reason = str(error.strerror)
    except UnreadableImage as error:
        reason = str(error)
    return hashlib.sha256(f"unread: {reason}".encode()).hexdigest(), reason


@dataclass(frozen=True)
class RawImage:
    """One raw image: where it lies and what its dataset says of it.

    Cheap to make and to send to a worker; nothing is opened before `read`.

    Attributes
    ----------
    path
        Name within the raw dataset, with forward slashes.
    label, coarse
        Class and coarse class; None where the image has no label at all, or the dataset no such.
    split
        "train", "val" or "test" where the dataset has splits of its own, else None.
    file
        The file that holds it; None where `read` makes the bytes itself.
    drill
        Of a batch that is made and does not come in: what was done to it on purpose, in words.
    """

    path: str
    label: str | None = None
    coarse: str | None = None
    split: str | None = None
    file: Path | None = None
    drill: str | None = None

    def read(self, limit: int = FILE_BYTES) -> bytes:
        """Return the raw file's bytes.

        Raises
        ------
        UnreadableImage
            When it is no plain file, larger than `limit`, or may not be read.
        """
        if self.file is None:
            raise DataError(f"{self.path} has no file to read")
        try:
            with opened(self.file, limit) as stream:
                return stream.read()
        except _DENIED as error:
            raise UnreadableImage(str(error.strerror)) from error

    def identify(self, limit: int = FILE_BYTES) -> tuple[str, str | None]:
        """Its SHA-256 (hex), from pieces; and why it cannot be read, or None."""
        if self.file is None:
            return hashlib.sha256(self.read()).hexdigest(), None
        return identify(self.file, limit)


class Source(Protocol):
    """A raw dataset: what every reader gives."""

    def images(self) -> list[RawImage]:
        """All labelled and unlabelled images, sorted by path."""

    def incoming(self) -> dict[str, list[RawImage]]:
        """Batches of incoming images for the monitor by name; may be empty."""

    def left_out(self) -> dict[str, str]:
        """What lies in it and is not looked at, by path, and why."""
