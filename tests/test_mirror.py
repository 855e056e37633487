"""The W&B registry is what git says: at once when W&B can be reached, else after `grocery sync`."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml

from conftest import ROOT, TINY_PARAMS, Project
from grocery.contents import read_content
from grocery.core.errors import GroceryError, TrackingError
from grocery.journal import held
from grocery.registry import download, mirror
from grocery.registry.corrections import Link, Wanted, corrections
from grocery.registry.git import Git
from grocery.registry.notes import Notes
from grocery.registry.state import read_state
from grocery.registry.tags import ARTIFACT, message
from grocery.settings import load
from grocery.tracking import sync
from grocery.tracking.provenance import project_root
from grocery.tracking.worker import call
from registry_project import listening, object_of
from wandb_pipeline import (
    REGISTRY,
    World,
    asking,
    begin,
    inside,
    killed,
    links,
    offline,
    synchronize,
    versions,
    write,
)
from wandb_server import WandbServer

LATER = "`grocery sync` tells W&B"

# What is done to the registry in most tests, and the aliases of its links after each step.
STORY: list[tuple[str, list[set[str]]]] = [
    ("register:v1.0.0:red", [{"v1.0.0", "latest"}]),
    ("assign:production:v1.0.0", [{"v1.0.0", "latest", "production"}]),
    ("register:v1.1.0:blue", [{"v1.0.0", "production"}, {"v1.1.0", "latest"}]),
    ("assign:staging:v1.1.0", [{"v1.0.0", "production"}, {"v1.1.0", "latest", "staging"}]),
    ("assign:production:v1.1.0", [{"v1.0.0"}, {"v1.1.0", "latest", "staging", "production"}]),
    ("unassign:staging:v1.1.0", [{"v1.0.0"}, {"v1.1.0", "latest", "production"}]),
    ("assign:production:v1.0.0", [{"v1.0.0", "production"}, {"v1.1.0", "latest"}]),
]
STEPS = [step for step, _ in STORY]


def act(*steps: str) -> None:
    """Do steps in the working directory, and print what is said.

    Steps are such as "register:v1.0.0:red", "assign:production:v1.0.0" or "repair".
    """
    git = Git(Path.cwd())
    ours = mirror.Mirror.of(project_root(), git, load())

    def change(what: str, tag: str, commit: str) -> None:
        ours.remember(what)
        state = read_state(git)
        tags = [*state.events, *(version.tag for version in state.versions.values())]
        latest = max((tag.time for tag in tags), default=0)
        made = git.create_tag(tag, commit, message(tag, {}), not_before=latest + 1)
        git.publish_tag(tag, made, remote=ours.remote)
        print(ours.mirror_now())

    for step in steps:
        try:
            match step.split(":"):
                case ["register", name, word]:
                    change(f"register {name}", f"{ARTIFACT}@{name}", git.ask("rev-parse", word))
                case ["assign" | "unassign" as verb, stage, version]:
                    state, mark = read_state(git), "!" if verb == "unassign" else ""
                    tag = f"{ARTIFACT}#{stage}{mark}#{len(state.history(stage)) + 1}"
                    change(f"{verb} {stage} {version}", tag, state.versions[version].commit)
                case ["now"]:
                    print(ours.mirror_now())
                case ["repair"]:
                    print("\n".join(ours.repair()))
                case ["status"]:
                    print("\n".join(found.says for found in ours.disagreements()))
        except GroceryError as error:
            print("error:", error)


@contextmanager
def in_this_process() -> Iterator[None]:
    """W&B is told from this process, which has imported it; one of its own is seldom the point."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for module in (mirror, download, sync):
            monkeypatch.setattr(module, "apart", here)
        yield


