"""What the command prints of batches: a table and sentences for people, JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from grocery.cli.terminal import print_json
from grocery.core.errors import printable
from grocery.core.files import rounded
from grocery.core.params import MonitorParams
from grocery.inbox.judging import Judged
from grocery.monitoring.batches import as_json, numbers
from grocery.monitoring.report import cannot_be_said, left_out, too_few

# What the history keeps for itself.
_FOR_SEQUENCES = {"grocery_history", "confidence_counts", "class_counts"}


def show(batches: Sequence[Judged], params: MonitorParams, *, in_json: bool) -> None:
    """Print batches: one JSON object a line, or a table and sentences."""
    if in_json:
        for batch in batches:
            print_json(rounded(_document(batch)))
    elif batches:
        print("\n".join(_table(batches)))
        if lines := [line for batch in batches for line in _findings(batch, params)]:
            print("", *map(printable, lines), sep="\n")


def _document(batch: Judged) -> dict[str, Any]:
    """A batch as one JSON object, with what the history keeps of it."""
    kept: dict[str, Any] = {}
    if batch.entry is not None:
        kept = batch.entry.model_dump(mode="json", by_alias=True, exclude=_FOR_SEQUENCES)
    report, timing = batch.report, batch.timing
    kept |= {"batch": report.name, "incoming": batch.incoming} | numbers(report)
    kept |= {"images_per_second": timing.images_per_second, "latency_ms": timing.latency_ms}
    return kept | {"signals": as_json(report.judgement.signals)}


def _table(batches: Sequence[Judged]) -> list[str]:
    """Aligned lines; the realised accuracy is a column only where there are labels."""
    rows = [["verdict", "images", "unreadable", "estimated accuracy", "accuracy", "batch"]]
    judgements = [batch.report.judgement for batch in batches]
    for batch, judgement in zip(batches, judgements, strict=True):
        estimate = _share(judgement.estimated_accuracy)
        if interval := judgement.estimate_interval:
            estimate += f" [{interval[0]:.3f}, {interval[1]:.3f}]"
        counts = [str(judgement.images), str(judgement.unreadable)]
        figures = [*counts, estimate, _share(judgement.accuracy)]
        rows.append([judgement.verdict, *figures, printable(batch.report.name)])
    if all(judgement.accuracy is None for judgement in judgements):
        rows = [[*row[:4], row[5]] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(_aligned(row, widths)) for row in rows]


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """The verdict to the left, numbers to the right; the name is as long as it is."""
    verdict, *figures, name = row
    right = [cell.rjust(width) for cell, width in zip(figures, widths[1:-1], strict=True)]
    return [verdict.ljust(widths[0]), *right, name]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _findings(batch: Judged, params: MonitorParams) -> list[str]:
    """Sentences about what is not ok in a batch, and about the sequence that it ends."""
    entry, judgement = batch.entry, batch.report.judgement
    if entry is not None and entry.kind == "labels":
        said = f"labels for {entry.labelled} of its images, which were judged before."
        odd = [found.sentence for found in entry.by_labels if found.verdict != "ok"]
        return [f"{entry.batch}: {sentence}" for sentence in (said, *odd)]
    odd = [signal.sentence for signal in judgement.signals if signal.verdict != "ok"]
    odd += too_few(judgement, params) or cannot_be_said(batch.report)
    odd += left_out(batch.report)
    lines = [f"{batch.report.name}: {sentence}" for sentence in odd]
    if entry is not None and entry.sequence is not None:
        names, verdict = entry.sequence.batches, entry.sequence.verdict
        counts = "is an alert" if verdict == "alert" else "is to be watched"
        lines.append(f"a sequence of {len(names)} batches {counts}: {names[0]} to {names[-1]}")
        lines += [signal.sentence for signal in entry.sequence.signals]
    return lines
