"""An image of a raw dataset, before anything has been read or decoded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from grocery.core.errors import DataError


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

    def read(self) -> bytes:
        """Return the raw file's bytes."""
        if self.file is None:
            raise DataError(f"{self.path} has no file to read")
        return self.file.read_bytes()


class Source(Protocol):
    """A raw dataset: what every reader gives."""

    def images(self) -> list[RawImage]:
        """All labelled and unlabelled images, sorted by path."""

    def incoming(self) -> dict[str, list[RawImage]]:
        """Batches of incoming images for the monitor by name; may be empty."""
