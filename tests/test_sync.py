"""`grocery sync`: what was kept offline arrives, each thing once, whatever interrupts it."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from grocery.journal import held
from grocery.tracking.arrived import missing
from grocery.tracking.outbox import all_outboxes
from running import wait_for
from wandb_pipeline import (
    Said,
    asking,
    begin,
    kill,
    killed_when_silent,
    offline,
    pipeline,
    silent,
    synchronize,
    variables,
    write,
)
from wandb_server import KEY, WandbServer

RUN = "team/grocery/-/"
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
    offline(tmp_path, "prepare")
    return tmp_path


@pytest.fixture
def refused(server: WandbServer, tmp_path: Path) -> Path:
    """A folder whose three runs are at the server, which has refused lineage and link."""
    server.fail("403", only=("UseArtifact", "LinkArtifact"))
    assert pipeline(tmp_path, server).stderr.count("`grocery sync` will do it") == 3
    server.heal()
    return tmp_path


def requests_of(server: WandbServer, operation: str, since: int = 0) -> int:
    return [request.operation for request in server.requests[since:]].count(operation)


def candidates(server: WandbServer) -> list[list[str]]:
    """Aliases of the registry's versions."""
    return [
        link["aliases"] for links in server.state()["links"].values() for link in links.values()
    ]


def failure(done: Said) -> str:
    assert done.returncode == 1
    assert done.stderr.startswith("error: sync: ")
    assert done.stderr.count("\n") == 1
    assert KEY not in done.stderr
    return done.stderr


def test_everything_arrives_once(kept: Path, server: WandbServer, online: dict[str, Any]) -> None:
    for known in (server, None):  # to say what would be sent needs neither a server nor a key
        planned = synchronize(kept, known, "--dry-run")
        lines = planned.stdout.splitlines()
        assert (planned.returncode, planned.stderr) == (0, "")
        assert [re.sub(r"/\w{8}\)", "/ID)", line) for line in lines] == [
            "prepare (grocery/ID): the run",
            "train (grocery/ID): the run, use dataset",
            "register (grocery/ID): the run, use classifier, link release",
        ]
    assert server.requests == []

    done = synchronize(kept, server)
    assert (done.returncode, done.stdout, done.stderr) == (0, "6 of 6 sent\n", "")
    assert server.state() == online
    copies = [path for path in (kept / "wandb").rglob("*") if "staging" in path.parts]
    assert copies == [], "copies of what W&B has now are left"
    assert (requests_of(server, "UseArtifact"), requests_of(server, "LinkArtifact")) == (2, 1)

    seen = len(server.requests)
    for options in ((), ("--dry-run",)):
        assert synchronize(kept, server, *options).stdout == "nothing waits to be sent\n"
    assert len(server.requests) == seen


def test_the_state_that_is_compared_holds_something(online: dict[str, Any]) -> None:
    text = json.dumps(online)
    assert all(word in text for word in ("residual", "candidate", "md5-", "Drift in batch noon"))


def test_from_a_folder_of_the_project_it_finds_runs_and_their_files_and_names_what_it_cannot_read(
    one_run: Path, server: WandbServer
) -> None:
    (one_run / ".dvc").mkdir()
    for log in one_run.glob("wandb/offline-run-*"):
        shutil.rmtree(log)
    older = one_run / "wandb/outbox/1a2b3c4d"
    older.mkdir()
    (older / "calls.jsonl").write_text('{"do": "run", "id": "1a2b3c4d"}\n')
    assert f"{older}: cannot be read\n" in synchronize(one_run, None, "--dry-run").stdout
    for _ in range(2):
        assert f"{older} cannot be read" in failure(synchronize(one_run / "docs", server))
    assert "team/grocery/dataset" in server.state()["artifacts"]


def test_what_can_no_longer_be_sent_is_named(kept: Path, server: WandbServer) -> None:
    train = all_outboxes(kept / "wandb")[1]
    shutil.rmtree(train.run_folder)
    write(f"{kept}/classifier", weights="blue")
    train.said.append('{"do": "of another version"}')
    lines = train.said.path.read_text().splitlines()
    train.said.path.write_text("\n".join([*lines[:-2], *lines[:-3:-1]]) + "\n")  # before its end
    for _ in range(2):
        why = failure(synchronize(kept, server))
        assert "W&B has not taken in the artifact classifier (" in why
        assert "classifier has changed since, and weights of it is not kept; line " in why
    assert synchronize(kept, None, "--dry-run").stdout.startswith("train ")


