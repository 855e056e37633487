"""Reader of a dataset of one folder per class, and the safe listing that other readers share.

Symbolic links in a raw dataset, and one to it, are refused, since they may lead anywhere. So a DVC
cache of type ``symlink``, which makes every file of a dataset one, is not supported for raw data;
``reflink``, ``hardlink`` and ``copy`` are.
"""

from __future__ import annotations

import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from grocery.core.errors import DataError
from grocery.images.finding import ABOUT, HARMLESS, LINK, walk
from grocery.images.raw import RawImage
from grocery.shards import SPLITS

UNLABELED = ("unlabeled", "unlabelled")
INCOMING = "incoming"
RESERVED = (*SPLITS, *UNLABELED, INCOMING)

# Outside the folders of images a text file is a note on the dataset.
_NOTE = re.compile(r".*\.(csv|json|md|txt|ya?ml)", re.IGNORECASE)

# What a folder of another name may be meant as, in lower case.
_MEANT = {
    **{name: name for name in RESERVED},
    **{"training": "train", "validation": "val", "valid": "val", "testing": "test"},
}

_BATCH_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class RawFolder(ABC):
    """A raw dataset that lies in a folder as files."""

    folder: Path

    def incoming(self) -> dict[str, list[RawImage]]:
        """Batches in ``incoming/BATCH/[CLASS/...]NAME``, by name."""
        found: dict[str, list[RawImage]] = {}
        for path in sorted(files_of(self.folder, INCOMING)):
            parts = path.split("/")
            if len(parts) == 2 and _NOTE.fullmatch(parts[1]):
                continue
            if len(parts) == 2 or not _BATCH_NAME.fullmatch(parts[1]):
                raise DataError(
                    f"{self.folder / path} lies in no batch; its place is {INCOMING}/NAME/, "
                    "NAME being letters, digits, dots, dashes and underscores"
                )
            label = class_name(parts[2]) if len(parts) > 3 else None
            image = RawImage(path, label, file=self.folder / path)
            found.setdefault(parts[1], []).append(image)
        return found

    def left_out(self) -> dict[str, str]:
        """What lies in it and is not looked at, by path, and why."""
        found: dict[str, str] = {}
        files = files_of(self.folder, left_out=found)
        batches = chain.from_iterable(self.incoming().values())
        used = {image.path for image in chain(self.images(), batches)}
        others = [path for path in files if path not in used]
        return found | {p: ABOUT if _NOTE.fullmatch(p) else "not listed" for p in others}

    @abstractmethod
    def images(self) -> list[RawImage]:
        """All images, sorted by path."""


class FolderSource(RawFolder):
    """One folder per class, at any depth below it, with optional splits and unlabelled images.

    ``CLASS/...``, or ``train/CLASS/...``, ``val/CLASS/...`` (optional) and ``test/CLASS/...``;
    beside them ``unlabeled/...`` for images without a label, and ``incoming/BATCH/...`` for
    the monitor's batches, whose images lie in folders by class where their labels are known.
    """

    def images(self) -> list[RawImage]:
        """All images, sorted by path; unlabelled ones of a dataset with splits are for training.

        Raises
        ------
        DataError
            When a file lies where its class or its split cannot be told, or there are none.
        """
        paths = sorted(path.split("/") for path in files_of(self.folder))
        paths = [parts for parts in paths if parts[0] != INCOMING or len(parts) == 1]
        splits = any(parts[0] in SPLITS and len(parts) > 1 for parts in paths)
        images = [image for parts in paths if (image := self._image(parts, splits)) is not None]
        if not images:
            raise DataError(f"{self.folder} holds no images")
        return sorted(images, key=lambda image: image.path)

    def _image(self, parts: list[str], splits: bool) -> RawImage | None:
        """What a file's place says of it; None for a note on the dataset."""
        if len(parts) > 1:
            _refuse_almost(self.folder, parts[0], _MEANT)
        split, place = None, parts
        if splits:
            split = "train"
            if parts[0] not in UNLABELED:
                split, *place = parts
        if len(place) < 2 and _NOTE.fullmatch(parts[-1]):
            return None
        path = "/".join(parts)
        if splits and split not in SPLITS:
            raise DataError(
                f"{self.folder} has splits, so {path!r} must lie in "
                f"{', '.join(SPLITS)}, {UNLABELED[0]} or {INCOMING}"
            )
        if len(place) < 2:
            raise DataError(
                f"{self.folder / path} lies in no class; move it into a folder named after its "
                f"class, or into {UNLABELED[0]}"
            )
        if splits:
            _refuse_almost(self.folder / parts[0], place[0], UNLABELED)
        label = None if place[0] in UNLABELED else class_name(place[0])
        if label is None and split in ("val", "test"):
            raise DataError(f"{self.folder / path} has no label; {split} needs one")
        return RawImage(path, label, None, split, self.folder / path)


def files_of(folder: Path, below: str = "", *, left_out: dict[str, str] | None = None) -> list[str]:
    """Relative paths of all files that may be images, by the rule of `grocery.images.finding`.

    `left_out` gets what is not looked at, by path, and why.

    Raises
    ------
    DataError
        For a link, for what is neither a file nor a folder, and for a name that is not UTF-8.
    """
    refuse_link(folder / below)
    found = []
    for path, reason in walk(folder, below) if (folder / below).is_dir() else ():
        refuse_foreign(path, folder)
        if reason == LINK:
            refuse_link(folder / path)
        elif reason is None:
            found.append(path)
        elif reason not in HARMLESS:
            raise DataError(f"{folder / path} {reason}")
        elif left_out is not None:
            left_out[path] = reason
    return found


def refuse_link(path: Path) -> None:
    """Refuse a symbolic link, whatever it leads to, by a `DataError`."""
    if path.is_symlink():
        raise DataError(
            f"{path} is a symbolic link; raw data must be plain files, since a link may lead "
            "anywhere (for DVC, set cache.type to reflink,hardlink,copy)"
        )


def refuse_foreign(name: str, folder: Path) -> None:
    """Refuse a name that is not UTF-8, and no text for reports and Parquet, by a `DataError`."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise DataError(f"the name {name!r} in {folder} is not UTF-8; rename it") from None


def class_name(folder: str) -> str:
    """The class of a folder's name, however the system that wrote it composes its accents."""
    return unicodedata.normalize("NFC", folder)


def _refuse_almost(folder: Path, name: str, reserved: Collection[str]) -> None:
    """Refuse a folder name that is almost a reserved one; taken for a class, it would mislead."""
    meant = _MEANT.get(name.lower(), name)
    if meant != name and name.lower() in reserved:
        raise DataError(
            f"{folder / name} differs little from the reserved name {meant!r}; rename it to that, "
            "or to something else if it is a class"
        )
