"""`grocery sync`: what was kept offline arrives, each thing once, whatever interrupts it."""

import os
import re
import shutil
import signal
from base64 import b64decode
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from grocery.contents import read_content
from grocery.journal import held
from grocery.tracking import artifacts
from grocery.tracking.arrived import missing
from grocery.tracking.outbox import all_outboxes, encode
from registry_project import Said
from running import wait_for
from wandb_pipeline import (
    RUN,
    World,
    asking,
    begin,
    kill,
    killed,
    links,
    offline,
    on_a_terminal,
    pipeline,
    silent,
    synchronize,
    uses,
    versions,
    write,
)
from wandb_server import WandbServer
from wandb_server_http import KEY

COMMAND = ("-m", "grocery.cli", "sync")


@pytest.fixture(scope="module")
def online(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The state of a server that the same stages were tracked at directly."""
    with WandbServer() as server:
        silent(pipeline(tmp_path_factory.mktemp("online"), server))
        return server.state()


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with WandbServer() as one:
        yield one


@pytest.fixture(scope="module")
def kept_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    offline(folder)
    return folder


@pytest.fixture
def kept(kept_once: Path, tmp_path: Path) -> Path:
    """A folder in which three stages were tracked offline, free to change."""
    return Path(shutil.copytree(kept_once, tmp_path / "kept", symlinks=True))


@pytest.fixture
def one_run(tmp_path: Path) -> Path:
    """A folder in which one stage was tracked offline."""
    offline(tmp_path / "kept", "prepare")
    return tmp_path / "kept"


@pytest.fixture(scope="module")
def refused_once(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("refused")
    with WandbServer() as server:
        server.fail("403", only=("UseArtifact", "LinkArtifact"))
        done = pipeline(folder, server)
    assert done.out == ""
    *_, last = warnings = done.err.splitlines()
    assert len(warnings) == 2, "one for each stage that cannot tell all"
    assert last.startswith("warning: W&B: classifier is not linked yet (")
    assert done.err.count("`grocery sync` will do it") == 3
    return World(folder, server)


@pytest.fixture
def refused(refused_once: World, tmp_path: Path) -> Iterator[World]:
    """A folder whose three runs are at the server, which has refused lineage and link."""
    with refused_once.copy(tmp_path / "refused") as world:
        yield world


def requests_of(server: WandbServer, operation: str) -> int:
    return [request.operation for request in server.requests].count(operation)


def free(lock: Path) -> bool:
    with held(lock) as taken:
        return taken is not None


def failure(done: Said) -> str:
    assert done.code == 1
    assert done.sentence.startswith("error: sync: ")
    assert KEY not in done.sentence
    return done.sentence


def test_everything_arrives_once(kept: Path, server: WandbServer, online: dict[str, Any]) -> None:
    for known in (server, None):  # to say what would be sent needs neither a server nor a key
        planned = synchronize(kept, known, "--dry-run")
        lines = planned.out.splitlines()
        assert (planned.code, planned.err) == (0, "")
        assert [re.sub(r"/\w{8}\)", "/ID)", line) for line in lines] == [
            "prepare (grocery/ID): the run",
            "train (grocery/ID): the run, use dataset",
            "register (grocery/ID): the run, use classifier, link release",
        ]
    assert server.requests == []

    _, train, register = all_outboxes(kept / "wandb")
    with held(train.lock), held(register.lock):  # as who writes them does
        done = synchronize(kept, server)
    assert done.out == "1 of 6 sent; 5 belong to runs that are at work\n"
    assert set(server.state()["runs"]) == {RUN + "prepare"}

    done = synchronize(kept, server)
    assert (done.code, done.out, done.err) == (0, "5 of 5 sent\n", "")
    assert server.state() == online
    copies = [path for path in (kept / "wandb").rglob("*") if "staging" in path.parts]
    assert copies == [], "copies of what W&B has now are left"
    again = [*kept.glob("wandb/run-*")]
    assert again == [], "what was kept was not whole, and a run was made again"
    assert (requests_of(server, "UseArtifact"), requests_of(server, "LinkArtifact")) == (2, 1)

    seen = len(server.requests)
    for options in ((), ("--dry-run",)):
        assert synchronize(kept, server, *options).out == "nothing waits to be sent\n"
    assert len(server.requests) == seen


def test_it_finds_its_runs_from_any_folder(one_run: Path, server: WandbServer) -> None:
    """And it names what it cannot read."""
    (one_run / ".dvc").mkdir()
    for log in one_run.glob("wandb/offline-run-*"):
        shutil.rmtree(log)
    older = one_run / "wandb/outbox/1a2b3c4d"
    older.mkdir()
    (older / "calls.jsonl").write_text('{"do": "run", "id": "1a2b3c4d"}\n')
    assert f"{older}: cannot be read\n" in synchronize(one_run, None, "--dry-run").out
    for _ in range(2):
        assert f"{older} cannot be read" in failure(synchronize(one_run / "docs", server))
    assert "team/grocery/dataset" in server.state()["artifacts"]


def test_a_run_of_which_the_server_lacks_anything_has_not_arrived(refused: World) -> None:
    outbox = all_outboxes(refused.folder / "wandb")[0]
    run = refused.server.store.all_projects["team", "grocery"].runs_by_name[outbox.folder.name]
    with asking(refused.server, refused.folder) as api:
        assert missing(api, outbox) == []
        run.state = "crashed"  # it fell silent
        run.summary_metrics = {"accuracy": 0.9}
        assert missing(api, outbox) == ["its end"]
        run.summary_metrics = {}  # W&B drops one that is too long, and says nothing
        assert missing(api, outbox) == ["its end", "its summary"]
        write(f"{outbox.run_folder}/files/media/images", refused="a picture")
        outbox.notes.add({"made": "table", "name": "announced", "digest": "and not got"})
        outbox.said.append(encode({"do": "artifact", "output": artifacts.ENCODER}))  # not made
        more = ["media/images/refused", "the table announced", "the artifact encoder"]
        assert missing(api, outbox) == ["its end", "its summary", *more]


# What interrupts it


# It is killed when the server falls silent, after so many requests; one time after the other.
# Sending a run takes about 25, and delivering a line of an outbox about eight.
@pytest.mark.parametrize(
    "points",
    [
        (10, 35),
        pytest.param((1, 4, 9, 15, 22, 30, 38, 5, 8, 11, 14, 17, 20), marks=pytest.mark.long),
        pytest.param((2, 7, 12, 18, 26, 34, 42, 6, 7, 9, 10, 12), marks=pytest.mark.long),
    ],
)
def test_killed_at_any_point_it_can_be_repeated(
    points: Sequence[int], kept: Path, server: WandbServer, online: dict[str, Any]
) -> None:
    start = partial(begin, kept, server, *COMMAND)
    assert sum(killed(start, server, after) for after in points) >= min(len(points), 4)
    assert synchronize(kept, server).code == 0
    assert server.state() == online
    effects = Counter(change for request in server.requests for change in request.effect)
    assert set(effects.values()) == {1}, "something had its effect twice"


def test_what_was_delivered_and_not_noted_is_not_delivered_again(refused: World) -> None:
    server = refused.server
    server.fail("drop", only="UseArtifact")  # it has its effect, and nobody hears of it
    process = begin(refused.folder, server, *COMMAND)
    wait_for(lambda: uses(server, "train"))
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.startswith("error: sync: interrupted")
    assert err.count("\n") == 1

    server.fail("drop", only="LinkArtifact")
    process = begin(refused.folder, server, *COMMAND)
    wait_for(lambda: links(server))
    kill(process)
    server.heal()
    assert requests_of(server, "UseArtifact") == 2, "of train and of register, each once"
    silent(pipeline(refused.folder, server, "register", word="blue"))
    assert synchronize(refused.folder, server).out == "1 of 1 sent\n"
    assert links(server) == [set(), {"candidate", "latest"}], "a newer release is it since"


def test_one_synchronisation_at_a_time(one_run: Path, server: WandbServer) -> None:
    """Even when the first was killed."""
    (outbox,) = all_outboxes(one_run / "wandb")
    server.fail("hang", only="file_stream")
    process = begin(one_run, server, *COMMAND)
    wait_for(lambda: any(request.kind == "file_stream" for request in server.requests))
    at_work = f"error: sync: another `grocery sync` is at work in {one_run}"
    assert failure(synchronize(one_run, server)) == at_work

    (worker,) = psutil.Process(process.pid).children()
    process.kill()
    worker.kill()  # who sends the run ends what it is at
    process.communicate()
    assert not free(outbox.lock)
    server.heal()
    wait_for(lambda: free(outbox.lock))
    assert synchronize(one_run, server).code == 0
    (run,) = server.state()["runs"].values()
    assert (run["state"], run["summary"]["images"]) == ("finished", 3)


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_a_killed_stage_leaves_what_it_said(mode: str, tmp_path: Path, server: WandbServer) -> None:
    """It is killed before W&B has begun: who speaks with W&B outlives it."""
    code = (
        "import os, signal\n"
        "from wandb_pipeline import settings, stage_run\n"
        "with stage_run('train', settings=settings(), config={}) as run:\n"
        "    for step in range(3):\n"
        "        run.log({'residual': 0.5}, step=step)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    begin(tmp_path, server, "-c", code, env={"WANDB_MODE": mode}).communicate()
    wait_for(lambda: all(map(free, tmp_path.glob("wandb/outbox/*/lock"))))
    sent = {"offline": "1 of 1 sent\n", "online": "nothing waits to be sent\n"}
    assert synchronize(tmp_path, server).out == sent[mode]
    (run,) = server.state()["runs"].values()
    assert ([row["_step"] for row in run["history"]], run["state"]) == ([0, 1, 2], "failed")


# What the server refuses, and what nobody has recorded


def test_a_refused_link_holds_up_later_links_alone_and_survives_a_clean(refused: World) -> None:
    folder, server = refused.folder, refused.server
    offline(folder, "register", word="blue")
    server.fail("403", only="LinkArtifact")
    pipeline(folder, server, "register")  # the first release again
    server.fail("403", only="LinkArtifact", times=1)
    assert "W&B refuses the link of release" in failure(synchronize(folder, server))
    assert links(server) == []
    assert uses(server, "train") == ["team/grocery/dataset:v0"]
    for run in ("register", "register#2", "register#3"):
        assert uses(server, run) == ["team/grocery/classifier:v0"]
    begin(folder, server, "-m", "wandb", "clean", "--min-hours", "0", "--force").communicate()
    assert not list((folder / "wandb").glob("offline-run-*"))
    assert synchronize(folder, server).out == "3 of 3 sent\n"
    assert links(server) == [{"candidate", "latest"}, set()], "the first is the candidate again"


def test_what_no_run_has_recorded_is_recorded_then(tmp_path: Path, server: WandbServer) -> None:
    """Of data the list; of a model the files, or where they have changed since, the list."""
    silent(pipeline(tmp_path, None, "prepare", WANDB_MODE="disabled"))
    offline(tmp_path, "train")
    read = [read_content(tmp_path / "classifier").md5]
    for word in ("blue", "green"):
        read.append(read_content(write(f"{tmp_path}/classifier", weights=word)).md5)
        offline(tmp_path, "register")
    assert synchronize(tmp_path, server).out == "8 of 8 sent\n"
    assert uses(server, "train") == ["team/grocery/dataset:v0"]
    (dataset,) = versions(server, "dataset").values()
    red, blue, green = versions(server, "classifier").values()
    readers = uses(server, "register") + uses(server, "register#2")
    assert sorted(readers) == ["team/grocery/classifier:v1", "team/grocery/classifier:v2"]
    assert [one["metadata"]["md5"] for one in (red, blue, green)] == read
    assert list(red["entries"]) == list(green["entries"]) == ["weights"]
    for listed in (dataset, blue):
        ((name, file),) = listed["entries"].items()
        assert name == "manifest.json"
        hashed = b64decode(file["digest"]).hex()
        assert listed["metadata"]["md5"] == f"{hashed}.dir", "it is not what was read"


def test_nothing_is_removed_early(kept: Path, server: WandbServer, online: dict[str, Any]) -> None:
    """W&B's own sync is content where the storage refuses, and where the folder was moved."""
    for outbox in all_outboxes(kept / "wandb"):
        if outbox.run()["stage"] != "train":
            outbox.discard()
    moved = kept.rename(kept.with_name("moved"))  # its log holds absolute paths
    write(f"{moved}/classifier", weights="blue")  # so only the copies are what was said
    server.fail("403", only="/storage/artifact")
    why = failure(synchronize(moved, server, "--timeout", "5"))
    assert "W&B did not take in run train" in why
    server.heal()
    assert synchronize(moved, server).out == "2 of 2 sent\n"
    state, train = server.state(), online["runs"][RUN + "train"]
    assert state["runs"][RUN + "train"] == train
    for name in (version.rpartition(":")[0] for version in train["logs"]):
        assert state["artifacts"][name] == online["artifacts"][name]
    assert all_outboxes(moved / "wandb") == []


def test_a_bad_run_is_named_and_holds_up_no_other(kept: Path, server: WandbServer) -> None:
    cut, lost, _ = all_outboxes(kept / "wandb")
    (log,) = cut.run_folder.glob("*.wandb")
    os.truncate(log, 7)  # a kill before W&B has written it
    shutil.rmtree(lost.run_folder)
    write(f"{kept}/classifier", weights="blue")
    lost.said.append('{"do": "of another version"}')
    lines = lost.said.path.read_text().splitlines()
    lost.said.path.write_text("\n".join([*lines[:-2], *lines[:-3:-1]]) + "\n")  # before its end
    for _ in range(2):
        why = failure(synchronize(kept, server))
        assert "W&B has not taken in the artifact classifier (" in why
        assert "classifier has changed since, and weights of it is not kept; line " in why
    runs = server.state()["runs"]
    assert {RUN + "prepare", RUN + "register"} <= runs.keys()
    prepare = runs[RUN + "prepare"]
    assert (prepare["state"], prepare["summary"]["images"]) == ("finished", 3)
    assert synchronize(kept, None, "--dry-run").out.startswith("train ")


def test_a_run_that_was_deleted_there_is_given_up(one_run: Path, server: WandbServer) -> None:
    """W&B's own sync tries this without an end."""
    (deleted,) = all_outboxes(one_run / "wandb")
    server.forget(deleted.folder.name)
    why = failure(synchronize(one_run, server, "--timeout", "4"))
    assert "W&B did not take in run prepare " in why
    assert synchronize(one_run, None, "--dry-run").out.startswith("prepare ")


@pytest.mark.parametrize(
    "modes", [("refuse", "hang"), pytest.param(("401", "drop"), marks=pytest.mark.long)]
)
def test_nothing_is_lost(modes: Sequence[str], refused: World, online: dict[str, Any]) -> None:
    """Neither by a server that fails nor by a line that was cut off."""
    for outbox in all_outboxes(refused.folder / "wandb"):
        for journal in (outbox.said, outbox.notes):
            with journal.path.open("a") as stream:
                stream.write('{"do": "li')
    for mode in modes:
        refused.server.fail(mode)
        failure(synchronize(refused.folder, refused.server, "--timeout", "2"))
        refused.server.heal()
    assert synchronize(refused.folder, refused.server).out == "3 of 3 sent\n"
    assert refused.server.state() == online
    assert all_outboxes(refused.folder / "wandb") == []


def test_it_needs_a_key_and_shows_how_far_it_is(one_run: Path, server: WandbServer) -> None:
    """It needs no mode that allows to track."""
    no_key = "no W&B key is configured: `wandb login`, or set WANDB_API_KEY"
    assert no_key in failure(synchronize(one_run, None))
    (one_run / "wandb/settings").write_text("[default]\nmode = offline\n")
    code, seen = on_a_terminal(one_run, server, *COMMAND, WANDB_MODE="offline")
    assert code == 0
    assert seen.endswith("1 of 1 sent\r\n")
    assert "sync:" in seen, "no progress bar"
    assert "/1 [" in seen
