"""The history of a monitor: one line of JSON for every batch that was judged, in that order.

A batch goes through three marks. It is *judged*; then *recorded*, by its line; and if it is an
alert, another line says that it was *announced*, once it was. So a run that is killed in between
loses no alert: the next one finds a line that is to be announced, and was not.

It is a `grocery.journal.Journal`, so several processes may share it. A damaged line is left out and
said; the rest of the file is never rewritten.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from grocery.core.bounds import CLASSES
from grocery.core.documents import Section
from grocery.core.errors import DataError
from grocery.core.files import rounded
from grocery.journal import Journal, shared
from grocery.monitoring.batches import TO_LABEL
from grocery.monitoring.drift import Signal, Verdict
from grocery.monitoring.sequence import BINS, BY_LABELS, WINDOWS, Past
from grocery.monitoring.speed import NAME as SPEED
from grocery.reference.reference import Reference

NAME = "history.jsonl"  # in a folder
VERSION: Final = 1
DIGITS = 9  # of its numbers; a mean of shares may exceed 1 by its last bit

# Every line begins like this, by which one that was cut off is told from another kind of file.
_START = b'{"grocery_history":%d,' % VERSION
_ANY_VERSION = re.compile(rb'\{"grocery_history":(\d{1,9}),')
_LEAST = 3  # bytes of `_START`: a lone brace begins many a file

KEPT = 512  # latest entries that are held: for sequences, for speed, and for the page

_LONGEST = 2**22  # bytes of a line

Count = Annotated[int, Field(ge=0, le=10_000_000)]
Share = Annotated[float, Field(ge=0, le=1)]
Size = Annotated[float, Field(ge=0, le=1e9)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Time = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
Signals = Annotated[list[Signal], Field(max_length=64)]


class SequenceFinding(Section, extra="ignore"):
    """What counts in a sequence: its batches, this one last, and what was found in all of them."""

    batches: Annotated[list[str], Field(min_length=2, max_length=WINDOWS[-1])]
    images: Annotated[int, Field(ge=0, le=1_000_000_000)]
    verdict: Verdict = "alert"  # or "watch"; earlier lines do not say it
    signals: Signals


class Entry(Section, extra="ignore"):
    """One line."""

    grocery_history: Literal[1] = VERSION
    kind: Literal["batch", "labels"]  # "labels": a batch that was judged came again with labels
    batch: str
    incoming: str  # where it lay
    digest: Digest  # of its files' contents, see `content_digest`
    labels: Digest | None  # see `labels_digest`
    files: Digest | None = None  # by which its files are known unread, see `grocery.inbox.incoming`
    time: Time  # when it was taken
    judged: Time
    version: str | None  # in the registry, where it is known
    model: str  # digest of the model
    reference: Digest
    # What was found, see `grocery.monitoring.drift.Judgement`.
    verdict: Verdict
    images: Count
    unreadable: Count
    labelled: Count
    estimated_accuracy: Share | None
    estimate_interval: tuple[Share, Share] | None
    accuracy: Share | None
    wasserstein: float | None
    refusal: str | None = None
    copies: Count = 0
    to_label: Annotated[tuple[str, ...], Field(max_length=TO_LABEL)] = ()
    signals: Signals
    # What later sequences need, see `grocery.monitoring.sequence.Past`.
    confidence_counts: Annotated[list[Count], Field(min_length=BINS, max_length=BINS)]
    class_counts: Annotated[list[Count], Field(max_length=int(CLASSES.most))]
    sequence: SequenceFinding | None  # what counts in the sequence that this batch ends
    # Where prediction ran, and how fast; see `grocery.monitoring.speed.Timing`.
    host: str | None = None
    seconds: Size | None = None
    images_per_second: Size | None = None
    latency_ms: Size | None = None
    slowest_ms: Size | None = None
    # Whether it is an alert that counts as lost until a line says that it was announced. Of lines
    # that do not say it, the run that wrote them took care.
    to_announce: bool = False

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if {sum(self.confidence_counts), sum(self.class_counts)} != {self.images}:
            raise ValueError("its images do not add up")
        return self

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """The entry of some JSON values, rounded as it is kept.

        Raises
        ------
        DataError
            When it is out of the bounds of a line.
        """
        try:
            return cls.model_validate_json(json.dumps(rounded(values, DIGITS)))
        except ValidationError as error:
            what = error.errors()[0]
            where = ".".join(map(str, what["loc"]))
            raise DataError(
                f"{values['batch']} does not fit into a history: {where}: {what['msg']}"
            ) from None

    @property
    def alert(self) -> bool:
        """Whether somebody is to be told of the batch, of its sequence, or of what labels say."""
        if self.kind == "labels":
            return any(found.verdict == "alert" for found in self.by_labels)
        sequence = self.sequence is not None and self.sequence.verdict == "alert"
        return self.verdict == "alert" or sequence

    @property
    def by_labels(self) -> list[Signal]:
        """The signals that only labels give."""
        return [found for found in self.signals if found.name in BY_LABELS]


class Announced(Section, extra="ignore"):
    """The line that says that an alert was announced: by its run's output, and to all who asked."""

    grocery_history: Literal[1] = VERSION
    kind: Literal["announced"] = "announced"
    batch: str
    digest: Digest
    labels: Digest | None
    time: Time


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
        self._files: set[str] = set()
        self._pending: dict[tuple[str, str | None], Entry] = {}
        self._lines = 0  # that have an end
        self._ours = False

    def knows(self, digest: str, labels: str | None) -> bool:
        """Whether a batch of this content was judged, with these labels if it has any."""
        return labels in self._seen.get(digest, ()) or (labels is None and digest in self._seen)

    def knows_files(self, files: str) -> bool:
        """Whether a batch was judged whose files are these, see `Entry.files`."""
        return files in self._files

    @property
    def pending(self) -> list[Entry]:
        """Entries that are to be announced, and were not."""
        return list(self._pending.values())

    @property
    def state(self) -> str:
        """Names how far it goes; a page says of which state it is."""
        last = self.entries[-1].digest if self.entries else "none"
        return f"{sum(map(len, self._seen.values()))} judged, the last {last}"

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
            raise DataError(f"{name} is no history of grocery monitor; nothing is written")

    def _add(self, line: Entry | Announced) -> None:
        if isinstance(line, Announced):
            self._pending.pop((line.digest, line.labels), None)
            return
        self.entries.append(line)
        self.batches[line.model, line.reference] += line.kind == "batch"
        self._seen.setdefault(line.digest, set()).add(line.labels)
        if line.files is not None:
            self._files.add(line.files)
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


