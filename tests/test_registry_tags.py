"""The registry's state against GTO's own: the same tags, read by both."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gto.api
import gto.exceptions
import gto.tag
import pytest

from conftest import Project
from grocery.core.errors import RegistryError
from grocery.registry.git import Git
from grocery.registry.state import State, Version, precedence, read_state
from grocery.registry.tags import ARTIFACT, STAGES, message, read_tags
from registry_project import git, gto_stages, inside, tags

READ = [
    *("@v1.2.3", "@v0.0.0", "@v1.2.3#4", "@v1.2.3!", "@v1.2.3!#4", "@v1.2.3-rc.1"),
    *("@v1.2.3-rc.1+build.5", "@v1.2.3+build", "@v1.2.3-x-y.7", "@v1.2.3-0a", "#production"),
    *("#production#5", "#production!#6", "#a/b-c_d#1", "#x#1"),
]
NOT_READ = [
    *("@1.2.3", "@v1.2", "@v1.2.3.4", "@v01.2.3", "@v1.2.3-", "@v1.2.3-01", "@v1.2.3-.a"),
    *("@v1.2.3-a.", "@v1.2.3-a..b", "@v1.2.3+", "@v1.2.3+a..b", "@v1.2.3-é", "@v1.2.3!!"),
    *("@v1.2.3##4", "@v1.2.3#", "@v1.2.3#-1", "@v1.2.3#٣", "@latest", "#production#x", "#-a#1"),
    *("#a-#1", "##1"),
]


@dataclass
class Model:
    """A repository of a few commits, whose tags are made as our code and GTO make them."""

    project: Project
    clock: int = 1_700_000_000
    commits: dict[str, str] = field(default_factory=dict)

    @property
    def state(self) -> State:
        return read_state(Git(self.project.path))

    def tag(self, name: str, commit: str, text: str = "by hand") -> None:
        """A tag after all others: they are read in the order of their seconds."""
        self.clock += 10
        when = f"{self.clock} +0000"
        git(self.project, "tag", "-a", name, commit, "-m", text, GIT_COMMITTER_DATE=when)

    def promote(self, version: str, stage: str, *, undoes: str | None = None) -> None:
        """The tag of our promote or rollback."""
        text = message("Promote", {"rollback": {"undoes": undoes}} if undoes else {})
        name = f"{ARTIFACT}#{stage}#{self.state.next_number(stage)}"
        self.tag(name, self.commits[version], text)

    def roll_back(self, stage: str) -> bool:
        """The tag of our rollback, if there is something to go back to; whether there was."""
        state = self.state
        now, before = state.assignment(stage), state.previous(stage)
        if not (now and before and (back := state.at(before.commit))):
            return False
        self.promote(back.name, stage, undoes=now.name)
        after = self.state.assignment(stage)
        assert after is not None
        assert after.commit == before.commit != now.commit
        return True

    def by_gto(self, change: Callable[..., object], **what: Any) -> None:
        """A change of GTO's own; its tag, whose time is now, is made again with a time of ours."""
        before = tags(self.project).keys()
        with inside(self.project.path):
            change(str(self.project.path), ARTIFACT, **what)
        (name,) = tags(self.project).keys() - before
        commit = git(self.project, "rev-parse", f"{name}^{{commit}}")
        text = git(self.project, "tag", "--list", "--format=%(contents)", name)
        git(self.project, "tag", "--delete", name)
        self.tag(name, commit, text)

    def gto_stage(self, stage: str) -> str | None:
        return gto_stages(self.project).get(stage)

    def gto_versions(self) -> set[str]:
        with inside(self.project.path):
            shown = gto.api.show(str(self.project.path), ARTIFACT, registered_only=True)
        return {row["version"] for row in shown}


@pytest.fixture
def model(tmp_path: Path) -> Model:
    project = Project(tmp_path / "project")
    project.path.mkdir()
    project.run("git", "init", "--quiet", "--initial-branch=main")
    model = Model(project)
    for version in ("v1.0.0", "v1.1.0", "v2.0.0"):
        project.commit("A model")
        model.commits[version] = git(project, "rev-parse", "HEAD")
        model.tag(f"{ARTIFACT}@{version}", model.commits[version])
    return model


def test_the_grammar_is_gtos(model: Model) -> None:
    """A name says the same to both, or nothing to both."""
    names = [ARTIFACT + suffix for suffix in (*READ, *NOT_READ, "")]
    for name in names:
        checked = model.project.run("git", "check-ref-format", f"refs/tags/{name}", check=False)
        # else nobody can make such a tag
        if checked.returncode == 0 and name not in tags(model.project):
            model.tag(name, model.commits["v1.0.0"])
    read = {tag.name: tag for tag in read_tags(Git(model.project.path))[0]}
    theirs = {name: gto.tag.parse_name(name, raise_on_fail=False) for name in tags(model.project)}
    known = [name for name in names if name in read]
    assert known == [name for name in names if theirs.get(name)]
    assert known == [ARTIFACT + suffix for suffix in READ]
    for name in known:
        tag, said = read[name], theirs[name]
        assert tag.action == said["action"].value
        assert (tag.version, tag.stage) == (said.get("version"), said.get("stage"))
        assert tag.counter == said.get("counter", 0)


