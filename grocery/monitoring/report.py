"""The monitoring page: verdicts first, then why, then pictures.

See `grocery.pages.page` for what all pages are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from grocery.core.params import MonitorParams
from grocery.monitoring.charts import class_bars, confidence_histogram
from grocery.monitoring.drift import VERDICTS, Judgement
from grocery.pages import page
from grocery.reference.reference import Reference

UNCERTAIN, TYPICAL, ANY = "Most uncertain", "Most typical", "Chosen by chance"

_TITLES = {
    "classes": "Classes that are predicted",
    "images": "Images: light, colours, sharpness",
    "unknown": "Unknown products",
    "estimate": "Estimate: accuracy without labels",
    "unreadable": "Unreadable files",
}


@dataclass(frozen=True)
class Sample:
    """One picture of a batch: why it is shown, what it is, and a small JPEG."""

    reason: str
    path: str
    predicted: str
    confidence: float
    label: str | None
    jpeg: bytes


@dataclass(frozen=True)
class BatchReport:
    """What the page shows of one batch."""

    name: str
    judgement: Judgement
    confidences: NDArray[np.float32]  # (n,): largest probability of each readable image
    predicted_counts: NDArray[np.int64]  # (c,): images predicted each class
    samples: Sequence[Sample]  # in the order of `choose_samples`
    drill: str | None = None  # what was done on purpose, of a batch that the pipeline made
    copies: int = 0  # readable images that are near duplicates of others, and not judged
    to_label: Sequence[str] = ()  # paths of images whose labels would say what cannot be estimated


@dataclass(frozen=True)
class OverTime:
    """What the page shows of the batches before: see `grocery.inbox.timeline.over_time`."""

    alerts: Sequence[tuple[str, str]]  # of each new sequence in alert, a title and a sentence
    html: str  # the cards


def choose_samples(
    confidences: NDArray[np.float32], image_ids: Sequence[str], count: int
) -> list[tuple[int, str]]:
    """Choose images of a batch to look at: pairs of index and reason, none chosen twice.

    Three eighths are the least confident, three eighths lie nearest the median confidence, and the
    rest are those with the least content hash, which nobody chose.
    """
    distance = np.abs(confidences - np.median(confidences)) if len(confidences) else confidences
    by_hash = np.array(sorted(range(len(image_ids)), key=image_ids.__getitem__), dtype=np.intp)
    share = -(-3 * count // 8)
    orders = [
        (UNCERTAIN, share, np.argsort(confidences, kind="stable")),
        (TYPICAL, share, np.argsort(distance, kind="stable")),
        (ANY, count, by_hash),
    ]
    chosen: dict[int, str] = {}
    for reason, most, order in orders:
        fresh = [int(index) for index in order if index not in chosen]
        room = min(most, count - len(chosen))
        chosen |= dict.fromkeys(fresh[:room], reason)
    return list(chosen.items())


def render(
    reference: Reference,
    batches: Sequence[BatchReport],
    params: MonitorParams,
    over_time: OverTime | None = None,
    advice: Sequence[str] = (),
) -> bytes:
    """The page, as UTF-8 bytes: the worst verdicts first, then by name.

    `over_time` is what the history has to say, None without one, and `advice` that of
    `grocery.release.advice.on_monitoring`.
    """
    batches = sorted(batches, key=lambda b: (VERDICTS.index(b.judgement.verdict), b.name))
    return page.render(
        __file__,
        reference=reference,
        batches=batches,
        significance=params.significance,
        headline=_headline(batches, over_time),
        advice=advice,
        drills=any(batch.drill for batch in batches),
        past=over_time or OverTime((), ""),
        title=title,
        orders=(UNCERTAIN, TYPICAL, ANY),
        reasons=_reasons,
        too_few=partial(too_few, params=params),
        cannot_be_said=cannot_be_said,
        left_out=left_out,
        confidence_histogram=confidence_histogram,
        class_bars=class_bars,
    ).encode()


def _headline(batches: Sequence[BatchReport], over_time: OverTime | None) -> str:
    total = len(batches)
    alerts = sum(batch.judgement.verdict == "alert" for batch in batches)
    sequences = len(over_time.alerts) if over_time else 0
    one, more = ("drill", "drills") if all(b.drill for b in batches) else ("batch", "batches")
    counted = f"{total} {more if total > 1 else one}"
    if over_time and total > 1:
        counted = f"the latest {counted}"
    if not total:
        return f"No {'judged' if over_time else 'incoming'} batches"
    if not alerts:
        return "A sequence of batches in alert" if sequences else f"No alert in {counted}"
    return f"{alerts} of {counted} in alert" + (", and a sequence" if sequences else "")


def title(name: str) -> str:
    """What the page calls a signal: by its name, and what that leaves open."""
    return _TITLES.get(name, name[:1].upper() + name[1:])


def _reasons(judgement: Judgement) -> str:
    """Why a batch has its verdict, in a line."""
    reasons = [signal.sentence for signal in judgement.signals if signal.verdict != "ok"]
    if judgement.verdict == "too few":
        reasons.append("Too few readable images to judge.")
    return " ".join(reasons) or "No drift beyond what chance explains."


def too_few(judgement: Judgement, params: MonitorParams) -> list[str]:
    """A sentence about a batch that is too small, or none."""
    if judgement.images >= params.min_batch:
        return []
    images = "image is" if judgement.images == 1 else "images are"
    return [
        f"{judgement.images} readable {images} too few to judge predictions by; "
        f"{params.min_batch} are needed."
    ]


def cannot_be_said(batch: BatchReport) -> list[str]:
    """Why there is no estimate of the accuracy, and which images would tell; or nothing."""
    if batch.judgement.refusal is None:
        return []
    sentence = f"Its accuracy cannot be estimated: {batch.judgement.refusal}."
    if batch.to_label:
        sentence += f" Label these {len(batch.to_label)} images: {', '.join(batch.to_label)}."
    return [sentence]


def left_out(batch: BatchReport) -> list[str]:
    """A sentence about near duplicates, or none."""
    if not batch.copies:
        return []
    if batch.copies == 1:
        return ["1 image is a near duplicate of another, and is not judged."]
    return [f"{batch.copies} images are near duplicates of others, and are not judged."]
