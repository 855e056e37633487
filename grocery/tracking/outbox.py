"""What a run is to tell W&B, kept in ``wandb/outbox/RUN`` until the server is known to have it.

``said.jsonl`` is what the stage has said, in order: a line that opens the run, a line per verb of
`grocery.tracking.run.StageRun`, and one that ends it. From these lines a run can be made again at
any time, by another process. ``notes.jsonl`` is what became of them, written by the processes that
speak with W&B: what they have ``made``, which calls W&B was told (``delivered``), and whether the
server has ``arrived`` all. A file per input lists what was in it.

A lock is held while a run is made, so that it is left alone meanwhile; the system lets go of it
when the process ends, in whatever way.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import cache
from operator import itemgetter
from pathlib import Path
from typing import Any

from grocery.contents import read_content
from grocery.journal import Journal, parsed
from grocery.tracking.artifacts import Output


class Outbox:
    """The outbox of one run, a folder that is named by the run's id."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.wandb = folder, folder.parents[1]
        self.said = Journal(folder / "said.jsonl")
        self.notes = Journal(folder / "notes.jsonl")
        self.lock = folder / "lock"  # who makes the run, or delivers it, holds it
        self.log = folder / "output.log"  # what W&B has printed
        self.content = cache(read_content)  # of a file or folder; read once

    def run(self) -> dict[str, Any]:
        """The line that opens the run; empty when there is none, or not as it is written now."""
        first = decode(self.said.read().partition(b"\n")[0])
        return first if first.get("do") == "open" and "begun" in first else {}

    def made(self) -> list[dict[str, Any]]:
        """What the last process has made of the run; it begins with the run itself."""
        notes = [note for note in self.notes.entries() if "made" in note]
        starts = [index for index, note in enumerate(notes) if note["made"] == "run"]
        return notes[starts[-1] :] if starts else []

    def artifact(self, name: str) -> dict[str, Any]:
        """What was made first of an artifact, with copies if there are any; empty if nothing."""
        made = (note for note in self.notes.entries() if note.get("made") == "artifact")
        named = (note for note in made if note["name"] == name)
        return max(named, key=lambda note: bool(note["copies"]), default={})

    def artifacts(self) -> dict[str, dict[str, Any]]:
        """What was made last of each artifact that the stage has said; empty if nothing was."""
        said = [line["output"].name for line in self.messages() if line.get("do") == "artifact"]
        made = [note for note in self.notes.entries() if note.get("made") == "artifact"]
        return {name: {} for name in said} | {note["name"]: note for note in made}

    def hashed(self, name: str, path: Path) -> str | None:
        """Hash of an input as it was when it was first asked for; None if there was none."""
        for note in self.notes.entries():
            if note.get("input") == name:
                return str(note["md5"])
        if md5 := self.hash_at(path):
            self.notes.add({"input": name, "md5": md5})
        return md5

    def hash_at(self, path: Path) -> str | None:
        """Hash of what a file or folder holds now; None if there is none."""
        return self.content(path).md5 if path.exists() else None

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

    def messages(self) -> list[dict[str, Any]]:
        """What the stage has said; a line that a kill has cut off says nothing."""
        return [decode(line) for line in self.said.read().splitlines()]

    def pending(self) -> dict[int, dict[str, Any]]:
        """The calls that W&B is not told yet, by the numbers of their lines, in order."""
        delivered = {note.get("delivered") for note in self.notes.entries()}
        calls = ("uses", "link") if self.run().get("registry") else ("uses",)
        return {
            number: message
            for number, message in enumerate(self.messages())
            if message.get("do") in calls and number not in delivered
        }

    def keep_listing(self, name: str, path: Path) -> bool:
        """Keep what is in an input now; whether there is anything."""
        if md5 := self.hashed(name, path):
            (self.folder / f"{md5}.json").write_bytes(self.content(path).listing)
        return md5 is not None

    def listing(self, name: str) -> bytes:
        """The files of an input as they were kept; empty if they were not."""
        file = self.folder / f"{self.hashed(name, Path('nowhere'))}.json"
        return file.read_bytes() if file.is_file() else b""

    def discard(self) -> None:
        """Remove the outbox: nothing is left to tell."""
        shutil.rmtree(self.folder, ignore_errors=True)


def warnings_in(notes: Iterable[Mapping[str, Any]], *kinds: str) -> list[str]:
    """What people are to be told; of all kinds by default.

    ``later`` waits for `grocery sync`, ``warn`` is lost.
    """
    return [note[kind] for note in notes for kind in kinds or ("warn", "later") if kind in note]


def encode(message: Mapping[str, Any]) -> str:
    """A line of ``said.jsonl``.

    A TypeError says that something in it has no place there.
    """
    return json.dumps(message, default=_coded, sort_keys=True)


def _coded(value: Any) -> Any:
    """What JSON has no form of."""
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, Path):
        return {"$path": value.as_posix()}
    if isinstance(value, Output):
        return {"$output": asdict(value)}
    try:
        return value.tolist()  # of numpy
    except AttributeError:
        raise TypeError(f"a {type(value).__name__} is no value that W&B shows") from None


def decode(line: bytes) -> dict[str, Any]:
    """What a line of ``said.jsonl`` says; nothing if it was cut off."""
    return parsed(line, _decoded)


def _decoded(value: dict[str, Any]) -> Any:
    match value:
        case {"$bytes": str(text)}:
            return base64.b64decode(text)
        case {"$path": str(text)}:
            return Path(text)
        case {"$output": dict(fields)}:
            return Output(**fields)
    return value


def all_outboxes(wandb: Path) -> list[Outbox]:
    """The outboxes in W&B's folder of a project, in the order the runs began."""
    found = [Outbox(file.parent) for file in (wandb / "outbox").glob("*/said.jsonl")]
    named = [(outbox.run(), outbox) for outbox in found]
    ordered = sorted(((about["begun"], o) for about, o in named if about), key=itemgetter(0))
    return [outbox for _, outbox in ordered]


def unreadable(wandb: Path) -> list[Path]:
    """Folders of runs that were broken, or were kept by an older or newer version of this code."""
    kept = {file.parent for file in (wandb / "outbox").glob("*/*.jsonl")}
    return sorted(folder for folder in kept if not Outbox(folder).run())


def brought_later(wandb: Path, name: str, md5: str) -> bool:
    """Whether a run that the server has not got yet will bring the artifact of this content."""
    waiting = (outbox for outbox in all_outboxes(wandb) if not outbox.arrived)
    return any(outbox.artifact(name).get("md5") == md5 for outbox in waiting)
