"""Reproduce a past version: real clones, in which DVC really runs a pipeline.

The pipeline is a small one. The project's own is built again by docs/registry.sh
(tests/test_registry_story.py).
"""

from collections.abc import Mapping
from pathlib import Path

import pytest

from conftest import Project
from grocery.core.errors import RegistryError
from grocery.registry.reproduce import Reproduction, other_packages, reproduce
from grocery.registry.state import read_state
from grocery.registry.store import open_store
from grocery.registry.tags import ARTIFACT
from registry_project import git, inside

PIPELINE = """
stages:
  count:
    cmd: python count.py
    deps: [count.py, number.txt]
    outs:
      - made
      - count.json: {cache: false}
  after:
    cmd: cp count.json last.json
    deps: [count.json]
    outs: [last.json]
"""
CODE = """
import json, pathlib
number = int(pathlib.Path("number.txt").read_text())
made = pathlib.Path("made")
made.mkdir(exist_ok=True)
(made / "same.txt").write_text("same")
(made / "number.txt").write_text(str(number))
pathlib.Path("count.json").write_text(json.dumps({"count": {"number": number}, "same": 1}))
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with one version, made by two stages. Copy it; do not change it."""
    project = Project(tmp_path_factory.mktemp("reproduce") / "project")
    project.path.mkdir()
    project.run("git", "init", "--quiet")
    write(project, {"dvc.yaml": PIPELINE, "count.py": CODE, "number.txt": "7"})
    project.dvc("init --quiet", "remote add --quiet --default storage ../storage", "repro")
    commit(project, "v1.0.0", {})
    return project


@pytest.fixture
def project(recorded: Project, tmp_path: Path) -> Project:
    return recorded.copy(tmp_path / "project")


def write(project: Project, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (project.path / name).write_text(text)


def commit(project: Project, version: str, files: Mapping[str, str]) -> None:
    """Make a version of a commit with these files, without building it."""
    write(project, files)
    project.commit(version)
    git(project, "tag", "-a", f"{ARTIFACT}@{version}", "-m", "By hand")


def reproduced(project: Project, version: str) -> Reproduction:
    with inside(project.path), open_store(project.path) as store:
        return reproduce(store, read_state(store.git).find(version))


def test_a_past_version_is_identical(project: Project) -> None:
    """Its own code is used; it needs no DVC remote, since all that it reads is in git."""
    commit(project, "v2.0.0", {"count.py": "raise SystemExit('never run this')"})
    write(project, {".dvc/config": ""})
    before = git(project, "status", "--porcelain")
    assert reproduced(project, "v1.0.0") == Reproduction("v1.0.0", outputs=3, identical=True)
    assert git(project, "status", "--porcelain") == before


def test_what_differs_is_named(project: Project) -> None:
    """A commit whose code was changed after it had made what is recorded; the first stage tells."""
    commit(project, "v2.0.0", {"count.py": CODE.replace("text())", "text()) + 1")})
    found = reproduced(project, "v2.0.0")
    assert (found.version, found.identical, found.stage) == ("v2.0.0", False, "count")
    expected = ["count.json: count.number is 8, was 7", "made: number.txt differs"]
    assert sorted(found.differences) == expected


def test_what_does_not_run(project: Project) -> None:
    commit(project, "v2.0.0", {"count.py": "raise SystemExit('no')"})
    with pytest.raises(RegistryError, match="dvc repro failed in the clone: ERROR: failed to r"):
        reproduced(project, "v2.0.0")


def test_packages_of_another_version_are_named() -> None:
    lock = b"pytest==0.0.1\n    # via x\nnobody-has-this==3\n"
    (found,) = other_packages(lock).items()
    assert found == ("pytest", (pytest.__version__, "0.0.1"))
    assert other_packages(f"pytest=={pytest.__version__} ; x\npytest==0.1\n".encode()) == {}
