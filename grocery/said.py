"""What a person at the terminal is told: a line after each stage, and what all of them found."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from grocery.core.errors import DataError, printable
from grocery.settings import load

MEASURED, VERDICT = Path("metrics/evaluate.json"), Path("models/release/verdict.json")
PAGES = {
    "data/card/index.html": "the dataset, and labels to check",
    "models/release/README.md": "the model's card",
    "metrics/monitor/index.html": "the monitor, on incoming batches or drills",
}
ALL_LABELS = "dvc exp run --name all-labels $(cat params/full-labels)"
NEXT = {
    "source .venv/bin/activate": "the commands below are there",
    "dvc plots show --open": "confusions, calibration, training (needs the internet)",
    ALL_LABELS: "the same with all labels",
    "dvc exp diff": "what an experiment changed",
    "grocery data samples shelf/ && grocery predict shelf/": "the model on some test images",
}


def line(stage: str, paths: Any, found: Mapping[str, Any]) -> str:
    """What a stage has found, in one line; its own paths, and what its `run` gave, tell it."""
    return printable(f"{stage}: {_LINES[stage](paths, found)}")


def summary(root: Path = Path()) -> str:
    """What the pipeline has found and what to do now, in lines.

    Raises
    ------
    DataError
        When the pipeline has not been built.
    """
    accuracy, verdict, advice = found(root)
    lines = [accuracy, verdict]
    if advice:
        lines += ["", "To do:", *(f"  {sentence}" for sentence in advice)]
    lines += _listed("Look at:", {os.path.relpath(root / page): why for page, why in PAGES.items()})
    following = dict(NEXT)
    if load(root / "params.yaml").train.labeled_ratio == 1:
        del following[ALL_LABELS]
    lines += _listed("Next:", following)
    return "\n".join(map(printable, lines))


def found(root: Path) -> tuple[str, str, list[str]]:
    """How good the model is, whether it is accepted, and what to do about poor numbers.

    Raises
    ------
    DataError
        When the pipeline has not been built.
    """
    try:
        measured, verdict = _read(root / MEASURED), _read(root / VERDICT)
    except FileNotFoundError as error:
        raise DataError(f"{error.filename} is not there yet; run: dvc repro") from None
    accuracy, judged = (
        f"{said[0].upper()}{said[1:]}." for said in (_accuracy(measured), _verdict(verdict))
    )
    return accuracy, judged, verdict["advice"]


def _read(file: Path) -> Any:
    return json.loads(file.read_bytes())


def _listed(title: str, items: Mapping[str, str]) -> list[str]:
    width = max(map(len, items))
    return ["", title, *(f"  {what:{width}}  {why}" for what, why in items.items())]


def _prepare(paths: Any, found: Mapping[str, Any]) -> str:
    said = (
        f"{found['images']:,} images of {found['classes']} classes ({found['train']:,} to train, "
        f"{found['val']:,} to validate, {found['test']:,} to test)"
    )
    report = _read(paths.report)
    others = [*report["quarantined"], *report["left_out"]]
    left_out = {
        "exact copies": found["duplicates"],
        "near duplicates across splits": found["leaked"],
        **Counter(entry["reason"].partition(":")[0] for entry in others),
    }
    if found["noted"]:
        said += f", {found['noted']:,} of them read though something in the file is damaged"
    reasons = "; ".join(f"{reason}: {count:,}" for reason, count in left_out.items() if count)
    return f"{said}; left out: {reasons} ({paths.report})" if reasons else said


def _version(paths: Any, found: Mapping[str, Any]) -> str:
    suspects = found["suspected_labels"]
    labels = "label" if suspects == 1 else "labels"
    doubts = f"{suspects} {labels} to check" if suspects else "no label looks wrong"
    return f"dataset {found['digest'][:12]}, {doubts} ({paths.card}/index.html)"


def _featurize(paths: Any, found: Mapping[str, Any]) -> str:
    params, given = _read(paths.encoder / "model.json")["featurize"], found["dimensions"]
    names = [params["encoder"]] if isinstance(params["encoder"], str) else params["encoder"]
    times = {"onnx": len([*paths.encoder.glob("backbone*.onnx")])}
    asked = sum(params[name]["dimensions"] * times.get(name, 1) for name in names)
    fewer = (
        f"; `dimensions` of featurize allows {asked:,}, but there are at most half as many as "
        "images that the encoder was fitted on"
    )
    return f"{given:,} numbers per image{fewer if given < asked else ''}"


def _train(found: Mapping[str, Any]) -> str:
    said = f"{found['labeled']:,} labelled and {found['unlabeled']:,} unlabelled images"
    if "val_accuracy" in found:
        said += (
            f"; right on {found['val_accuracy']:.3f} of validation, "
            f"{found['baseline_val_accuracy']:.3f} with the labelled ones alone"
        )
    return said


def _accuracy(measured: Mapping[str, Any]) -> str:
    low, high = measured["accuracy_interval"]
    gain = measured["gain"]
    compared = f"{abs(gain):.3f} {'more' if gain > 0 else 'less'} than" if gain else "as"
    return (
        f"test accuracy {measured['accuracy']:.3f} on {measured['images']:,} images (95 % interval "
        f"{low:.3f} to {high:.3f}), {compared} with the labelled images alone"
    )


def _verdict(verdict: Mapping[str, Any]) -> str:
    failed = [check for check in verdict["checks"] if not check["passed"]]
    if not failed:
        return f"the release is accepted: it passed all {len(verdict['checks'])} checks"
    why = ", ".join(
        f"{check['name']} {check['value']:.3f} ({check['side']} {check['limit']:g} is asked)"
        for check in failed
    )
    return f"the release is REJECTED: {why}"


def _monitor(paths: Any, found: Mapping[str, Any]) -> str:
    batches = found["batches"]
    said = ", ".join(f"{name} {each['verdict']}" for name, each in batches.items())
    if batches and all("drill" in each for each in batches.values()):
        said = f"of {len(batches)} drills, made to show that it works: {said}"
    return f"{said or 'no incoming batch'} ({paths.monitor}/index.html)"


_LINES: dict[str, Callable[[Any, Mapping[str, Any]], str]] = {
    "source": lambda paths, found: f"data/raw/{found['source']} is here",
    "prepare": _prepare,
    "version": _version,
    "featurize": _featurize,
    "train": lambda paths, found: _train(found),
    "evaluate": lambda paths, found: _accuracy(found),
    "register": lambda paths, found: _verdict(_read(paths.release / "verdict.json")),
    "monitor": _monitor,
}
