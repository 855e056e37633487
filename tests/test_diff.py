"""What changed between two revisions: on tables, on a real DVC repository, and on a terminal."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from dvc.cli import main as dvc_main

from conftest import ROOT, Project
from grocery.cli import main
from grocery.core.errors import DataError
from grocery.dataset_diff import COLUMNS, SHARDS, diff_rows, rows_at
from grocery.shards import IMAGE_SCHEMA
from grocery.tracking.shown import changes_since
from registry_project import inside
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


class TestRows:
    def test_nothing_changed_or_from_and_to_nothing(self) -> None:
        diff = diff_rows(table(*OLD), table(*OLD[::-1]))
        assert not any(diff.counts().values())
        assert (diff.old_images, diff.new_images) == (6, 6)
        assert diff_rows(table(), table(*OLD)).counts()["added"] == 6
        assert diff_rows(table(*OLD), table()).counts()["removed"] == 6

    def test_every_kind_of_change(self) -> None:
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


def commit(folder: Path, tag: str, *commands: str) -> None:
    """Run commands of DVC's, commit and tag."""
    for command in commands:
        with inside(folder, DVC_NO_ANALYTICS="1"):
            assert dvc_main([*command.split(), "--quiet"]) == 0
    Project(folder).commit(tag)
    Project(folder).run("git", "tag", tag)


def write(folder: Path, rows: list[dict[str, Any]], shards: int = 2) -> None:
    shard_files(folder / SHARDS, rows, shards)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the tags `empty`, `v1` and `v2`, all data pushed to a remote."""
    folder = tmp_path_factory.mktemp("repository") / "checkout"
    folder.mkdir()
    Project(folder).run("git", "init", "--quiet", "--initial-branch=main")
    # Beside the checkout wherever that is, as in this project: a copy of it finds nothing there.
    commit(folder, "empty", "init", "remote add --default storage ../storage")
    for tag, rows in (("v1", OLD), ("v2", NEW)):
        write(folder, rows)
        commit(folder, tag, f"add {SHARDS.as_posix()}", "push")
    return folder


@pytest.fixture
def repository(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, with its remote beside it, as the current folder."""
    shutil.copytree(recorded.parent, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(tmp_path / "copy/checkout")
    return tmp_path / "copy/checkout"


@pytest.mark.usefixtures("repository")
class TestRevisions:
    def test_of_tags_commits_and_the_workspace(self, repository: Path) -> None:
        assert rows_at("v1").num_rows == 6
        old, new = rows_at("v1"), rows_at("HEAD")
        assert diff_rows(old, new).document() == diff_rows(table(*OLD), table(*NEW)).document()
        assert not any(diff_rows(new, rows_at(None)).counts().values())
        write(repository, [*NEW, image("again")], shards=4)
        added = diff_rows(new, rows_at(None)).changes["added"]
        assert [change.path for change in added] == ["Lemon/again.jpg"]

    def test_without_a_cache_the_remote_is_read_and_it_is_said_if_there_is_none(
        self, repository: Path
    ) -> None:
        for place in ("cache", "tmp"):
            shutil.rmtree(repository / ".dvc" / place)
        assert rows_at("v1").num_rows == 6
        for place in (".dvc/cache", ".dvc/tmp", "../storage"):
            shutil.rmtree(repository / place, ignore_errors=True)
        with pytest.raises(DataError, match="'v1' is in neither the cache nor the remote"):
            rows_at("v1")

    def test_what_is_not_there(self, repository: Path) -> None:
        with pytest.raises(DataError, match="'empty' has no prepared shards"):
            rows_at("empty")
        shutil.rmtree(repository / SHARDS)
        with pytest.raises(DataError, match="holds no shards"):
            rows_at(None)


def test_outside_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="not a git repository"):
        rows_at("HEAD")


@pytest.mark.usefixtures("repository")
class TestCommand:
    def said(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
        main(["data", "diff", *arguments])
        return capsys.readouterr().out

    def test_for_people_and_machines(self, capsys: pytest.CaptureFixture[str]) -> None:
        text = self.said(capsys, "v1", "v2")
        assert text.startswith("v1 -> v2: 6 -> 6 images\n")
        assert "  relabelled         2\n" in text
        assert "  Milk/b.jpg  (Lemon -> Milk)\n" in text
        assert "  Lemon/d.jpg  (Lemon -> no label)\n" in text
        assert "  Lemon/new.jpg  (Lemon)\n" in text
        assert "  Lemon/e.jpg -> Lemon/renamed.jpg\n" in text
        document = json.loads(self.said(capsys, "v1", "v2", "--json"))
        assert document == diff_rows(table(*OLD), table(*NEW)).document()

    def test_the_defaults_are_head_and_the_workspace(
        self, repository: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.said(capsys) == "HEAD -> workspace: 6 -> 6 images, no changes\n"
        write(repository, OLD)
        assert "added" in self.said(capsys)
        assert self.said(capsys, "v1") == "v1 -> workspace: 6 -> 6 images, no changes\n"

    def test_long_lists_are_cut_and_names_cannot_steer_the_terminal(
        self, repository: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write(repository, [*NEW, *(image(f"x{i}", path=f"\x1b[2J{i:02}.jpg") for i in range(25))])
        text = self.said(capsys)
        assert "\x1b" not in text
        assert "  ?[2J00.jpg  (Lemon)\n" in text
        assert "... and 5 more" in text

    def test_errors_are_one_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            main(["data", "diff", "v9"])
        assert caught.value.code == 1
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("error: data diff: git knows no revision 'v9' here")
        assert said.err.count("\n") == 1


def test_what_the_version_stage_tells_of_changes(repository: Path) -> None:
    assert changes_since("v2", SHARDS) == diff_rows(table(*NEW), table(*NEW)).counts()
    assert changes_since("v1", SHARDS) == diff_rows(table(*OLD), table(*NEW)).counts()
    write(repository, OLD)
    assert changes_since("HEAD", SHARDS) == diff_rows(table(*NEW), table(*OLD)).counts()
    assert changes_since("v9", SHARDS) == {}


def test_the_command_line_answers_before_anything_heavy_is_loaded() -> None:
    code = (
        "import sys; from grocery.cli import build_parser; build_parser().format_help()\n"
        "print(sorted({'numpy', 'pyarrow', 'dvc', 'PIL', 'sklearn', 'wandb'} & set(sys.modules)))"
    )
    assert Project(ROOT).run(sys.executable, "-c", code).stdout == "[]\n"
