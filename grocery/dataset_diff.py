"""What changed between two revisions of the dataset: images added, removed, relabelled, moved.

An image is known by its content, so a renamed file is renamed, and not removed and added.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from grocery.core.errors import DataError
from grocery.shards import read_columns

SHARDS = Path("data/prepared/shards")
COLUMNS = ("image_id", "path", "label", "coarse", "split")

# What it is called when a column of an image changes.
_CHANGED = {"relabelled": "label", "regrouped": "coarse", "moved": "split", "renamed": "path"}


@dataclass(frozen=True)
class Change:
    """One image that changed."""

    # The image; its new path if it is still there.
    image_id: str
    path: str
    # What it was and what it is; None for no label, and where there is no image.
    old: str | None
    new: str | None


@dataclass(frozen=True)
class DatasetDiff:
    """All that changed."""

    # Number of images.
    old_images: int
    new_images: int
    # By kind, each list sorted by path: images ``added`` and ``removed``, with their labels, and
    # those ``relabelled``, ``regrouped``, ``moved`` and ``renamed``, whose label, coarse class,
    # split or path changed. One image may be in several.
    changes: dict[str, list[Change]]

    def counts(self) -> dict[str, int]:
        """Number of changes of each kind."""
        return {name: len(changes) for name, changes in self.changes.items()}

    def document(self) -> dict[str, Any]:
        """Everything, for JSON."""
        document = asdict(self)
        changes: dict[str, Any] = document.pop("changes")
        return document | changes


def diff_rows(old: pa.Table, new: pa.Table) -> DatasetDiff:
    """Compare two datasets.

    Parameters
    ----------
    old, new
        Tables with `COLUMNS`, a row an image, in any order.
    """
    before, after = (
        {row["image_id"]: row for row in rows.select(list(COLUMNS)).to_pylist()}
        for rows in (old, new)
    )
    came, went = after.keys() - before, before.keys() - after
    changes = {
        "added": [Change(i, after[i]["path"], None, after[i]["label"]) for i in came],
        "removed": [Change(i, before[i]["path"], before[i]["label"], None) for i in went],
    }
    both = [(before[i], row) for i, row in after.items() if i in before]
    for name, column in _CHANGED.items():
        changes[name] = [
            Change(now["image_id"], now["path"], was[column], now[column])
            for was, now in both
            if was[column] != now[column]
        ]
    for found in changes.values():
        found.sort(key=lambda change: (change.path, change.image_id))
    return DatasetDiff(len(before), len(after), changes)


def rows_at(revision: str | None, folder: Path = SHARDS) -> pa.Table:
    """Read `COLUMNS` of all images of a revision, as DVC recorded it.

    Parameters
    ----------
    revision
        Anything git knows (a tag, a branch, a commit); None for the workspace.
    folder
        Folder of the prepared shards: in a revision relative to the root of the repository, in the
        workspace to the working directory.

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
        files, place = DVCFileSystem(rev=revision), f"/{folder.as_posix()}"
        found = sorted(files.ls(place, detail=False)) if files.isdir(place) else []
        names = [n for n in found if PurePosixPath(n).match("shard-*-of-*.parquet")]
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


def _read(open_file: Callable[..., Any], name: str) -> pa.Table:
    """Read one shard through a file system; only the light columns are fetched."""
    with open_file(name, "rb") as stream:
        try:
            return pq.read_table(stream, columns=list(COLUMNS))
        except pa.ArrowInvalid as error:
            raise DataError(f"{name} cannot be read as a prepared shard: {error}") from error
