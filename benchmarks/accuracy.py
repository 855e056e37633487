"""Test accuracy by share of labels, mean of several draws, as the pipeline measures it.

    python benchmarks/accuracy.py -S data.source=grocery-store

Runs `dvc repro evaluate` on this checkout for each share and draw; what is in DVC's cache is not
built again. Parameters are put back at the end (`dvc checkout` then restores the outputs). With all
labels every draw is the same, so there is one.
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
    """Run all shares and draws and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-S", "--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.05, 0.1, 0.2, 1.0])
    parser.add_argument("--draws", type=int, default=3)
    arguments = parser.parse_args()
    cells = [
        (ratio, draw)
        for ratio in arguments.ratios
        for draw in range(arguments.draws if ratio < 1 else 1)
    ]
    results: dict[float, list[dict[str, Any]]] = {}
    with restored():
        set_parameters(arguments.set)
        for ratio, draw in tqdm(cells, disable=None, leave=False):
            set_parameters([f"train.labeled_ratio={ratio}", f"train.label_seed={draw}"])
            results.setdefault(ratio, []).append(measured())
    print("| labelled | labelled only | with the others | right labels adopted | ECE | ECE, each |")
    print("|---|---|---|---|---|---|")
    for ratio, draws in results.items():
        adopted = [draw["adopted"] for draw in draws if draw["adopted"] is not None]
        errors = [draw["calibration_error"] for draw in draws]
        row = [
            f"{ratio:.0%}",
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
    }


if __name__ == "__main__":
    main()
