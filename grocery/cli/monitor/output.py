"""What the command prints of batches: a table and sentences for people, JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grocery.core.errors import printable

if TYPE_CHECKING:
    from grocery.core.params import MonitorParams
    from grocery.monitoring.report import BatchReport
    from grocery.monitoring.speed import Timing


def document(origin: Path, report: BatchReport, timing: Timing) -> dict[str, Any]:
    """A batch as one JSON object."""
    from grocery.monitoring.batches import as_json, numbers

    head = {"batch": report.name, "incoming": str(origin)}
    speed = {"images_per_second": timing.images_per_second, "latency_ms": timing.latency_ms}
    return head | numbers(report) | speed | {"signals": as_json(report.judgement.signals)}


def table(reports: Sequence[BatchReport]) -> list[str]:
    """Aligned lines; the realised accuracy is a column only where there are labels."""
    rows = [["verdict", "images", "unreadable", "estimated accuracy", "accuracy", "batch"]]
    for report in reports:
        judgement = report.judgement
        counts = [str(judgement.images), str(judgement.unreadable)]
        accuracies = [_estimate(report), _share(judgement.accuracy)]
        rows.append([judgement.verdict, *counts, *accuracies, printable(report.name)])
    if all(report.judgement.accuracy is None for report in reports):
        rows = [[*row[:4], row[5]] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    return ["  ".join(_aligned(row, widths)) for row in rows]


def findings(report: BatchReport, params: MonitorParams) -> list[str]:
    """A line for each signal that is not ok, and one for a batch that is too small."""
    from grocery.monitoring.report import too_few

    judgement = report.judgement
    sentences = [signal.sentence for signal in judgement.signals if signal.verdict != "ok"]
    sentences += too_few(judgement, params)
    return [printable(f"{report.name}: {sentence}") for sentence in sentences]


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """The verdict to the left, numbers to the right; the name is as long as it is."""
    verdict, *figures, name = row
    right = [cell.rjust(width) for cell, width in zip(figures, widths[1:], strict=True)]
    return [verdict.ljust(widths[0]), *right, name]


def _estimate(report: BatchReport) -> str:
    """The estimated accuracy, with its interval where it has one."""
    estimate = _share(report.judgement.estimated_accuracy)
    interval = report.judgement.estimate_interval
    return f"{estimate} [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else estimate


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
