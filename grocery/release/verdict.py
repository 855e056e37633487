"""Is a candidate good enough to release? Every check, its value and its limit."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from grocery.core.params import RegisterParams

CALIBRATION = "expected calibration error"


def decide(
    limits: RegisterParams, measured: dict[str, Any], dataset: dict[str, Any], per_class: Path
) -> dict[str, Any]:
    """Compare a candidate's test metrics and data with the limits in params.yaml.

    Parameters
    ----------
    limits
        The ``register`` section.
    measured
        Contents of ``metrics/evaluate.json``.
    dataset
        Contents of the dataset card.
    per_class
        CSV with ``name``, ``recall`` and ``images`` per class; some class has images. Where none
        has as many as the limit on recall asks for, it holds for all of them.

    Returns
    -------
    ``accepted``, and ``checks``: for each its name, value, limit, which side of the limit is
    allowed, and whether it passed.
    """
    leaks = dataset["near_duplicates"]["across_splits"]
    checks = [
        _check("test accuracy", measured["accuracy"], "at least", limits.min_accuracy),
        _check("test macro F1", measured["macro_f1"], "at least", limits.min_macro_f1),
        _check(CALIBRATION, measured["calibration_error"], "at most", limits.max_calibration_error),
        _check("near duplicates across splits", leaks, "at most", 0),
    ]
    with per_class.open(encoding="utf-8", newline="") as stream:
        tested = [row for row in csv.DictReader(stream) if int(row["images"])]
    # Few images say little of a class, but nothing must not pass for good.
    many = [row for row in tested if int(row["images"]) >= limits.min_class_images] or tested
    worst = min(many, key=lambda row: (float(row["recall"]), row["name"]))
    name = f"recall of the worst class ({worst['name']})"
    checks.append(_check(name, float(worst["recall"]), "at least", limits.min_class_recall))
    return {"accepted": all(check["passed"] for check in checks), "checks": checks}


def _check(name: str, value: float, side: str, limit: float) -> dict[str, Any]:
    passed = value >= limit if side == "at least" else value <= limit
    return {"name": name, "value": value, "side": side, "limit": limit, "passed": passed}
