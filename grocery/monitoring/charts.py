"""Small charts of a batch beside the reference, as inline SVG and HTML.

They are coloured by the page's CSS variables, so they follow its light or dark theme. In both
charts the reference is grey and the batch is in the accent colour.
"""

from __future__ import annotations

from html import escape

import numpy as np
from numpy.typing import NDArray

from grocery.reference.reference import Reference

BINS = 20
CLASSES_SHOWN = 10

_WIDTH, _HEIGHT = 480, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 28

Shares = NDArray[np.float64]


def confidence_histogram(confidences: NDArray[np.float32], reference: Reference) -> str:
    """Shares of images by confidence: reference filled, batch (n, at least 1) as a line."""
    edges = np.linspace(0, 1, BINS + 1)
    batch = np.histogram(confidences, edges)[0] / len(confidences)
    before = np.histogram(reference.confidences, edges)[0] / len(reference.confidences)
    # A whole number of tens of per cent, so that the axis has a round label.
    top = max(0.1, np.ceil(10 * max(batch.max(), before.max()) - 1e-9) / 10)
    now, was = float(np.median(confidences)), float(np.median(reference.confidences))
    ticks = "".join(
        f'<text x="{_x(value):.1f}" y="{_HEIGHT - 6}" text-anchor="middle">{value:g}</text>'
        for value in (0, 0.25, 0.5, 0.75, 1)
    )
    grid = "".join(
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{share * 100:.0f} %</text>'
        for share, y in ((share, _y(share, top)) for share in (0.0, top / 2, top))
    )
    medians = "".join(
        f'<line class="{kind} median" x1="{_x(value):.1f}" x2="{_x(value):.1f}" '
        f'y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>'
        for kind, value in (("before", was), ("batch", now))
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Histogram of confidence; '
        f'median {now:.2f} in the batch, {was:.2f} in the reference">{grid}{ticks}'
        f'<path class="before" d="{_steps(before, top)}"/>'
        f'<path class="batch" d="{_steps(batch, top)}"/>{medians}</svg>'
    )


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


def _x(confidence: float) -> float:
    return _LEFT + confidence * (_WIDTH - _LEFT - _RIGHT)


def _y(share: float, top: float) -> float:
    return _HEIGHT - _BOTTOM - share / top * (_HEIGHT - _TOP - _BOTTOM)


def _steps(shares: Shares, top: float) -> str:
    """SVG path along the tops of the bins, closed along the axis."""
    path = [f"M{_x(0):.1f} {_y(0, top):.1f}"]
    for index, share in enumerate(shares):
        path.append(f"V{_y(float(share), top):.1f}H{_x((index + 1) / len(shares)):.1f}")
    return "".join(path) + f"V{_y(0, top):.1f}Z"
