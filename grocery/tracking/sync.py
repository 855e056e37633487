"""The way back: send the runs that were kept offline, then deliver their outboxes.

Everything may be interrupted at any point and repeated. W&B's own sync sends a run, and sending it
again changes nothing. A line of an outbox is delivered only if W&B does not know it yet, so that a
kill between the delivery and its note does no harm.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grocery.errors import TrackingError
from grocery.tracking.artifacts import Output, alias_of, listed
from grocery.tracking.mode import check_server
from grocery.tracking.outbox import Outbox, all_outboxes, held
from grocery.tracking.session import SETTINGS, contained, kill_service, one_line, tear_down

if TYPE_CHECKING:
    import wandb


@dataclass(frozen=True)
class WaitingRun:
    """A run that W&B has not got whole.

    Attributes
    ----------
    outbox
        Its outbox, in the run's folder.
    about
        What names it: ``id``, ``stage``, ``group``, ``project``, ``entity``, ``begun``.
    upload
        Whether the run itself is still to be sent.
    entries
        Lines of the outbox that are not delivered yet, by number.
    """

    outbox: Outbox
    about: Mapping[str, Any]
    upload: bool
    entries: Mapping[int, Mapping[str, Any]]

    @property
    def steps(self) -> int:
        """Number of things to send."""
        return self.upload + len(self.entries)


def waiting_runs(root: Path) -> list[WaitingRun]:
    """The runs below ``root/wandb`` that have something to send, in the order they began."""
    found = [
        WaitingRun(outbox, outbox.run(), outbox.kept, outbox.pending())
        for outbox in all_outboxes(root)
    ]
    return [run for run in found if run.steps]


def synchronize(root: Path, *, timeout: int) -> Iterator[str]:
    """Send everything that waits below ``root/wandb``; yields what was sent, one thing a step.

    Runs that a stage is still writing are left for later.

    Parameters
    ----------
    root
        The project's folder.
    timeout
        Longest wait for one answer of W&B, in seconds.

    Raises
    ------
    TrackingError
        When another synchronisation is at work, when no key is configured, and when W&B cannot be
        reached or refuses something. What was sent before stays sent; the rest can be sent later.
    """
    if not (root / "wandb").is_dir():
        return
    with ExitStack() as stack:
        whole = stack.enter_context(held(root / "wandb" / "sync.lock"))
        if whole is None:
            raise TrackingError(f"another `grocery sync` is at work in {root}")
        runs = [
            run
            for run in waiting_runs(root)
            if stack.enter_context(held(run.outbox.lock)) is not None
        ]
        if not runs:
            return
        stack.enter_context(contained(root / "wandb"))
        post = stack.enter_context(_post_office(timeout))
        for run in runs:
            if run.upload:
                _upload(run.outbox.folder, inherited=whole)
                yield f"run {run.about['stage']} {run.about['id']}"
        for run in runs:
            for number, entry in run.entries.items():
                try:
                    post.deliver(run, entry)
                except Exception as error:
                    what = f"{entry['do']} of {entry['name']}:{alias_of(entry['md5'])}"
                    raise TrackingError(f"W&B refuses the {what}: {one_line(error)}") from error
                run.outbox.mark_delivered(number)
                yield f"{entry['do']} {entry['name']}"


def _upload(folder: Path, *, inherited: int) -> None:
    """Send a run with W&B's own sync, which holds our lock to its end even if we are killed."""
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_MODE"}
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", str(folder)],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        pass_fds=[inherited],
    )
    if done.returncode or not any(folder.glob("*.wandb.synced")):
        said = (done.stderr + done.stdout).strip().splitlines() or ["it does not say why"]
        reason = next((line for line in said if "rror" in line), said[-1])
        raise TrackingError(f"W&B did not take in {folder.name}: {reason.strip()}")
    shutil.rmtree(folder / "artifacts", ignore_errors=True)  # copies of files that W&B has now


@contextmanager
def _post_office(timeout: int) -> Iterator[_PostOffice]:
    """Open W&B's client; at the end, or at any error, end its process without waiting for it."""
    import wandb

    os.environ.pop("WANDB_MODE", None)  # to send is to be online
    wandb.termsetup(wandb.Settings(silent=True), None)
    settings = wandb.setup(wandb.Settings(**SETTINGS)).settings
    try:
        try:
            if not wandb.login(prompt=False, verify=False):
                raise TrackingError("no W&B key is configured: `wandb login`, or set WANDB_API_KEY")
            check_server(settings.base_url, timeout=timeout)
            api = wandb.Api(timeout=timeout)
            if not api.default_entity:
                raise TrackingError(f"W&B at {settings.base_url} knows no such user")
        except TrackingError:
            raise
        except Exception as error:
            raise TrackingError(f"W&B cannot be reached: {one_line(error)}") from error
        yield _PostOffice(api)
    finally:
        kill_service()
        tear_down()


@dataclass
class _PostOffice:
    """Delivers lines of outboxes through W&B's public API, each only if it has not arrived yet."""

    api: wandb.Api
    _used: dict[str, set[str | None]] = field(default_factory=dict, init=False)

    def deliver(self, run: WaitingRun, entry: Mapping[str, Any]) -> None:
        entity = run.about["entity"] or self.api.default_entity
        place = f"{entity}/{run.about['project']}"
        artifact = self._artifact(place, run, entry)
        if entry["do"] == "use":
            self._use(f"{place}/{run.about['id']}", artifact)
        elif entry["do"] == "link":
            self._link(artifact, entry["target"], [entry["alias"]])
        else:
            raise TrackingError(f"{run.outbox.folder}: {entry['do']!r} is nothing that W&B does")

    def _artifact(self, place: str, run: WaitingRun, entry: Mapping[str, Any]) -> Any:
        """The artifact that an entry names; recorded now if no tracked stage ever did."""
        alias = alias_of(entry["md5"])
        name = f"{place}/{entry['name']}:{alias}"
        if not self.api.artifact_exists(name):
            self._record(place, Output(entry["name"], entry["type"]), run.outbox, entry)
        return self.api.artifact(name)

    def _record(self, place: str, output: Output, outbox: Outbox, entry: Mapping[str, Any]) -> None:
        import wandb

        entity, project = place.split("/")
        listing = outbox.listing(entry)
        if not listing:
            raise TrackingError("no run has recorded it")
        artifact = listed(output, entry["md5"], listing)
        with wandb.init(
            entity=entity, project=project, name="sync", job_type="sync", dir=str(root_of(outbox))
        ) as run:
            run.use_artifact(artifact, aliases=[alias_of(entry["md5"])])

    def _use(self, path: str, artifact: Any) -> None:
        run = self.api.run(path)
        used = self._used.setdefault(path, {known.id for known in run.used_artifacts()})
        if artifact.id not in used:
            run.use_artifact(artifact)
            used.add(artifact.id)

    @staticmethod
    def _link(artifact: Any, target: str, aliases: Sequence[str]) -> None:
        """Link unless it is linked: a later link must not lose its alias to an earlier one."""
        linked = {f"{known.project}/{known.collection.name}" for known in artifact.linked_artifacts}
        if target not in linked:
            artifact.link(target, aliases=list(aliases))


def root_of(outbox: Outbox) -> Path:
    """The project's folder that an outbox belongs to."""
    return outbox.folder.parent.parent