def test_a_run_that_fell_silent_has_not_arrived(refused: Path, server: WandbServer) -> None:
    outbox = all_outboxes(refused / "wandb")[0]
    runs = server.store.all_projects["team", "grocery"].runs_by_name
    with asking(server, refused) as api:
        assert missing(api, outbox) == []
        runs[outbox.folder.name].state = "crashed"
        runs[outbox.folder.name].summary = {"accuracy": 0.9}
        assert missing(api, outbox) == ["its end"]
        runs[outbox.folder.name].summary = {}  # W&B drops one that is too long, and says nothing
        assert missing(api, outbox) == ["its end", "its summary"]


def test_an_empty_folder_has_nothing_to_send(tmp_path: Path) -> None:
    done = synchronize(tmp_path, None)
    assert (done.returncode, done.stdout, done.stderr) == (0, "nothing waits to be sent\n", "")


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
    kills = 0
    for requests in points:
        seen = len(server.requests)
        server.fail("hang", after=requests)
        kills += killed_when_silent(begin(kept, server, *COMMAND), server, seen)
    assert kills >= min(len(points), 4)
    assert synchronize(kept, server).returncode == 0
    assert server.state() == online
    effects = [change for request in server.requests for change in request.effect]
    repeated = Counter(line for line in effects if re.search(r"^(link|alias)|: uses |:.*:v", line))
    assert repeated
    assert set(repeated.values()) == {1}, "something had its effect twice"


@pytest.mark.parametrize("operation", ["UseArtifact", "LinkArtifact"])
def test_killed_between_a_delivery_and_its_note_it_delivers_once(
    operation: str, refused: Path, server: WandbServer, online: dict[str, Any]
) -> None:
    tried = requests_of(server, operation)
    server.fail("drop", only=operation)  # it has its effect, and nobody hears of it
    process = begin(refused, server, *COMMAND)
    wait_for(lambda: requests_of(server, operation) > tried)
    kill(process)
    seen = len(server.requests)
    server.heal()
    done = [r for r in server.requests if r.operation == operation and r.status == "drop"]
    delivered = sum(bool(request.effect) for request in done)
    assert synchronize(refused, server).returncode == 0
    assert server.state() == online
    expected = {"UseArtifact": 2, "LinkArtifact": 1}[operation] - delivered
    assert requests_of(server, operation, since=seen) == expected


def test_a_link_that_was_delivered_is_not_made_again(refused: Path, server: WandbServer) -> None:
    """Its note was lost, and a newer release was linked since."""
    tried = requests_of(server, "LinkArtifact")
    server.fail("drop", only="LinkArtifact")
    process = begin(refused, server, *COMMAND)
    wait_for(lambda: requests_of(server, "LinkArtifact") > tried)
    kill(process)
    server.heal()
    silent(pipeline(refused, server, word="blue"))
    assert synchronize(refused, server).stdout == "1 of 1 sent\n"
    assert candidates(server) == [[], ["candidate", "latest"]]


def test_interrupted_it_says_so_in_one_line(refused: Path, server: WandbServer) -> None:
    tried = requests_of(server, "UseArtifact")
    server.fail("hang", only="UseArtifact")
    process = begin(refused, server, *COMMAND)
    wait_for(lambda: requests_of(server, "UseArtifact") > tried)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.startswith("error: sync: interrupted")
    assert err.count("\n") == 1
    server.heal()
    assert synchronize(refused, server).stdout == "3 of 3 sent\n"


def test_one_synchronisation_at_a_time_even_when_the_first_was_killed(
    one_run: Path, server: WandbServer
) -> None:
    (outbox,) = all_outboxes(one_run / "wandb")

    def free() -> bool:
        with held(outbox.lock) as lock:
            return lock is not None

    server.fail("hang", only="file_stream")
    process = begin(one_run, server, *COMMAND)
    wait_for(lambda: any(request.kind == "file_stream" for request in server.requests))
    at_work = f"error: sync: another `grocery sync` is at work in {one_run}\n"
    assert failure(synchronize(one_run, server)) == at_work

    (worker,) = psutil.Process(process.pid).children()
    process.kill()
    worker.kill()  # who sends the run ends what it is at
    process.communicate()
    assert not free()
    server.heal()
    wait_for(free)
    assert synchronize(one_run, server).returncode == 0
    (run,) = server.state()["runs"].values()
    assert (run["state"], run["summary"]["images"]) == ("finished", 3)


