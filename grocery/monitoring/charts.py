"""Charts of a batch beside the images that it is compared with: these grey, the batch in colour."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from grocery.pages.charts import Axis, Bars, Chart
from grocery.reference.reference import Reference

BINS = 20
CLASSES_SHOWN = 10


def confidence_histogram(confidences: NDArray[np.float32], reference: Reference) -> Chart:
    """Shares of images by confidence, of the batch (n, at least 1) and of the reference."""
    edges = np.linspace(0, 1, BINS + 1)
    both = {"before": reference.confidences, "batch": confidences}
    shares = {kind: np.histogram(of, edges)[0] / len(of) for kind, of in both.items()}
    top = max(0.1, *(float(share.max()) for share in shares.values()))
    now, was = float(np.median(confidences)), float(np.median(reference.confidences))
    chart = Chart(
        "How sure the model is",
        Axis.numbers("confidence, from 0 (unsure) to 1 (sure)", [0.0, 1.0]),
        Axis.numbers("share of the images", [0.0, top], text=lambda v: f"{100 * v:.0f} %"),
        [
            ("batch", f"this batch: half above {now:.2f}"),
            ("before", f"test images: half above {was:.2f} (dashed)"),
        ],
    )
    for kind, share in shares.items():
        chart.steps(kind, edges.tolist(), share.tolist())
    for kind, value in (("before", was), ("batch", now)):
        chart.line(f"median {kind}", (value, chart.y.low), (value, chart.y.high))
    return chart


def class_bars(counts: NDArray[np.int64], reference: Reference) -> Bars:
    """Predicted classes of a batch, counts (c,), beside what was expected of so many images.

    Classes are shown by the size of the difference, at most `CLASSES_SHOWN` of them.
    """
    expected = reference.predicted_counts * (counts.sum() / reference.images)
    order = np.argsort(-np.abs(counts - expected), kind="stable")[:CLASSES_SHOWN]
    longest = max(1.0, float(counts[order].max()), float(expected[order].max()))
    classes = len(reference.classes)
    shown = f", {CLASSES_SHOWN} of {classes} classes" if classes > CLASSES_SHOWN else ""
    return Bars(
        "Which classes it predicts",
        "images / expected",
        [("batch", "this batch"), ("before", f"expected; largest difference first{shown}")],
        [
            (
                reference.classes[i],
                [("batch", counts[i] / longest), ("before", expected[i] / longest)],
                f"{counts[i]} / {expected[i]:.1f}",
            )
            for i in order
        ],
    )
