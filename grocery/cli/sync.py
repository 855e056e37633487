"""`grocery sync`: send to W&B what was kept offline."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from grocery.cli.command import argument, command
from grocery.cli.terminal import count
from grocery.core.errors import TrackingError, printable

if TYPE_CHECKING:
    from grocery.tracking.sync import WaitingRun


@command(
    "sync",
    "send to W&B what was kept offline",
    argument("--dry-run", action="store_true", help="say what would be sent"),
    argument(
        "--timeout",
        type=count,
        default=30,
        metavar="SECONDS",
        help="longest wait for an answer of W&B (default: %(default)s); an upload takes its time",
    ),
)
def sync(arguments: argparse.Namespace) -> None:
    """Send the runs that were kept offline, and ask the server whether it has all of
    them; then deliver what W&B cannot be told offline: which artifacts a run used, and
    links to the registry. Each thing is sent once. At last versions and stages are made
    in W&B as git has them now. It may be interrupted at any point, and repeated.
    A run that a stage is still writing is left for later. What W&B refuses for good
    is forgotten by removing its folder in wandb/outbox.

    `wandb clean` removes the local copies of runs that were sent, a day after.

    examples:
      grocery sync --dry-run    say what would be sent
      grocery sync              send it
    """
    from grocery.parallel import progress
    from grocery.registry.notes import Notes
    from grocery.tracking.outbox import unreadable
    from grocery.tracking.provenance import project_root
    from grocery.tracking.sync import waiting_runs

    root = project_root()
    runs, changes = waiting_runs(root), Notes(root).waiting()
    broken = unreadable(root / "wandb")
    if not (runs or changes or broken):
        print("nothing waits to be sent")
        return
    if arguments.dry_run:
        for run in runs:
            print(_line(run))
        for folder in broken:
            print(printable(f"{folder}: cannot be read"))
        for change in changes:
            print(printable(f"registry: {change}"))
        return
    total = sum(run.steps for run in runs) + len(changes)
    sent = sum(1 for _ in progress(_send(root, arguments.timeout), title="sync", total=total))
    left = total - sent
    print(f"{sent} of {total} sent" + (f"; {left} belong to runs that are at work" if left else ""))


def _send(root: Path, timeout: int) -> Iterator[str]:
    """Send all that waits, the runs first; a run that W&B refuses does not hold up the registry."""
    from grocery.tracking.process import NotNow
    from grocery.tracking.sync import synchronize

    try:
        yield from synchronize(root, timeout=timeout)
    except NotNow:
        raise
    except TrackingError:
        yield from _tell(root, timeout)
        raise
    yield from _tell(root, timeout)


def _tell(root: Path, timeout: int) -> Iterator[str]:
    """Make the W&B registry what git says; yields what was done that W&B had not been told."""
    from grocery.registry.git import Git
    from grocery.registry.mirror import Mirror
    from grocery.registry.notes import Notes
    from grocery.settings import load
    from grocery.tracking.provenance import dvc_root

    notes = Notes(root)
    if changes := notes.waiting():
        folder = dvc_root()
        mirror = Mirror.of(root, Git(folder), load(folder / "params.yaml"))
        mirror.settings = mirror.settings.model_copy(update={"timeout": timeout})
        for _ in mirror.reconcile(patient=True):
            pass
        yield from changes[: len(changes) - len(notes.waiting())]


def _line(run: WaitingRun) -> str:
    """What would be sent for a run."""
    what = ["the run"] if run.upload else []
    what += [f"{e['do'].removesuffix('s')} {e['output'].name}" for e in run.entries.values()]
    where = "/".join(part for part in (run.about["entity"], run.about["project"]) if part)
    group = f" of {run.about['group']}" if run.about["group"] else ""
    return printable(f"{run.about['stage']}{group} ({where}/{run.about['id']}): {', '.join(what)}")
