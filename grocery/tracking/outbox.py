"""What W&B cannot be told yet, kept beside the runs that have to tell it.

`run.use_artifact` and `run.link_artifact` need the server. What a run could not say becomes one
JSON line of ``wandb/outbox/RUN/calls.jsonl``, in the order of the calls. `grocery sync` sends the
run, then delivers the lines, and notes each in ``notes.jsonl``. It lies outside of the run's own
folder, which `wandb clean` removes when the run is sent.

The first line names the run. Lines that say ``log`` are not delivered: they tell what a run that is
kept offline will bring to the server, so that nobody else puts it there before. A lock is held
while a stage writes, so that a run that is still being written is left alone; the system lets go of
it when the process ends, in whatever way.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal


class Outbox:
    """The outbox of one run, in W&B's folder of the project."""

    def __init__(self, wandb: Path, run_id: str) -> None:
        self._wandb = wandb
        self.folder = wandb / "outbox" / run_id
        self._calls = self.folder / "calls.jsonl"
        self._notes = self.folder / "notes.jsonl"

    @property
    def lock(self) -> Path:
        """The lock file of this outbox: who writes it, or delivers it, holds it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / "lock"

    @property
    def run_folder(self) -> Path:
        """Where W&B keeps the run, such as ``wandb/offline-run-20250102_030405-abcd1234``."""
        return self._wandb / Path(str(self.run().get("folder", "nowhere"))).name

    def open(self, run: Mapping[str, Any]) -> None:
        """Begin anew, with the line that names the run."""
        self._calls.unlink(missing_ok=True)
        self._append(self._calls, {"do": "run", **run})

    def add(self, entry: Mapping[str, Any], listing: bytes = b"") -> None:
        """Add one entry; `listing`, the files of the artifact that it names, is kept beside it."""
        if listing:
            self._listing(str(entry["md5"])).write_bytes(listing)
        self._append(self._calls, entry)

    def listing(self, entry: Mapping[str, Any]) -> bytes:
        """The files of the artifact that an entry names; empty if they were not kept."""
        file = self._listing(str(entry["md5"]))
        return file.read_bytes() if file.is_file() else b""

    def run(self) -> dict[str, Any]:
        """The line that names the run; empty when there is no outbox or it was cut off."""
        return next(iter(self._lines(self._calls)), {})

    def pending(self) -> dict[int, dict[str, Any]]:
        """The calls that are not delivered yet, by their numbers, in order."""
        delivered = {note.get("delivered") for note in self._lines(self._notes)}
        return {
            number: entry
            for number, entry in enumerate(self._lines(self._calls))
            if entry["do"] not in ("run", "log") and number not in delivered
        }

    def begun(self, number: int) -> bool:
        """Whether somebody has set out to deliver a call."""
        return any(note.get("begun") == number for note in self._lines(self._notes))

    def brings(self, name: str, md5: str) -> bool:
        """Whether the run, when it is sent, brings the artifact of this name and content."""
        return {"do": "log", "name": name, "md5": md5} in self._lines(self._calls)

    @property
    def kept(self) -> bool:
        """Whether the run itself is kept offline: it is not sent, or not whole."""
        folder = self.run_folder
        sent = any(folder.glob("*.wandb.synced"))
        return folder.name.startswith("offline-") and folder.is_dir() and not sent

    def note(self, what: Literal["begun", "delivered"], number: int) -> None:
        """Note how far a call has got; it is on disk when this returns."""
        self._append(self._notes, {what: number})

    def discard(self) -> None:
        """Remove the outbox: nothing is left to tell."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _listing(self, md5: str) -> Path:
        return self.folder / f"{Path(md5).name}.json"

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


def all_outboxes(wandb: Path) -> list[Outbox]:
    """The outboxes in W&B's folder of a project, in the order the runs began."""
    found = [Outbox(wandb, folder.name) for folder in (wandb / "outbox").glob("*/")]
    named = [(outbox.run(), outbox) for outbox in found]
    ordered = sorted(((about["begun"], o) for about, o in named if about), key=itemgetter(0))
    return [outbox for _, outbox in ordered]


def brought_later(wandb: Path, name: str, md5: str) -> bool:
    """Whether a run that is kept offline will bring the artifact of this name and content."""
    return any(outbox.kept and outbox.brings(name, md5) for outbox in all_outboxes(wandb))

