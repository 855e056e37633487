"""The DVC remote on S3: real DVC and git, and a real endpoint that verifies signatures."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from dvc.repo import Repo

from conftest import Project, environment
from grocery.contents import read_content
from registry_project import grocery, inside
from s3_endpoint import S3Endpoint, s3_endpoint

MODEL = "grocery-classifier"
RELEASE = Path("models/release")


@dataclass
class World:
    """A project that has been pushed to S3, with a version that has a name."""

    endpoint: S3Endpoint
    project: Project

    def clone(self, target: Path) -> Project:
        self.project.run("git", "clone", "--quiet", str(self.project.path), str(target))
        return Project(target)


@pytest.fixture(scope="module")
def world(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("s3")
    with s3_endpoint(folder / "log") as endpoint:
        project = built.copy(folder / "project")
        endpoint.remote_of(project)
        project.run("git", "tag", "--annotate", f"{MODEL}@v1.0.0", "-m", "A version")
        with inside(project.path, **endpoint.environment()), Repo() as repo:
            repo.push()
        yield World(endpoint, project)


@pytest.fixture
def nowhere() -> Iterator[str]:
    """An address where nothing listens, and nothing else can."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_a_fresh_clone_has_the_bytes_and_needs_no_key_afterwards(
    world: World, tmp_path: Path
) -> None:
    clone = world.clone(tmp_path / "clone")
    with inside(clone.path, **world.endpoint.environment()), Repo() as repo:
        repo.pull()
    assert clone.found() == world.project.found()
    assert clone.stale() == set()
    assert clone.run("git", "status", "--porcelain").stdout == ""


def test_a_release_is_fetched_without_a_clone(world: World, tmp_path: Path) -> None:
    env = world.endpoint.environment()
    address, wanted = str(world.project.path), read_content(world.project.path / RELEASE).md5
    elsewhere = Project(tmp_path / "elsewhere")
    elsewhere.path.mkdir()
    # Nothing but the bucket has the bytes.
    world.project.path.joinpath(".dvc/cache").rename(tmp_path / "hidden")
    try:
        get = ("dvc", "artifacts", "get", address, MODEL, "--out", "got")
        elsewhere.run(*get, env={**env, "XDG_CACHE_HOME": str(tmp_path / "another cache")})
        fetch = ("registry", "fetch", "v1.0.0", "--from", address, "--out", "fetched")
        assert grocery(elsewhere, *fetch, **env).code == 0
    finally:
        (tmp_path / "hidden").rename(world.project.path / ".dvc/cache")
    assert read_content(elsewhere.path / "got").md5 == wanted
    assert read_content(elsewhere.path / "fetched").md5 == wanted


class TestRefusals:
    """One sentence, a non-zero exit, and nothing is lost."""

    def refused(self, project: Project, env: dict[str, str], *command: str) -> str:
        done = project.run(*command, check=False, env=env)
        said = done.stdout + done.stderr
        assert done.returncode != 0
        assert "Traceback" not in said
        assert env["AWS_SECRET_ACCESS_KEY"] not in said
        sentences = [line for line in said.splitlines() if line.lower().startswith("error: ")]
        assert sentences, said
        return sentences[0]

    def test_a_wrong_key(self, world: World, tmp_path: Path) -> None:
        env = world.endpoint.environment(AWS_SECRET_ACCESS_KEY="not-the-key")
        before, stored = world.project.found(), world.endpoint.objects()
        assert "Forbidden" in self.refused(world.project, env, "dvc", "push")
        clone = world.clone(tmp_path / "clone")
        said = grocery(clone, "registry", "fetch", "v1.0.0", "--out", "got", **env)
        assert said.code == 1
        assert said.sentence.startswith("error: registry fetch: ")
        assert env["AWS_SECRET_ACCESS_KEY"] not in said.err
        assert not (clone.path / "got").exists()
        assert world.project.found() == before
        assert world.endpoint.objects() == stored

    def test_an_endpoint_that_is_down(self, world: World, tmp_path: Path, nowhere: str) -> None:
        clone = world.clone(tmp_path / "clone")
        local = f"['remote \"storage\"']\n    endpointurl = {nowhere}\n"
        (clone.path / ".dvc/config.local").write_text(local)
        env = world.endpoint.environment()
        assert nowhere in self.refused(clone, env, "dvc", "pull", str(RELEASE))
        assert clone.run("git", "status", "--porcelain").stdout == ""


def test_the_key_is_in_the_environment_alone(world: World) -> None:
    """Not in a file of the project, tracked or not, nor in any of git's objects."""
    keys = [world.endpoint.key.encode(), world.endpoint.secret.encode()]
    files = [path for path in world.project.path.rglob("*") if path.is_file()]
    history = subprocess.run(
        ["git", "cat-file", "--batch-all-objects", "--batch"],
        cwd=world.project.path,
        env=environment(),
        check=True,
        capture_output=True,
    ).stdout
    assert b"endpointurl" in history
    for data in (history, *(path.read_bytes() for path in files)):
        assert not any(key in data for key in keys)
