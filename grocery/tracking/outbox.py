"""What W&B cannot be told yet, kept beside the run that has to tell it.

`run.use_artifact` and `run.link_artifact` need the server. What a run could not say becomes one
JSON line of ``outbox.jsonl`` in the run's own folder, in the order of the calls. `grocery sync`
sends the run, then delivers the lines, and notes each in ``outbox.delivered``.

The first line names the run. Lines that say ``log`` are not delivered: they tell what a run that is
kept offline will bring to the server, so that nobody else puts it there before. A lock is held
while a stage writes, so that a run that is still being written is left alone; the system lets go of
it when the process ends, in whatever way.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from operator import itemgetter
from pathlib import Path
from typing import Any

FILE = "outbox.jsonl"
DELIVERED = "outbox.delivered"
LISTINGS = "listings"


class Outbox:
    """The outbox in the folder of one run.

    Parameters
    ----------
    folder
        The run's folder, such as ``wandb/offline-run-20250102_030405-abcd1234``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / FILE
        self._delivered = folder / DELIVERED

    @property
    def lock(self) -> Path:
        """The lock file of this outbox: who writes it, or delivers it, holds it."""
        return self.folder / "outbox.lock"

    def open(self, run: Mapping[str, Any]) -> None:
        """Begin with the line that names the run."""
        self._append(self._file, {"do": "run", **run})

    def add(self, entry: Mapping[str, Any], listing: bytes = b"") -> None:
        """Add one entry; `listing`, the files of the artifact that it names, is kept beside it."""
        if listing:
            file = self._listing(str(entry["md5"]))
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(listing)
        self._append(self._file, entry)

    def listing(self, entry: Mapping[str, Any]) -> bytes:
        """The files of the artifact that an entry names; empty if they were not kept."""
        file = self._listing(str(entry["md5"]))
        return file.read_bytes() if file.is_file() else b""

    def run(self) -> dict[str, Any]:
        """The line that names the run; empty when there is no outbox or it was cut off."""
        return next(iter(self._lines(self._file)), {})

    def pending(self) -> dict[int, dict[str, Any]]:
        """The entries that are not delivered yet, by their numbers, in order."""
        delivered = {line["entry"] for line in self._lines(self._delivered)}
        entries = enumerate(self._lines(self._file))
        calls = {n: entry for n, entry in entries if entry["do"] not in ("run", "log")}
        return {n: entry for n, entry in calls.items() if n not in delivered}

    def brings(self, name: str, md5: str) -> bool:
        """Whether the run, when it is sent, brings the artifact of this name and content."""
        wanted = {"do": "log", "name": name, "md5": md5}
        return any(wanted == entry for entry in self._lines(self._file))

    @property
    def kept(self) -> bool:
        """Whether the run itself is kept offline: it is not sent, or not whole."""
        return self.folder.name.startswith("offline-") and not any(
            self.folder.glob("*.wandb.synced")
        )

    def mark_delivered(self, number: int) -> None:
        """Note that an entry has arrived; it is on disk when this returns."""
        self._append(self._delivered, {"entry": number})

    def _listing(self, md5: str) -> Path:
        return self.folder / LISTINGS / f"{Path(md5).name}.json"

    @staticmethod
    def _append(file: Path, entry: Mapping[str, Any]) -> None:
        whole = not file.is_file() or file.read_bytes().endswith(b"\n")
        with file.open("a", encoding="utf-8") as stream:
            stream.write(("" if whole else "\n") + json.dumps(entry, sort_keys=True) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    @staticmethod
    def _lines(file: Path) -> Iterator[dict[str, Any]]:
        """The lines that were written whole; one may have been cut off by a kill."""
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        for line in text.splitlines():
            with suppress(ValueError):
                yield json.loads(line)


def all_outboxes(root: Path) -> list[Outbox]:
    """The outboxes of all runs below ``root/wandb``, in the order the runs began."""
    found = [Outbox(folder) for folder in (root / "wandb").glob("*run-*-*")]
    known = [(outbox.run(), outbox) for outbox in found if not outbox.folder.is_symlink()]
    named = [(about["begun"], outbox) for about, outbox in known if about]
    return [outbox for _, outbox in sorted(named, key=itemgetter(0))]


@contextmanager
def held(lock: Path) -> Iterator[int | None]:
    """Hold a lock file, or give None when somebody else does.

    The number is that of the open file. A child process that inherits it holds the lock too, even
    when this process is killed.
    """
    number = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield number
    finally:
        os.close(number)