def test_the_next_version(model: Model) -> None:
    tag = model.state.versions["v1.0.0"].tag

    def after(versions: list[str], bump: str) -> str:
        known = {name: Version(name, tag) for name in versions}
        return State(known, [], [], {}).next_version(bump)

    assert after([], "major") == "v1.0.0"
    assert after(["v1.9.3", "v1.10.0"], "minor") == "v1.11.0"
    assert after(["v1.10.0"], "patch") == "v1.10.1"
    assert after(["v1.10.4"], "major") == "v2.0.0"
    assert after(["v2.0.0-rc.1"], "minor") == "v2.1.0"


def test_versions_are_sorted_as_semver_says() -> None:
    """The example of https://semver.org, clause 11."""
    order = ["alpha", "alpha.1", "alpha.beta", "beta", "beta.2", "beta.11", "rc.1"]
    wanted = ["v0.9.9", *(f"v1.0.0-{pre}" for pre in order), "v1.0.0", "v1.0.1", "v1.10.0"]
    for seed in range(5):
        shuffled = random.Random(seed).sample(wanted, len(wanted))
        assert sorted(shuffled, key=precedence) == wanted


def test_a_version_is_withdrawn_and_comes_back(model: Model) -> None:
    model.promote("v1.0.0", "staging")
    model.promote("v1.1.0", "staging")
    model.promote("v2.0.0", "production")
    model.by_gto(gto.api.deregister, version="v1.0.0")
    assert list(model.state.problems) == []  # staging has moved on
    model.by_gto(gto.api.deregister, version="v2.0.0")
    (problem,) = model.state.problems
    assert f"{ARTIFACT}#production#1" in problem
    assert model.state.next_version("minor") == "v2.1.0"  # its name is not given away
    git(model.project, "tag", "--delete", f"{ARTIFACT}@v1.0.0!", f"{ARTIFACT}@v2.0.0!")
    assert set(model.state.versions) == set(model.commits) == model.gto_versions()
    assert model.state.find("production").name == "v2.0.0" == model.gto_stage("production")


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.long) for n in range(1, 8))]
)
def test_any_history_reads_as_gto_reads_it(model: Model, seed: int) -> None:
    """Our promote and rollback, GTO's assign, unassign and deregister, in any order."""
    rng = random.Random(seed)
    moved = 0
    for _ in range(14):
        stage, version = rng.choice(STAGES), rng.choice(sorted(model.commits))
        action = rng.choice(
            [*("promote", "rollback", "assign") * 3, *("unassign",) * 2, "withdraw"]
        )
        moved += _step(model, action, stage, version)
        _agree(model)
    assert moved > 3


def _step(model: Model, action: str, stage: str, version: str) -> bool:
    """One change, if it makes sense now; whether it did."""
    state = model.state
    if action == "rollback":
        return model.roll_back(stage)
    if version not in state.versions:
        return False
    here = stage in state.stages_of(state.versions[version])
    if action == "promote" and not here:
        model.promote(version, stage)
    elif action == "assign":
        model.by_gto(gto.api.assign, stage=stage, version=version, force=True)
    elif action == "unassign" and here:
        model.by_gto(gto.api.unassign, version=version, stage=stage)
    elif action == "withdraw" and len(state.versions) > 1:
        model.by_gto(gto.api.deregister, version=version)
    else:
        return False
    return True


def _agree(model: Model) -> None:
    state = model.state
    assert set(state.versions) == model.gto_versions()
    for stage in STAGES:
        now = state.assignment(stage)
        if now and not state.at(now.commit):
            with pytest.raises(RegistryError, match="withdrawn"):
                state.current(stage)
            continue
        found = state.current(stage)
        assert (found.name if found else None) == model.gto_stage(stage)
        having = [v for v in state.versions.values() if stage in state.stages_of(v)]
        assert having == ([found] if found else [])
        before = state.previous(stage)
        assert before is None or (now and before.commit != now.commit)


def test_rollbacks_walk_back_and_end(model: Model) -> None:
    for version in ("v1.0.0", "v1.1.0", "v1.0.0", "v2.0.0"):
        model.promote(version, "production")
    seen = [model.gto_stage("production") for _ in range(5) if model.roll_back("production")]
    assert seen == ["v1.0.0", "v1.1.0", "v1.0.0"]


def test_what_was_taken_out_is_not_rolled_back_to(model: Model) -> None:
    for version in ("v1.0.0", "v1.1.0", "v2.0.0"):
        model.promote(version, "production")
    model.by_gto(gto.api.unassign, version="v1.1.0", stage="production")
    assert model.gto_stage("production") == "v2.0.0"
    assert model.roll_back("production")
    assert model.gto_stage("production") == "v1.0.0"
