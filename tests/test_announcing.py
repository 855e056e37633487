"""Alerts are announced at least once: after a kill, and after a receiver that did not answer."""

import json
import signal
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from unittest.mock import Mock

import pytest

from conftest import Project, refusal
from grocery.core.errors import TrackingError
from grocery.inbox.announcing import Receiver
from grocery.inbox.history import History
from grocery.inbox.watch import Watch
from registry_project import Said, grocery
from test_monitor_command import DIM
from test_monitor_page import entry
from thresholds import thresholds

# Runs the command and is killed as soon as something was done, whose name is the first argument.
KILLED = """
import os, signal, sys
from grocery.core.pin import pin
pin()
from grocery.cli import main
from grocery.inbox.history import History
from grocery.inbox.judging import Judge

where = {"judged": (Judge, "examine"), "recorded": (History, "append"),
         "announced": (History, "announced")}
owner, name = where[sys.argv[1]]
before = getattr(owner, name)

def then_killed(*given, **named):
    before(*given, **named)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(owner, name, then_killed)
main(sys.argv[2:])
"""


class Inbox(HTTPServer):
    """A receiver on loopback: answers in this order, then 200, and what came."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[int] = []
        self.came: list[tuple[str, str | None, dict[str, Any]]] = []
        self.asked = 0

    @property
    def address(self) -> str:
        """With secrets in it."""
        return f"http://me:pa%40ss@127.0.0.1:{self.server_port}/hooks/s3cret?token=t0ken"


class _Handler(BaseHTTPRequestHandler):
    server: Inbox

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked += 1
        answer = self.server.answers.pop(0) if self.server.answers else 200
        if answer == 200:
            self.server.came.append((self.path, self.headers["Authorization"], body))
        self.send_response(answer)
        self.send_header("Location", self.path)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Be quiet."""


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Inbox]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Inbox() as server:
        thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def marks(history: Path) -> list[str]:
    return [json.loads(line)["kind"] for line in history.read_text().splitlines()]


@pytest.mark.parametrize(
    ("mark", "reached"),
    [
        pytest.param("judged", [], marks=pytest.mark.long),
        ("recorded", ["batch"]),
        pytest.param("announced", ["batch", "announced"], marks=pytest.mark.long),
    ],
)
def test_kills_lose_no_alert(built: Project, tmp_path: Path, mark: str, reached: list[str]) -> None:
    """The next run says it, once, and writes the page."""
    history, page = tmp_path / "history.jsonl", tmp_path / "page.html"
    words = ["monitor", DIM, "--history", str(history), "--report", str(page)]
    done = built.run(sys.executable, "-c", KILLED, mark, *words, check=False)
    assert (done.returncode, marks(history)) == (-signal.SIGKILL, reached)
    said_before = mark == "announced"
    assert ("alert" in done.stdout) == page.exists() == said_before
    again = grocery(built, *words, "--quiet")
    assert (again.code, "alert" in again.out) == ((0, False) if said_before else (3, True))
    assert marks(history) == ["batch", "announced"]
    assert "<h1>1 of 1 batch in alert</h1>" in page.read_text()
    assert grocery(built, *words) == Said(0, "", "")  # and not twice


def test_what_another_run_still_has_to_say_is_left_to_it(built: Project, tmp_path: Path) -> None:
    history = tmp_path / "history.jsonl"
    words = ("monitor", DIM, "--history", str(history), "--quiet")
    assert grocery(built, *words).code == 3
    history.write_text(history.read_text().splitlines()[0] + "\n")  # it was not announced
    with History(history).at_work() as alone:
        assert alone
        assert grocery(built, *words) == Said(0, "", "")
    assert grocery(built, *words).code == 3


def test_a_receiver_that_takes_nothing_is_asked_once_a_run(tmp_path: Path) -> None:
    """It may take its time to refuse, and there may be many alerts."""
    history = tmp_path / "history.jsonl"
    for number in (3, 4):
        alert = entry(number, to_announce=True)
        History(history).append(lambda _, alert=alert: alert)  # type: ignore[misc]
    refuse = Mock(side_effect=TrackingError("not now"))
    no_model = Mock(side_effect=AssertionError("nothing is new"))

    run = Watch(History(history), no_model, thresholds(), alone=True)
    run.announce(refuse)
    assert [call.args[0].batch for call in refuse.mock_calls] == ["batch-3"]
    assert run.troubles == ["not now"]
    run.announce(lambda alert: None)
    assert Watch(History(history), no_model, thresholds(), alone=True).new == []


def refused(address: str) -> str:
    """Why an alert was not taken there, in a sentence that holds no secret."""
    said = refusal(TrackingError, Receiver(address).deliver, entry(3), None)
    assert "was not taken by" in said
    for secret in ("s3cret", "t0ken", "pa%40ss", "pa@ss"):
        assert secret not in said
    return said


class TestReceiver:
    def test_is_told_until_it_has_it(self, built: Project, tmp_path: Path, receiver: Inbox) -> None:
        receiver.answers += [500]
        history, page = tmp_path / "history.jsonl", tmp_path / "page.html"
        words = ["monitor", DIM, "--history", str(history), "--report", str(page)]
        words += ["--notify", receiver.address, "--quiet"]
        failed = built.run("grocery", *words, check=False)  # as in a person's shell
        assert (failed.returncode, receiver.came) == (3, [])
        assert failed.stderr == (
            "error: monitor: the alert 'Drift in batch dim' was not taken by "
            f"http://127.0.0.1:{receiver.server_port} (it answers 500); it is announced again by "
            "the next run\n"
        )
        assert grocery(built, *words) == Said(3, failed.stdout, "")
        ((path, authorization, document),) = receiver.came
        assert (path, authorization) == ("/hooks/s3cret?token=t0ken", "Basic bWU6cGFAc3M=")
        model = json.loads(history.read_text().splitlines()[0])["model"]
        expected = {"alert": "Drift in batch dim", "batches": ["dim"], "page": str(page)}
        assert (expected | {"model": model}).items() <= document.items()
        printed = [line for line in failed.stdout.splitlines() if line.startswith("dim: ")]
        assert printed == [f"dim: {sentence}" for sentence in document["sentences"]]
        assert grocery(built, *words) == Said(0, "", "")
        assert receiver.asked == 2
        for secret in ("s3cret", "t0ken", "pa%40ss", "pa@ss"):
            assert secret not in history.read_text() + page.read_text()

    @pytest.mark.parametrize("answer", [302, 307, 404])
    def test_an_answer_that_is_no_yes(self, receiver: Inbox, answer: int) -> None:
        receiver.answers += [answer]
        assert f"(it answers {answer})" in refused(receiver.address)
        assert receiver.asked == 1

    def test_one_slow_or_not_there(self, receiver: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("grocery.inbox.announcing.ANSWER", 0.2)
        receiver.shutdown()  # the port is open and nobody answers
        assert "no answer within 0.2 s" in refused(receiver.address)
        join = Thread.join  # the socket gives up first
        monkeypatch.setattr(Thread, "join", lambda thread, timeout=None: join(thread))
        assert "no answer within 0.2 s" in refused(receiver.address)
        monkeypatch.undo()
        receiver.server_close()
        assert "(Connection refused)" in refused(receiver.address)
        for path in ("a b", "\u00e9"):
            refused(f"http://127.0.0.1:1/{path}?t0ken")
