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
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from grocery.tracking.outbox import all_outboxes, held
from wandb_pipeline import offline, pipeline, silent, synchronize, variables
from wandb_server import KEY, WandbServer

RUN = "team/grocery/-/"


@pytest.fixture(scope="module")
def online() -> dict[str, Any]:
    """The state of a server that the same stages were tracked at directly."""
    import tempfile

    with WandbServer() as server, tempfile.TemporaryDirectory() as folder:
        silent(pipeline(Path(folder), server))
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


def effects(server: WandbServer, pattern: str) -> list[str]:
    """Changes of the server's state that match a pattern."""
    found = [change for request in server.requests for change in request.effect]
    return [change for change in found if re.search(pattern, change)]


def test_everything_arrives_once(kept: Path, server: WandbServer, online: dict[str, Any]) -> None:
    done = synchronize(kept, server)
    assert (done.returncode, done.stdout, done.stderr) == (0, "6 of 6 sent\n", "")
    assert server.state() == online
    copies = [path for path in (kept / "wandb").rglob("*") if "staging" in path.parts]
    assert copies == [], "copies of what W&B has now are left"
    edges = [r for r in server.requests if r.operation in ("UseArtifact", "LinkArtifact")]
    assert len(edges) == 3

    seen = len(server.requests)
    assert synchronize(kept, server).stdout == "nothing waits to be sent\n"
    assert len(server.requests) == seen


def test_dry_run_says_what_would_be_sent_and_sends_nothing(kept: Path, server: WandbServer) -> None:
    for known in (server, None):  # it needs neither a server nor a key
        done = synchronize(kept, known, "--dry-run")
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        assert [re.sub(r"/\w{8}\)", "/ID)", line) for line in lines] == [
            "prepare (grocery/ID): the run",
            "train (grocery/ID): the run, use dataset",
            "register (grocery/ID): the run, use classifier, link release",
        ]
    assert server.requests == []
    assert synchronize(kept, server).stdout == "6 of 6 sent\n"
    assert synchronize(kept, server, "--dry-run").stdout == "nothing waits to be sent\n"


def test_it_is_found_from_a_folder_of_the_project(kept: Path, server: WandbServer) -> None:
    (kept / ".dvc").mkdir()
    (kept / "docs").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "grocery.cli", "sync", "--dry-run"],
        cwd=kept / "docs",
        env=variables(kept, server),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.count("\n") == 3


def test_an_empty_folder_has_nothing_to_send(tmp_path: Path) -> None:
    done = synchronize(tmp_path, None)
    assert (done.returncode, done.stdout, done.stderr) == (0, "nothing waits to be sent\n", "")


def start(folder: Path, server: WandbServer) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "grocery.cli", "sync"],
        cwd=folder,
        env=variables(folder, server),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(process: subprocess.Popen[str], how: signal.Signals) -> None:
    """Send a signal to a process and all that it has started, unless it has ended."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, how)
    process.wait()


def wait_until(condition: Any) -> None:
    """Wait for a condition, or a minute."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


# After how many requests it is killed, one time after the other; sending a run takes about thirty,
# and delivering a line of an outbox about eight.
@pytest.mark.parametrize(
    "points",
    [(1, 4, 9, 15, 22, 30, 38, 5, 8, 11, 14, 17, 20), (2, 7, 12, 18, 26, 34, 42, 6, 7, 9, 10, 12)],
)
def test_killed_at_any_point_it_can_be_repeated(
    points: Sequence[int], kept: Path, server: WandbServer, online: dict[str, Any]
) -> None:
    kills = 0
    for requests in points:
        seen = len(server.requests)
        process = start(kept, server)
        while len(server.requests) < seen + requests and process.poll() is None:
            time.sleep(0.005)
        kills += process.poll() is None
        end(process, signal.SIGKILL)
    assert kills >= 4
    assert synchronize(kept, server).returncode == 0
    assert server.state() == online
    repeated = Counter(effects(server, r"^(uses|link|alias|artifact .*: .*:v)"))
    assert repeated
    assert set(repeated.values()) == {1}, "something had its effect twice"


@pytest.mark.parametrize("operation", ["UseArtifact", "LinkArtifact"])
def test_killed_between_a_delivery_and_its_note_it_delivers_once(
    operation: str, kept: Path, server: WandbServer, online: dict[str, Any]
) -> None:
    server.fail("drop", only=operation, times=1)  # it has its effect, and nobody hears of it
    process = start(kept, server)
    wait_until(lambda: any(request.operation == operation for request in server.requests))
    end(process, signal.SIGKILL)
    assert synchronize(kept, server).returncode == 0
    assert server.state() == online
    assert set(Counter(effects(server, r"^(uses|link)")).values()) == {1}


