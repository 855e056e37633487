"""What a line of the history says: an entry per batch that was judged, or what was announced."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from pydantic import Field, ValidationError, model_validator

from grocery.core.bounds import CLASSES
from grocery.core.documents import Section
from grocery.core.errors import DataError
from grocery.core.files import rounded
from grocery.core.params import Ratio
from grocery.monitoring.batches import TO_LABEL
from grocery.monitoring.sequence import BINS, BY_LABELS, WINDOWS, Past
from grocery.monitoring.signals import Signal, Verdict
from grocery.monitoring.speed import NAME as SPEED
from grocery.reference.reference import Reference

VERSION: Final = 1
DIGITS = 9  # of its numbers; a mean of shares may exceed 1 by its last bit

Count = Annotated[int, Field(ge=0, le=10_000_000)]
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
    estimated_accuracy: Ratio | None
    estimate_interval: tuple[Ratio, Ratio] | None
    accuracy: Ratio | None
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
