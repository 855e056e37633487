"""Commands that are killed, and commands that meet: real processes, real git, a real DVC remote.

A wrapper named `git`, first in PATH, kills the command or holds it still before or after the git
call that is asked for. Only those calls change anything; so killing around each of them is killing
at every point that matters, and holding there forces the order of events that is least likely.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from conftest import Project, environment
from grocery.contents import read_content
from grocery.registry.git import Git
from grocery.registry.state import State, read_state
from registry_forged import Forge, md5_of
from registry_project import World, create_world, git, grocery, output_at, tags

GIT = shutil.which("git")
NOW = "1800000000 +0000"  # tags made at one time by one person are the same, byte for byte
FORCE = ["--force", "--reason", "A test"]

# Arguments of a wrapped call go to git as they are; its group is that of the command.
WRAPPER = f"""#!/bin/sh
point() {{
  if [ "$WRAP_KILL" = "$1 $2" ]; then kill -9 0; fi
  if [ "$WRAP_HOLD" = "$1 $2" ]; then
    touch "$WRAP_FOLDER/$WRAP_NAME.reached"
    while [ ! -e "$WRAP_FOLDER/$WRAP_NAME.go" ]; do sleep 0.01; done
  fi
  if [ "$WRAP_FAIL" = "$1 $2" ]; then echo 'fatal: the remote hung up' >&2; exit 128; fi
}}
point before "$1"
{GIT} "$@"
code=$?
point after "$1"
exit $code
"""


@dataclass
class Command:
    """A `grocery registry` command in a process group of its own."""

    process: subprocess.Popen[str]
    folder: Path
    name: str

    def wait_until_held(self) -> None:
        """Wait until it is held at its point."""
        while not (self.folder / f"{self.name}.reached").exists():
            assert self.process.poll() is None, self.end()
            time.sleep(0.01)

    def let_go(self) -> None:
        """Let it go on."""
        (self.folder / f"{self.name}.go").touch()

    def end(self) -> tuple[int, str, str]:
        """Exit code and what it said."""
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err

    def kill(self) -> None:
        """Kill it and all that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def wrapper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wrapper."""
    folder = tmp_path_factory.mktemp("wrapper")
    (folder / "git").write_text(WRAPPER)
    (folder / "git").chmod(0o755)
    return folder


@pytest.fixture
def start(wrapper: Path, tmp_path: Path) -> Callable[..., Command]:
    """Start a command: ``start(project, *arguments, who="Ada", kill="before push")``."""

    def started(project: Project, *arguments: str, who: str = "Test", **points: str) -> Command:
        wrapped = {f"WRAP_{what.upper()}": point for what, point in points.items()}
        wanted = environment(
            XDG_CACHE_HOME=str(project.path.parent / "cache"),
            GIT_COMMITTER_NAME=who,
            GIT_COMMITTER_DATE=NOW,
            WRAP_FOLDER=str(tmp_path),
            WRAP_NAME=who,
            **wrapped,
        )
        wanted["PATH"] = f"{wrapper}{os.pathsep}{wanted['PATH']}"
        process = subprocess.Popen(
            [sys.executable, "-m", "grocery.cli", "registry", *arguments],
            cwd=project.path,
            env=wanted,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return Command(process, tmp_path, who)

    return started


@pytest.fixture(scope="module")
def three(built: Project, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Three candidates, a commit each, whose releases differ in their cards; nothing registered.

    Their objects are in the cache only. The clone shares its tags through `origin`.
    """
    world = create_world(built, tmp_path_factory.mktemp("kill") / "world")
    forge, project = Forge(world), world.project
    genuine = output_at(project, "HEAD", "models/release")
    for number in (2, 3):
        card = f"# The card of candidate {number}".encode()
        release = forge.store_folder(forge.release() | {"README.md": card}, cache=True)
        (project.path / "models/release/README.md").write_bytes(card)
        (project.path / "dvc.lock").write_bytes(forge.lock_with(release))
        project.commit(f"Candidate {number}")
    assert output_at(project, "HEAD", "models/release") != genuine
    second = world.share()
    git(second, "remote", "set-url", "origin", "../origin.git")  # also in a copy of the world
    return world


