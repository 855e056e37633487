"""What changed between two revisions of the dataset: images added, removed, relabelled, moved.

An image is known by its content, so a renamed file is renamed, and not removed and added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from grocery.core.errors import DataError
from grocery.shards import read_columns

SHARDS = Path("data/prepared/shards")
COLUMNS = ("image_id", "path", "label", "coarse", "split")

Row = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """One image that changed.

    Attributes
    ----------
    image_id, path
        The image; its new path if it is still there.
    old, new
        What it was and what it is; None for no label, and where there is no image.
    """

    image_id: str
    path: str
    old: str | None
    new: str | None


@dataclass(frozen=True)
class DatasetDiff:
    """All that changed, each list sorted by path. One image may be in several.

    Attributes
    ----------
    old_images, new_images
        Number of images.
    added, removed
        Images, with their labels.
    relabelled, regrouped, moved, renamed
        Images whose label, coarse class, split or path changed.
    """

    old_images: int
    new_images: int
    added: list[Change]
    removed: list[Change]
    relabelled: list[Change]
    regrouped: list[Change]
    moved: list[Change]
    renamed: list[Change]

    def changes(self) -> dict[str, list[Change]]:
        """Changes of each kind, by its name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, list)}

    def counts(self) -> dict[str, int]:
        """Number of changes of each kind."""
        return {name: len(changes) for name, changes in self.changes().items()}

    def document(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return asdict(self)


def diff_rows(old: pa.Table, new: pa.Table) -> DatasetDiff:
    """Compare two datasets.

    Parameters
    ----------
    old, new
        Tables with `COLUMNS`, a row an image, in any order.
    """
    before, after = _by_id(old), _by_id(new)
    both = [(before[i], after[i]) for i in after if i in before]
    return DatasetDiff(
        old_images=len(before),
        new_images=len(after),
        added=_sorted(
            Change(i, row["path"], None, row["label"])
            for i, row in after.items()
            if i not in before
        ),
        removed=_sorted(
            Change(i, row["path"], row["label"], None)
            for i, row in before.items()
            if i not in after
        ),
        relabelled=_changed(both, "label"),
        regrouped=_changed(both, "coarse"),
        moved=_changed(both, "split"),
        renamed=_changed(both, "path"),
    )


def rows_at(revision: str | None, folder: Path = SHARDS) -> pa.Table:
    """Read `COLUMNS` of all images of a revision, as DVC recorded it.

    Parameters
    ----------
    revision
        Anything git knows (a tag, a branch, a commit); None for the workspace.
    folder
        Folder of the prepared shards, relative to the root of the repository.

    Raises
    ------
    DataError
        When the revision is unknown, has no prepared shards, or these lie in no cache or remote.
    """
    if revision is None:
        return read_columns(folder, COLUMNS)
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from dvc.scm import SCMError
    from dvc_data.index import DataIndexDirError

    try:
        files = DVCFileSystem(rev=revision)
        names = _shards_of(files, folder)
        if not names:
            raise DataError(f"revision {revision!r} has no prepared shards in {folder}")
        return pa.concat_tables([_read(files.open, name) for name in names])
    except SCMError as error:
        raise DataError(f"git knows no revision {revision!r} here: {error}") from error
    except (DvcException, DataIndexDirError, OSError) as error:
        raise DataError(
            f"the data of revision {revision!r} is in neither the cache nor the remote; "
            f"push it from where it was made, with: dvc push ({error})"
        ) from error


def _shards_of(files: Any, folder: Path) -> list[str]:
    """Paths of the shards in a revision's `folder`, in order; none when it has no such folder."""
    if not files.isdir(folder.as_posix()):
        return []
    names = sorted(files.ls(folder.as_posix(), detail=False))
    return [name for name in names if PurePosixPath(name).match("shard-*-of-*.parquet")]


def _read(open_file: Callable[..., Any], name: str) -> pa.Table:
    """Read one shard through a file system; only the light columns are fetched."""
    with open_file(name, "rb") as stream:
        try:
            return pq.read_table(stream, columns=list(COLUMNS))
        except pa.ArrowInvalid as error:
            raise DataError(f"{name} cannot be read as a prepared shard: {error}") from error


def _by_id(table: pa.Table) -> dict[str, Row]:
    return {row["image_id"]: row for row in table.select(list(COLUMNS)).to_pylist()}


def _changed(both: list[tuple[Row, Row]], column: str) -> list[Change]:
    return _sorted(
        Change(new["image_id"], new["path"], old[column], new[column])
        for old, new in both
        if old[column] != new[column]
    )


def _sorted(changes: Iterable[Change]) -> list[Change]:
    return sorted(changes, key=lambda change: (change.path, change.image_id))
