"""`grocery sweep`: search for good parameters on this machine, without a server."""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from grocery.cli.command import argument, command
from grocery.cli.terminal import FOUND, count, in_project, table

if TYPE_CHECKING:
    from grocery.sweep.search import Search


@command(
    "sweep",
    "search for good parameters, without a server",
    argument("file", type=Path, metavar="FILE", help="the sweep file"),
    argument(
        "--count", type=count, default=20, metavar="N", help="trials in all (default: %(default)s)"
    ),
    argument("--jobs", type=count, default=2, metavar="N", help="trials at a time (default: 2)"),
    argument(
        "--seed", type=int, default=0, metavar="N", help="of the search (default: %(default)s)"
    ),
    argument("--name", help="name of the sweep (default: the file's)"),
    argument("--resume", action="store_true", help="go on with what was begun"),
)
def sweep(arguments: argparse.Namespace) -> None:
    """Read a W&B sweep file and run its trials here; Optuna chooses their parameters.
    Each trial is a DVC experiment, NAME-001 and so on, and its runs are grouped in W&B.
    Trials that the file's early_terminate gives up are stopped at that step; one that
    fails is noted, and the sweep goes on.

    The trials are noted in sweeps/NAME; there is a page with plots, too. An
    interrupted sweep goes on with --resume. The exit code is 3 when a trial has failed.

    examples:
      grocery sweep sweep.yaml --count 20 --jobs 2
      grocery sweep sweep.yaml --count 40 --resume     twenty more
      dvc exp apply learner-007                        take the best one
    """
    from grocery.core.errors import DataError, ParamsError
    from grocery.journal import held
    from grocery.sweep.search import read_search
    from grocery.tracking.provenance import dvc_root

    root = dvc_root()
    search = read_search(arguments.file, root)
    name = arguments.name or search.name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise ParamsError(
            f"a sweep cannot be called {name!r}; use letters, digits, dashes and underscores"
        )
    with held(root / f".dvc/tmp/sweep-{name}.lock") as lock:
        if lock is None:
            raise DataError(f"another command is at work on the sweep {name}; wait for its end")
        _run(arguments, search.model_copy(update={"name": name}), root)


def _run(arguments: argparse.Namespace, search: Search, root: Path) -> None:
    """Begin a sweep, or go on with it, while nobody else does."""
    from grocery.core.files import write_bytes
    from grocery.experiment.results import in_workspace
    from grocery.parallel import progress
    from grocery.registry.git import Git
    from grocery.registry.revisions import experiments
    from grocery.sweep.report import page, rows, sentences
    from grocery.sweep.run import Sweep
    from grocery.sweep.study import Study

    folder = root / "sweeps" / search.name
    study = Study(folder / "journal.log", search, arguments.seed)
    study.begin(resume=arguments.resume, taken=[each.name for each in experiments(Git(root))])
    sweep = Sweep(search, root, study)
    done = sum(trial.state != "running" for trial in sweep.trials)
    left = max(0, arguments.count - done)
    begun = time.monotonic()
    try:
        ended = sweep.run(arguments.count, jobs=arguments.jobs)
        for trial in progress(ended, title=f"sweep {search.name}", total=left):
            if trial.state == "failed":
                print(f"{trial.name} failed: {trial.reason}", file=sys.stderr)
    except KeyboardInterrupt:
        print("what has been found is noted; go on with --resume", file=sys.stderr)
        raise
    finally:
        seconds, workspace = time.monotonic() - begun, in_workspace(root)
        account = sentences(sweep.trials, search, seconds, workspace)
        write_bytes(folder / "index.html", page(sweep.trials, search, account).encode())
    print(*table(rows(sweep.trials, search)), "", *account, sep="\n")
    print(f"plots: {in_project(folder / 'index.html')}")
    if any(trial.state == "failed" for trial in sweep.trials):
        raise SystemExit(FOUND)