def test_runs_that_are_being_written_are_left_alone(kept: Path, server: WandbServer) -> None:
    _, train, register = all_outboxes(kept / "wandb")
    with held(train.lock), held(register.lock):
        done = synchronize(kept, server)
    assert done.stdout == "1 of 6 sent; 5 belong to runs that are at work\n"
    assert set(server.state()["runs"]) == {RUN + "prepare"}
    assert synchronize(kept, None, "--dry-run").stdout.count("\n") == 2


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_a_stage_that_was_killed_leaves_all_that_it_had_said(
    mode: str, tmp_path: Path, server: WandbServer
) -> None:
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

    def ended() -> bool:
        with ExitStack() as stack:
            locks = (tmp_path / "wandb/outbox").glob("*/lock")
            return all(stack.enter_context(held(lock)) is not None for lock in locks)

    wait_for(ended)
    sent = {"offline": "1 of 1 sent\n", "online": "nothing waits to be sent\n"}
    assert synchronize(tmp_path, server).stdout == sent[mode]
    (run,) = server.state()["runs"].values()
    assert ([row["_step"] for row in run["history"]], run["state"]) == ([0, 1, 2], "failed")


@pytest.mark.parametrize("cut", ["said.jsonl", "notes.jsonl"])
def test_a_line_that_was_cut_off_is_no_line(
    cut: str, refused: Path, server: WandbServer, online: dict[str, Any]
) -> None:
    (outbox,) = [one for one in all_outboxes(refused / "wandb") if len(one.pending()) == 2]
    before = outbox.pending()
    with (outbox.folder / cut).open("a") as stream:
        stream.write('{"do": "li')
    assert outbox.pending() == before
    assert synchronize(refused, server).returncode == 0
    assert server.state() == online
    assert not outbox.folder.exists()


# What the server refuses, and what nobody has recorded


def test_what_is_refused_holds_up_nothing_else_and_survives_a_clean(
    tmp_path: Path, server: WandbServer
) -> None:
    silent(pipeline(tmp_path, server, "prepare", "train"))
    offline(tmp_path, "register")
    server.fail("403", only="LinkArtifact")
    assert "W&B refuses the link of release" in failure(synchronize(tmp_path, server))
    offline(tmp_path, "train")
    assert "link of release" in failure(synchronize(tmp_path, server))
    runs = server.state()["runs"]
    assert runs[RUN + "register"]["uses"] == ["team/grocery/classifier:v0"]
    assert runs[RUN + "train"]["uses"] == runs[RUN + "train#2"]["uses"] != []
    subprocess.run(
        [sys.executable, "-m", "wandb", "clean", "--min-hours", "0", "--force"],
        cwd=tmp_path,
        env=variables(tmp_path, server),
        check=True,
        capture_output=True,
    )
    assert not list((tmp_path / "wandb").glob("offline-run-*"))
    server.heal()
    assert synchronize(tmp_path, server).stdout == "1 of 1 sent\n"
    assert candidates(server) == [["candidate", "latest"]]


def test_no_link_overtakes_another(tmp_path: Path, server: WandbServer) -> None:
    server.fail("403", only="LinkArtifact")
    for word in ("red", "blue", "red"):
        pipeline(tmp_path, server, "register", word=word)
    server.fail("403", only="LinkArtifact", times=1)
    failure(synchronize(tmp_path, server))
    assert candidates(server) == []
    assert synchronize(tmp_path, server).stdout == "3 of 3 sent\n"
    assert candidates(server) == [["candidate", "latest"], []], "the first is the candidate again"


def test_an_input_that_no_run_has_recorded_is_recorded_then(
    tmp_path: Path, server: WandbServer
) -> None:
    silent(pipeline(tmp_path, None, "prepare", WANDB_MODE="disabled"))
    offline(tmp_path, "train")
    assert synchronize(tmp_path, server).stdout == "2 of 2 sent\n"
    state = server.state()
    assert state["runs"][RUN + "train"]["uses"] == ["team/grocery/dataset:v0"]
    (dataset,) = state["artifacts"]["team/grocery/dataset"]["versions"].values()
    assert list(dataset["entries"]) == ["manifest.json"]
    assert dataset["aliases"][-1].startswith("md5-")


