"""The batches that a command line names: found, fingerprinted, and read."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from grocery.core.bounds import FILE_BYTES
from grocery.core.errors import DataError, meant, printable
from grocery.data.folders import class_name, files_of, refuse_foreign
from grocery.images.finding import is_system
from grocery.images.preprocessing import prepare
from grocery.images.raw import RawImage, identify
from grocery.inbox.entries import content_digest, labels_digest
from grocery.monitoring.batches import Batch, read_batch
from grocery.parallel import progress
from grocery.release.model import Model
from grocery.shards import read_table


def find_batches(names: Sequence[str], *, each: bool) -> tuple[list[Path], list[str]]:
    """The batches that the arguments name: Parquet files, and folders of images.

    Also a sentence about each thing beside them that is none; what a system has left is passed
    over.

    Raises
    ------
    DataError
        When one is not there, or is no batch.
    """
    inside = _inbox if each else _batches
    left_out: list[str] = []
    found = [origin for name in names for origin in inside(Path(name), left_out)]
    return found, left_out


def has_settled(origin: Path, seconds: float) -> bool:
    """Whether nothing of a batch has changed for so long, by the system's own record of changes.

    A file's modification time will not do: copying tools set it to that of the original.
    """
    if not seconds:
        return True
    try:
        latest = max(path.lstat().st_ctime for path in _everything(origin))
    except OSError:  # it is being moved
        return False
    return time.time() - latest >= seconds


def state_of_files(origin: Path, *, labelled: bool) -> str:
    """Digest by which the files of a batch are known again without reading them.

    It holds each one's name in the batch, its size and number on the disk, and when it was changed.
    """
    seen: list[object] = [labelled]
    for path in sorted(path for path in _everything(origin) if not path.is_dir()):
        name, status = os.path.relpath(path, origin.resolve()), path.stat()
        seen.append((name, status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns))
    return hashlib.sha256(repr(seen).encode()).hexdigest()


def taken_at(origin: Path) -> float:
    """When the newest file of a batch was written, in seconds since the epoch."""
    times = [path.lstat().st_mtime for path in _everything(origin) if path.is_file()]
    return max(times, default=origin.stat().st_mtime)


def fingerprint(origin: Path, *, labelled: bool) -> tuple[str, str | None]:
    """Digests of a batch's contents and of its labels, without decoding an image.

    They are those of the batch that `read` gives.
    """
    refuse_foreign(str(origin), origin.parent)
    if origin.is_dir():
        paths = _files(origin)[0]
        image_ids = [identify(origin / path)[0] for path in paths]
        labels = [_class_folder(path) for path in paths] if labelled else [None] * len(paths)
    else:
        table = read_table(origin, ["image_id", "label"])
        image_ids, labels = (table.column(k).to_pylist() for k in ("image_id", "label"))
    return digests(image_ids, labels)


def digests(image_ids: Sequence[str], labels: Sequence[str | None]) -> tuple[str, str | None]:
    """Digests of the contents of n images and of their labels."""
    return content_digest(map(str, image_ids)), labels_digest(image_ids, labels)


def read(origin: Path, model: Model, *, labelled: bool, flat: bool) -> tuple[Batch, list[str]]:
    """Read a batch, a folder of images or a Parquet file, and say what of it is not read, and why.

    `labelled` means that the folders in a folder are named after classes, and `flat` that there may
    be none: such a batch has no labels.

    Raises
    ------
    DataError
        When there is no file in it, or it holds something that no batch holds.
    """
    refuse_foreign(str(origin), origin.parent)
    if origin.is_dir():
        batch, said = _read_folder(origin, model, labelled, flat)
    else:
        batch = read_batch(origin, model.preprocessing)
        missing = [p for p, jpeg in zip(batch.paths, batch.jpegs, strict=True) if jpeg is None]
        made = "it was so when the batch was made"
        said = [f"unreadable: {path} in {origin}: {made}" for path in missing]
    unknown = Counter(label for label in batch.labels if label and label not in model.classes)
    return batch, said + [
        f"noted: {origin}: {label} is no class of the model{meant(label, model.classes)}; "
        f"{images} of its images count as mistakes"
        for label, images in sorted(unknown.items())
    ]


def _inbox(folder: Path, left_out: list[str]) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; with --each INCOMING is a folder of batches")
    paths = [path for path in sorted(folder.iterdir()) if not is_system(path.name)]
    shown = [path for path in paths if not path.name.startswith(".")]
    found = [path for path in shown if path.is_dir() or _is_table(path)]
    if shown and not found:
        raise DataError(
            f"{shown[0]} is in no batch; with --each every folder and every Parquet file in "
            "INCOMING is one"
        )
    left_out += _strays(paths, found)
    return found


def _strays(paths: Sequence[Path], found: Sequence[Path]) -> list[str]:
    return [f"left out: {path}: it is in no batch" for path in sorted({*paths} - {*found})]


def _is_table(path: Path) -> bool:
    return path.suffix == ".parquet" and path.is_file()


def _batches(incoming: Path, left_out: list[str]) -> list[Path]:
    if incoming.is_dir():
        entries = [path for path in incoming.iterdir() if not is_system(path.name)]
        shown = [path for path in entries if not path.name.startswith(".")]
        tables = [path for path in shown if _is_table(path)]
        if tables and len(tables) < len(shown):
            raise DataError(
                f"{incoming} holds Parquet files and others; a folder of images is one batch, "
                "and a folder of Parquet batches holds nothing else"
            )
        left_out += _strays(entries, tables) if tables else []
        return sorted(tables) or [incoming]
    if not incoming.exists():
        raise DataError(f"{incoming} is not here; a batch is a folder of images or a Parquet file")
    if not _is_table(incoming):
        raise DataError(
            f"{incoming} is no batch; one is a folder of images, or a Parquet file as the stage "
            "prepare writes it"
        )
    return [incoming]


def _read_folder(folder: Path, model: Model, labelled: bool, flat: bool) -> tuple[Batch, list[str]]:
    """Prepare the images of a folder as the pipeline prepares a batch, in the order of their paths.

    The folder itself may be a symbolic link; one in it is refused, since it may lead anywhere.
    """
    paths, said = _files(folder)
    labels: list[str | None] = [None] * len(paths)
    if labelled and not (flat and all("/" not in path for path in paths)):
        labels = _labels(folder, paths, model.classes)
    image_ids, jpegs = list[str](), list[bytes | None]()
    for path in progress(paths, title=printable(folder.name), total=len(paths)):
        file = folder / path
        one = prepare(RawImage(str(file), file=file), model.preprocessing)
        if one.jpeg is None:
            said.append(f"unreadable: {file} cannot be read as an image: {one.reason}")
        said += [f"noted: {file}: {note}" for note in one.notes]
        # That of `fingerprint`, which knows no model, and not how large a file of it may be.
        large = file.is_file() and file.stat().st_size > FILE_BYTES
        image_ids.append(identify(file)[0] if large else one.image_id)
        jpegs.append(one.jpeg)
    name = Path(os.path.abspath(folder)).name  # of "." too
    return Batch(name, folder, image_ids, paths, labels, jpegs), said


def _files(folder: Path) -> tuple[list[str], list[str]]:
    """Its files, and a sentence on each that is not looked at."""
    left_out: dict[str, str] = {}
    paths = sorted(files_of(folder.resolve(), left_out=left_out))
    if not paths:
        raise DataError(f"{folder} holds no images")
    return paths, [f"left out: {folder / path}: {why}" for path, why in left_out.items()]


def _class_folder(path: str) -> str | None:
    return class_name(path.split("/", maxsplit=1)[0]) if "/" in path else None


def _labels(folder: Path, paths: Sequence[str], classes: Sequence[str]) -> list[str | None]:
    """The first folder of each path; at least one must be a class, or they are something else."""
    labels = [_class_folder(path) for path in paths]
    if not set(labels) & set(classes):
        found = sorted({label for label in labels if label})[:5] or ["none"]
        raise DataError(
            f"--labelled wants folders in {folder} that are named after classes of the model, "
            f"such as {classes[0]}; found: {', '.join(found)}"
            f"{meant(found[0], classes)}"
        )
    return labels


def _everything(origin: Path) -> Iterator[Path]:
    """The batch, and all files and folders in it."""
    yield origin
    for folder, folders, files in os.walk(origin.resolve()):
        yield from (Path(folder, name) for name in (*folders, *files))
