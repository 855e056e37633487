"""What a running stage tells the one who steers a sweep, step by step, and whether to go on.

The stage sends each step's values as a line of JSON through the Unix socket that the environment
variable `ADDRESS` names, and reads one line: ``go`` or ``stop``. Without the variable, or when
nobody listens any more, it simply goes on.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self

from grocery.core.stage import Stopped

ADDRESS = "GROCERY_STEERING"
TRIAL = "GROCERY_TRIAL"

_PATIENCE = 10.0  # longest wait for an answer, in seconds


class Steering:
    """The line to the one who steers; a context manager."""

    def __init__(self) -> None:
        self._line: socket.socket | None = None
        address = os.environ.get(ADDRESS)
        if address:
            with suppress(OSError):
                line = socket.socket(socket.AF_UNIX)
                line.settimeout(_PATIENCE)
                line.connect(address)
                self._line = line

    def step(self, values: Mapping[str, float]) -> None:
        """Report one step.

        Raises
        ------
        Stopped
            When the trial is to end here.
        """
        if self._line is None:
            return
        report = {"trial": os.environ.get(TRIAL), "values": dict(values)}
        try:
            self._line.sendall(json.dumps(report).encode() + b"\n")
            answer = self._line.recv(16)
        except OSError:
            self.close()
            return
        if answer.startswith(b"stop"):
            raise Stopped("stopped early by the sweep; earlier outputs are as they were")

    def close(self) -> None:
        """Hang up."""
        if self._line is not None:
            self._line.close()
            self._line = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
