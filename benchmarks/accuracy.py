"""Test accuracy by share of labels, mean of several draws, as the pipeline measures it.

    python benchmarks/accuracy.py -S data.source=grocery-store

Runs `dvc repro evaluate` on this checkout for each way to draw, share and draw; what is in DVC's
cache is not built again. What this checkout holds is put back at the end. With all labels every
draw is the same, so there is one.

The labels used in all are those of training and of validation, on which the model is calibrated. A
stratified draw needs to know the classes beforehand; one by chance is what a team can do.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from statistics import mean
from typing import Any

from tqdm import tqdm
from workspace import restored, set_parameters


def main() -> None:
    """Run all draws and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-S", "--set-param", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.05, 0.1, 0.2, 1.0])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--label-draws", nargs="+", default=["stratified", "random"])
    arguments = parser.parse_args()
    cells = [
        (how, ratio, draw)
        for ratio in arguments.ratios
        for how in (arguments.label_draws if ratio < 1 else arguments.label_draws[:1])
        for draw in range(arguments.draws if ratio < 1 else 1)
    ]
    results: dict[tuple[str, float], list[dict[str, Any]]] = {}
    with restored():
        set_parameters(arguments.set_param)
        for how, ratio, draw in tqdm(cells, disable=None, leave=False):
            values = {"label_draw": how, "labeled_ratio": ratio, "label_seed": draw}
            set_parameters([f"train.{name}={value}" for name, value in values.items()])
            results.setdefault((how, ratio), []).append(measured())
    print(
        "| labels kept | drawn | labels used in all | labelled only | with the others "
        "| right labels adopted | ECE | ECE, each |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for (how, ratio), draws in results.items():
        adopted = [draw["adopted"] for draw in draws if draw["adopted"] is not None]
        errors = [draw["calibration_error"] for draw in draws]
        row = [
            f"{ratio:.0%}",
            how if ratio < 1 else "",
            ", ".join(str(n) for n in sorted({draw["labels_used"] for draw in draws})),
            f"{mean(draw['baseline'] for draw in draws):.3f}",
            f"{mean(draw['accuracy'] for draw in draws):.3f}",
            f"{mean(adopted):.3f}" if adopted else "",
            f"{mean(errors):.3f}",
            ", ".join(f"{error:.3f}" for error in errors),
        ]
        print("| " + " | ".join(row) + " |")


def measured() -> dict[str, Any]:
    """Test metrics of the pipeline with the parameters as they are."""
    done = subprocess.run(["dvc", "repro", "evaluate"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr or done.stdout)
    test, train = (
        json.loads(Path(f"metrics/{stage}.json").read_text()) for stage in ("evaluate", "train")
    )
    return {
        "accuracy": test["accuracy"],
        "baseline": test["baseline"]["accuracy"],
        "calibration_error": test["calibration_error"],
        "adopted": train.get("pseudo_label_accuracy"),
        "labels_used": train["labels_used"],
    }


if __name__ == "__main__":
    main()
