"""What a run is to tell W&B, kept in ``wandb/outbox/RUN`` until the server is known to have it.

``said.jsonl`` is what the stage has said, in order: a line that opens the run, a line per verb of
`grocery.tracking.run.StageRun`, and one that ends it. From these lines a run can be made again at
any time, by another process. ``notes.jsonl`` is what became of them, written by the processes that
speak with W&B: what they have ``made``, what W&B could not be told at once (``later``), and how far
`grocery sync` has got. A file per artifact lists what is in it.

A lock is held while a run is made, so that it is left alone meanwhile; the system lets go of it
when the process ends, in whatever way.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

from grocery.journal import Journal


class Outbox:
    """The outbox of one run, in W&B's folder of the project."""

    def __init__(self, wandb: Path, run_id: str) -> None:
        self.wandb = wandb
        self.folder = wandb / "outbox" / run_id
        self.said = Journal(self.folder / "said.jsonl")
        self.notes = Journal(self.folder / "notes.jsonl")
        self.lock = self.folder / "lock"  # who makes the run, or delivers it, holds it
        self.log = self.folder / "output.log"  # what W&B has printed

    def run(self) -> dict[str, Any]:
        """The line that opens the run; empty when there is none or it was cut off."""
        return next(iter(self.said.entries()), {})

    def made(self) -> list[dict[str, Any]]:
        """What the last process has made of the run; it begins with the run itself."""
        notes = [note for note in self.notes.entries() if "made" in note]
        starts = [index for index, note in enumerate(notes) if note["made"] == "run"]
        return notes[starts[-1] :] if starts else []

    def artifact(self, name: str) -> dict[str, Any]:
        """What was made first under the name of an artifact; empty if nothing was."""
        made = (note for note in self.notes.entries() if note.get("made") == "artifact")
        return next((note for note in made if note["name"] == name), {})

    @property
    def run_folder(self) -> Path:
        """Where W&B keeps the run, such as ``wandb/offline-run-20250102_030405-abcd1234``."""
        names = [note["folder"] for note in self.made() if note["made"] == "run"]
        return self.wandb / Path(*names[:1] or ["nowhere"]).name

    @property
    def arrived(self) -> bool:
        """Whether the server has said that it holds the run and all that it brings."""
        return any("arrived" in note for note in self.notes.entries())

    @property
    def kept(self) -> bool:
        """Whether the run is kept offline."""
        return not self.arrived and any(note.get("mode") == "offline" for note in self.made())

    def later(self, entry: Mapping[str, Any]) -> None:
        """Keep a call that W&B cannot be told now: ``use`` or ``link``."""
        if entry not in [note.get("later") for note in self.notes.entries()]:
            self.notes.add({"later": dict(entry)})

    def pending(self) -> dict[int, dict[str, Any]]:
        """The calls that are not delivered yet, by their numbers, in order."""
        notes = self.notes.entries()
        calls = [note["later"] for note in notes if "later" in note]
        delivered = {note.get("delivered") for note in notes}
        return {number: call for number, call in enumerate(calls) if number not in delivered}

    def begun(self, number: int) -> bool:
        """Whether somebody has set out to deliver a call."""
        return any(note.get("begun") == number for note in self.notes.entries())

    def brings(self, name: str, md5: str) -> bool:
        """Whether the run, when it is sent, brings the artifact of this name and content."""
        made = [note for note in self.made() if note["made"] == "artifact"]
        return any((note["name"], note["md5"]) == (name, md5) for note in made)

    def keep_listing(self, md5: str, listing: bytes) -> None:
        """Keep what is in an artifact."""
        self._listing(md5).write_bytes(listing)

    def listing(self, md5: str) -> bytes:
        """The files of an artifact as they were kept; empty if they were not."""
        file = self._listing(md5)
        return file.read_bytes() if file.is_file() else b""

    def discard(self) -> None:
        """Remove the outbox: nothing is left to tell."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _listing(self, md5: str) -> Path:
        return self.folder / f"{Path(md5).name}.json"


def all_outboxes(wandb: Path) -> list[Outbox]:
    """The outboxes in W&B's folder of a project, in the order the runs began."""
    found = [Outbox(wandb, file.parent.name) for file in (wandb / "outbox").glob("*/said.jsonl")]
    named = [(outbox.run(), outbox) for outbox in found]
    ordered = sorted(((about["begun"], o) for about, o in named if about), key=itemgetter(0))
    return [outbox for _, outbox in ordered]


def brought_later(wandb: Path, name: str, md5: str) -> bool:
    """Whether a run that is kept offline will bring the artifact of this name and content."""
    return any(outbox.kept and outbox.brings(name, md5) for outbox in all_outboxes(wandb))
