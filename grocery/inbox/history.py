"""The history of a monitor: one line of JSON for every batch that was judged, in that order.

A batch goes through three marks. It is *judged*; then *recorded*, by its line; and if it is an
alert, another line says that it was *announced*, once it was. So a run that is killed in between
loses no alert: the next one finds a line that is to be announced, and was not.

It is a `grocery.journal.Journal`, so several processes may share it. A damaged line is left out and
said; the rest of the file is never rewritten.
"""

from __future__ import annotations

import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

from grocery.core.errors import DataError
from grocery.inbox.entries import VERSION, Announced, Entry
from grocery.journal import Journal, shared

NAME = "history.jsonl"  # in a folder

# Every line begins like this, by which one that was cut off is told from another kind of file.
_START = b'{"grocery_history":%d,' % VERSION
_ANY_VERSION = re.compile(rb'\{"grocery_history":(\d{1,9}),')
_LEAST = 3  # bytes of `_START`: a lone brace begins many a file

KEPT = 512  # latest entries that are held: for sequences, for speed, and for the page

_LONGEST = 2**22  # bytes of a line

_LINE: TypeAdapter[Entry | Announced] = TypeAdapter(
    Annotated[Entry | Announced, Field(discriminator="kind")]
)


class Recorded:
    """What a history holds, line by line: the latest entries whole, and what counts of all."""

    def __init__(self) -> None:
        self.entries: deque[Entry] = deque(maxlen=KEPT)
        self.damaged: list[int] = []  # numbers of lines
        self.batches: Counter[tuple[str, str]] = Counter()  # of each model and reference
        self._seen: dict[str, set[str | None]] = {}  # the labels with which each content was judged
        self._judged: set[str] = set()  # contents whose own line is here, not only that of labels
        self._files: dict[str, str] = {}  # the content of a batch whose files were these
        self._pending: dict[tuple[str, str | None], Entry] = {}
        self._count = 0  # of all entries
        self._lines = 0  # that have an end
        self._ours = False

    def knows(self, digest: str, labels: str | None) -> bool:
        """Whether a batch of this content was judged, with these labels if it has any."""
        return digest in self._judged and (labels is None or labels in self._seen[digest])

    def knows_files(self, files: str) -> bool:
        """Whether a batch was judged whose files are these, see `Entry.files`."""
        return self._files.get(files) in self._judged

    @property
    def pending(self) -> list[Entry]:
        """Entries that are to be announced, and were not."""
        return list(self._pending.values())

    @property
    def state(self) -> str:
        """Names how far it goes; a page says of which state it is."""
        last = self.entries[-1].digest if self.entries else "none"
        return f"{self._count} judged, the last {last}"

    def of(self, model: str, reference: str) -> list[Entry]:
        """The entries of a model and a reference: no others can be compared with each other."""
        return [e for e in self.entries if (e.model, e.reference) == (model, reference)]

    def take(self, data: bytes, name: Path) -> None:
        """Go on by the lines of some bytes.

        Raises
        ------
        DataError
            When they are of another format, or of another version of it.
        """
        for line in BytesIO(data):
            number = self._lines + 1
            self._lines += line.endswith(b"\n")
            if not line.strip():
                continue
            found = _ANY_VERSION.match(line)
            if found and int(found[1]) != VERSION:
                raise DataError(
                    f"line {number} of {name} is of another version of the format than "
                    f"{VERSION}; use the grocery that wrote it, or another file"
                )
            start = line[: len(_START)].rstrip(b"\n")
            self._ours |= len(start) >= _LEAST and _START.startswith(start)
            try:
                if len(line) > _LONGEST:
                    raise ValueError("too long")
                self._add(_LINE.validate_json(line))
            except ValueError:
                self.damaged.append(number)
        if self.damaged and not self._ours:
            raise DataError(
                f"{name} is no history of grocery monitor; nothing is written; move it away, or "
                "name another file"
            )

    def _add(self, line: Entry | Announced) -> None:
        if isinstance(line, Announced):
            self._pending.pop((line.digest, line.labels), None)
            return
        self.entries.append(line)
        self._count += 1
        self.batches[line.model, line.reference] += line.kind == "batch"
        self._seen.setdefault(line.digest, set()).add(line.labels)
        if line.kind == "batch":
            self._judged.add(line.digest)
        if line.files is not None:
            self._files[line.files] = line.digest
        if line.to_announce:
            self._pending[line.digest, line.labels] = line


class History:
    """A history file, which need not exist yet; or a folder, for the file `NAME` in it.

    A folder is told from a file by being there or by a slash at its end.
    """

    def __init__(self, name: str | os.PathLike[str]) -> None:
        path = Path(name)
        folder = path.is_dir() or os.fspath(name).endswith(("/", os.sep))
        self.path = path / NAME if folder else path
        self._journal = Journal(self.path)
        self._recorded, self._end = Recorded(), 0

    def check(self) -> None:
        """Make sure that it can be written, before any work is done for it.

        Raises
        ------
        DataError
            When it is no file, or a history of another format.
        OSError
            When it cannot be read and written.
        """
        self._refuse_what_is_no_file()
        with self._journal.opened():
            pass

    def read(self) -> Recorded:
        """Everything that is in it; nothing when it does not exist.

        Of what was read before nothing is read again: it is the same object, which goes on.

        Raises
        ------
        DataError
            When it is no file, or a history of another format.
        """
        self._look_at_the_file()
        self._take(self._journal.read(self._end))
        return self._recorded

    def append(self, make: Callable[[Recorded], Entry | None]) -> Entry | None:
        """Add the line that `make` gives, or none; it is on the disk when this returns.

        `make` is told all that is there, and nobody else can write in the meantime.

        Raises
        ------
        DataError
            When it is no file, or a history of another format.
        OSError
            When it cannot be written; then it is as it was.
        """
        made: list[Entry] = []

        def line(data: bytes) -> str | None:
            self._take(data)
            entry = make(self._recorded)
            if entry is None:
                return None
            made.append(entry)
            return entry.model_dump_json(by_alias=True)

        self._look_at_the_file()
        self._journal.extend(line, self._end)
        return made[0] if made else None

    def announced(self, entry: Entry, time: str) -> None:
        """Say that an alert was announced.

        Raises
        ------
        OSError
            When it cannot be written; then it is as it was.
        """
        mark = Announced(batch=entry.batch, digest=entry.digest, labels=entry.labels, time=time)
        self._journal.append(mark.model_dump_json())

    @contextmanager
    def at_work(self) -> Iterator[bool]:
        """Say that alerts may be recorded and announced; whether no other process does so.

        What another one has recorded it will announce itself, if it is not killed.
        """
        with shared(self.path.with_name(f".{self.path.name}.lock")) as alone:
            yield alone

    def _take(self, data: bytes) -> None:
        self._recorded.take(data, self.path)
        self._end += len(data)

    def _look_at_the_file(self) -> None:
        self._refuse_what_is_no_file()
        if self._end and (not self.path.exists() or self.path.stat().st_size < self._end):
            self._recorded, self._end = Recorded(), 0  # it is another one

    def _refuse_what_is_no_file(self) -> None:
        if self.path.is_dir():
            raise DataError(f"{self.path} is a folder; a history is a file")
        if self.path.exists() and not self.path.is_file():
            raise DataError(f"{self.path} is neither a file nor a folder; a history is a file")