def here(
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
    with inside(folder, server, **changes), listening() as said:
        act(*steps)
    assert said.err == ""
    return [line for line in said.out.splitlines() if line]


def start(folder: Path, server: WandbServer, *steps: str) -> subprocess.Popen[str]:
    """Begin to do steps in a process of its own."""
    code = "import sys; from test_mirror import act; act(*sys.argv[1:])"
    return begin(folder, server, "-c", code, *steps)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose commits `red`, `blue` and `green` each hold another release, in DVC."""
    folder = tmp_path_factory.mktemp("mirror")
    project = Project(folder)
    project.run("git", "init", "--quiet", "--initial-branch=main")
    shutil.copy2(ROOT / "params.yaml", folder)
    project.edit_params({"tracking": TINY_PARAMS["tracking"]})
    (folder / ".gitignore").write_text("/release\n/wandb\n/shards\n/classifier\n/*.html\n")
    (folder / "made").mkdir()
    made = {  # as the stages of wandb_pipeline make it
        word: write(f"{folder}/made/{word}", weights=word, card=f"# {word}")
        for word in ("red", "blue", "green")
    }
    project.dvc("init --quiet", "add --quiet made/red made/blue made/green")
    for word, release in made.items():
        out = {"path": "models/release", "hash": "md5", "md5": read_content(release).md5}
        stage = {"cmd": "python -m grocery.runner register", "outs": [out]}
        lock = {"schema": "2.0", "stages": {"register": stage}}
        (folder / "dvc.lock").write_text(yaml.safe_dump(lock))
        project.commit(word)
        project.run("git", "branch", word)
    return folder


@pytest.fixture
def folder(once: Path, tmp_path: Path) -> Path:
    """A repository with three releases, free to change."""
    return Path(shutil.copytree(once, tmp_path / "repository", symlinks=True))


@pytest.fixture
def server() -> Iterator[WandbServer]:
    """A server that this process tells of everything but runs."""
    with in_this_process(), WandbServer() as one:
        yield one


@pytest.fixture
def server_apart() -> Iterator[WandbServer]:
    """A server that is told by a process of its own, as in earnest."""
    with WandbServer() as one:
        yield one


@pytest.fixture
def offline_story(folder: Path) -> Path:
    """A repository to which the story has happened offline."""
    assert do(folder, None, *STEPS, WANDB_MODE="offline") == [LATER] * len(STEPS)
    return folder


@pytest.fixture(scope="module")
def online(once: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A repository and a server that was told each step of the story at once."""
    folder = tmp_path_factory.mktemp("online") / "repository"
    shutil.copytree(once, folder, symlinks=True)
    with in_this_process(), WandbServer() as server:
        for step, aliases in STORY:
            assert do(folder, server, step) == ["W&B: 1 change"]
            assert links(server) == aliases, step
            assert Notes(folder).waiting() == []
        assert server.errors == []
    return World(folder, server)


# What is told


def test_offline_as_online(offline_story: Path, server_apart: WandbServer, online: World) -> None:
    planned = synchronize(offline_story, None, "--dry-run").out.splitlines()
    assert planned[:2] == ["registry: register v1.0.0", "registry: assign production v1.0.0"]
    assert len(planned) == len(STEPS)
    done = synchronize(offline_story, server_apart)
    assert (done.code, done.out, done.err) == (0, "7 of 7 sent\n", "")
    assert server_apart.state() == online.server.state()
    assert server_apart.errors == []

    seen = len(server_apart.requests)
    assert synchronize(offline_story, server_apart).out == "nothing waits to be sent\n"
    assert len(server_apart.requests) == seen


def test_a_release_of_a_tracked_stage_is_left_to_its_run(folder: Path, server: WandbServer) -> None:
    offline(folder, "register", word="red")
    (said,) = do(folder, server, "register:v1.0.0:red")
    why = "v1.0.0 is not linked, and W&B cannot be told: the run that made it is kept offline"
    assert said == f"warning: W&B: {why}; {LATER}"
    done = synchronize(folder, server)
    assert (done.out, done.err) == ("3 of 3 sent\n", "")
    assert do(folder, server, "assign:production:v1.0.0", "status") == ["W&B: 1 change"]
    assert links(server) == [{"candidate", "latest", "v1.0.0", "production"}]
    with asking(server, folder) as api:
        api.artifact(f"{REGISTRY}:v1.0.0").unlink()
    assert do(folder, server, "now", "status") == ["W&B: 2 changes"]
    (release,) = versions(server, "release").values()
    assert release["metadata"]["accepted"] is True, "the figures that its stage adds"
    assert len(server.state()["runs"]) == 1, "no other run has recorded it"


def test_the_tags_of_the_remote_count(folder: Path, server: WandbServer, tmp_path: Path) -> None:
    """Not those that this clone happens to have."""
    project = Project(folder)
    project.run("git", "clone", "--quiet", "--bare", ".", str(tmp_path / "origin"))
    project.run("git", "remote", "add", "origin", str(tmp_path / "origin"))
    Project(tmp_path).run("git", "clone", "--quiet", "origin", "other")
    other = tmp_path / "other"
    first = ["register:v1.0.0:red", "register:v1.1.0:blue", "assign:production:v1.0.0"]
    do(folder, None, *first, WANDB_MODE="offline")
    Project(other).run("git", "fetch", "--quiet", "--tags", "origin")
    shutil.copytree(folder / ".dvc/cache", other / ".dvc/cache")
    assert do(other, server, "assign:production:v1.1.0") == ["W&B: 3 changes"]
    assert synchronize(folder, server).out == "3 of 3 sent\n"
    assert links(server) == [{"v1.0.0"}, {"v1.1.0", "latest", "production"}]

    (tmp_path / "origin").rename(tmp_path / "elsewhere")
    (said,) = do(folder, server, "now")
    assert said.startswith("warning: W&B: the tags of origin cannot be had (")


# What people do to W&B by hand


def test_changes_by_hand_are_found_and_mended(folder: Path, server: WandbServer) -> None:
    three = ["register:v1.0.0:red", "register:v1.1.0:blue", "register:v1.2.0:green"]
    do(folder, server, *three, "assign:production:v1.1.0", "assign:staging:v1.2.0")
    with asking(server, folder) as api:
        one, two, three = (api.artifact(f"{REGISTRY}:v1.{number}.0") for number in range(3))
        one.aliases += ["production", "v1.3.0", "champion"]
        one.save()
        two.aliases = ["v1.0.0"]
        two.save()
        three.unlink()
        two = api.artifact("team/grocery/release:v1")
        two.aliases.append(f"md5-{read_content(folder / 'made/green').md5}")  # which is not its own
        two.save()
    wrong = [
        "W&B has v1.0.0 at another release (its number v1)",
        "v1.1.0 is not linked",
        "W&B has production at v1.3.0, git at v1.1.0",
        "v1.2.0 is not linked",
        "W&B has nothing in staging, git has v1.2.0",
        "W&B has v1.3.0, git has no release of that name",
    ]
    mended = [
        "v1.0.0 is at its release",
        "v1.1.0 is linked",
        "production is v1.1.0",
        "v1.2.0 is linked",
        "staging is v1.2.0",
        "v1.3.0 is taken away",
    ]
    assert do(folder, server, "status", "repair", "status") == wrong + mended
    (found,) = server.state()["links"].values()
    assert {link["artifact"]: set(link["aliases"]) for link in found.values()} == {
        "team/grocery/release:v0": {"v1.0.0", "champion"},
        "team/grocery/release:v1": {"v1.1.0", "production"},
        "team/grocery/release:v2": {"v1.2.0", "latest", "staging"},
    }


def test_versions_of_the_same_release_share_a_link(folder: Path, server: WandbServer) -> None:
    project = Project(folder)
    project.run("git", "checkout", "--quiet", "-b", "again", "red")
    project.commit("The same release")
    steps = ["register:v1.0.0:red", "register:v1.1.0:blue", "register:v1.0.1:again"]
    do(folder, None, *steps, WANDB_MODE="offline")
    said = do(folder, server, "now", "assign:production:v1.0.1", "status")
    assert said == ["W&B: 3 changes", "W&B: 1 change"]
    assert links(server) == [{"v1.0.0", "v1.0.1", "production"}, {"v1.1.0", "latest"}]


def test_of_two_links_to_the_same_release_the_one_with_its_aliases_is_meant() -> None:
    link = Link("v0", "a", frozenset({"v1.0.0", "candidate"}))
    twin = Link("v1", "a", frozenset({"latest"}))  # the same release from another project
    assert corrections([twin, link], [Wanted("v1.0.0", "a", frozenset({"v1.0.0"}))]) == []


# What goes wrong


# It is killed when the server falls silent, after so many requests; one time after the other. Five
# questions come first. To record a release takes twelve more, to link it three, and an alias three.
@pytest.mark.parametrize(
    "points",
    [(12, 7), pytest.param((1, 8, 12, 6, 7, 8, 9, 6, 8, 11, 6, 7), marks=pytest.mark.long)],
)
def test_killed_at_any_point_it_can_be_repeated(
    points: Sequence[int], offline_story: Path, server_apart: WandbServer, online: World
) -> None:
    telling = partial(start, offline_story, server_apart, "now")
    assert sum(killed(telling, server_apart, after) for after in points) >= min(len(points), 5)
    with in_this_process():
        assert synchronize(offline_story, server_apart).code == 0
    state, expected = server_apart.state(), online.server.state()
    assert state["links"] == expected["links"]
    assert state["artifacts"] == expected["artifacts"]
    assert Notes(offline_story).waiting() == []


@pytest.mark.parametrize(
    ("mode", "only"),
    [
        ("refuse", ""),
        ("hang", "upload"),
        pytest.param("hang", "", marks=pytest.mark.long),
        pytest.param("500", "", marks=pytest.mark.long),
        pytest.param("hang", "LinkArtifact", marks=pytest.mark.long),
    ],
)
def test_when_w_and_b_fails_there_is_one_warning_and_nothing_is_lost(
    mode: str, only: str, offline_story: Path, server_apart: WandbServer
) -> None:
    server_apart.fail(mode, only=only)
    seconds = 10 if only == "upload" else 3  # W&B has three times as long to begin
    Project(offline_story).edit_params({"tracking": {"timeout": seconds}})
    (said,) = do(offline_story, server_apart, "now")
    assert said.startswith("warning: W&B: ")
    assert said.endswith(f"; {LATER}")
    if only == "upload":
        assert said == f"warning: W&B: no answer within 10 s; {LATER}"
    assert len(Notes(offline_story).waiting()) == len(STEPS)
    server_apart.heal()
    with in_this_process():
        assert synchronize(offline_story, server_apart).out == "7 of 7 sent\n"
    assert links(server_apart) == STORY[-1][1]


def test_a_lost_release_holds_up_no_other(folder: Path, server: WandbServer) -> None:
    """Nor does a broken run."""
    project = Project(folder)
    project.run("git", "checkout", "--quiet", "-b", "empty")
    (folder / "dvc.lock").unlink()
    project.commit("No model")
    broken = folder / "wandb/outbox/1a2b3c4d"
    broken.mkdir(parents=True)
    (broken / "said.jsonl").write_text('{"do": "of another version"}\n')
    object_of(folder / ".dvc/cache", read_content(folder / "made/red").md5).unlink()
    steps = ["register:v1.0.0:red", "register:v1.1.0:blue", "register:v1.2.0:empty"]
    do(folder, None, *steps, WANDB_MODE="offline")
    done = synchronize(folder, server)
    assert done.code == 1
    assert done.err.startswith("error: sync: v1.0.0 is not linked, and W&B cannot be told: ")
    assert links(server) == [{"latest", "v1.1.0"}]
    waiting = synchronize(folder, server, "--dry-run").out.splitlines()
    assert waiting[0] == f"{broken}: cannot be read"
    assert len(waiting) == 1 + len(steps), "it is not known which of them are told"
    empty, lost = do(folder, server, "status")
    assert empty.startswith("v1.2.0 stands at ")
    assert empty.endswith(", which has no models/release")
    assert lost == "v1.0.0 is not linked"


@pytest.mark.parametrize("mode", ["disabled", "offline", ""])
def test_disabled_or_offline_wandb_is_not_even_imported(
    mode: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    expected = [LATER, "error: W&B is offline, and is not asked"] if mode != "disabled" else []
    with in_this_process():
        assert do(folder, None, "register:v1.0.0:red", "status", WANDB_MODE=mode) == expected
    assert (folder / "wandb").exists() == (mode != "disabled"), "there is nothing to note"


def test_without_a_registry_nothing_is_noted_or_done(folder: Path, server: WandbServer) -> None:
    Project(folder).edit_params({"tracking": {"registry": ""}})
    (said,) = do(folder, server, "register:v1.0.0:red", "status", "repair")
    assert said == "error: there is no W&B registry: tracking.registry is empty"
    assert not (folder / "wandb").exists()
    assert server.requests == []


def test_online_without_a_key_is_a_warning(folder: Path) -> None:
    with in_this_process():
        (said,) = do(folder, None, "register:v1.0.0:red", WANDB_MODE="online")
    assert said == f"warning: W&B: no API key is configured; {LATER}"


def test_two_in_one_clone_wait_for_each_other(offline_story: Path, server: WandbServer) -> None:
    with held(Notes(offline_story).lock):
        Project(offline_story).edit_params({"tracking": {"timeout": 1}})
        (said,) = do(offline_story, server, "now")
    assert "another command is telling W&B" in said
    Project(offline_story).edit_params({"tracking": {"timeout": 30}})
    both = [start(offline_story, server, "now") for _ in range(2)]
    told = sorted(process.communicate(timeout=120)[0] for process in both)
    assert told == ["W&B: 0 changes\n", "W&B: 3 changes\n"]
    assert links(server) == STORY[-1][1]


def test_only_what_git_is_certain_to_know_of_may_be_told(tmp_path: Path) -> None:
    code = (
        "import os, signal; from pathlib import Path; from grocery.registry.notes import Notes\n"
        "Notes(Path.cwd()).add('one'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    begin(tmp_path, None, "-c", code).communicate()
    notes = Notes(tmp_path)
    assert (notes.waiting(), notes.settled()) == (["one"], 1), "the dead change git no more"
    notes.add("two")
    assert notes.settled() == 0, "git may not be changed yet"
    notes.done()
    count = notes.settled()
    notes.add("three")  # while others are told
    notes.told(count)
    assert notes.waiting() == ["three"]
    notes.done()
    notes.told(notes.settled())
    assert notes.waiting() == []
    notes.add("four")
    notes.done()
    assert notes.waiting() == ["four"]


# The way from W&B


@pytest.fixture
def stock(online: World, tmp_path: Path) -> Iterator[World]:
    """A repository, and a server that has its red release in production."""
    with online.copy(tmp_path / "repository") as world:
        yield world


def fetch(stock: World, name: str = "production", timeout: float = 30) -> str:
    """Download a release to ``got/it``; what was said."""
    with inside(stock.folder, stock.server):
        try:
            return download.download_release(load().tracking, name, Path("got/it"), timeout)
        except GroceryError as error:
            return f"error: {error}"


def test_a_release_comes_back_byte_for_byte(stock: World) -> None:
    red = read_content(stock.folder / "made/red")
    with in_this_process():
        assert fetch(stock, "v1.0.0") == fetch(stock, "production") == red.md5
        assert read_content(stock.folder / "got/it") == red
        assert [path.name for path in (stock.folder / "got").iterdir()] == ["it"]
        said = fetch(stock, "staging")
    assert said.startswith(f"error: W&B does not give {REGISTRY}:staging: ")
    assert read_content(stock.folder / "got/it") == red
    assert stock.server.errors == []


# What somebody has done to the artifact, what is said, and how much is downloaded before.
Change = Callable[[Any, dict[str, Any]], object]
NO_RELEASE: dict[str, tuple[Change, str, int]] = {
    "a name that leads out": (
        lambda artifact, files: files.update({"../stolen": files.pop("weights")}),
        "holds the file name ",
        1,
    ),
    "a file from elsewhere": (
        lambda artifact, files: files["weights"].update(ref=Path(__file__).as_uri()),
        "takes weights from 'file://",
        1,
    ),
    "another content": (
        lambda artifact, files: files.update(weights=files["card"]),
        "is not what it says: ",
        3,
    ),
    "no hash": (
        lambda artifact, files: setattr(artifact, "metadata", '{"md5": "../../etc"}'),
        "does not say which release it is",
        1,
    ),
}


@pytest.mark.parametrize("case", NO_RELEASE)
def test_what_is_no_release_is_refused_before_anything_is_written(case: str, stock: World) -> None:
    change, sentence, downloads = NO_RELEASE[case]
    artifact, _ = stock.server.store.all_artifacts.values()
    manifest = json.loads(artifact.manifest_text)
    change(artifact, manifest["contents"])
    artifact.manifest_text = json.dumps(manifest).encode()
    around = stock.folder.parent
    before = sorted(around.rglob("*"))
    with in_this_process():
        said = fetch(stock)
    assert said.startswith(f"error: {REGISTRY}:production {sentence}")
    assert said.endswith("; refused")
    assert sorted(around.rglob("*")) == before
    assert [request.kind for request in stock.server.requests].count("download") == downloads


@pytest.mark.parametrize(
    ("mode", "only"),
    [("refuse", ""), ("hang", "download"), pytest.param("500", "download", marks=pytest.mark.long)],
)
def test_a_download_that_fails_is_a_sentence(mode: str, only: str, stock: World) -> None:
    stock.server.fail(mode, only=only)
    said = fetch(stock, timeout=2)
    assert said.startswith("error: ")
    assert not (stock.folder / "got").exists()


def test_references_to_our_remote(folder: Path, server: WandbServer, tmp_path: Path) -> None:
    project = Project(folder)
    project.dvc(f"remote add --default storage {tmp_path / 'storage'}", "push --quiet")
    project.edit_params({"tracking": {"upload": "reference"}})
    do(folder, server, "register:v1.0.0:red")
    (artifact,) = server.store.all_artifacts.values()
    assert all("ref" in entry for entry in artifact.entries.values())
    assert fetch(World(folder, server), "v1.0.0") == read_content(folder / "made/red").md5
    assert read_content(folder / "got/it") == read_content(folder / "made/red")
