"""The monitoring page: verdicts first, then why, then pictures.

One HTML file that needs nothing else: styles, charts and pictures are inside it, there is no
script, and its content policy forbids the browser to fetch anything. Equal judgements give equal
bytes.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from grocery.core.params import MonitorParams
from grocery.monitoring.charts import CLASSES_SHOWN, class_bars, confidence_histogram
from grocery.monitoring.drift import VERDICTS, Judgement, Signal, Verdict
from grocery.pages.style import STYLE
from grocery.reference.reference import Reference

UNCERTAIN, TYPICAL, ANY = "Most uncertain", "Most typical", "Chosen by content hash"

_BADGES = {"alert": "Alert", "watch": "Watch", "too few": "Too few", "ok": "OK"}
_TITLES = {
    "classes": "Predicted classes",
    "images": "Photographs",
    "accuracy": "Accuracy",
    "labels": "Labels",
    "speed": "Speed",
    "unreadable": "Files",
}
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


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
) -> bytes:
    """The page, as UTF-8 bytes: the worst verdicts first, then by name.

    `over_time` is what the history has to say; None without one.
    """
    batches = sorted(batches, key=lambda b: (VERDICTS.index(b.judgement.verdict), b.name))
    accuracy = f", accuracy {reference.accuracy:.3f}" if reference.accuracy is not None else ""
    headline = _headline(batches, over_time)
    verdicts = sections = ""
    for about, sentence in over_time.alerts if over_time else ():
        text = f"<b>{escape(about)}</b><p>{escape(sentence)}</p>"
        verdicts += f"<li>{badge('alert')}<div>{text}</div></li>\n"
    for number, batch in enumerate(batches):
        verdicts += _verdict(number, batch)
        sections += _section(number, batch, reference, params)
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Drift: {headline}</title>\n<style>{STYLE}</style></head>\n<body>\n"
        f"<header><h1>{headline}</h1>\n"
        f'<p class="soft">Model {escape(reference.model_digest[:12])}, compared with '
        f"{reference.images} held-out images{accuracy}.</p></header>\n"
        + (f'<ul class="card verdicts">\n{verdicts}</ul>\n' if batches else "")
        + (over_time.html if over_time else "")
        + sections
        + _explanation(params)
        + "</body></html>\n"
    )
    return page.encode()


def _headline(batches: Sequence[BatchReport], over_time: OverTime | None) -> str:
    total = len(batches)
    new = "new" if over_time else "incoming"
    alerts = sum(batch.judgement.verdict == "alert" for batch in batches)
    sequences = len(over_time.alerts) if over_time else 0
    many = "batches" if total > 1 else "batch"
    if not total:
        return f"No {new} batches"
    if not alerts:
        return "A sequence of batches in alert" if sequences else f"No alert in {total} {many}"
    return f"{alerts} of {total} {many} in alert" + (", and a sequence" if sequences else "")


def badge(verdict: Verdict) -> str:
    """A verdict as a coloured word."""
    return f'<span class="badge {verdict.split()[-1]}">{_BADGES[verdict]}</span>'


def title(name: str) -> str:
    """What the page calls a signal, as HTML."""
    return escape(_TITLES.get(name, name[:1].upper() + name[1:]))


def _verdict(number: int, batch: BatchReport) -> str:
    """One line of the overview."""
    judgement = batch.judgement
    reasons = [signal.sentence for signal in judgement.signals if signal.verdict != "ok"]
    if judgement.verdict == "too few":
        reasons.append("Too few readable images to judge.")
    text = " ".join(reasons) or "No drift beyond what chance explains."
    files = f"{judgement.images} images"
    if judgement.unreadable:
        files += f", {judgement.unreadable} unreadable"
    return (
        f'<li>{badge(judgement.verdict)}<div><a href="#batch-{number}">{escape(batch.name)}</a> '
        f"<small>{files}</small><p>{escape(text)}</p></div></li>\n"
    )


def _section(number: int, batch: BatchReport, reference: Reference, params: MonitorParams) -> str:
    """All about one batch: facts, signals, charts, pictures."""
    judgement = batch.judgement
    signals = "".join(_signal(signal) for signal in judgement.signals)
    few = "".join(f"<p>{sentence}</p>" for sentence in too_few(judgement, params))
    return (
        f'<section class="card" id="batch-{number}">\n'
        f"<h2>{escape(batch.name)} {badge(judgement.verdict)}</h2>\n"
        f"{_facts(judgement, reference)}{few}"
        + (f'<ul class="signals">\n{signals}</ul>\n' if signals else "")
        + (_charts(batch, reference) if len(batch.confidences) else "")
        + _pictures(batch.samples)
        + "</section>\n"
    )


def too_few(judgement: Judgement, params: MonitorParams) -> list[str]:
    """A sentence about a batch that is too small, or none."""
    if judgement.images >= params.min_batch:
        return []
    return [
        f"{judgement.images} readable images are too few to judge predictions by; "
        f"{params.min_batch} are needed."
    ]


def _facts(judgement: Judgement, reference: Reference) -> str:
    facts = [("Images", str(judgement.images)), ("Unreadable files", str(judgement.unreadable))]
    if judgement.estimated_accuracy is not None:
        name, value = "Estimated accuracy", f"{judgement.estimated_accuracy:.3f}"
        if interval := judgement.estimate_interval:
            name += ", 90 % interval"
            value += f" <small>{interval[0]:.3f} to {interval[1]:.3f}</small>"
        facts.append((name, value))
    if judgement.accuracy is not None:
        name = f"Accuracy on {judgement.labelled} labelled"
        facts.append((name, f"{judgement.accuracy:.3f}"))
    if reference.accuracy is not None:
        facts.append(("Accuracy held-out", f"{reference.accuracy:.3f}"))
    items = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    return f'<dl class="facts">{items}</dl>\n'


def _signal(signal: Signal) -> str:
    chance = f"{signal.p_value:.3f}" if signal.p_value >= 0.001 else "below 0.001"
    return (
        f"<li>{badge(signal.verdict)}<div><b>{title(signal.name)}</b>"
        f"<p>{escape(signal.sentence)}</p></div>"
        f"<small>size {signal.effect:.2f}, counts from {signal.threshold:.2f}<br>"
        f"p {chance}</small></li>\n"
    )


def _charts(batch: BatchReport, reference: Reference) -> str:
    classes = len(reference.classes)
    shown = f"{CLASSES_SHOWN} of {classes} classes, " if classes > CLASSES_SHOWN else ""
    key = (
        '<p class="key soft"><span><i class="batch"></i>this batch</span>'
        '<span><i class="before"></i>{before}</span></p>'
    )
    return (
        '<div class="charts">\n<div><h3>Confidence, share of images</h3>'
        + key.format(before="reference; dashed: medians")
        + confidence_histogram(batch.confidences, reference)
        + "</div>\n<div><h3>Predicted classes, images</h3>"
        + key.format(before=f"expected; {shown}largest difference first")
        + class_bars(batch.predicted_counts, reference)
        + "</div></div>\n"
    )


def _pictures(samples: Sequence[Sample]) -> str:
    groups = ""
    for reason in (UNCERTAIN, TYPICAL, ANY):
        figures = "".join(_figure(sample) for sample in samples if sample.reason == reason)
        groups += f"<div><h3>{reason}</h3><div>\n{figures}</div></div>\n" if figures else ""
    return f'<div class="pictures">\n{groups}</div>\n' if groups else ""


def _figure(sample: Sample) -> str:
    predicted, path = escape(sample.predicted), escape(sample.path)
    label = ""
    if sample.label is not None:
        right = sample.label == sample.predicted
        label = f"<small>{'right' if right else f'labelled {escape(sample.label)}'}</small>"
    return (
        f'<figure title="{path}"><img alt="predicted {predicted}" '
        f'src="data:image/jpeg;base64,{b64encode(sample.jpeg).decode()}">'
        f"<figcaption><b>{predicted}</b> {sample.confidence:.2f}{label}</figcaption></figure>\n"
    )


def _explanation(params: MonitorParams) -> str:
    return (
        '<details class="card"><summary>How verdicts are made</summary>\n'
        "<p>Each signal has a size and a p-value, the chance of such a size without drift. It is "
        f"an alert when chance is an unlikely explanation (significance {params.significance:g} "
        "for the whole batch, Holm's correction for the number of signals) and the size counts. "
        "It is to be watched when p alone is that small. A batch is as bad as its worst "
        "signal.</p>\n"
        "<p>Confidence is compared by the Kolmogorov-Smirnov distance, predicted classes by the "
        "Jensen-Shannon distance beyond what sampling alone gives (permutation test), features by "
        "a kernel and a neighbour test (permutation tests), photographs by the Kolmogorov-Smirnov "
        "distance of the image statistic that differs most, labelled images by Fisher's exact "
        "test, unreadable files by an exact binomial test.</p>\n"
        "<p>Estimated accuracy is that of the held-out images plus the change of the mean "
        "confidence. The wider its interval, the more the batch has drifted; of products that the "
        "model has never seen it knows nothing.</p></details>\n"
    )
