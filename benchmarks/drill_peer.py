"""The drill's batches through Evidently's drift tests, side by side with the monitor's.

    python -m venv peer && peer/bin/pip install evidently 'pandas<3' safetensors pillow ruamel.yaml
    PYTHONPATH=. peer/bin/python benchmarks/drill_peer.py --batches 40

Evidently is no dependency of this project, so it is installed beside it. It gets what a table of
predictions holds: confidence, predicted class, and the image statistics. By its default settings a
column has drifted when p is below 0.05 (Kolmogorov-Smirnov, or chi-squared for classes), and a
dataset when half of its columns have. Both rules of it are shown: any column, and half of them.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from grocery.cli.monitor.judging import read_thresholds
from grocery.core.errors import one_sentence
from grocery.core.intervals import clopper_pearson
from grocery.drill.drawing import CLEAN, Condition, Drawn, Stage
from grocery.drill.drill import left_out_classes, outcome
from grocery.drill.held_out import heads_without, held_out
from grocery.drill.shifts import SHIFTS
from grocery.parallel import progress
from grocery.reference.image_statistics import NAMES
from grocery.release.model import Model


def main() -> None:
    """Draw the batches, ask both, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--release", type=Path, default=Path("models/release"))
    parser.add_argument("--shards", type=Path, default=Path("data/prepared/shards"))
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--size", type=int, default=100)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    arguments = parser.parse_args()
    with one_sentence("drill_peer"):
        run(arguments)


def run(arguments: argparse.Namespace) -> None:
    """Compare on clean batches, and on each shift at its mildest and at its middle strength."""
    params = read_thresholds(arguments.params)
    model = Model.load(arguments.release)
    images = held_out(model, arguments.shards, images=arguments.images)
    without = heads_without(model, arguments.shards, left_out_classes(images))
    stage = Stage(images, {"": model.head} | without, model.classes)
    wanted = [Condition(CLEAN, 0.0, arguments.size)]
    for name, (_, _, strengths) in SHIFTS.items():
        wanted += [Condition(name, strength, arguments.size) for strength in strengths[:2]]
    for name, strength in (("class imbalance", 16.0), ("unknown product", 0.1)):
        wanted.append(Condition(name, strength, arguments.size))
    print("| shift | strength | accuracy lost | monitor | Evidently, any column | ..., half |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for condition in progress(wanted, title="conditions", total=len(wanted)):
        batches = [stage.draw(condition, number) for number in range(arguments.batches)]
        drawn = [batch for batch in batches if batch is not None]
        if not drawn:
            continue
        ours = [outcome(batch, params) for batch in drawn]
        peers = [evidently_says(batch) for batch in drawn]
        cells = [condition.shift, f"{condition.strength:g}"]
        cells.append(f"{100 * np.mean([o.loss for o in ours]):.1f}")
        cells.append(rate([o.verdict == "alert" for o in ours]))
        cells += [rate([share > 0 for share in peers]), rate([share >= 0.5 for share in peers])]
        print("| " + " | ".join(cells) + " |", flush=True)


def rate(found: list[bool]) -> str:
    """A share with its exact interval, in per cent."""
    low, high = clopper_pearson(sum(found), len(found))
    return f"{100 * np.mean(found):.0f} % ({100 * low:.0f} to {100 * high:.0f})"


def evidently_says(drawn: Drawn) -> float:
    """Share of a batch's columns that have drifted, according to Evidently's default tests."""
    from evidently import DataDefinition, Dataset, Report  # type: ignore[import-not-found]
    from evidently.presets import DataDriftPreset  # type: ignore[import-not-found]

    definition = DataDefinition(
        numerical_columns=["confidence", *NAMES], categorical_columns=["predicted"]
    )
    reference = drawn.reference
    before = frame(
        reference.confidences,
        np.repeat(np.arange(len(reference.classes)), reference.predicted_counts),
        reference.image_statistics,
    )
    now = frame(
        drawn.probabilities.max(axis=1), drawn.probabilities.argmax(axis=1), drawn.image_statistics
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = Report([DataDriftPreset()]).run(
            Dataset.from_pandas(now, definition), Dataset.from_pandas(before, definition)
        )
    counts = [m for m in result.dict()["metrics"] if m["metric_name"].startswith("DriftedColumns")]
    return float(counts[0]["value"]["share"])


def frame(confidences: Any, predicted: Any, statistics: Any) -> Any:
    """A table of predictions; columns are compared one by one, so their rows need not agree."""
    import pandas as pd

    columns = {"confidence": pd.Series(confidences), "predicted": pd.Series(predicted.astype(str))}
    columns |= {name: pd.Series(statistics[:, index]) for index, name in enumerate(NAMES)}
    return pd.DataFrame(columns)


if __name__ == "__main__":
    main()