@pytest.mark.parametrize("changed", [False, True])
def test_a_model_that_no_run_has_recorded_is_recorded_as_its_stage_would_have(
    changed: bool, tmp_path: Path, server: WandbServer
) -> None:
    silent(pipeline(tmp_path, None, "prepare", "train", WANDB_MODE="disabled"))
    offline(tmp_path, "register")
    weights = tmp_path / "classifier/weights"
    if changed:
        weights.write_text("blue")
    assert synchronize(tmp_path, server).returncode == 0
    state = server.state()
    (classifier,) = state["artifacts"]["team/grocery/classifier"]["versions"].values()
    assert list(classifier["entries"]) == ["manifest.json" if changed else "weights"]
    assert state["runs"][RUN + "register"]["uses"] == ["team/grocery/classifier:v0"]
    if not changed:
        silent(pipeline(tmp_path, server, "train"))
        versions = server.state()["artifacts"]["team/grocery/classifier"]["versions"]
        assert list(versions) == ["v0"], "its own stage makes no second one"


def test_nothing_is_removed_before_the_server_has_it(
    kept: Path, server: WandbServer, online: dict[str, Any]
) -> None:
    """W&B's own sync is content where the storage refuses, and where the folder was moved."""
    moved = kept.rename(kept.with_name("moved"))  # the log holds absolute paths of copies
    write(f"{moved}/classifier", weights="blue")  # so only the copies are what was said
    server.fail("403", only="/storage/artifact")
    for _ in range(2):
        refused = failure(synchronize(moved, server, "--timeout", "5"))
        assert "W&B did not take in run prepare" in refused
    server.heal()
    assert synchronize(moved, server).stdout == "6 of 6 sent\n"
    assert server.state() == online
    assert not list((moved / "wandb/outbox").glob("*/said.jsonl"))


def test_a_bad_run_holds_up_no_other(kept: Path, server: WandbServer) -> None:
    cut, deleted, _ = all_outboxes(kept / "wandb")
    (log,) = cut.run_folder.glob("*.wandb")
    os.truncate(log, 7)  # a kill before W&B has written it
    server.forget(deleted.folder.name)  # W&B's own sync tries this without an end
    assert "W&B did not take in run train" in failure(synchronize(kept, server, "--timeout", "5"))
    runs = server.state()["runs"]
    assert set(runs) >= {RUN + "prepare", RUN + "register"}
    assert (runs[RUN + "prepare"]["state"], runs[RUN + "prepare"]["summary"]) == (
        "finished",
        {"images": 3, **runs[RUN + "prepare"]["summary"]},
    )
    assert synchronize(kept, None, "--dry-run").stdout.startswith("train ")


def test_without_a_key_it_says_what_is_missing(one_run: Path) -> None:
    assert "no W&B key is configured: `wandb login`, or set WANDB_API_KEY" in failure(
        synchronize(one_run, None)
    )


def test_a_server_that_fails_costs_one_sentence_and_loses_nothing(
    refused: Path, server: WandbServer, online: dict[str, Any]
) -> None:
    for mode in ("refuse", "401", "hang", "drop"):
        server.fail(mode)
        failure(synchronize(refused, server, "--timeout", "2"))
        server.heal()
    assert synchronize(refused, server).stdout == "3 of 3 sent\n"
    assert server.state() == online


def test_a_run_that_the_server_does_not_take_is_named_and_sent_later(
    one_run: Path, server: WandbServer
) -> None:
    server.fail("403", only="UpsertBucket")
    assert "W&B did not take in run prepare " in failure(synchronize(one_run, server))
    server.heal()
    (one_run / "wandb/settings").write_text("[default]\nmode = offline\n")
    # A mode that forbids to track does not forbid to synchronise.
    assert synchronize(one_run, server, WANDB_MODE="offline").stdout == "1 of 1 sent\n"
    (run,) = server.state()["runs"].values()
    assert run["state"] == "finished"


def test_a_terminal_sees_a_progress_bar(one_run: Path, server: WandbServer) -> None:
    master, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    process = begin(one_run, server, *COMMAND, stderr=terminal, env={"TERM": "xterm"})
    os.close(terminal)
    out, _ = process.communicate(timeout=120)
    seen = os.read(master, 100_000).decode()
    os.close(master)
    assert out == "1 of 1 sent\n"
    assert "sync:" in seen
    assert "/1 [" in seen


def test_the_help_says_what_it_does(tmp_path: Path) -> None:
    assert "interrupted at any point" in synchronize(tmp_path, None, "--help").stdout
    wrong = synchronize(tmp_path, None, "--timeout", "0")
    assert wrong.returncode == 2
    assert "at least 1" in wrong.stderr
