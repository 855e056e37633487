"""Commands that are killed, and commands that meet: real git, a real DVC remote.

A wrapper named `git`, first in PATH, kills the command or lets somebody else act before or after
the git call that is asked for. Only those calls change anything; so killing around each of them is
killing at every point that matters, and acting there forces the order of events that is least
likely.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from conftest import Project, environment
from grocery.contents import read_content
from grocery.registry.git import Git
from grocery.registry.serving import keep
from grocery.registry.state import State, read_state
from grocery.registry.tags import ARTIFACT
from registry_forged import Forge, candidates, md5_of
from registry_project import Said, World, git, inside, put_back, tags

GIT = shutil.which("git")
NOW = "1800000000 +0000"  # tags made at one time by one person are the same, byte for byte
DATED: dict[str, Any] = {"GIT_COMMITTER_DATE": NOW}
BY_BOB = DATED | {"GIT_COMMITTER_NAME": "Bob"}
ALL_TAGS = "refs/tags/*:refs/tags/*"
FORCE = ["--force", "--reason", "A test"]

# Arguments of a wrapped call go to git as they are; its group is that of the command.
WRAPPER = f"""#!/bin/sh
point() {{
  if [ "$WRAP_KILL" = "$1 $2" ]; then kill -9 0; fi
  if [ "$WRAP_MEET" = "$1 $2" ]; then $WRAP_OTHER >&2; fi
  if [ "$WRAP_FAIL" = "$1 $2" ]; then echo 'fatal: the remote hung up' >&2; exit 128; fi
}}
point before "$1"
{GIT} "$@"
code=$?
point after "$1"
exit $code
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """PATH with the wrapper first."""
    wrapper = tmp_path_factory.mktemp("wrapper") / "git"
    wrapper.write_text(WRAPPER)
    wrapper.chmod(0o755)
    return f"{wrapper.parent}{os.pathsep}{environment()['PATH']}"


