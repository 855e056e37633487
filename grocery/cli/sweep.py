"""`grocery sweep`: search for good parameters on this machine, without a server."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grocery.cli.terminal import table

if TYPE_CHECKING:
    from grocery.sweep.journal import Trial
    from grocery.sweep.search import Search


def add_parser(parsers: Any) -> None:
    """Add the command."""
    parser = parsers.add_parser(
        "sweep",
        help="search for good parameters, without a server",
        description=(
            "Read a W&B sweep file and run its trials here, with W&B's own search engine. Each\n"
            "trial is a DVC experiment, NAME-001 and so on, and its runs are grouped in W&B.\n"
            "Trials that the file's early_terminate gives up are stopped at that step; one that\n"
            "fails is noted, and the sweep goes on.\n"
            "\n"
            "The trials are noted in sweeps/NAME; there is a page with plots, too. An\n"
            "interrupted sweep goes on with --resume."
        ),
        epilog=(
            "examples:\n"
            "  grocery sweep sweep.yaml --count 20 --jobs 2\n"
            "  grocery sweep sweep.yaml --count 40 --resume     twenty more\n"
            "  dvc exp apply learner-007                        take the best one\n"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the sweep file")
    parser.add_argument(
        "--count", type=_count, default=20, metavar="N", help="trials in all (default: %(default)s)"
    )
    parser.add_argument(
        "--jobs", type=_count, default=2, metavar="N", help="trials at a time (default: 2)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the search (default: %(default)s)"
    )
    parser.add_argument("--name", help="name of the sweep (default: the file's)")
    parser.add_argument("--resume", action="store_true", help="go on with what was begun")
    parser.set_defaults(run=_run, command="sweep")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _run(arguments: argparse.Namespace) -> None:
    from grocery.core.files import write_bytes
    from grocery.parallel import progress
    from grocery.sweep.report import page, rows, sentences
    from grocery.sweep.run import Sweep, workspace_summary
    from grocery.tracking.provenance import dvc_root

    root = dvc_root()
    search = _search(arguments, root)
    folder = root / "sweeps" / search.name
    journal, trials = _journal(arguments, search, folder)
    sweep = Sweep(search, root, journal, seed=arguments.seed, trials=trials)
    begun = time.monotonic()
    done = [trial for trial in trials if trial.state != "running"]
    try:
        ended = sweep.run(arguments.count, jobs=arguments.jobs)
        left = max(0, arguments.count - len(done))
        for trial in progress(ended, title=f"sweep {search.name}", total=left):
            if trial.state == "failed":
                print(f"{trial.name} failed: {trial.reason}", file=sys.stderr)
    except KeyboardInterrupt:
        print("what has been found is noted; go on with --resume", file=sys.stderr)
        raise
    finally:
        account = sentences(
            sweep.trials,
            search,
            time.monotonic() - begun,
            before=len(done),
            workspace=workspace_summary(root),
        )
        write_bytes(folder / "index.html", page(sweep.trials, search, account).encode())
    for line in table(rows(sweep.trials, search)):
        print(line)
    print()
    for sentence in account:
        print(sentence)
    print(f"plots: {(folder / 'index.html').relative_to(root)}")


def _search(arguments: argparse.Namespace, root: Path) -> Search:
    """The sweep file, checked."""
    import re
    from dataclasses import replace

    from grocery.core.errors import ParamsError
    from grocery.sweep.search import read_search

    search = read_search(arguments.file, root)
    if arguments.name:
        search = replace(search, name=arguments.name)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", search.name):
        raise ParamsError(
            f"a sweep cannot be called {search.name!r}; use letters, digits, dashes and underscores"
        )
    return search


def _journal(
    arguments: argparse.Namespace, search: Search, folder: Path
) -> tuple[Any, list[Trial]]:
    """The journal, and the trials in it."""
    from grocery.core.errors import DataError
    from grocery.sweep.journal import Journal

    journal = Journal(folder / "trials.jsonl")
    about = {"config": dict(search.config), "seed": arguments.seed}
    if not journal.file.is_file():
        journal.begin(about)
        return journal, []
    if not arguments.resume:
        raise DataError(
            f"the sweep {search.name} was begun before; go on with --resume, or give another --name"
        )
    known, trials = journal.read()
    if known != about:
        raise DataError(
            f"the sweep {search.name} was begun with another file or seed; give another --name"
        )
    return journal, trials