def test_interrupted_it_says_so_in_one_line(kept: Path, server: WandbServer) -> None:
    server.fail("hang", only="UseArtifact")
    process = start(kept, server)
    wait_until(lambda: any(request.operation == "UseArtifact" for request in server.requests))
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.startswith("error: sync: interrupted")
    assert err.count("\n") == 1
    server.heal()
    assert synchronize(kept, server).returncode == 0


def test_one_synchronisation_at_a_time_even_when_the_first_was_killed(
    kept: Path, server: WandbServer, online: dict[str, Any]
) -> None:
    server.fail("hang", only="file_stream")
    process = start(kept, server)
    wait_until(lambda: any(request.kind == "file_stream" for request in server.requests))
    at_work = f"error: sync: another `grocery sync` is at work in {kept}\n"
    assert failure(synchronize(kept, server)) == at_work

    started = psutil.Process(process.pid).children(recursive=True)
    process.kill()  # only itself: W&B's own sync, which it has started, goes on for a while
    server.heal()
    process.wait()
    wait_until(lambda: free(kept))
    for child in started:  # W&B's service outlives its client
        with suppress(psutil.NoSuchProcess):
            child.kill()
    assert synchronize(kept, server).returncode == 0
    assert server.state() == online


def free(folder: Path) -> bool:
    with held(folder / "wandb/sync.lock") as lock:
        return lock is not None


def test_a_lock_is_held_by_the_process_that_inherits_it(tmp_path: Path) -> None:
    with held(tmp_path / "lock") as lock:
        assert lock is not None
        child = subprocess.Popen(["sleep", "60"], pass_fds=[lock])
    with held(tmp_path / "lock") as lock:
        assert lock is None
    child.kill()
    child.wait()
    with held(tmp_path / "lock") as lock:
        assert lock is not None


def test_a_run_that_is_being_written_is_left_alone(kept: Path, server: WandbServer) -> None:
    *_, last = all_outboxes(kept / "wandb")
    with held(last.lock):
        done = synchronize(kept, server)
    assert done.stdout == "3 of 6 sent; 3 belong to runs that are at work\n"
    assert set(server.state()["runs"]) == {RUN + "prepare", RUN + "train"}
    assert synchronize(kept, server).stdout == "3 of 3 sent\n"
    assert RUN + "register" in server.state()["runs"]


def test_a_stage_that_was_killed_leaves_what_it_had_said(
    tmp_path: Path, server: WandbServer
) -> None:
    code = (
        "import os, time\n"
        "from grocery.settings import TrackingParams\n"
        "from grocery.tracking.run import stage_run\n"
        "settings = TrackingParams(\n"
        "    project='grocery', entity='', timeout=5, upload='metadata', registry='')\n"
        "with stage_run('train', settings=settings, config={}) as run:\n"
        "    for step in range(3):\n"
        "        run.log({'residual': 0.5}, step=step)\n"
        "    time.sleep(4)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    environment = variables(tmp_path, None, WANDB_MODE="offline")
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=False)
    assert synchronize(tmp_path, server).stdout == "1 of 1 sent\n"
    (run,) = server.state()["runs"].values()
    assert len(run["history"]) >= 2, "the last point is not complete"
    assert run["state"] != "running"


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


def test_a_link_that_was_delivered_is_not_made_again(kept: Path, server: WandbServer) -> None:
    """Its note was lost, and a newer release was linked since."""
    server.fail("drop", only="LinkArtifact", times=1)  # it has its effect, and nobody hears of it
    process = start(kept, server)
    wait_until(lambda: any(request.operation == "LinkArtifact" for request in server.requests))
    end(process, signal.SIGKILL)
    silent(pipeline(kept, server, word="blue"))
    assert synchronize(kept, server).stdout == "1 of 1 sent\n"
    assert candidates(server) == [[], ["candidate", "latest"]]


def candidates(server: WandbServer) -> list[list[str]]:
    """Aliases of the registry's versions."""
    (links,) = server.state()["links"].values()
    return [link["aliases"] for link in links.values()]


def test_a_release_that_comes_back_is_the_candidate_again(
    tmp_path: Path, server: WandbServer
) -> None:
    for word in ("red", "blue", "red"):
        done = pipeline(tmp_path, None, "register", word=word, WANDB_MODE="offline")
        assert done.returncode == 0
    assert synchronize(tmp_path, server).returncode == 0
    assert candidates(server)[0] == ["candidate", "latest"]


