"""Seconds and peak memory of each stage, measured on this checkout by force.

    python benchmarks/pipeline.py
    python benchmarks/pipeline.py -S data.source=grocery-store -S train.labeled_ratio=1.0
    python benchmarks/pipeline.py --changed -S train.n_neighbors=20

What this checkout holds is put back at the end. Memory is the resident set of the stage's whole
process tree, sampled twenty times a second; what its processes share is counted once for each.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import time

import psutil
from workspace import restored, set_parameters

STAGES = ("prepare", "version", "featurize", "train", "evaluate", "register", "monitor")


def main() -> None:
    """Run every stage once and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--changed", action="store_true", help="run only what -S changes")
    parser.add_argument("-S", "--set-param", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    with restored():
        set_parameters(arguments.set_param)
        print(f"| {'stage':<10} | seconds | peak MiB |\n|{'-' * 12}|---------|----------|")
        results = [measured(stage, force=not arguments.changed) for stage in STAGES]
        total, peak = sum(s for s, _ in results), max(m for _, m in results)
        print(f"| {'all':<10} | {total:7.1f} | {peak:8.0f} |")


def measured(stage: str, *, force: bool) -> tuple[float, float]:
    """Run a stage by DVC; return its seconds and its peak memory in MiB.

    Without `force` only if something that it reads has changed, and never from DVC's run cache.
    """
    start = time.perf_counter()
    options = ["--force" if force else "--no-run-cache", "--single-item"]
    scratch = os.environ | ({"GROCERY_REUSE": "no"} if force else {})
    command = ["dvc", "repro", *options, stage]
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, env=scratch)
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(resident(p) for p in (process, *children(process))))
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{stage} exited {process.returncode}")
    seconds = time.perf_counter() - start
    print(f"| {stage:<10} | {seconds:7.1f} | {peak / 2**20:8.0f} |", flush=True)
    return seconds, peak / 2**20


def children(process: psutil.Process) -> list[psutil.Process]:
    """All descendants of a process, or none when it has just ended."""
    try:
        return list(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def resident(process: psutil.Process) -> int:
    """Bytes that a process holds, or 0 when it has just ended."""
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


if __name__ == "__main__":
    main()