def content_digest(parts: Iterable[str]) -> str:
    """SHA-256 (hex) of a batch, from its files' digests; neither names nor their order count."""
    return hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()


def labels_digest(image_ids: Iterable[str], labels: Iterable[str | None]) -> str | None:
    """Digest of a batch's labels, image by image; None when there are none."""
    pairs = zip(image_ids, labels, strict=True)
    known = [f"{image_id} {label}" for image_id, label in pairs if label is not None]
    return content_digest(known) if known else None


def utc(seconds: float) -> str:
    """A time since the epoch, as the history writes it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def latencies(entries: Sequence[Entry], host: str, least: int) -> list[float]:
    """Median latencies of a host's batches of at least so many images, in milliseconds."""
    return [
        entry.latency_ms
        for entry in entries
        if entry.kind == "batch"
        and entry.host == host
        and entry.images >= least
        and entry.latency_ms is not None
    ]


def as_past(entries: Sequence[Entry], reference: Reference) -> list[Past]:
    """What sequences need of the batches in entries of the reference's model."""
    classes = len(reference.classes)
    return [
        Past(
            entry.unreadable,
            np.array(entry.confidence_counts, dtype=np.int64),
            np.array(entry.class_counts, dtype=np.int64),
            [found for found in entry.signals if found.name != SPEED],
            entry.alert or entry.sequence is not None,
        )
        for entry in entries
        if entry.kind == "batch" and len(entry.class_counts) == classes
    ]