@pytest.fixture(scope="module")
def registered(three: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The same as v1.0.0, which is in production, v1.1.0 and v1.2.0."""
    world = three.copy(tmp_path_factory.mktemp("kill") / "registered")
    repeated(world, "register-all", "HEAD", "--push")
    repeated(world, "promote", "v1.0.0", "--stage", "production")
    return world


def repeated(world: World, *arguments: str, at: Project | None = None) -> str:
    """Run a command that must succeed, at the same time as all others; what it says."""
    said = grocery(at or world.project, "registry", *arguments, GIT_COMMITTER_DATE=NOW)
    assert said.code == 0, said.err
    return said.out


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


def check_remote(world: World) -> None:
    """What lies in the DVC remote under the name of a hash has that hash."""
    for path in (world.storage / "files").rglob("*"):
        name = f"{path.parent.name}{path.name}"
        if path.is_file() and len(name.removesuffix(".dir")) == 32:
            assert md5_of(path.read_bytes()) == name.removesuffix(".dir")


def check_kept(world: World) -> None:
    """What lies in the user's cache folder is whole releases, and nothing else."""
    folder = world.folder / "cache/grocery/releases"
    for path in folder.iterdir() if folder.is_dir() else ():
        assert read_content(path).md5 == f"{path.name}.dir"


@contextmanager
def stalling(folder: Path, md5: str) -> Iterator[str]:
    """A web server of a folder that gives the first half of one object, and then nothing."""
    gone = threading.Event()

    class Handler(SimpleHTTPRequestHandler):
        def copyfile(self, source: Any, outputfile: Any) -> None:
            data = source.read()
            if self.path.endswith(f"{md5[:2]}/{md5[2:]}"):
                outputfile.write(data[: len(data) // 2])
                outputfile.flush()
                gone.wait()
            else:
                outputfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            gone.set()
            server.shutdown()


@dataclass(frozen=True)
class Case:
    """A command to kill.

    Attributes
    ----------
    arguments
        The command.
    registered
        Whether versions are registered beforehand.
    """

    arguments: Sequence[str]
    registered: bool = True


CASES = {
    "register": Case(["register", "HEAD~2", "--push"], registered=False),
    "register-all": Case(["register-all", "HEAD", "--push"], registered=False),
    "promote": Case(["promote", "v1.1.0", "--stage", "production", *FORCE]),
    "rollback": Case(["rollback", "--stage", "production"]),
    "fetch": Case(["fetch", "production"]),
}

# The tag is an object without a name; it has its name at the remote; it has it here, too.
POINTS = [
    *((name, "before push") for name in ("register", "promote", "rollback")),
    *((name, "after push") for name in ("register", "register-all", "promote", "rollback")),
    *((name, "after update-ref") for name in ("register", "promote", "rollback")),
]


@pytest.fixture(scope="module")
def worlds(
    three: World, registered: World, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, World]:
    """The world that each command begins in."""
    before = registered.copy(tmp_path_factory.mktemp("kill") / "promoted")
    repeated(before, "promote", "v1.1.0", "--stage", "production", *FORCE)
    begin = {name: registered if case.registered else three for name, case in CASES.items()}
    return begin | {"rollback": before}


@pytest.fixture(scope="module")
def expected(
    worlds: dict[str, World], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, str]]:
    """The tags after each command when nothing disturbs it."""
    found = {}
    for name, case in CASES.items():
        world = worlds[name].copy(tmp_path_factory.mktemp("undisturbed") / name)
        repeated(world, *case.arguments)
        check_consistent(world.project)
        found[name] = tags(world.project)
    return found


class TestKill:
    def check_after_kill(self, world: World, name: str, expected: dict[str, str]) -> None:
        """All is in order, and the command repeated gives what it gives undisturbed."""
        check_consistent(world.project)
        origin = Project(world.folder / "origin.git")
        check_consistent(origin)
        repeated(world, *CASES[name].arguments)
        assert tags(world.project) == expected
        assert tags(origin) == expected
        check_consistent(world.project)
        check_remote(world)
        check_kept(world)

    @pytest.mark.parametrize(("name", "point"), POINTS, ids=map(" ".join, POINTS))
    def test_around_each_change(
        self,
        *,
        worlds: dict[str, World],
        expected: dict[str, dict[str, str]],
        start: Callable[..., Command],
        tmp_path: Path,
        name: str,
        point: str,
    ) -> None:
        world = worlds[name].copy(tmp_path / "world")
        command = start(world.project, *CASES[name].arguments, kill=point)
        assert command.end()[0] == -signal.SIGKILL
        if name == "rollback" and point.startswith("after"):
            # It is done; to repeat it would go one step further back.
            git(world.project, "fetch", "--quiet", "origin", "refs/tags/*:refs/tags/*")
            assert tags(world.project) == expected[name]
            check_consistent(world.project)
            return
        self.check_after_kill(world, name, expected[name])

    @pytest.mark.parametrize("seed", range(2))
    @pytest.mark.parametrize("name", CASES)
    def test_at_any_time(
        self,
        *,
        worlds: dict[str, World],
        expected: dict[str, dict[str, str]],
        start: Callable[..., Command],
        tmp_path: Path,
        name: str,
        seed: int,
    ) -> None:
        world = worlds[name].copy(tmp_path / "world")
        before = tags(Project(world.folder / "origin.git"))
        command = start(world.project, *CASES[name].arguments)
        time.sleep(random.Random(f"{name} {seed}").uniform(0.3, 2.0))
        command.kill()
        if name == "rollback" and tags(Project(world.folder / "origin.git")) != before:
            return
        self.check_after_kill(world, name, expected[name])

    @pytest.mark.parametrize("objects", [1, 20])
    def test_while_objects_are_pushed(
        self,
        *,
        worlds: dict[str, World],
        expected: dict[str, dict[str, str]],
        start: Callable[..., Command],
        tmp_path: Path,
        objects: int,
    ) -> None:
        """What was sent by halves is not taken for whole."""
        world = worlds["register"].copy(tmp_path / "world")
        command = start(world.project, *CASES["register"].arguments, hold="before mktag")
        while sum(path.is_file() for path in world.storage.rglob("*")) < objects:
            assert command.process.poll() is None
        command.kill()
        assert tags(Project(world.folder / "origin.git")) == {}
        self.check_after_kill(world, "register", expected["register"])

    def test_an_object_that_was_sent_by_halves(
        self, worlds: dict[str, World], expected: dict[str, dict[str, str]], tmp_path: Path
    ) -> None:
        """DVC makes an empty file where it tries whether the disk can clone one.

        A kill leaves it there, under the name of the whole.
        """
        world = worlds["register"].copy(tmp_path / "world")
        commit = git(world.project, "rev-parse", "HEAD~2")
        half = Forge(world).place(output_at(world.project, commit, "models/release"))
        half.parent.mkdir(parents=True)
        half.touch()
        assert "not in the DVC remote" in world.refused("register", commit)
        half.parent.mkdir(exist_ok=True)
        half.touch()
        self.check_after_kill(world, "register", expected["register"])

    def test_while_a_release_is_fetched(
        self,
        *,
        worlds: dict[str, World],
        expected: dict[str, dict[str, str]],
        start: Callable[..., Command],
        tmp_path: Path,
    ) -> None:
        """The remote stops in the middle of a file; what came so far is neither used nor kept."""
        world = worlds["fetch"].copy(tmp_path / "world")
        shutil.rmtree(world.project.path / ".dvc/cache")
        arrays = (world.project.path / "models/release/model.safetensors").read_bytes()
        half = Path("cache/grocery/releases")
        with stalling(world.storage, md5_of(arrays)) as address:
            world.project.run("dvc", "config", "--local", "remote.storage.url", address)
            command = start(world.project, "fetch", "production")
            while not any((world.folder / half).glob(".fetch-*/release/model.safetensors*")):
                assert command.process.poll() is None, command.end()
                time.sleep(0.01)
            command.kill()
        assert len(list((world.folder / half).iterdir())) == 1
        world.project.run("dvc", "config", "--local", "--unset", "remote.storage.url")
        self.check_after_kill(world, "fetch", expected["fetch"])

    def test_git_itself_in_the_middle_of_a_change(
        self,
        *,
        worlds: dict[str, World],
        expected: dict[str, dict[str, str]],
        start: Callable[..., Command],
        tmp_path: Path,
    ) -> None:
        """Git leaves its lock behind, and the sentence names the file to remove."""
        world = worlds["promote"].copy(tmp_path / "world")
        hook = world.project.path / ".git/hooks/reference-transaction"
        hook.parent.mkdir(exist_ok=True)
        hook.write_text('#!/bin/sh\nif [ "$1" = prepared ]; then kill -9 0; fi\n')
        hook.chmod(0o755)
        arguments = [*CASES["promote"].arguments, "--local"]
        assert start(world.project, *arguments).end()[0] == -signal.SIGKILL
        hook.unlink()
        (lock,) = (world.project.path / ".git/refs/tags").rglob("*.lock")
        sentence = world.refused(*arguments)
        assert str(lock.relative_to(world.project.path)) in sentence
        assert "None" not in sentence
        lock.unlink()
        repeated(world, *arguments)
        assert tags(world.project) == expected["promote"]


class TestMeeting:
    """Two people, each in a clone of one remote, or two commands in one clone."""

    @pytest.fixture
    def world(self, registered: World, tmp_path: Path) -> World:
        return registered.copy(tmp_path / "world")

    @pytest.fixture
    def unregistered(self, three: World, tmp_path: Path) -> World:
        """Nothing is registered, and the DVC remote holds everything."""
        world = three.copy(tmp_path / "world")
        shutil.copytree(world.project.path / ".dvc/cache/files", world.storage / "files")
        return world

    def check_one_event(self, world: World, stage: str) -> str:
        """A stage moved once, at the remote and in each clone; the version that it has."""
        origin = Project(world.folder / "origin.git")
        for clone in (world.project, self.second(world)):
            git(clone, "fetch", "--quiet", "origin", "refs/tags/*:refs/tags/*")
            assert tags(clone) == tags(origin)
        state = check_consistent(origin)
        assert len(state.history(stage)) == {"staging": 1, "production": 2}[stage]
        version = state.current(stage)
        assert version
        return version.name

    def second(self, world: World) -> Project:
        return Project(world.folder / "second")

    def check_refused(self, command: Command, sentence: str) -> None:
        code, out, err = command.end()
        assert (code, out) == (1, "")
        assert sentence in err
        assert len(err.splitlines()) == 1

    @pytest.mark.parametrize("stage", ["staging", "production"])
    def test_one_promotes_while_the_other_does(
        self, world: World, start: Callable[..., Command], stage: str
    ) -> None:
        """The second one begins and ends between the first one's decision and its tag."""
        to_stage = ["--stage", stage, *FORCE]
        ada = start(world.project, "promote", "v1.1.0", *to_stage, who="Ada", hold="before push")
        ada.wait_until_held()
        bob = start(self.second(world), "promote", "v1.2.0", *to_stage, who="Bob")
        assert bob.end()[0] == 0
        ada.let_go()
        self.check_refused(ada, f"{stage} was moved at the same time by Bob")
        assert self.check_one_event(world, stage) == "v1.2.0"

    def test_one_rolls_back_while_the_other_promotes(
        self, world: World, start: Callable[..., Command]
    ) -> None:
        to_production = ["--stage", "production"]
        repeated(world, "promote", "v1.1.0", *to_production, *FORCE)
        ada = start(world.project, "rollback", *to_production, who="Ada", hold="before push")
        ada.wait_until_held()
        bob = start(self.second(world), "promote", "v1.2.0", *to_production, *FORCE, who="Bob")
        assert bob.end()[0] == 0
        ada.let_go()
        self.check_refused(ada, "production was moved at the same time by Bob")
        state = check_consistent(Project(world.folder / "origin.git"))
        assert [event.who for event in state.history("production")] == ["Test", "Test", "Bob"]

    @pytest.mark.parametrize("turn", range(6))
    def test_both_push_at_once(
        self, world: World, start: Callable[..., Command], turn: int
    ) -> None:
        people = {"Ada": (world.project, "v1.1.0"), "Bob": (self.second(world), "v1.2.0")}
        stage = ["staging", "production"][turn % 2]
        commands = {}
        for who, (clone, version) in people.items():
            promote = ["promote", version, "--stage", stage, *FORCE]
            commands[who] = start(clone, *promote, who=who, hold="before push")
        for command in commands.values():
            command.wait_until_held()
        for who in sorted(commands, reverse=turn > 2):
            commands[who].let_go()
        ended = {who: command.end() for who, command in commands.items()}
        (winner,) = [who for who, (code, *_) in ended.items() if code == 0]
        (loser,) = set(people) - {winner}
        assert ended[loser][0] == 1
        assert f"{stage} was moved at the same time by {winner}" in ended[loser][2]
        assert self.check_one_event(world, stage) == people[winner][1]

    def test_the_same_promotion_twice(self, world: World, start: Callable[..., Command]) -> None:
        """Whoever is second is told, or finds it done."""
        command = ["promote", "v1.1.0", "--stage", "staging"]
        ada = start(world.project, *command, who="Ada", hold="before push")
        ada.wait_until_held()
        assert start(self.second(world), *command, who="Bob").end()[0] == 0
        ada.let_go()
        self.check_refused(ada, "staging was moved at the same time by Bob")
        assert self.check_one_event(world, "staging") == "v1.1.0"
        assert "has already v1.1.0" in repeated(world, *command)

    def test_in_one_clone(self, world: World, start: Callable[..., Command]) -> None:
        """Without a git remote, the clone itself decides."""
        git(world.project, "remote", "remove", "origin")
        to_staging = ["--stage", "staging"]
        ada = start(
            world.project, "promote", "v1.1.0", *to_staging, who="Ada", hold="before update-ref"
        )
        ada.wait_until_held()
        assert start(world.project, "promote", "v1.2.0", *to_staging, who="Bob").end()[0] == 0
        ada.let_go()
        self.check_refused(ada, "staging was moved at the same time by Bob")
        state = check_consistent(world.project)
        assert [event.who for event in state.history("staging")] == ["Bob"]

    def test_somebody_else_fetches_the_tag_first(
        self, world: World, start: Callable[..., Command]
    ) -> None:
        """Another command in the clone brings the new tag from the remote: it is ours still."""
        command = ["promote", "v1.1.0", "--stage", "staging"]
        ada = start(world.project, *command, who="Ada", hold="before update-ref")
        ada.wait_until_held()
        assert start(world.project, "register", who="Bob").end()[0] == 0
        ada.let_go()
        code, out, err = ada.end()
        assert (code, err) == (0, "")
        assert "staging has v1.1.0" in out
        assert self.check_one_event(world, "staging") == "v1.1.0"

    def test_the_answer_of_the_remote_is_lost(
        self, world: World, start: Callable[..., Command]
    ) -> None:
        """The tag got there, and git says that it failed."""
        command = ["promote", "v1.1.0", "--stage", "staging"]
        code, out, err = start(world.project, *command, who="Ada", fail="after push").end()
        assert (code, err) == (0, "")
        assert "staging has v1.1.0" in out
        assert self.check_one_event(world, "staging") == "v1.1.0"

    @pytest.mark.parametrize("call", ["fetch", "push"])
    def test_the_remote_cannot_be_reached(
        self, world: World, start: Callable[..., Command], call: str
    ) -> None:
        before = tags(world.project)
        command = ["promote", "v1.1.0", "--stage", "staging"]
        ada = start(world.project, *command, who="Ada", fail=f"before {call}")
        self.check_refused(ada, "origin, through which versions are shared, cannot be asked")
        assert tags(world.project) == before
        repeated(world, *command)
        assert self.check_one_event(world, "staging") == "v1.1.0"

    @pytest.mark.parametrize("hold", ["before push", "before mktag"])
    def test_two_register_different_commits(
        self, unregistered: World, start: Callable[..., Command], hold: str
    ) -> None:
        world = unregistered
        ada = start(world.project, "register", "HEAD~1", who="Ada", hold=hold)
        ada.wait_until_held()
        assert start(self.second(world), "register", who="Bob").end()[0] == 0
        ada.let_go()
        assert ada.end()[0] == 0
        state = check_consistent(Project(world.folder / "origin.git"))
        registered = {name: version.tag.who for name, version in state.versions.items()}
        assert registered == {"v1.0.0": "Bob", "v1.1.0": "Ada"}
        assert state.versions["v1.0.0"].commit == git(world.project, "rev-parse", "HEAD")
        assert state.versions["v1.1.0"].commit == git(world.project, "rev-parse", "HEAD~1")
        for name, version in state.versions.items():
            assert version.evidence["version"] == name

    def test_two_register_one_commit(
        self, unregistered: World, start: Callable[..., Command]
    ) -> None:
        world = unregistered
        ada = start(world.project, "register", who="Ada", hold="before push")
        ada.wait_until_held()
        assert start(self.second(world), "register", who="Bob").end()[0] == 0
        ada.let_go()
        code, out, _ = ada.end()
        assert code == 0
        assert "registered already as v1.0.0" in out
        state = check_consistent(Project(world.folder / "origin.git"))
        assert {name: v.tag.who for name, v in state.versions.items()} == {"v1.0.0": "Bob"}
        assert tags(world.project) == tags(Project(world.folder / "origin.git"))

    def test_two_register_one_name(
        self, unregistered: World, start: Callable[..., Command]
    ) -> None:
        world = unregistered
        name = ["--version", "v5.0.0"]
        ada = start(world.project, "register", "HEAD~1", *name, who="Ada", hold="before push")
        ada.wait_until_held()
        assert start(self.second(world), "register", *name, who="Bob").end()[0] == 0
        ada.let_go()
        self.check_refused(ada, "v5.0.0 was registered by somebody else at the same time")

    def test_two_fetch_at_once(self, world: World, start: Callable[..., Command]) -> None:
        commands = [start(world.project, "fetch", "production", who=who) for who in ("A", "B", "C")]
        ended = [command.end() for command in commands]
        assert [(code, err) for code, _, err in ended] == [(0, "")] * 3
        assert len({out for _, out, _ in ended}) == 1
        check_kept(world)
