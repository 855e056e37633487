"""What to do about poor numbers, from what the pipeline knows; the gravest first."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from math import ceil, log
from pathlib import Path
from typing import Any

from grocery.core.documents import Section, read_document
from grocery.core.errors import ModelError
from grocery.core.params import MonitorParams
from grocery.release.verdict import CALIBRATION

# What calls for advice.
WIDE = 0.2  # an interval of the test accuracy
FEW_VALIDATION = 30  # images that choose the scaling and calibrate
FEW_LABELS, POOR_RECALL = 5, 0.6  # of a class
CONFUSED, CONFUSED_IMAGES = 0.1, 3  # share and number of a class's images taken for one other class
_MOST_NAMED = 5


def advice(
    trained: Mapping[str, Any],
    measured: Mapping[str, Any],
    dataset: Mapping[str, Any],
    evaluation: Path,
    checks: Sequence[Mapping[str, Any]],
) -> list[str]:
    """Say what to do next, in sentences.

    Parameters
    ----------
    trained, measured
        Contents of ``metrics/train.json`` and ``metrics/evaluate.json``.
    dataset
        The dataset card.
    evaluation
        The folder with ``per_class.csv`` and ``confusion.csv``.
    checks
        Those of the verdict, see `grocery.release.verdict.decide`.
    """
    classes, pairs = (_rows(evaluation / name) for name in ("per_class.csv", "confusion.csv"))
    left = dataset["splits"]["train"]["labeled"] - trained["labeled"]
    return [
        *_of_the_whole(trained, measured, classes=len(classes)),
        *_of_classes(classes, trained["labels_per_class"], kept_back=left > 0),
        *_of_confusions(pairs, classes),
        *_of_labels(dataset),
        *_of_checks(checks, trained["validation"]),
    ]


def on_monitoring(release: Path, images: int, params: MonitorParams) -> list[str]:
    """Say what to do next about a release and the `images` that batches are compared with.

    By chance alone the shares among n images are off by d or more with a chance of at most
    2 exp(-2 n d^2) (Massart 1990), which fewer images do not keep below the significance.
    """
    file = release / "verdict.json"
    said = read_document(file, _Verdict, ModelError).advice if file.is_file() else []
    shift = params.min_confidence_shift
    if shift and images < (needed := ceil(log(2 / params.significance) / (2 * shift**2))):
        said.append(
            f"Batches are compared with {images} test images. With fewer than {needed}, a shift of "
            f"the confidences by {shift:g} may be chance, and only a larger one is seen. "
            + _add("test")
        )
    return said


class _Verdict(Section, extra="ignore"):
    advice: list[str]


def _of_the_whole(
    trained: Mapping[str, Any], measured: Mapping[str, Any], *, classes: int
) -> Iterator[str]:
    low, high = measured["accuracy_interval"]
    wide, few = high - low > WIDE, trained["validation"] < FEW_VALIDATION
    if wide:
        yield (
            f"Too few test images to judge: {measured['accuracy']:.3f} of {measured['images']} "
            f"images may be anything from {low:.2f} to {high:.2f}. {_add('test', alone=not few)}"
        )
    if few:
        yield (
            f"Only {trained['validation']} validation images scale the features and the "
            f"confidences. {_add('val', alone=not wide)}"
        )
    if not trained["converged"]:
        yield (
            f"Training stopped after {trained['iterations']} iterations, before it had converged. "
            "Raise train.max_iter."
        )
    if wide:  # what is said below would be said of chance
        return
    if low <= 1 / classes:
        yield (
            f"This may be no better than guessing one of {classes} classes. Look at "
            "data/card/index.html: are the labels right, and do the images show the products?"
        )
    if measured["gain"] < 0 and not trained["unlabeled"]:
        yield (
            f"With no unlabelled image the algorithm costs {-measured['gain']:.3f} of accuracy. "
            "Set train.algorithm to supervised."
        )
    elif measured["gain"] < 0:
        yield (
            f"The unlabelled images cost {-measured['gain']:.3f} of accuracy. Try another "
            "train.algorithm, or supervised, which leaves them out."
        )


def _add(split: str, *, alone: bool = True) -> str:
    """What to do about a small split; larger shares of both would leave few to train on."""
    share = f", or raise prepare.{split}_ratio where the dataset has no splits of its own"
    return f"Add labelled images{share if alone else ''}."


def _of_classes(
    classes: list[dict[str, str]], labels: Mapping[str, int], *, kept_back: bool
) -> Iterator[str]:
    poor = [
        (labels.get(row["name"], 0), row["name"])
        for row in classes
        if int(row["images"]) and float(row["recall"]) < POOR_RECALL
    ]
    if few := sorted(pair for pair in poor if pair[0] < FEW_LABELS):
        names = _listed([f"{name} ({count})" for count, name in few])
        more = ", or keep more of the labels that there are (train.labeled_ratio)"
        yield (
            f"Few labels, and often not recognised: {names}. "
            f"Label more of these{more if kept_back else ''}."
        )


def _of_confusions(rows: list[dict[str, str]], classes: list[dict[str, str]]) -> Iterator[str]:
    images = {row["name"]: int(row["images"]) for row in classes}
    pairs = Counter((row["actual"], row["predicted"]) for row in rows)
    confused = [
        (count, actual, predicted)
        for (actual, predicted), count in pairs.items()
        if actual != predicted and count >= CONFUSED_IMAGES and count >= CONFUSED * images[actual]
    ]
    confused.sort(key=lambda each: (-each[0], *each[1:]))
    if confused:
        said = [f"{a} for {b} ({n} of its {images[a]} images)" for n, a, b in confused]
        yield f"Taken for another: {_listed(said)}. Label more of both, or merge them."


def _of_labels(dataset: Mapping[str, Any]) -> Iterator[str]:
    if suspects := len(dataset["suspected_labels"]):
        looks = "label looks" if suspects == 1 else "labels look"
        yield f"{suspects} {looks} wrong: see data/card/index.html."


def _of_checks(checks: Sequence[Mapping[str, Any]], validation: int) -> Iterator[str]:
    failed = {check["name"] for check in checks if not check["passed"]}
    if CALIBRATION in failed and validation >= FEW_VALIDATION:  # fewer are spoken of above
        yield (
            f"The confidences are far off. They are calibrated on the {validation} validation "
            f"images. {_add('val')}"
        )
    if failed:
        yield "What a release must reach is set by the section register of params.yaml."


def _listed(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))