@pytest.fixture(scope="module")
def three(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Forge:
    """Three candidates, a commit each, whose releases differ in their cards; nothing registered.

    Their objects are in the cache only. The clone shares its tags through `origin`.
    """
    world = candidates(built, tmp_path_factory)
    for number in (2, 3):
        card = f"# The card of candidate {number}".encode()
        release = world.store_folder(world.release() | {"README.md": card}, cache=True)
        (world.project.path / "models/release/README.md").write_bytes(card)
        (world.project.path / "dvc.lock").write_bytes(world.lock_with(release))
        world.project.commit(f"Candidate {number}")
    world.share()
    return world


@pytest.fixture(scope="module")
def registered(three: Forge, tmp_path_factory: pytest.TempPathFactory) -> Forge:
    """The same as v1.0.0, v1.1.0, which came after it into production, and v1.2.0."""
    world = three.copy(tmp_path_factory.mktemp("kill") / "registered")
    world.done("register-all", "HEAD", "--push", **DATED)
    for version in ("v1.0.0", "v1.1.0"):
        world.done("promote", version, "--stage", "production", *FORCE, **DATED)
    git(world.second, "fetch", "--quiet", "origin", ALL_TAGS)
    return world


def check_consistent(project: Project) -> State:
    """Git and its tags are in order, and each event names the one before it."""
    done = project.run("git", "fsck", "--full", "--no-dangling", "--no-progress")
    assert "error" not in done.stdout + done.stderr
    state = read_state(Git(project.path))
    assert list(state.problems) == []
    for stage in ("staging", "production"):
        previous = None
        for event in state.history(stage):
            assert event.evidence["previous"] == previous, event.name
            previous = event.evidence["version"]
    return state


COMMANDS = {
    "register": ["register", "HEAD~2", "--push"],
    "register-all": ["register-all", "HEAD", "--push"],
    "promote": ["promote", "v1.2.0", "--stage", "production", *FORCE],
    "rollback": ["rollback", "--stage", "production"],
}

PROMOTE = COMMANDS["promote"]

# The tag is an object without a name; it has its name at the remote; it has it here, too.
POINTS = ("before push", "after push", "after update-ref")
IN_THE_GATE = [("register", "before push"), ("promote", "after push")]
CASES = [("register-all", "after push"), *product(("register", "promote", "rollback"), POINTS)]
KILLS = [
    pytest.param(*case, marks=[] if case in IN_THE_GATE else pytest.mark.long, id=" ".join(case))
    for case in CASES
]


@dataclass(frozen=True)
class Disturbed(Forge):
    """A world in which a command is disturbed, and the tags that it should have at last."""

    command: list[str]
    expected: dict[str, str]

    def run_killed(self, *options: str, **changes: str) -> None:
        """Run the command in a process group of its own, which something kills."""
        done = subprocess.run(
            [sys.executable, "-m", "grocery.cli", "registry", *self.command, *options],
            cwd=self.project.path,
            env=environment(GIT_COMMITTER_DATE=NOW, **changes),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            start_new_session=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == -signal.SIGKILL

    def check(self) -> None:
        """All is in order, and the command repeated gives what it gives undisturbed."""
        check_consistent(self.project)
        check_consistent(self.origin)
        if "rollback" in self.command and tags(self.origin) == self.expected:
            # It is done; to repeat it would go one step further back.
            git(self.project, "fetch", "--quiet", "origin", ALL_TAGS)
        else:
            self.done(*self.command, **DATED)
        assert tags(self.project) == tags(self.origin) == self.expected
        check_consistent(self.project)
        for path in (self.storage / "files").rglob("*"):  # each under its own hash
            md5 = f"{path.parent.name}{path.name}".removesuffix(".dir")
            assert path.is_dir() or len(md5) != 32 or md5_of(path.read_bytes()) == md5


@pytest.fixture
def found(three: Forge, registered: Forge, tmp_path: Path, name: str) -> Disturbed:
    """The world that the command of this name begins in; what it gives is tried beforehand."""
    begin = three if name.startswith("register") else registered
    end = begin.copy(tmp_path / "end")
    end.done(*COMMANDS[name], **DATED)
    check_consistent(end.project)
    world = begin.copy(tmp_path / "world")
    return Disturbed(world.folder, COMMANDS[name], tags(end.project))


class TestKill:
    @pytest.mark.parametrize(("name", "point"), KILLS)
    def test_around_each_change(self, found: Disturbed, path: str, name: str, point: str) -> None:
        found.run_killed(PATH=path, WRAP_KILL=point)
        if point.startswith("after"):
            assert tags(found.origin).items() <= found.expected.items()
            assert (tags(found.origin) == found.expected) == (name != "register-all")
        found.check()

    @pytest.mark.parametrize("name", ["promote"])
    def test_git_itself_in_the_middle_of_a_change(self, found: Disturbed) -> None:
        """Git leaves its lock behind, and the sentence names the file to remove."""
        hook = found.project.path / ".git/hooks/reference-transaction"
        hook.parent.mkdir(exist_ok=True)
        hook.write_text('#!/bin/sh\nif [ "$1" = prepared ]; then kill -9 0; fi\n')
        hook.chmod(0o755)
        found.run_killed("--local")
        hook.unlink()
        (lock,) = (found.project.path / ".git/refs/tags").rglob("*.lock")
        sentence = found.refused(*found.command, "--local")
        assert str(lock.relative_to(found.project.path)) in sentence
        assert "None" not in sentence
        lock.unlink()
        found.check()


@dataclass(frozen=True)
class Meeting(World):
    """Two people: Ada's commands are run here, in the first clone; Bob has the second."""

    path: str  # PATH with the wrapper first

    def bob_promotes(self) -> None:
        """Bob decides now, and nobody hears of it yet."""
        self.done(*PROMOTE, "--local", at=self.second, **BY_BOB)

    def bob_registers(self, version: str) -> None:
        """Bob makes his HEAD a version, and nobody hears of it yet."""
        git(self.second, "tag", "-a", f"{ARTIFACT}@{version}", "-m", "By hand", **BY_BOB)

    def ada_does(self, *arguments: str, **wrap: Any) -> Said:
        """Ada's command, which another meets at a point, or whose git fails at one."""
        by_ada = DATED | {"GIT_COMMITTER_NAME": "Ada", "PATH": self.path}
        return self.registry(*arguments, **by_ada, **wrap)

    def ada_meets_bob(self, *arguments: str, when: str = "before push") -> Said:
        """Bob's tags get to the remote between Ada's decision and her tag."""
        push = f"{GIT} -C {self.second.path} push --quiet origin --tags"
        return self.ada_does(*arguments, WRAP_MEET=when, WRAP_OTHER=push)

    def check_refused(self, said: Said, sentence: str) -> None:
        assert (said.code, said.out) == (1, "")
        assert sentence in said.sentence

    def check_moved_once(self, who: str) -> None:
        """Production moved once, at the remote and in each clone."""
        for clone in (self.project, self.second):
            git(clone, "fetch", "--quiet", "origin", ALL_TAGS)
            assert tags(clone) == tags(self.origin)
        events = check_consistent(self.origin).history("production")
        assert [event.who for event in events] == ["Test", "Test", who]
        assert events[-1].evidence["version"] == "v1.2.0"


class TestMeeting:
    """Two people, each in a clone of one remote, or two commands in one clone."""

    @pytest.fixture
    def met(self, registered: World, path: str) -> Iterator[Meeting]:
        """What they do is put back."""
        met = Meeting(registered.folder, path)
        with put_back(met.project, met.second, met.origin):
            yield met

    @pytest.mark.parametrize(
        "command", [PROMOTE, ["promote", "v1.0.0", *PROMOTE[2:]], COMMANDS["rollback"]]
    )
    def test_a_stage_that_another_moves_meanwhile(self, met: Meeting, command: list[str]) -> None:
        """Whoever is second is told, or finds it done."""
        met.bob_promotes()
        met.check_refused(met.ada_meets_bob(*command), "production was moved at the same time by B")
        met.check_moved_once("Bob")
        if command == PROMOTE:
            assert not met.done(*command, **DATED)["new"]

    def test_a_version_that_is_withdrawn_while_it_is_judged(self, met: Meeting) -> None:
        before = tags(met.origin)
        gone = f"{ARTIFACT}@v1.2.0"
        later = {"GIT_COMMITTER_DATE": "1800000010 +0000"}
        git(met.second, "tag", "-a", f"{gone}!", f"{gone}^{{}}", "-m", "Gone", **later)
        said = met.ada_meets_bob(*PROMOTE, when="before cat-file")
        met.check_refused(said, "v1.2.0 was withdrawn or moved meanwhile")
        assert {*tags(met.origin)} - {*before} == {f"{gone}!"}

    def test_in_one_clone(self, met: Meeting) -> None:
        """Without a git remote, the clone itself decides."""
        git(met.project, "remote", "remove", "origin")
        met.bob_promotes()
        bring = f"{GIT} fetch --quiet {met.second.path} {ALL_TAGS}"
        said = met.ada_does(*PROMOTE, WRAP_MEET="before update-ref", WRAP_OTHER=bring)
        met.check_refused(said, "production was moved at the same time by Bob")
        events = check_consistent(met.project).history("production")
        assert [event.who for event in events] == ["Test", "Test", "Bob"]

    @pytest.mark.parametrize(
        "event",
        [
            # another command in the clone brings the new tag from the remote: it is ours still
            {"WRAP_MEET": "before update-ref", "WRAP_OTHER": f"{GIT} fetch -q origin {ALL_TAGS}"},
            # the tag got there, and git says that it failed
            {"WRAP_FAIL": "after push"},
        ],
        ids=["fetched by another command", "answer lost"],
    )
    def test_a_tag_that_got_there_is_made(self, met: Meeting, event: dict[str, str]) -> None:
        said = met.ada_does(*PROMOTE, **event)
        assert (said.code, said.err) == (0, "")
        assert "production has v1.2.0" in said.out
        met.check_moved_once("Ada")

    def test_two_register(self, met: Meeting) -> None:
        for clone in (met.project, met.second, met.origin):
            git(clone, "tag", "--delete", *tags(clone))
        met.bob_registers("v1.0.0")
        said = met.ada_meets_bob("register")
        assert (said.code, "registered already as v1.0.0" in said.out) == (0, True)
        met.bob_registers("v1.1.0")
        assert met.ada_meets_bob("register", "HEAD~1").code == 0
        met.bob_registers("v5.0.0")
        said = met.ada_meets_bob("register", "HEAD~2", "--version", "v5.0.0")
        met.check_refused(said, "v5.0.0 was registered by somebody else at the same time")
        versions = check_consistent(met.origin).versions
        who = {name: made.tag.who for name, made in versions.items()}
        assert who == {"v1.0.0": "Bob", "v1.1.0": "Bob", "v1.2.0": "Ada", "v5.0.0": "Bob"}
        assert versions["v1.2.0"].commit == git(met.project, "rev-parse", "HEAD~1")
        assert versions["v1.2.0"].evidence["version"] == "v1.2.0"
        assert tags(met.project) == tags(met.origin)


def test_two_fetch_at_once(built: Project, tmp_path: Path) -> None:
    """One copy is kept; what a killed one had so far is neither used nor kept."""
    release, clone = built.path / "models/release", tmp_path / "clone"
    md5 = read_content(release).md5
    folder = tmp_path / "cache/grocery/releases"
    for place in (clone, folder / ".fetch-killed/release"):
        place.mkdir(parents=True)
    both = threading.Barrier(2, timeout=60)

    def write(folder: Path) -> None:
        both.wait()
        shutil.copytree(release, folder)
        both.wait()

    with inside(clone), ThreadPoolExecutor(2) as pool:
        kept = list(pool.map(lambda _: keep(md5, write), range(2)))
    assert kept == [folder / md5.removesuffix(".dir")] * 2
    assert list(folder.iterdir()) == kept[:1]
    assert read_content(kept[0]).md5 == md5
