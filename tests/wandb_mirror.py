"""A small registry in real git and DVC, and steps that do to it what the commands do."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml

from conftest import ROOT, Project
from grocery.contents import read_content
from grocery.core.errors import GroceryError, TrackingError
from grocery.registry import download, mirror
from grocery.registry.git import Git
from grocery.registry.mirror import Mirror
from grocery.registry.state import read_state
from grocery.registry.tags import ARTIFACT, message
from grocery.settings import load
from grocery.tracking import sync
from grocery.tracking.provenance import project_root
from grocery.tracking.worker import call
from wandb_pipeline import begin, listening
from wandb_server import WandbServer

WORDS = ("red", "blue", "green")
REGISTRY = "wandb-registry-model/grocery-classifier"


def act(*steps: str) -> None:
    """Do steps in the working directory, and print what is said.

    Steps are such as "register:v1.0.0:red", "assign:production:v1.0.0" or "repair".
    """
    git = Git(Path.cwd())
    mirror = Mirror.of(project_root(), git, load())

    def tag(name: str, commit: str) -> None:
        state = read_state(git)
        tags = [*state.events, *(version.tag for version in state.versions.values())]
        latest = max((tag.time for tag in tags), default=0)
        made = git.create_tag(name, commit, message(name, {}), not_before=latest + 1)
        git.publish_tag(name, made, remote=mirror.remote)

    for step in steps:
        try:
            match step.split(":"):
                case ["register", version, word]:
                    mirror.remember(f"register {version}")
                    tag(f"{ARTIFACT}@{version}", git.commit_of(word))
                    print(mirror.mirror_now())
                case ["assign" | "unassign" as verb, stage, version]:
                    mirror.remember(f"{verb} {stage} {version}")
                    state = read_state(git)
                    mark = "!" if verb == "unassign" else ""
                    number = len(state.history(stage)) + 1
                    tag(f"{ARTIFACT}#{stage}{mark}#{number}", state.versions[version].commit)
                    print(mirror.mirror_now())
                case ["now"]:
                    print(mirror.mirror_now())
                case ["repair"]:
                    print("\n".join(mirror.repair()))
                case ["status"]:
                    print("\n".join(found.says for found in mirror.disagreements()))
        except GroceryError as error:
            print("error:", error)


def make_repository(folder: Path) -> Path:
    """A repository whose commits `red`, `blue` and `green` each hold another release, in DVC."""
    folder.mkdir()
    project = Project(folder)
    project.run("git", "init", "--quiet", "--initial-branch=main")
    shutil.copy2(ROOT / "params.yaml", folder / "params.yaml")
    (folder / ".gitignore").write_text("/release\n/wandb\n/shards\n/classifier\n/*.html\n")
    for word in WORDS:
        release = folder / "made" / word
        release.mkdir(parents=True)
        (release / "weights").write_text(word)  # as the stages of wandb_pipeline make it
        (release / "card").write_text(f"# {word}")
    project.dvc("init --quiet", "add --quiet " + " ".join(f"made/{word}" for word in WORDS))
    for word in WORDS:
        md5 = read_content(folder / "made" / word).md5
        out = {"path": "models/release", "hash": "md5", "md5": md5}
        stage = {"cmd": "python -m grocery.runner register", "outs": [out]}
        lock = {"schema": "2.0", "stages": {"register": stage}}
        (folder / "dvc.lock").write_text(yaml.safe_dump(lock))
        project.commit(word)
        project.run("git", "branch", word)
    return folder


@contextmanager
def in_this_process() -> Iterator[None]:
    """W&B is told from this process, which has imported it; one of its own is seldom the point."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for module in (mirror, download, sync):
            monkeypatch.setattr(module, "apart", _here)
        yield


def _here(
    function: str, folder: Path, seconds: float, /, *, sign: object = None, **arguments: Any
) -> Iterator[Any]:
    """As `grocery.tracking.process.apart`, but nothing is ended that takes too long."""
    import wandb

    contained = {"WANDB_CACHE_DIR": str(folder / "cache"), "WANDB_ERROR_REPORTING": "false"}
    with patch.dict(os.environ, {"WANDB_DATA_DIR": str(folder), **contained}):
        try:
            for line in call(function, arguments):
                if "error" in line:
                    raise TrackingError(line["error"])
                if "said" in line:
                    yield line["said"]
        finally:
            wandb.teardown()


def do(folder: Path, server: WandbServer | None, *steps: str, **changes: str) -> Sequence[str]:
    """Do steps to the registry of a repository; what they said, a line each."""
    with listening(folder, server, **changes) as said:
        act(*steps)
    assert said.stderr == ""
    return [line for line in said.stdout.splitlines() if line]


def start(folder: Path, server: WandbServer, *steps: str) -> subprocess.Popen[str]:
    """Begin to do steps in a process of its own."""
    code = "import sys; from wandb_mirror import act; act(*sys.argv[1:])"
    return begin(folder, server, "-c", code, *steps)
