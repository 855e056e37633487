"""Seconds that W&B adds to each stage: tracking off, offline, and online against a local server.

    python benchmarks/tracking.py
    python benchmarks/tracking.py --rounds 5
    python benchmarks/tracking.py --uploads

A stage runs as `dvc repro` would run it, on what is there already, so build the pipeline first.
The modes take turns, and medians are compared. The server is that of the tests, on loopback: what a
network adds is not in the figures. The runs go to a temporary folder. With --uploads: the bytes
that are sent of the dataset, at first and after one image was taken out of it.
"""

# ruff: noqa: E402

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from grocery.core.pin import pin

pin()

import pyarrow.parquet as pq

from grocery.settings import load
from grocery.tracking.artifacts import DATASET
from grocery.tracking.run import stage_run
from wandb_server import WandbServer

STAGES = ("prepare", "version", "featurize", "train", "evaluate", "register", "monitor")


def main() -> None:
    """Run every stage in every mode, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--uploads", action="store_true")
    arguments = parser.parse_args()
    if arguments.uploads:
        uploads()
        return
    rounds = arguments.rounds
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


def uploads() -> None:
    """Print the bytes of the dataset that W&B is sent, by ``tracking.upload``."""
    shards = Path("data/prepared/shards")
    for upload in ("metadata", "files", "reference"):
        with WandbServer() as server, tempfile.TemporaryDirectory() as folder:
            os.environ.update(server.environment(), WANDB_DIR=folder, WANDB_MODE="online")
            copy = shutil.copytree(shards, Path(folder, "shards"))
            sent = [_sent(server, copy, upload)]
            shard = min(copy.glob("*.parquet"))
            pq.write_table(pq.read_table(shard).slice(1), shard)
            sent.append(_sent(server, copy, upload))
        print(f"{upload:<10} {sent[0]:>12,} {sent[1]:>12,}")


def _sent(server: WandbServer, shards: Path, upload: Any) -> int:
    settings = load().tracking.model_copy(update={"upload": upload, "timeout": 300.0})
    before = len(server.requests)
    with stage_run("prepare", settings=settings, config={}) as run:
        run.artifact(DATASET, shards, {})
    return sum(
        request.size
        for request in server.requests[before:]
        if request.operation.startswith(("/storage/artifact", "/storage/manifest"))
    )


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
