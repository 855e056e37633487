"""The drill's batches through Evidently and NannyML, side by side with the monitor.

    python -m venv peers && peers/bin/pip install evidently nannyml 'pandas<3' pyarrow jinja2 \\
        safetensors pillow scipy scikit-learn pydantic ruamel.yaml joblib tqdm threadpoolctl \\
        onnxruntime
    PYTHONPATH=. peers/bin/python benchmarks/drill_peers.py --batches 20

Neither is a dependency of this project. Evidently gets what a table of predictions holds:
confidence, predicted class, and the image statistics. Its default preset says that a dataset has
drifted when half of its columns have. NannyML gets the confidences, and whether each prediction of
the reference is right: its CBPE estimates the accuracy of a batch, and is in alert where that lies
more than three standard deviations from the reference's, by chunks of a batch's size. It cannot be
fitted where a reference holds fewer than two mistakes; then it is not in alert.
(alibi-detect 0.13 needs numpy below 2, in which this project does not run.)
"""

# ruff: noqa: E402

from __future__ import annotations

from grocery.core.pin import pin

pin()  # before anything loads numpy: the pipeline's own numbers

import argparse
import os
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from drill import Drawn, conditions, cost, judged, opened, options
from drill_shifts import SHIFTS

from grocery.core.errors import DataError, one_sentence
from grocery.reference.image_statistics import NAMES


def main() -> None:
    """Draw the batches, ask all, print the table."""
    with one_sentence("drill_peers"):
        run(options(__doc__, batches=20).parse_args())


def run(arguments: argparse.Namespace) -> None:
    """Shares of batches in alert by what the shift costs, and seconds a batch."""
    stage, params = opened(arguments)
    asked: dict[str, Callable[[Drawn], bool]] = {
        "monitor": lambda drawn: judged(drawn, params).verdict == "alert",
        "Evidently": evidently_says,
        "NannyML": nannyml_says,
    }
    found: dict[str, dict[str, list[bool]]] = {}
    seconds = dict.fromkeys(asked, 0.0)
    for shift, strength, size in conditions((arguments.size,), arguments.size):
        if shift != "clean" and shift not in SHIFTS:
            continue
        batches = [stage.draw(shift, strength, size, n) for n in range(arguments.batches)]
        drawn = [batch for batch in batches if batch is not None]
        if not drawn:
            raise DataError(f"{arguments.shards} holds too few test images for batches of {size}")
        lost = cost([batch.loss for batch in drawn])
        kind = "clean" if shift == "clean" else f"shifts that cost {lost}"
        for name, says in asked.items():
            start = time.process_time()
            said = [says(batch) for batch in drawn]
            seconds[name] += time.process_time() - start
            found.setdefault(kind, {}).setdefault(name, []).extend(said)
    print(f"| batches | {' | '.join(asked)} |\n| --- | {'---: | ' * len(asked)}")
    for kind, rates in found.items():
        print(f"| {kind} | {' | '.join(f'{100 * np.mean(r):.0f} %' for r in rates.values())} |")
    count = sum(len(rates["monitor"]) for rates in found.values())
    each = (f"{total / count:.2f}" for total in seconds.values())
    print(f"| CPU s a batch | {' | '.join(each)} |")


def evidently_says(drawn: Drawn) -> bool:
    """Whether half of a batch's columns have drifted, according to Evidently's default tests."""
    from evidently import DataDefinition, Dataset, Report  # type: ignore[import-not-found]
    from evidently.presets import DataDriftPreset  # type: ignore[import-not-found]

    definition = DataDefinition(
        numerical_columns=["confidence", *NAMES], categorical_columns=["predicted"]
    )
    before, now = tables(drawn)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = Report([DataDriftPreset()]).run(
            Dataset.from_pandas(now, definition), Dataset.from_pandas(before, definition)
        )
    counts = [m for m in result.dict()["metrics"] if m["metric_name"].startswith("DriftedColumns")]
    return float(counts[0]["value"]["share"]) >= 0.5


def nannyml_says(drawn: Drawn) -> bool:
    """Whether the accuracy of a batch has changed, according to NannyML's estimate."""
    os.environ["NML_DISABLE_USAGE_LOGGING"] = "1"  # it would tell its makers
    import nannyml as nml  # type: ignore[import-not-found]
    import pandas as pd

    if (~drawn.reference.hits.astype(bool)).sum() < 2:
        return False  # it cannot be fitted
    # The confidences are in order; its chunks are to be like batches.
    mixed = np.random.default_rng(0).permutation(len(drawn.reference.confidences))
    before = pd.DataFrame(
        {
            "confidence": drawn.reference.confidences[mixed],
            "right": drawn.reference.hits[mixed],
            "predicted": 1,
        }
    )
    now = pd.DataFrame({"confidence": drawn.probabilities.max(axis=1), "predicted": 1})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator = nml.CBPE(
            metrics=["accuracy"],
            y_pred_proba="confidence",
            y_pred="predicted",
            y_true="right",
            problem_type="classification_binary",
            chunk_size=len(now),
        ).fit(before)
        found = estimator.estimate(now).filter(period="analysis").to_df()
    return bool(found[("accuracy", "alert")].any())


def tables(drawn: Drawn) -> tuple[Any, Any]:
    """Predictions of the reference's sample and of the batch as tables."""
    import pandas as pd

    reference = drawn.reference
    frames = []
    for logits, statistics in (
        (reference.logits, reference.image_statistics),
        (drawn.logits, drawn.seen.statistics),
    ):
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        confidence = exponentials.max(axis=1) / exponentials.sum(axis=1)
        columns = {"confidence": confidence, "predicted": logits.argmax(axis=1)}
        columns |= {name: statistics[:, index] for index, name in enumerate(NAMES)}
        frames.append(pd.DataFrame(columns))
    return frames[0], frames[1]


if __name__ == "__main__":
    main()
