"""W&B in a process of its own, which can be ended whole, whatever it is at.

The process is `grocery.tracking.worker`, in its own process group, so that what a terminal sends to
us does not reach it. It is tied to us by one line in both directions; what it and W&B print goes to
a file. On this side nothing of W&B is imported.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

import psutil

from grocery.core.errors import GroceryError, TrackingError
from grocery.tracking.sweep_run import VARIABLES

# Variables that would tie W&B to somebody else's process or run.
FOREIGN = ("WANDB_SERVICE", "WANDB_RESUME", *VARIABLES)

# The slowest line for which an upload is waited, in bytes per second.
SLOWEST = 50_000


class NotNow(TrackingError):
    """W&B can be told nothing at present, so nothing else need be tried."""


class Apart:
    """The process; it ends when this side closes the line, or is ended.

    `folder` keeps what W&B writes, `log` what the process prints. The `arguments` are those of
    `grocery.tracking.worker`. It inherits the open file `lock`, and with it what that locks, see
    `grocery.journal.held`.
    """

    def __init__(
        self, folder: Path, *arguments: str, log: Path = Path(os.devnull), lock: int | None = None
    ) -> None:
        ours = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        contained = {
            "WANDB_DATA_DIR": str(folder),
            "WANDB_CACHE_DIR": str(folder / "cache"),
            "WANDB_ERROR_REPORTING": "false",
        }
        self._line, there = socket.socketpair()
        with there, log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "grocery.tracking.worker", *arguments],
                env=contained | ours,
                stdin=there.fileno(),
                stdout=output,
                stderr=output,
                pass_fds=[] if lock is None else [lock],
                process_group=0,
            )

    def ring(self) -> None:
        """Say that there is something to read; never waits."""
        with suppress(OSError):  # a full line rings anyway, and who is gone hears nothing
            self._line.send(b"\n", socket.MSG_DONTWAIT)

    def tell(self, message: bytes) -> None:
        """Say something; waits until it is heard, or a TrackingError says that nobody is there."""
        try:
            self._line.sendall(message)
        except OSError as error:
            raise TrackingError(f"W&B's process has ended ({error.strerror})") from error

    def heard(self) -> bool:
        """Whether it has said anything since; never waits."""
        with suppress(OSError):
            return bool(self._line.recv(1, socket.MSG_DONTWAIT))
        return False

    def finish(self, seconds: float) -> int | None:
        """Say that nothing more comes, and wait; its exit code, None if it had to be ended."""
        try:
            with suppress(OSError):
                self._line.shutdown(socket.SHUT_WR)
            with suppress(subprocess.TimeoutExpired):
                return self._process.wait(seconds)
            return None
        finally:
            self.end()

    def end(self) -> None:
        """End it and all that it has started."""
        self._line.close()
        end_whole(self._process)

    def lines(self, seconds: float, sign: Callable[[], object]) -> Iterator[dict[str, Any]]:
        """What it says, a line at a time, while each comes in time or there is a sign of life."""
        got = b""
        last, since = sign(), monotonic()
        self._line.settimeout(min(0.5, seconds))
        while True:
            try:
                data = self._line.recv(1 << 16)
            except TimeoutError:
                if (now := sign()) != last:
                    last, since = now, monotonic()
                elif monotonic() - since >= seconds:
                    raise TrackingError(f"no answer within {seconds:g} s") from None
                continue
            if not data:
                raise TrackingError("W&B's process has ended before it was done")
            *lines, got = (got + data).split(b"\n")
            for message in map(json.loads, lines):
                seconds = message.get("within", seconds)
                yield message
            since = monotonic()


def apart(
    function: str,
    folder: Path,
    seconds: float,
    /,
    *,
    sign: Callable[[], object] = lambda: None,
    **arguments: Any,
) -> Iterator[Any]:
    """What a generator function yields that speaks with W&B, in a process of its own.

    The `function` is such as ``grocery.tracking.sync:send_all``; its arguments and what it yields
    are JSON. ``{"within": 60}`` is not for us, but says how long the next may take. `folder` is
    W&B's own. `seconds` is the longest wait for what comes next, or while a `sign` of life, such as
    a number of bytes, stays the same: then the process is ended, and a TrackingError raised. Errors
    of the function are raised as they are.
    """
    process = Apart(folder, "call", function)
    try:
        process.tell(json.dumps(arguments).encode() + b"\n")
        for message in process.lines(seconds, sign):
            if "error" in message:
                kinds = {kind.__name__: kind for kind in (*GroceryError.__subclasses__(), NotNow)}
                raise kinds.get(message["kind"], TrackingError)(message["error"])
            if "end" in message:
                return
            if "said" in message:
                yield message["said"]
    finally:
        process.end()


def end_whole(process: subprocess.Popen[Any]) -> None:
    """Kill a process and all that it has started; it may have ended already.

    W&B's own process is not in its parent's process group, and ends by itself without its parent.
    """
    if process.poll() is None:  # else its number may be another's by now
        started = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        for child in started:
            with suppress(psutil.NoSuchProcess):
                child.kill()
    process.wait()
