"""Run one `dvc exp run --temp`, and leave nothing of it behind. A script, of the standard library.

    python guard.py LOCK NAME COMMAND...

It stands between DVC and the one who wants the experiment, so that somebody is left to clean up
when the latter is killed: it ends the experiment when its standard input closes, or at a signal.

- Experiments begin one after the other, under a lock. DVC keeps those that begin in one stash, and
  of two at the same time one may take the other's parameters.
- While an experiment begins, DVC changes the workspace and puts it back. It is left alone then.
- Afterwards all get the interrupt that a terminal's Ctrl-C would send: the stage closes its W&B
  run, and DVC removes its folder. What does not end by that is killed at last, and the folder is
  removed here.

The exit code is the command's; 143 when it was ended before it had begun.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

# DVC says this when the workspace is as it was, and before the first stage.
_BEGUN = "Reproducing experiment '"

# Seconds after the first interrupt at which it is repeated, and after which all is killed. A stage
# that waits for W&B to take in its run gives up at the second one.
_AGAIN, _ENOUGH = 20.0, 40.0

_BEGINNING = 60.0  # longest time that DVC may take to begin once it is to end, in seconds

_PR_SET_CHILD_SUBREAPER = 36


class Guard:
    """The experiment's processes, and how far it has got."""

    def __init__(self, lock: str, name: str, command: list[str]) -> None:
        self.name, self.command = name, command
        self.process: subprocess.Popen[bytes]
        self.begun = False
        self.lock = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        self.ending = 0.0  # when it was told to end, by the monotonic clock
        self.listening = [sys.stdin.fileno()]
        self.sent: list[signal.Signals] = []
        self.line = b""

    def run(self) -> int:
        """Run the command to its end, or end it."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self.end)  # not ignored, so that the command does not ignore it
        while True:
            if self.ending:
                return 128 + signal.SIGTERM
            with suppress(BlockingIOError):
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            self.look([], 0.05)
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self.process.stdout
        output = self.process.stdout.fileno()
        os.set_blocking(output, False)
        while self.process.poll() is None:
            ready = self.look([output], 0.05 if self.ending else 0.5)
            if output in ready and not self.read(output):
                time.sleep(0.02)  # closed; the end is near
            if self.ending:
                self.press()
        self.read(output)
        if self.ending:
            self.clean_up()
        code = self.process.returncode
        return code if code >= 0 else 128 - code

    def end(self, *_: object) -> None:
        """Begin to end."""
        self.ending = self.ending or time.monotonic()

    def look(self, more: list[int], timeout: float) -> list[int]:
        """Wait for one of the files, or for our input to be closed."""
        ready, _, _ = select.select([*self.listening, *more], [], [], timeout)
        if sys.stdin.fileno() in ready and not os.read(sys.stdin.fileno(), 1024):
            self.listening.clear()
            self.end()
        return ready

    def read(self, output: int) -> bool:
        """Pass on what the command says; false when it has closed its output."""
        with suppress(BlockingIOError):
            while data := os.read(output, 65536):
                _say(data)
                if not self.begun:
                    *lines, self.line = (self.line + data).split(b"\n")
                    for line in lines:
                        self.heed(line.decode(errors="replace").strip())
            return False
        return True

    def heed(self, line: str) -> None:
        """See whether the experiment begins, and whether it is ours."""
        if self.begun or not line.startswith(_BEGUN):
            return
        self.begun = True
        os.close(self.lock)  # the next one may begin
        other = line.removeprefix(_BEGUN).rstrip("'")
        if other != self.name:
            sentence = f"DVC has mixed up {self.name} with {other}, which began meanwhile"
            _say(f"error: {sentence}\n".encode())
            self.end()

    def press(self) -> None:
        """Interrupt, insist, kill, as time goes by."""
        now = time.monotonic()
        if not self.begun and now < self.ending + _BEGINNING:
            return
        if not self.sent:
            self.ending = now
        due = [signal.SIGINT]
        due += [signal.SIGINT] * (now > self.ending + _AGAIN)
        due += [signal.SIGKILL] * (now > self.ending + _ENOUGH)
        for number in due[len(self.sent) :]:
            self.sent.append(number)
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def clean_up(self) -> None:
        """End what has outlived DVC, and remove the folder that DVC could not."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        while children := _children():  # those that had left the group; they are ours now
            for child in children:
                with suppress(OSError):
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
        for file in Path(".dvc/tmp/exps/run").glob("*/*.run"):
            with suppress(OSError, ValueError, KeyError):
                about = json.loads(file.read_bytes())
                if about["name"] == self.name:
                    shutil.rmtree(about["root_dir"])


def _say(data: bytes) -> None:
    with suppress(OSError):  # there may be nobody left to hear it
        os.write(sys.stdout.fileno(), data)


def _children() -> list[int]:
    with suppress(OSError):
        return [int(n) for n in Path("/proc/thread-self/children").read_text().split()]
    return []


if __name__ == "__main__":
    with suppress(OSError, AttributeError):  # become the parent of orphaned descendants; on Linux
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    raise SystemExit(Guard(sys.argv[1], sys.argv[2], sys.argv[3:]).run())
