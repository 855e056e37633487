"""What changed between two revisions: on tables, on a real DVC repository, and on a terminal."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from conftest import Project
from grocery.core.errors import DataError
from grocery.dataset_diff import COLUMNS, SHARDS, diff_rows, rows_at
from grocery.shards import IMAGE_SCHEMA
from grocery.tracking.shown import changes_since
from registry_project import grocery
from samples import image_row, shard_files


def image(name: str, **changes: Any) -> dict[str, Any]:
    """A row whose content is decided by its name."""
    how = {"image_id": name.encode().hex().ljust(64, "0"), "coarse": "Fruit"} | changes
    return image_row(name.encode(), f"Lemon/{name}.jpg", "Lemon") | how


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), IMAGE_SCHEMA).select(list(COLUMNS))


OLD = [image(name) for name in "abcdef"]
NEW = [
    OLD[0],
    image("b", label="Milk", coarse="Dairy", path="Milk/b.jpg"),
    image("c", split="test"),
    image("d", label=None),
    image("e", path="Lemon/renamed.jpg"),
    image("new"),
]


def test_every_kind_of_change() -> None:
    diff = diff_rows(table(*OLD), table(*NEW))
    told = {
        kind: [(change.path, change.old, change.new) for change in changes]
        for kind, changes in diff.changes.items()
    }
    assert told == {
        "added": [("Lemon/new.jpg", None, "Lemon")],
        "removed": [("Lemon/f.jpg", "Lemon", None)],
        "relabelled": [("Lemon/d.jpg", "Lemon", None), ("Milk/b.jpg", "Lemon", "Milk")],
        "regrouped": [("Milk/b.jpg", "Fruit", "Dairy")],
        "moved": [("Lemon/c.jpg", "train", "test")],
        "renamed": [
            ("Lemon/renamed.jpg", "Lemon/e.jpg", "Lemon/renamed.jpg"),
            ("Milk/b.jpg", "Lemon/b.jpg", "Milk/b.jpg"),
        ],
    }
    assert diff.changes["added"][0].image_id == image("new")["image_id"]
    assert (diff.old_images, diff.new_images) == (6, 6)

    assert not any(diff_rows(table(*OLD), table(*OLD[::-1])).counts().values())
    assert diff_rows(table(), table(*OLD)).counts()["added"] == 6
    assert diff_rows(table(*OLD), table()).counts()["removed"] == 6


def write(folder: Path, rows: list[dict[str, Any]], shards: int = 2) -> None:
    shard_files(folder / SHARDS, rows, shards)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the tags `empty`, `v1` and `v2`, all data pushed to a remote."""
    project = Project(tmp_path_factory.mktemp("repository") / "checkout")
    project.path.mkdir()
    project.run("git", "init", "--quiet", "--initial-branch=main")
    # Beside the checkout wherever that is, as in this project: a copy of it finds nothing there.
    project.dvc("init --quiet", "remote add --default storage ../storage")
    project.commit("empty")
    project.run("git", "tag", "empty")
    for tag, rows in (("v1", OLD), ("v2", NEW)):
        write(project.path, rows)
        project.dvc(f"add {SHARDS.as_posix()}", "push")
        project.commit(tag)
        project.run("git", "tag", tag)
    return project.path


@pytest.fixture
def repository(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, with its remote beside it, as the current folder."""
    shutil.copytree(recorded.parent, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(tmp_path / "copy/checkout")
    return tmp_path / "copy/checkout"


def test_what_is_not_here_is_read_from_the_remote_and_said_if_it_is_nowhere(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("cache", "tmp"):
        shutil.rmtree(repository / ".dvc" / place)
    assert rows_at("v1").num_rows == 6
    for place in (".dvc/cache", ".dvc/tmp", "../storage"):
        shutil.rmtree(repository / place, ignore_errors=True)
    with pytest.raises(DataError, match="'v1' is in neither the cache nor the remote"):
        rows_at("v1")
    with pytest.raises(DataError, match="'empty' has no prepared shards"):
        rows_at("empty")
    shutil.rmtree(repository / SHARDS)
    with pytest.raises(DataError, match="holds no shards"):
        rows_at(None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="not a git repository"):
        rows_at("HEAD")


def test_the_command_for_people_and_machines(repository: Path) -> None:
    diff = partial(grocery, Project(repository), "data", "diff")
    text = diff("v1", "v2").out
    assert text.startswith("v1 -> v2: 6 -> 6 images\n")
    for line in (
        "relabelled         2",
        "Milk/b.jpg  (Lemon -> Milk)",
        "Lemon/d.jpg  (Lemon -> no label)",
        "Lemon/new.jpg  (Lemon)",
        "Lemon/e.jpg -> Lemon/renamed.jpg",
    ):
        assert f"  {line}\n" in text
    document = diff("v1", "v2", "--json").document
    assert document == diff_rows(table(*OLD), table(*NEW)).document()
    refused = diff("v9")
    assert (refused.code, refused.out) == (1, "")
    assert refused.sentence.startswith("error: data diff: git knows no revision 'v9' here")

    # The workspace is compared with HEAD unless another revision is named.
    assert diff().out == "HEAD -> workspace: 6 -> 6 images, no changes\n"
    write(repository, OLD)
    assert diff("v1").out == "v1 -> workspace: 6 -> 6 images, no changes\n"
    # Long lists are cut, and names cannot steer the terminal.
    more = [image(f"x{i}", path=f"\x1b[2J{i:02}.jpg") for i in range(25)]
    write(repository, [*NEW, *more], shards=4)
    text = diff().out
    assert "\x1b" not in text
    assert "  added             25\n" in text
    assert "  ?[2J00.jpg  (Lemon)\n" in text
    assert "... and 5 more" in text


def test_what_the_version_stage_tells_of_changes(repository: Path) -> None:
    assert changes_since("v2", SHARDS) == diff_rows(table(*NEW), table(*NEW)).counts()
    assert changes_since("v1", SHARDS) == diff_rows(table(*OLD), table(*NEW)).counts()
    write(repository, OLD)
    assert changes_since("HEAD", SHARDS) == diff_rows(table(*NEW), table(*OLD)).counts()
    assert changes_since("v9", SHARDS) == {}
