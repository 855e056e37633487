"""What a stage tells Weights & Biases: one run a stage, opened with `stage_run`.

Tracking is never in the way. What a stage says becomes a line of the run's outbox, and a process of
its own tells it W&B meanwhile (see `grocery.tracking.worker`). Only the end of the stage waits for
that process, and not for long: then it is ended, and another one makes the run again offline.
Nothing here raises, asks, or changes an output of the stage; only a stop that is asked for in W&B
ends it, at its next step.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from inspect import signature
from pathlib import Path
from shutil import rmtree
from typing import Any, Concatenate, ParamSpec

from grocery.core.errors import GroceryError, TrackingError
from grocery.journal import held
from grocery.settings import TrackingParams
from grocery.tracking import verbs
from grocery.tracking.artifacts import Output
from grocery.tracking.mode import OFFLINE, requested_mode
from grocery.tracking.opening import opening_of
from grocery.tracking.outbox import Outbox, encode, warnings_in
from grocery.tracking.process import Apart
from grocery.tracking.provenance import project_root
from grocery.tracking.sdk import one_line
from grocery.tracking.verbs import OpenRun

P = ParamSpec("P")

STOPPED = "stopped from W&B"
UNTRACKED = "the stage is not tracked"

# Time for a run that is made again offline, in seconds. It needs the disk only.
GRACE = 120.0


@contextmanager
def stage_run(
    stage: str,
    *,
    settings: TrackingParams,
    config: Mapping[str, Any],
    inputs: Mapping[str | Output, Path] | None = None,
    tags: Sequence[str] = (),
) -> Iterator[StageRun]:
    """Open the W&B run of one stage and finish it, as failed when the block raises.

    WANDB_PROJECT, WANDB_ENTITY and WANDB_MODE win over the settings, and WANDB_TAGS joins the tags.
    `config` is the stage's parameters, one dict a section. `inputs` are the files and folders that
    it reads: their DVC hashes join the config, and outputs of other stages are declared as the
    run's input artifacts.

    A TrackingError is raised when the run is stopped from W&B, by a sweep or by a person.
    """
    if os.environ.get("WANDB_MODE") == "disabled":
        yield StageRun(None)
        return
    read = inputs or {}
    named = {key.name if isinstance(key, Output) else key: path for key, path in read.items()}
    session = Session(*opening_of(stage, settings, config=config, inputs=named, tags=tags))
    run = StageRun(session)
    exit_code = 1
    try:
        for key, path in read.items():
            if isinstance(key, Output):
                run.uses(key, path)
        yield run
        exit_code = 0
    finally:
        session.close(exit_code)


def _said(
    verb: Callable[Concatenate[OpenRun, P], None],
) -> Callable[Concatenate[StageRun, P], None]:
    """What a stage says so that the other process does `verb`: its name and its arguments."""
    names = [*signature(verb).parameters][1:]

    def say(self: StageRun, /, *arguments: P.args, **named: P.kwargs) -> None:
        placed = dict(zip(names, arguments, strict=False))
        self.tell({"do": verb.__name__, **placed, **named})

    say.__doc__ = verb.__doc__
    return say


class StageRun:
    """The verbs of a stage's run, see `grocery.tracking.verbs`; without a session none is done."""

    def __init__(self, session: Session | None) -> None:
        self._session = session

    summary = _said(verbs.summary)
    table = _said(verbs.table)
    images = _said(verbs.images)
    confusion_matrix = _said(verbs.confusion_matrix)
    histogram = _said(verbs.histogram)
    alert = _said(verbs.alert)
    artifact = _said(verbs.artifact)
    uses = _said(verbs.uses)
    link = _said(verbs.link)

    @property
    def enabled(self) -> bool:
        """False when WANDB_MODE is disabled: what is only meant for W&B need not be computed."""
        return self._session is not None

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Add one point to each curve. `step` counts from 0 and never goes back.

        A TrackingError says that the run was stopped from W&B.
        """
        self.tell({"do": "log", "values": values, "step": step})
        if self._session and self._session.stopped():
            raise TrackingError(f"{STOPPED}; earlier outputs are as they were")

    def html(self, name: str, path: Path) -> None:
        """Show a self-contained page, as it is now."""
        self.tell({"do": "html", "name": name, "text": path.read_text("utf-8")})

    def tell(self, message: Mapping[str, Any]) -> None:
        """Have a verb done."""
        if self._session is not None:
            self._session.tell(message)


class Session:
    """The outbox of a run, and the process that tells W&B what is in it."""

    def __init__(self, opening: Mapping[str, Any], warnings: Sequence[str]) -> None:
        self._timeout = opening["timeout"]
        self._outbox = Outbox(project_root() / "wandb" / "outbox" / opening["id"])
        self._reasons = dict.fromkeys(warnings)  # each is said once
        self._cleanup = ExitStack()
        self._process: Apart | None = None
        if self._outbox.folder.exists():  # a sweep's run, a second time
            waits = f"run {opening['id']} waits for `grocery sync` already"
            self._reasons[f"{waits}; {UNTRACKED}"] = None
            return
        try:
            requested_mode()  # a wrong one is named
            self._lock = self._cleanup.enter_context(held(self._outbox.lock))
            self._outbox.said.append(encode(opening))
            self._process = self._start()
        except (OSError, TypeError, ValueError, GroceryError) as error:
            self._give_up(error)

    def tell(self, message: Mapping[str, Any]) -> None:
        """Have W&B told something; returns at once."""
        if self._process is None:
            return
        try:
            self._outbox.said.append(encode(message))
            self._process.ring()
        except OSError as error:
            self._give_up(error)
        except (TypeError, ValueError) as error:
            self._reasons[f"it is not told of one {message['do']} ({one_line(error)})"] = None

    def stopped(self) -> bool:
        """Whether W&B has said that the run is to stop."""
        return self._process is not None and self._process.heard()

    def close(self, exit_code: int) -> None:
        """End the run, and wait for W&B; what could not be told is kept."""
        with self._cleanup:
            self.tell({"do": "end", "code": exit_code})
            if self._process is not None:
                try:
                    self._wait(self._process)
                except OSError as error:
                    self._reasons |= {one_line(error): None, OFFLINE: None}
                finally:
                    self._process.end()
            if self._reasons:
                print(f"warning: W&B: {'; '.join(self._reasons)}", file=sys.stderr)

    def _wait(self, process: Apart) -> None:
        seen = 0
        for again in (False, True):
            code = process.finish(GRACE if again else self._timeout)
            notes = self._outbox.notes.entries()
            if code == 0:
                halves = self._outbox.wandb.glob(f"run-*-{self._outbox.folder.name}")
                for half in halves if again else ():
                    rmtree(half, ignore_errors=True)
                self._reasons |= dict.fromkeys(warnings_in(notes[seen:]))
                break
            failed = [note["failed"] for note in notes[seen:] if "failed" in note]
            silent = f"no answer within {GRACE if again else self._timeout:g} s"
            ended = silent if code is None else f"W&B's process ended with exit code {code}"
            self._reasons |= dict.fromkeys(failed[-1:] or [ended])
            seen = len(notes)
            if not again:
                self._process = process = self._start("offline")
        if code != 0 or again:
            self._reasons[OFFLINE] = None
        if any("disabled" in note for note in notes) or (
            self._outbox.arrived and not self._outbox.pending()
        ):
            self._outbox.discard()

    def _start(self, *mode: str) -> Apart:
        arguments = ("track", str(self._outbox.folder), *mode)
        return Apart(self._outbox.wandb, *arguments, log=self._outbox.log, lock=self._lock)

    def _give_up(self, error: Exception) -> None:
        self._reasons[f"{one_line(error)}; {UNTRACKED}"] = None
        if self._process is not None:
            self._process.end()
            self._process = None
        with suppress(OSError):
            self._outbox.discard()
