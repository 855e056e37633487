"""The history of a monitor: one line of JSON for every batch that was judged, in that order.

It is a `grocery.journal.Journal`, so several processes may share it. A damaged line is left out and
said; the rest of the file is never rewritten.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from pydantic import Field, ValidationError

from grocery.core.documents import Section
from grocery.core.errors import DataError
from grocery.core.files import rounded
from grocery.journal import Journal
from grocery.monitoring.drift import Signal, Verdict
from grocery.monitoring.sequence import BINS, BY_LABELS, Past
from grocery.monitoring.speed import NAME as SPEED
from grocery.reference.reference import Reference

NAME = "history.jsonl"  # in a folder
VERSION: Final = 1
DIGITS = 9  # of its numbers; a mean of shares may exceed 1 by its last bit

# Every line begins like this, by which one that was cut off is told from another kind of file.
_START = b'{"grocery_history":%d,' % VERSION
_ANY_VERSION = re.compile(rb'\{"grocery_history":(\d+),')
_LEAST = 3  # bytes of `_START`: a lone brace begins many a file

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Time = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]


class SequenceFinding(Section, extra="ignore"):
    """What counts in a sequence: its batches, this one last, and what was found in all of them."""

    batches: list[str]
    images: Count
    verdict: Verdict = "alert"  # or "watch"; earlier lines do not say it
    signals: list[Signal]


class Entry(Section, extra="ignore"):
    """One line."""

    grocery_history: Literal[1] = VERSION
    kind: Literal["batch", "labels"]  # "labels": a batch that was judged came again with labels
    batch: str
    incoming: str  # where it lay
    digest: Digest  # of its files' contents, see `content_digest`
    labels: Digest | None  # see `labels_digest`
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
    signals: list[Signal]
    # What later sequences need, see `grocery.monitoring.sequence.Past`.
    confidence_counts: Annotated[list[Count], Field(min_length=BINS, max_length=BINS)]
    class_counts: list[Count]
    sequence: SequenceFinding | None  # what counts in the sequence that this batch ends
    # Where prediction ran, and how fast; see `grocery.monitoring.speed.Timing`.
    host: str | None = None
    images_per_second: float | None = None
    latency_ms: float | None = None

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """The entry of some JSON values, rounded as it is kept."""
        return cls.model_validate_json(json.dumps(rounded(values, DIGITS)))

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


@dataclass(frozen=True)
class Recorded:
    """What a history holds: its entries, and the numbers of the lines that are damaged."""

    entries: Sequence[Entry]
    damaged: Sequence[int]

    def knows(self, digest: str, labels: str | None) -> bool:
        """Whether a batch of this content was judged, with these labels if it has any."""
        return labels in self._seen.get(digest, ()) or (labels is None and digest in self._seen)

    @cached_property
    def _seen(self) -> dict[str, set[str | None]]:
        """The labels with which each content was judged."""
        seen: dict[str, set[str | None]] = {}
        for entry in self.entries:
            seen.setdefault(entry.digest, set()).add(entry.labels)
        return seen


class History:
    """A history file, which need not exist yet; or a folder, for the file `NAME` in it.

    A folder is told from a file by being there or by a slash at its end.
    """

    def __init__(self, name: str | os.PathLike[str]) -> None:
        path = Path(name)
        folder = path.is_dir() or os.fspath(name).endswith(("/", os.sep))
        self.path = path / NAME if folder else path
        self._journal = Journal(self.path)

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

        Raises
        ------
        DataError
            When it is no file, or a history of another format.
        """
        self._refuse_what_is_no_file()
        return self._parse(self._journal.read())

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
            entry = make(self._parse(data))
            if entry is None:
                return None
            made.append(entry)
            return entry.model_dump_json(by_alias=True)

        self._refuse_what_is_no_file()
        self._journal.extend(line)
        return made[0] if made else None

    def _refuse_what_is_no_file(self) -> None:
        if self.path.is_dir():
            raise DataError(f"{self.path} is a folder; a history is a file")
        if self.path.exists() and not self.path.is_file():
            raise DataError(f"{self.path} is neither a file nor a folder; a history is a file")

    def _parse(self, data: bytes) -> Recorded:
        entries, damaged = [], []
        known = False
        for number, line in enumerate(data.split(b"\n"), start=1):
            if not line.strip():
                continue
            found = _ANY_VERSION.match(line)
            if found and int(found[1]) != VERSION:
                raise DataError(
                    f"line {number} of {self.path} is of another version of the format than "
                    f"{VERSION}; use the grocery that wrote it, or another file"
                )
            whole = line.startswith(_START)
            known = known or whole or (len(line) >= _LEAST and _START.startswith(line))
            try:
                entries.append(Entry.model_validate_json(line))
            except ValidationError:
                damaged.append(number)
        if damaged and not known:
            raise DataError(f"{self.path} is no history of grocery monitor; nothing is written")
        return Recorded(entries, damaged)


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


def same_model(entries: Sequence[Entry], model: str, reference: str) -> list[Entry]:
    """The entries of one model and one reference: no others can be compared with each other."""
    return [entry for entry in entries if (entry.model, entry.reference) == (model, reference)]


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
