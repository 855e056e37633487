"""Seconds that W&B adds to each stage: tracking off, offline, and online against a local server.

    python benchmarks/tracking.py
    python benchmarks/tracking.py --rounds 5

A stage runs as `dvc repro` would run it, on what is there already, so build the pipeline first.
The modes take turns, and medians are compared. The server is that of the tests, on loopback: what a
network adds is not in the figures. The runs go to a temporary folder.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from wandb_server import WandbServer

STAGES = ("prepare", "version", "featurize", "train", "evaluate", "register", "monitor")


def main() -> None:
    """Run every stage in every mode, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    print("| stage      | off, s | offline, s | online, s | offline adds | online adds |")
    print("|------------|--------|------------|-----------|--------------|-------------|")
    totals = [0.0, 0.0, 0.0]
    with WandbServer() as server, tempfile.TemporaryDirectory() as folder:
        base = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        modes = (
            {"WANDB_MODE": "disabled"},
            {"WANDB_MODE": "offline", "WANDB_DIR": folder},
            {"WANDB_MODE": "online", "WANDB_DIR": folder, **server.environment()},
        )
        for stage in STAGES:
            taken: list[list[float]] = [[], [], []]
            for _ in range(rounds):
                for times, mode in zip(taken, modes, strict=True):
                    times.append(seconds(stage, base | mode))
            medians = [statistics.median(times) for times in taken]
            totals = [total + one for total, one in zip(totals, medians, strict=True)]
            print(row(stage, medians), flush=True)
    print(row("all", totals))


def seconds(stage: str, environment: Mapping[str, str]) -> float:
    """Run a stage; how long it took."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "grocery.runner", stage],
        env=environment,
        check=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.stderr:
        raise SystemExit(f"{stage} did not run cleanly: {done.stderr}")
    return time.perf_counter() - start


def row(name: str, figures: list[float]) -> str:
    """A line of the table."""
    off, offline, online = figures
    return (
        f"| {name:<10} | {off:6.2f} | {offline:10.2f} | {online:9.2f} "
        f"| {offline - off:12.2f} | {online - off:11.2f} |"
    )


if __name__ == "__main__":
    main()