@pytest.mark.parametrize("cut", ["calls.jsonl", "notes.jsonl"])
def test_a_line_that_was_cut_off_is_no_line(
    cut: str, kept: Path, server: WandbServer, online: dict[str, Any]
) -> None:
    outbox = all_outboxes(kept / "wandb")[2]
    before = outbox.pending()
    (outbox.folder / cut).open("a").write('{"do": "li')
    assert outbox.pending() == before
    outbox.note("begun", 1)
    assert outbox.begun(1)
    assert synchronize(kept, server).returncode == 0
    assert server.state() == online
    assert not outbox.folder.exists()


def test_what_is_refused_holds_up_nothing_else_and_survives_a_clean(
    kept: Path, server: WandbServer, online: dict[str, Any]
) -> None:
    server.fail("403", only="LinkArtifact")
    assert "W&B refuses the link of release:md5-" in failure(synchronize(kept, server))
    offline(kept, "train")
    assert "link of release" in failure(synchronize(kept, server))
    runs = server.state()["runs"]
    assert runs[RUN + "train"]["uses"] == runs[RUN + "train#2"]["uses"] != []
    subprocess.run(
        [sys.executable, "-m", "wandb", "clean", "--min-hours", "0", "--force"],
        cwd=kept,
        env=variables(kept, server),
        check=True,
        capture_output=True,
    )
    assert not list((kept / "wandb").glob("offline-run-*"))
    server.heal()
    assert synchronize(kept, server).stdout == "1 of 1 sent\n"
    assert server.state()["links"] == online["links"]


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
    weights.write_text("red")
    state = server.state()
    (classifier,) = state["artifacts"]["team/grocery/classifier"]["versions"].values()
    assert list(classifier["entries"]) == ["manifest.json" if changed else "weights"]
    assert state["runs"][RUN + "register"]["uses"] == ["team/grocery/classifier:v0"]
    if not changed:
        silent(pipeline(tmp_path, server, "train"))
        versions = server.state()["artifacts"]["team/grocery/classifier"]["versions"]
        assert list(versions) == ["v0"], "its own stage makes no second one"


def failure(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1
    assert done.stderr.startswith("error: sync: ")
    assert done.stderr.count("\n") == 1
    assert KEY not in done.stderr
    return done.stderr


def test_without_a_key_it_says_what_is_missing(kept: Path) -> None:
    assert "no W&B key is configured: `wandb login`, or set WANDB_API_KEY" in failure(
        synchronize(kept, None)
    )


@pytest.mark.parametrize("mode", ["refuse", "401", "hang", "drop"])
def test_a_server_that_fails_costs_one_sentence_and_loses_nothing(
    mode: str, kept: Path, server: WandbServer, online: dict[str, Any]
) -> None:
    server.fail(mode)
    failure(synchronize(kept, server, "--timeout", "2"))
    server.heal()
    assert synchronize(kept, server).returncode == 0
    assert server.state() == online


def test_a_mode_that_forbids_does_not_forbid_to_synchronise(
    kept: Path, server: WandbServer, online: dict[str, Any]
) -> None:
    (kept / "wandb/settings").write_text("[default]\nmode = offline\n")
    assert synchronize(kept, server, WANDB_MODE="offline").returncode == 0
    assert server.state() == online


def test_a_terminal_sees_a_progress_bar(kept: Path, server: WandbServer) -> None:
    master, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    process = subprocess.Popen(
        [sys.executable, "-m", "grocery.cli", "sync"],
        cwd=kept,
        env=variables(kept, server, TERM="xterm"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
    )
    os.close(terminal)
    out, _ = process.communicate(timeout=120)
    seen = os.read(master, 100_000).decode()
    os.close(master)
    assert out == "6 of 6 sent\n"
    assert "sync:" in seen
    assert "/6 [" in seen


def test_the_help_says_what_it_does(tmp_path: Path) -> None:
    done = synchronize(tmp_path, None, "--help")
    assert "interrupted at any point" in done.stdout
    wrong = synchronize(tmp_path, None, "--timeout", "0")
    assert wrong.returncode == 2
    assert "at least 1" in wrong.stderr


def test_the_state_that_is_compared_holds_something(online: dict[str, Any]) -> None:
    text = json.dumps(online)
    assert all(word in text for word in ("residual", "candidate", "md5-", "Drift in batch noon"))
