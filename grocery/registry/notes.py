"""What was done to the registry that W&B is not told yet, in ``wandb/outbox/registry.jsonl``.

A line of JSON for each thing; the file is only ever added to, or emptied. ``{"told": 3}`` says that
W&B knows of the first three lines.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from grocery.tracking.outbox import held

# Locks that say that this process is between its note and git, by their files.
_changing: dict[Path, int] = {}


class Notes:
    """The notes of a project.

    Parameters
    ----------
    root
        Folder that W&B's own folder lies in.
    """

    def __init__(self, root: Path) -> None:
        self._folder = root / "wandb" / "outbox"
        self._file = self._folder / "registry.jsonl"
        self._busy = self._folder / "registry.busy"

    @property
    def lock(self) -> Path:
        """The lock file of who tells W&B."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder / "registry.lock"

    def waiting(self) -> list[str]:
        """What W&B does not know, oldest first."""
        lines = self._lines()
        told = max((line["told"] for line in lines if isinstance(line.get("told"), int)), default=0)
        noted = [str(line["what"]) for line in lines[told:] if "what" in line]
        for line in lines[told:]:
            if line.get("not") in noted:
                noted.remove(line["not"])
        return noted

    def add(self, what: str) -> None:
        """Note what is about to be done to git; it is on disk when this returns.

        Until `done`, or until this process has ended, nobody takes it for told.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._busy not in _changing:
            _changing[self._busy] = os.open(self._busy, os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(_changing[self._busy], fcntl.LOCK_SH)
        self._append({"what": what})

    def take_back(self, what: str) -> None:
        """What was noted has not been done, and is not going to be."""
        self._append({"not": what})
        self.done()

    def done(self) -> None:
        """Git is now as the notes of this process say."""
        number = _changing.pop(self._busy, None)
        if number is not None:
            os.close(number)

    def settled(self) -> int:
        """The number of lines that git is certain to know of: none while somebody changes it."""
        if not self._file.is_file():
            return 0
        with held(self._busy) as quiet:
            return 0 if quiet is None else len(self._lines())

    def told(self, lines: int) -> None:
        """W&B knows of so many lines. Only who holds `lock` may say so."""
        if not lines:
            return
        with self._locked() as stream:
            if len(self._lines()) == lines:
                stream.truncate(0)
                return
        self._append({"told": lines})

    def _append(self, entry: dict[str, Any]) -> None:
        with self._locked() as stream:
            whole = not stream.tell() or self._file.read_bytes().endswith(b"\n")
            stream.write(("" if whole else "\n").encode() + json.dumps(entry).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())

    @contextmanager
    def _locked(self) -> Iterator[BinaryIO]:
        """The file, at its end, while nobody else writes it."""
        with self._file.open("ab") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            stream.seek(0, os.SEEK_END)
            yield stream

    def _lines(self) -> list[dict[str, Any]]:
        """The lines; one that a kill cut off says nothing."""
        data = self._file.read_bytes() if self._file.is_file() else b""
        return [_parsed(line) for line in data.splitlines()]


def _parsed(line: bytes) -> dict[str, Any]:
    with suppress(ValueError):
        value = json.loads(line)
        if isinstance(value, dict):
            return value
    return {}
