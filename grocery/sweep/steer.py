"""The other end of `grocery.sweep.steering`: hears all trials' steps, answers each at once."""

from __future__ import annotations

import json
import socketserver
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

# Name of the trial and the values of its step; the answer says whether it is to stop.
OnStep = Callable[[str, dict[str, float]], bool]


@contextmanager
def listening(on_step: OnStep) -> Iterator[str]:
    """Listen on a Unix socket, whose path is given, until the block ends.

    `on_step` is called from the threads of the connections.
    """

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            for line in self.rfile:
                try:
                    report = json.loads(line)
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
