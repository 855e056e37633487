"""A local sweep against the bare work of its trials: the stages train and evaluate, one by one.

    python benchmarks/sweep.py --count 20 --jobs 2

The search is that of sweep.yaml, without early termination, so that every trial is whole. First the
sweep runs, then the two stages run once more by themselves, with the parameters of each trial. The
ratio says what choosing, starting DVC, recording and gathering cost beside the work. What this
checkout holds is put back at the end, and the experiments are removed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from workspace import restored, set_parameters

from grocery.core.documents import parse_yaml
from grocery.core.errors import ParamsError
from grocery.sweep.search import read_search
from grocery.sweep.study import Study

NAME = "benchmark-of-sweeps"


def main() -> None:
    """Run both and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=20, metavar="N", help="trials")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="trials at a time")
    arguments = parser.parse_args()
    folder = Path("sweeps") / NAME
    shutil.rmtree(folder, ignore_errors=True)
    with restored():
        try:
            sweep = timed(*sweep_command(folder, arguments.count, arguments.jobs))
            trials = finished(folder)
        finally:
            remove_experiments()
            shutil.rmtree(folder, ignore_errors=True)
        if len(trials) < arguments.count:
            raise SystemExit(f"only {len(trials)} of {arguments.count} trials have finished")
        stages = 0.0
        for assignments in trials:
            set_parameters([f"{name}={json.dumps(v)}" for name, v in assignments.items()])
            stages += sum(timed("python", "-m", "grocery.runner", s) for s in ("train", "evaluate"))
    print(f"| {arguments.count} trials, {arguments.jobs} at a time | seconds | a trial |")
    print("|---|---|---|")
    print(f"| grocery sweep | {sweep:.1f} | {sweep / arguments.count:.1f} |")
    print(f"| train and evaluate alone | {stages:.1f} | {stages / arguments.count:.1f} |")
    print(f"| ratio | {sweep / stages:.2f} | |")


def sweep_command(folder: Path, count: int, jobs: int) -> list[str]:
    """The sweep of the project's file, without early termination."""
    config: dict[str, Any] = parse_yaml(Path("sweep.yaml").read_bytes(), "sweep.yaml", ParamsError)
    del config["early_terminate"]
    config["name"] = NAME
    folder.parent.mkdir(exist_ok=True)
    file = folder.parent / f"{NAME}.yaml"
    file.write_text(json.dumps(config))  # JSON is YAML
    return ["grocery", "sweep", str(file), "--count", str(count), "--jobs", str(jobs)]


def timed(*command: str) -> float:
    """Run a command; its seconds."""
    begun = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} exited {done.returncode}")
    return time.perf_counter() - begun


def finished(folder: Path) -> list[dict[str, Any]]:
    """Parameters of the trials that finished."""
    search = read_search(folder.parent / f"{NAME}.yaml", Path())
    trials = Study(folder / "journal.log", search, 0).trials()
    return [trial.assignments for trial in trials if trial.state == "finished"]


def remove_experiments() -> None:
    """Remove this sweep's experiments."""
    listed = subprocess.run(
        ["dvc", "exp", "list", "--name-only"], capture_output=True, text=True, check=True
    )
    names = [name for name in listed.stdout.split() if name.startswith(NAME)]
    if names:
        subprocess.run(["dvc", "exp", "remove", *names], stdout=subprocess.DEVNULL, check=True)


if __name__ == "__main__":
    main()
