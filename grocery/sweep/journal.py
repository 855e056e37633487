"""The trials of a sweep, and the file that remembers them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from grocery.core.errors import DataError

State = Literal["running", "finished", "stopped", "failed"]


@dataclass
class Trial:
    """One set of parameters, and what came of it."""

    number: int  # in the sweep, from 1
    name: str  # of the DVC experiment
    assignments: dict[str, Any]  # of the parameters that are searched, by dotted name
    state: State = "running"  # stopped: early, by the sweep; failed: by an error
    steps: list[dict[str, float]] = field(default_factory=list)  # what training reported at each
    summary: dict[str, Any] = field(default_factory=dict)  # metrics; of evaluate with test_ before
    seconds: float = 0.0  # wall time
    reason: str = ""  # why it failed


class Journal:
    """Remembers trials in a file of JSON lines, one at the beginning of each and one at its end."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def begin(self, about: Mapping[str, Any]) -> None:
        """Start a new journal with what the sweep is."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.unlink(missing_ok=True)
        self._append({"sweep": dict(about)})

    def write(self, trial: Trial) -> None:
        """Note a trial as it is now; it is on disk when this returns."""
        self._append(asdict(trial))

    def read(self) -> tuple[dict[str, Any], list[Trial]]:
        """What the sweep is, and its trials as they were last noted, in order.

        Raises
        ------
        DataError
            When this is no journal.
        """
        lines: list[Any] = []
        for text in self.file.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):  # a kill may have cut it off
                lines.append(json.loads(text))
        if not lines or "sweep" not in lines[0]:
            raise DataError(f"{self.file} is not the journal of a sweep")
        try:
            trials = {line["number"]: Trial(**line) for line in lines[1:]}
        except (TypeError, KeyError):
            raise DataError(f"{self.file} holds a line that is no trial") from None
        return lines[0]["sweep"], [trials[number] for number in sorted(trials)]

    def _append(self, entry: Mapping[str, Any]) -> None:
        whole = not self.file.is_file() or self.file.read_bytes().endswith(b"\n")
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(("" if whole else "\n") + json.dumps(entry, sort_keys=True) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
