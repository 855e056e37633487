"""The way back: send the runs that were kept, look whether they are there, deliver their outboxes.

Everything may be interrupted at any point and repeated. W&B's own sync sends a run, and what it
says of that is not believed: the server is asked for everything that was made. What it lacks is
sent by another way, in that the run is made again online from what its stage has said. Nothing is
removed before all is there. A call of an outbox is delivered only if W&B does not know it yet, so
that a kill between the delivery and its note does no harm.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grocery.core.errors import TrackingError
from grocery.journal import held
from grocery.tracking.arrived import missing
from grocery.tracking.client import Client, open_client, raise_refusals
from grocery.tracking.mode import KNOCK, check_server
from grocery.tracking.outbox import Outbox, all_outboxes, unreadable, warnings_in
from grocery.tracking.process import SLOWEST, Apart, NotNow, apart, end_whole
from grocery.tracking.provenance import dvc_root
from grocery.tracking.sdk import one_line
from grocery.tracking.verbs import OpenRun, perform

if TYPE_CHECKING:
    import wandb


@dataclass(frozen=True)
class WaitingRun:
    """A run that W&B has not got whole."""

    outbox: Outbox
    about: Mapping[str, Any]  # names it: ``id``, ``stage``, ``group``, ``project``, ``entity``
    upload: bool  # the run itself is still to be sent
    entries: Mapping[int, Mapping[str, Any]]  # calls to deliver, by number

    @property
    def steps(self) -> int:
        """Number of things to send."""
        return self.upload + len(self.entries)

    @property
    def says(self) -> str:
        """What a person would call it."""
        return f"run {self.about['stage']} {self.about['id']}"


def waiting_runs(root: Path) -> list[WaitingRun]:
    """The runs below ``root/wandb`` that have something to send, in the order they began."""
    found = [
        WaitingRun(outbox, outbox.run(), not outbox.arrived, outbox.pending())
        for outbox in all_outboxes(root / "wandb")
    ]
    return [run for run in found if run.steps]


def synchronize(root: Path, *, timeout: float) -> Iterator[str]:
    """Send everything that waits below ``root/wandb``; yields what was sent, one thing a step.

    Runs that a stage is still writing are left for later. `timeout` is the longest wait for one
    answer of W&B, in seconds; an upload has the time that its bytes take on a slow line beside. A
    TrackingError is raised when another synchronisation is at work, when no key is configured, and
    when W&B cannot be reached or refuses something; what was sent before stays sent, and the rest
    can be sent later.
    """
    if (root / "wandb").is_dir():
        function, wandb = f"{__name__}:send_all", root / "wandb"
        yield from apart(function, wandb, 3 * timeout, root=str(root), timeout=timeout)


def send_all(root: str, timeout: float) -> Iterator[Any]:
    """See `synchronize`; in the process that speaks with W&B."""
    folder = Path(root)
    os.chdir(dvc_root())  # what the stages said of files is said from there
    with ExitStack() as stack:
        if stack.enter_context(held(folder / "wandb" / "sync.lock")) is None:
            raise NotNow(f"another `grocery sync` is at work in {root}")
        refusals = [
            f"{broken} cannot be read: it is cut off, or of another version of this project"
            for broken in unreadable(folder / "wandb")
            if stack.enter_context(held(broken / "lock")) is not None
        ]
        tried = [(run, stack.enter_context(held(run.outbox.lock))) for run in waiting_runs(folder)]
        runs = [(run, lock) for run, lock in tried if lock is not None]
        if not runs:
            raise_refusals(refusals)
            return
        client = open_client(timeout)
        for run, lock in runs:
            if run.upload:
                seconds = 2 * timeout + _size(run.outbox.run_folder) / SLOWEST
                yield {"within": 4 * seconds}
                try:
                    lost = _send(client.api, run.outbox, seconds, lock)
                except Exception as error:
                    refusals.append(f"W&B did not take in {run.says}: {one_line(error)}")
                    check_server(client.url, timeout=KNOCK)
                else:
                    refusals += [f"{run.says} lacks what cannot be sent: {why}" for why in lost]
                    yield run.says
        yield {"within": 3 * timeout}
        yield from _deliver_all([run for run, _ in runs if run.outbox.arrived], client, refusals)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _send(api: wandb.Api, outbox: Outbox, seconds: float, lock: int) -> list[str]:
    """Send a run, and see that it is there; a TrackingError says what is not.

    Gives what cannot be sent at all. Who sends holds the lock too, and may outlive this process.
    """
    folder, said, lacks, lost = outbox.run_folder, "", ["the run"], []
    if outbox.kept and any(log.stat().st_size for log in folder.glob("*.wandb")):
        said = _send_as_wandb_does(folder, seconds, lock)
        lacks = missing(api, outbox)
    if lacks:
        seen = len(outbox.notes.entries())
        arguments = ("track", str(outbox.folder), "online", str(seconds))
        code = Apart(outbox.wandb, *arguments, log=outbox.log, lock=lock).finish(2 * seconds)
        notes = outbox.notes.entries()[seen:]
        if code != 0:
            failed = [note["failed"] for note in notes if "failed" in note]
            reasons = [*failed[-1:], said, f"no end within {2 * seconds:g} s"]
            raise TrackingError(next(filter(None, reasons)))
        lost = warnings_in(notes, "warn")
    outbox.notes.add({"arrived": True})
    shutil.rmtree(folder / "artifacts", ignore_errors=True)  # copies of files that W&B has now
    return lost


def _send_as_wandb_does(folder: Path, seconds: float, lock: int) -> str:
    """Send a run with W&B's own sync, which keeps its times; gives what that complains of."""
    process = subprocess.Popen(
        [sys.executable, "-m", "wandb", "sync", str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        pass_fds=[lock],
    )
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        return f"no end within {seconds:g} s"
    finally:
        end_whole(process)
    return next((line.strip() for line in said.splitlines() if "rror" in line), "")


def _deliver_all(runs: Sequence[WaitingRun], client: Client, refusals: list[str]) -> Iterator[str]:
    """Deliver what waits; what W&B refuses does not hold up the rest, but for later links.

    Links are an alias's history, so none overtakes another.
    """
    failed: set[str] = set()
    for run in runs:
        on = OpenRun(run.outbox, None, client.api)
        pending = run.outbox.pending()
        for number, call in run.entries.items():
            verb = call["do"].removesuffix("s")
            if verb == "link" and "link" in failed:
                continue
            try:
                if number in pending:  # else it was told when the run was made again
                    perform(on, number, call)
            except Exception as error:
                what = f"{verb} of {call['output'].name}"
                refusals.append(f"W&B refuses the {what} by {run.says}: {one_line(error)}")
                failed.add(verb)
                check_server(client.url, timeout=KNOCK)
            else:
                yield f"{verb} {call['output'].name}"
        if not run.outbox.pending():
            run.outbox.discard()
    raise_refusals(refusals)
