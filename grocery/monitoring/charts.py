"""Small charts of a batch beside the reference, as inline SVG and HTML.

They are coloured by the page's CSS variables, so they follow its light or dark theme. In both
charts the reference is grey and the batch is in the accent colour.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from grocery.reference.reference import Reference

BINS = 20
CLASSES_SHOWN = 10

WIDTH, RIGHT = 480, 12


@dataclass(frozen=True)
class Frame:
    """The place of a chart's marks: its height and margins, and the values that they span."""

    height: int
    left: int
    above: int
    below: int
    low: float
    high: float

    def x(self, share: float) -> float:
        """Where a share of the width ends, 0 to 1."""
        return self.left + share * (WIDTH - self.left - RIGHT)

    def y(self, value: float) -> float:
        """Where a value lies."""
        share = (value - self.low) / (self.high - self.low)
        return self.height - self.below - share * (self.height - self.above - self.below)

    def line(self, kind: str, value: float) -> str:
        """A line across the chart at a value."""
        y = self.y(value)
        x = f'x1="{self.left}" x2="{WIDTH - RIGHT}"'
        return f'<line class="{kind}" {x} y1="{y:.1f}" y2="{y:.1f}"/>'

    def svg(self, about: str, label: Callable[[float], str], marks: str) -> str:
        """The chart: three lines of a grid with their labels, and the marks."""
        grid = "".join(
            self.line("grid", value)
            + f'<text x="{self.left - 6}" y="{self.y(value) + 4:.1f}" text-anchor="end">'
            f"{label(value)}</text>"
            for value in (self.low, (self.low + self.high) / 2, self.high)
        )
        view = f'viewBox="0 0 {WIDTH} {self.height}"'
        return f'<svg {view} role="img" aria-label="{about}">{grid}{marks}</svg>'


def confidence_histogram(confidences: NDArray[np.float32], reference: Reference) -> str:
    """Shares of images by confidence: reference filled, batch (n, at least 1) as a line."""
    edges = np.linspace(0, 1, BINS + 1)
    batch = np.histogram(confidences, edges)[0] / len(confidences)
    before = np.histogram(reference.confidences, edges)[0] / len(reference.confidences)
    # A whole number of tens of per cent, so that the axis has a round label.
    top = max(0.1, np.ceil(10 * max(batch.max(), before.max()) - 1e-9) / 10)
    now, was = float(np.median(confidences)), float(np.median(reference.confidences))
    frame = Frame(height=210, left=52, above=12, below=28, low=0.0, high=top)
    marks = ""
    for value in (0, 0.25, 0.5, 0.75, 1):
        place = f'x="{frame.x(value):.1f}" y="{frame.height - 6}"'
        marks += f'<text {place} text-anchor="middle">{value:g}</text>'
    for kind, shares in (("before", before), ("batch", batch)):
        # Along the tops of the bins, closed along the axis.
        ends = zip(shares, edges[1:], strict=True)
        steps = "".join(f"V{frame.y(share):.1f}H{frame.x(end):.1f}" for share, end in ends)
        path = f"M{frame.x(0):.1f} {frame.y(0):.1f}{steps}V{frame.y(0):.1f}Z"
        marks += f'<path class="{kind}" d="{path}"/>'
    for kind, value in (("before", was), ("batch", now)):
        x = f'x1="{frame.x(value):.1f}" x2="{frame.x(value):.1f}"'
        y = f'y1="{frame.above}" y2="{frame.height - frame.below}"'
        marks += f'<line class="{kind} median" {x} {y}/>'
    about = f"Histogram of confidence; median {now:.2f} in the batch, {was:.2f} in the reference"
    return frame.svg(about, lambda share: f"{share * 100:.0f} %", marks)


def class_bars(counts: NDArray[np.int64], reference: Reference) -> str:
    """Predicted classes of a batch, counts (c,), beside what was expected of so many images.

    Classes are shown by the size of the difference, at most `CLASSES_SHOWN` of them.
    """
    expected = reference.predicted_counts * (counts.sum() / reference.images)
    order = np.argsort(-np.abs(counts - expected), kind="stable")[:CLASSES_SHOWN]
    longest = max(1.0, float(counts[order].max()), float(expected[order].max()))
    rows = "".join(
        f'<li><span class="name">{escape(reference.classes[index])}</span>'
        f'<span class="track"><i class="batch" style="width:{100 * counts[index] / longest:.1f}%">'
        f'</i><i class="before" style="width:{100 * expected[index] / longest:.1f}%"></i></span>'
        f"<span><b>{counts[index]}</b> <small>/ {expected[index]:.1f}</small></span></li>"
        for index in order
    )
    return f'<ul class="bars">{rows}</ul>'
