"""What a running stage tells the one who steers a sweep, step by step, and whether to go on.

The stage sends each step's values as a line of JSON through the Unix socket that the environment
variable `ADDRESS` names, and reads one line: ``go`` or ``stop``. Without the variable, or when
nobody listens any more, it simply goes on.
"""

from __future__ import annotations

import json
import os
import socket
import socketserver
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

from grocery.core.stage import Stopped

ADDRESS = "GROCERY_STEERING"
TRIAL = "GROCERY_TRIAL"

_PATIENCE = 10.0  # longest wait for an answer, in seconds


class Steering:
    """The stage's end of the line."""

    def __init__(self) -> None:
        self._address = os.environ.get(ADDRESS)

    def step(self, values: Mapping[str, float]) -> None:
        """Report one step.

        Raises
        ------
        Stopped
            When the trial is to end here.
        """
        if self._address is None:
            return
        report = {"trial": os.environ.get(TRIAL), "values": dict(values)}
        try:
            with socket.socket(socket.AF_UNIX) as line:
                line.settimeout(_PATIENCE)
                line.connect(self._address)
                line.sendall(json.dumps(report).encode() + b"\n")
                answer = line.recv(16)
        except OSError:
            self._address = None  # it is not asked again
            return
        if answer.startswith(b"stop"):
            raise Stopped("stopped early by the sweep; earlier outputs are as they were")


@contextmanager
def listening(on_step: Callable[[str, dict[str, float]], bool]) -> Iterator[str]:
    """Hear all trials' steps at a Unix socket, whose path is given, until the block ends.

    `on_step` gets a trial's name and the values of its step, and says whether it is to stop. It is
    called from several threads.
    """

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            try:
                report = json.loads(self.rfile.readline())
                stop = on_step(str(report["trial"]), dict(report["values"]))
            except (ValueError, KeyError, TypeError):
                return
            self.wfile.write(b"stop\n" if stop else b"go\n")

    # Not below the project: the path of a Unix socket has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="grocery-sweep-") as folder:
        address = str(Path(folder) / "steering")
        with socketserver.ThreadingUnixStreamServer(address, Handler) as server:
            server.daemon_threads = True
            thread = Thread(target=server.serve_forever, args=(0.1,), daemon=True)
            thread.start()
            try:
                yield address
            finally:
                server.shutdown()
                thread.join()
