"""The DVC remote on S3: real DVC and git, and a real endpoint that verifies signatures.

The endpoint is moto's server, in a process of its own.
"""

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import boto3
import pytest
from dvc.repo import Repo

from conftest import Project
from grocery.contents import read_content
from grocery.registry.tags import ARTIFACT
from registry_project import grocery, inside
from running import wait_for

RELEASE = Path("models/release")
BUCKET = "groceries"
MAY_ALL = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}


@dataclass
class World:
    """A project that has been pushed to S3, with a version that has a name."""

    project: Project
    url: str
    env: dict[str, str]  # with which AWS's SDK is the user, and gives up at once

    def clone(self, target: Path) -> Project:
        self.project.run("git", "clone", "--quiet", str(self.project.path), str(target))
        return Project(target)

    def objects(self) -> list[tuple[str, str]]:
        """Name and hash of each object in the bucket."""
        keys = self.env["AWS_ACCESS_KEY_ID"], self.env["AWS_SECRET_ACCESS_KEY"]
        found = client("s3", self.url, *keys).list_objects_v2(Bucket=BUCKET)["Contents"]
        return [(entry["Key"], entry["ETag"]) for entry in found]


def client(service: str, url: str, key: str = "root", secret: str = "root") -> Any:
    keys = {"aws_access_key_id": key, "aws_secret_access_key": secret}
    return boto3.client(service, endpoint_url=url, region_name="us-east-1", **keys)


def only_user(url: str) -> dict[str, str]:
    """A bucket on a fresh server, and a user who may use it; then nobody else may do anything."""
    client("s3", url).create_bucket(Bucket=BUCKET)
    iam = client("iam", url)
    iam.create_user(UserName="ann")
    policy = json.dumps({"Version": "2012-10-17", "Statement": [MAY_ALL]})
    iam.put_user_policy(UserName="ann", PolicyName="s3", PolicyDocument=policy)
    made = iam.create_access_key(UserName="ann")["AccessKey"]
    urlopen(Request(f"{url}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"})).close()
    keys = {"ACCESS_KEY_ID": made["AccessKeyId"], "SECRET_ACCESS_KEY": made["SecretAccessKey"]}
    keys |= {"DEFAULT_REGION": "us-east-1", "MAX_ATTEMPTS": "1"}
    return {f"AWS_{name}": value for name, value in keys.items()}


@contextmanager
def endpoint(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """A server with a bucket: its address, and the environment of the user who may use it."""
    log, server = folder / "log", [sys.executable, "-m", "moto.server", "--port", "0"]
    with log.open("wb") as out, subprocess.Popen(server, stdout=out, stderr=out) as process:
        try:
            found = wait_for(lambda: re.search(r"Running on (http://\S+:\d+)", log.read_text()))
            yield found[1], only_user(found[1])
        finally:
            process.kill()


@pytest.fixture(scope="module")
def world(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("s3")
    project = built.copy(folder / "project")
    with endpoint(folder) as (url, keys):
        add = f"remote add --force --default storage s3://{BUCKET}/storage"
        project.dvc(add, f"remote modify storage endpointurl {url}")
        project.commit("S3")
        for version, commit in (("v0.9.0", "HEAD~1"), ("v1.0.0", "HEAD")):
            project.run("git", "tag", f"{ARTIFACT}@{version}", commit, "-m", "A version")
        with inside(project.path, **keys), Repo() as repo:
            repo.push()
        yield World(project, url, keys)


def test_a_fresh_clone_has_the_bytes_and_no_key(world: World, tmp_path: Path) -> None:
    clone = world.clone(tmp_path / "clone")
    with inside(clone.path, **world.env), Repo() as repo:
        repo.pull()
    assert clone.found() == world.project.found()
    assert clone.stale() == set()
    assert clone.run("git", "status", "--porcelain").stdout == ""
    history = clone.run("git", "log", "--patch").stdout
    assert f"endpointurl = {world.url}" in history
    files = [path for path in world.project.path.rglob("*") if path.is_file()]
    for data in (history.encode(), *(path.read_bytes() for path in files)):
        assert world.env["AWS_ACCESS_KEY_ID"].encode() not in data
        assert world.env["AWS_SECRET_ACCESS_KEY"].encode() not in data


@pytest.mark.parametrize("version", ["v1.0.0", "v0.9.0"])
def test_a_release_is_fetched_without_a_clone(world: World, tmp_path: Path, version: str) -> None:
    """Also one from before the move, whose commit names a folder."""
    origin, elsewhere = tmp_path / "origin.git", Project(tmp_path / "elsewhere")
    world.project.run("git", "clone", "--quiet", "--bare", ".", str(origin))
    elsewhere.path.mkdir()
    env = {**world.env, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    get = ["dvc", "artifacts", "get", str(origin), ARTIFACT, "--out", "got"]  # the latest version
    if version == "v0.9.0":
        address = (f"url=s3://{BUCKET}/storage", f"endpointurl={world.url}")
        get += ["--rev", version, "--remote", "moved", "--remote-config", *address]
    elsewhere.run(*get, env=env)
    fetch = ("registry", "fetch", version, "--from", str(origin), "--out", "fetched")
    assert grocery(elsewhere, *fetch, **env).code == 0
    wanted = read_content(world.project.path / RELEASE).md5
    assert read_content(elsewhere.path / "got").md5 == wanted
    assert read_content(elsewhere.path / "fetched").md5 == wanted


def test_a_wrong_key_or_an_endpoint_that_is_down(world: World, tmp_path: Path) -> None:
    """One sentence, a non-zero exit, and nothing is lost."""
    clone = world.clone(tmp_path / "clone")
    env = {**world.env, "AWS_SECRET_ACCESS_KEY": "not-the-key"}
    before, stored = world.project.found(), world.objects()

    def refused(project: Project, *command: str) -> str:
        done = project.run(*command, check=False, env=env)
        said = done.stdout + done.stderr
        assert done.returncode != 0
        assert "Traceback" not in said
        assert env["AWS_SECRET_ACCESS_KEY"] not in said
        return next(line for line in said.splitlines() if line.lower().startswith("error: "))

    assert "Forbidden" in refused(world.project, "dvc", "push")
    said = grocery(clone, "registry", "fetch", "v1.0.0", "--out", "got", **env)
    assert said.code == 1
    assert said.sentence.startswith("error: registry fetch: ")
    assert env["AWS_SECRET_ACCESS_KEY"] not in said.err
    assert not (clone.path / "got").exists()
    assert world.project.found() == before
    assert world.objects() == stored

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # where nobody listens, and nobody else can
        nowhere = f"http://127.0.0.1:{taken.getsockname()[1]}"
        local = f"['remote \"storage\"']\n    endpointurl = {nowhere}\n"
        (clone.path / ".dvc/config.local").write_text(local)
        env = world.env
        assert nowhere in refused(clone, "dvc", "pull", str(RELEASE))
    assert clone.run("git", "status", "--porcelain").stdout == ""
