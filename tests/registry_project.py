"""A built project with a DVC remote beside it, and the `grocery registry` commands run in it."""

import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import pytest
import yaml

from conftest import Project, environment
from grocery.cli import main
from grocery.core.pin import KERNELS
from grocery.registry.tags import ARTIFACT


@dataclass
class Said:
    """How a command ended and what it said."""

    code: int = 0
    out: str = ""
    err: str = ""

    @property
    def document(self) -> Any:
        """What it printed: one line of JSON as the standard has it, in ASCII."""
        assert self.out.isascii()
        (line,) = self.out.splitlines()
        return json.loads(line, parse_constant=pytest.fail)

    @property
    def sentence(self) -> str:
        """Why it refused: one line on standard error, and nothing else there."""
        (line,) = self.err.splitlines()
        assert line.startswith("error: ")
        return line


@dataclass(frozen=True)
class World:
    """A folder that holds a clone, its DVC remote and a git remote, by relative addresses."""

    folder: Path

    @property
    def project(self) -> Project:
        return Project(self.folder / "project")

    @property
    def second(self) -> Project:
        """Another clone of the git remote."""
        return Project(self.folder / "second")

    @property
    def origin(self) -> Project:
        """The git remote."""
        return Project(self.folder / "origin.git")

    @property
    def storage(self) -> Path:
        """The DVC remote."""
        return self.folder / "storage"

    def copy(self, target: Path) -> Self:
        """The same world, free to change."""
        shutil.copytree(self.folder, target, symlinks=True)
        return replace(self, folder=target)

    def registry(self, *arguments: str, at: Project | None = None, **changes: str) -> Said:
        """Run a `grocery registry` command that may fail, with changes of the environment."""
        return grocery(at or self.project, "registry", *arguments, **changes)

    def done(self, *arguments: str, at: Project | None = None, **changes: str) -> Any:
        """Run one that must succeed; what it answers as JSON."""
        said = self.registry(*arguments, "--json", at=at, **changes)
        assert said.code == 0, said.err
        return said.document

    def refused(self, *arguments: str, at: Project | None = None) -> str:
        """Run one that must fail and leave all tags as they are; its sentence."""
        before = tags(at or self.project)
        said = self.registry(*arguments, at=at)
        assert said.code == 1, said.out
        assert tags(at or self.project) == before
        return said.sentence

    def share(self) -> None:
        """Give the clone a bare git remote, `origin`, and that a second clone."""
        self.project.run("git", "clone", "--quiet", "--bare", ".", str(self.origin.path))
        self.project.run("git", "remote", "add", "origin", "../origin.git")
        self.project.run("git", "clone", "--quiet", str(self.origin.path), str(self.second.path))
        # By an address that is right in a copy, too
        self.second.run("git", "remote", "set-url", "origin", "../origin.git")


def create_world(built: Project, folder: Path) -> World:
    """The built pipeline in a world of its own; nothing is pushed or registered yet."""
    world = World(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = built.copy(folder / "project").path / ".dvc/config"
    config.write_text(config.read_text().replace("../../grocery-storage", "../../storage"))
    world.project.commit("A storage")
    git(world.project, "gc", "--quiet")  # fewer files to copy
    return world


@contextmanager
def put_back(*projects: Project) -> Iterator[None]:
    """Tags, branches, settings and tracked files of these clones are afterwards what they were."""
    kept = {}
    for project in projects:
        git(project, "pack-refs", "--all")
        folder = Path(git(project, "rev-parse", "--absolute-git-dir"))
        kept[folder] = [(folder / name).read_bytes() for name in ("packed-refs", "config")]
    yield
    for folder, (refs, settings) in kept.items():
        shutil.rmtree(folder / "refs")
        (folder / "refs/tags").mkdir(parents=True)
        (folder / "packed-refs").write_bytes(refs)
        (folder / "config").write_bytes(settings)
        if folder.name == ".git":
            git(Project(folder.parent), "reset", "--quiet", "--hard")


@contextmanager
def standing_in(folder: Path, variables: Mapping[str, str]) -> Iterator[None]:
    """In another folder, with this environment."""
    wanted = {**variables, **KERNELS}  # numpy is loaded
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() - wanted.keys():
            patch.delenv(name)
        for name, value in wanted.items():
            patch.setenv(name, value)
        patch.chdir(folder)
        yield


@contextmanager
def inside(folder: Path, **changes: str) -> Iterator[None]:
    """In another folder, with the environment of the tests' commands and a cache of its own."""
    cache = {"XDG_CACHE_HOME": str(folder.parent / "cache")}
    with standing_in(folder, environment(**cache | changes)):
        yield


@contextmanager
def listening() -> Iterator[Said]:
    """How the block ends, as a command, and what it says; it is known after the block."""
    said, out, err = Said(), io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            yield said
        except SystemExit as end:
            said.code = end.code if isinstance(end.code, int) else 0
    said.out, said.err = out.getvalue(), err.getvalue()


def grocery(project: Project, *arguments: str, **changes: str) -> Said:
    """Run a `grocery` command in this process, which has loaded DVC already."""
    with inside(project.path, **changes), listening() as said:
        main(arguments)
    return said


def git(project: Project, *arguments: str, **changes: str) -> str:
    """What a git command prints, with changes of the environment."""
    return project.run("git", *arguments, env=changes).stdout.strip()


def tags(project: Project) -> dict[str, str]:
    """Id of the object of every tag."""
    rows = git(project, "for-each-ref", "--format=%(refname:lstrip=2) %(objectname)", "refs/tags")
    return dict(line.split() for line in rows.splitlines())


def gto_stages(project: Project) -> dict[str, str | None]:
    """The version that GTO says each stage has."""
    import gto.api  # not all who use this module need it

    with inside(project.path):
        return dict(gto.api.show(str(project.path))[ARTIFACT]["stage"])


def json_at(project: Project, commit: str, path: str) -> Any:
    """A JSON file as a commit holds it."""
    return json.loads(git(project, "show", f"{commit}:{path}"))


def output_at(project: Project, commit: str, path: str) -> str:
    """DVC's hash of an output, from a commit's dvc.lock."""
    lock = yaml.safe_load(git(project, "show", f"{commit}:dvc.lock"))
    outs = {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage["outs"]}
    return str(outs[path])


def object_of(folder: Path, md5: str) -> Path:
    """Where DVC keeps an object, in a cache or a remote."""
    return folder / "files/md5" / md5[:2] / md5[2:]
