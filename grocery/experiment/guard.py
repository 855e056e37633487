"""Run one `dvc exp run --temp`, and leave nothing of it behind. A script, of the standard library.

    python guard.py LOCK NAME COMMAND...

It stands between DVC and the one who wants the experiment, so that somebody is left to clean up
when the latter is killed: it ends the experiment when its standard input closes, or at a signal.

- While an experiment begins, DVC changes the workspace and puts it back. It is left alone then, and
  experiments begin one after the other, under a lock.
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
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import IO

# DVC says this when the workspace is as it was, and before the first stage.
_BEGUN = b"Reproducing experiment '"

# What is sent to an experiment that is to end, and the seconds that it then has. A stage that waits
# for W&B to take in its run gives up at the second interrupt.
_ENDING = ((signal.SIGINT, 20.0), (signal.SIGINT, 20.0), (signal.SIGKILL, None))

_BEGINNING = 60.0  # longest time that DVC may take to begin once it is to end, in seconds

_PR_SET_CHILD_SUBREAPER = 36


class Guard:
    """The experiment's processes, and how far it has got."""

    def __init__(self, lock: str, name: str) -> None:
        self.name, self.lock = name, os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        self.begun, self.ending = Event(), Event()

    def run(self, command: list[str]) -> int:
        """Run the command to its end, or end it."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            # Not ignored, or the command would too. A handler may not wait for the event's lock.
            signal.signal(number, lambda *_: Thread(target=self.ending.set).start())
        Thread(target=self.listen, daemon=True).start()
        while not self.ending.is_set():
            with suppress(BlockingIOError):
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            self.ending.wait(0.05)
        else:
            return 128 + signal.SIGTERM
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        reader = Thread(target=self.read, args=[process.stdout], daemon=True)
        reader.start()
        Thread(target=self.end, args=[process], daemon=True).start()
        code = process.wait()
        if self.ending.is_set():
            self.clean_up(process.pid)
        reader.join(5)  # who has left the group may still hold the pipe
        return code if code >= 0 else 128 - code

    def listen(self) -> None:
        """Wait until our input is closed."""
        while os.read(sys.stdin.fileno(), 1024):
            pass
        self.ending.set()

    def read(self, output: IO[bytes]) -> None:
        """Pass on what the command says, and see the experiment begin."""
        for line in output:
            _say(line)
            if line.startswith(_BEGUN) and not self.begun.is_set():
                self.begun.set()
                os.close(self.lock)  # the next one may begin

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """End the command when that is wanted: interrupt, insist, kill."""
        self.ending.wait()
        self.begun.wait(_BEGINNING)
        for number, seconds in _ENDING:
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, number)
                process.wait(seconds)
                return

    def clean_up(self, group: int) -> None:
        """End what has outlived DVC, and remove the folder that DVC could not."""
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        with suppress(OSError):  # those that had left the group are ours now, on Linux
            while children := Path("/proc/thread-self/children").read_text().split():
                for child in map(int, children):
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


if __name__ == "__main__":
    with suppress(OSError, AttributeError):  # become the parent of orphaned descendants; on Linux
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    raise SystemExit(Guard(*sys.argv[1:3]).run(sys.argv[3:]))
