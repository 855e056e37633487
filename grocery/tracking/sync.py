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
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grocery.contents import read_content
from grocery.core.errors import TrackingError
from grocery.tracking.artifacts import Output, Upload, alias_of, described, listed
from grocery.tracking.client import NotNow, open_client, record
from grocery.tracking.mode import check_server
from grocery.tracking.outbox import Outbox, all_outboxes, held
from grocery.tracking.remote import remote_objects
from grocery.tracking.session import KNOCK, contained, one_line

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
        for outbox in all_outboxes(root / "wandb")
    ]
    return [run for run in found if run.steps]


def synchronize(root: Path, *, timeout: float) -> Iterator[str]:
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
            raise NotNow(f"another `grocery sync` is at work in {root}")
        runs = [
            run
            for run in waiting_runs(root)
            if stack.enter_context(held(run.outbox.lock)) is not None
        ]
        if not runs:
            return
        stack.enter_context(contained(root / "wandb"))
        client = stack.enter_context(open_client(timeout))
        post = _PostOffice(client.api, client.url)
        for run in runs:
            if run.upload:
                _upload(run.outbox.run_folder, inherited=whole)
                yield f"run {run.about['stage']} {run.about['id']}"
        yield from _deliver_all(runs, post)


def _deliver_all(runs: Sequence[WaitingRun], post: _PostOffice) -> Iterator[str]:
    """Deliver what waits; what W&B refuses does not hold up the rest, but for later links.

    Links are an alias's history, so none overtakes another.
    """
    refusals: list[str] = []
    failed: set[str] = set()
    for run in runs:
        for number, entry in run.entries.items():
            if entry["do"] == "link" and "link" in failed:
                continue
            try:
                post.deliver(run, number, entry)
            except Exception as error:
                what = f"{entry['do']} of {entry['name']}:{alias_of(entry['md5'])}"
                refusals.append(f"W&B refuses the {what}: {one_line(error)}")
                failed.add(entry["do"])
                check_server(post.url, timeout=KNOCK)
            else:
                run.outbox.note("delivered", number)
                yield f"{entry['do']} {entry['name']}"
        if not run.outbox.pending():
            run.outbox.discard()
    if refusals:
        more = f" (and {len(refusals) - 1} more)" if len(refusals) > 1 else ""
        raise TrackingError(refusals[0] + more)


def _upload(folder: Path, *, inherited: int) -> None:
    """Send a run with W&B's own sync, which holds our lock to its end even if we are killed."""
    environment = {**os.environ, "WANDB_MODE": "online"}
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


@dataclass
class _PostOffice:
    """Delivers lines of outboxes through W&B's public API, each only if it has not arrived yet."""

    api: wandb.Api
    url: str
    _used: dict[str, set[str | None]] = field(default_factory=dict, init=False)

    def deliver(self, run: WaitingRun, number: int, entry: Mapping[str, Any]) -> None:
        entity = run.about["entity"] or self.api.default_entity
        place = f"{entity}/{run.about['project']}"
        artifact = self._artifact(place, run, entry)
        if entry["do"] == "use":
            self._use(f"{place}/{run.about['id']}", artifact)
        elif entry["do"] == "link":
            tried = run.outbox.begun(number)
            run.outbox.note("begun", number)
            if not (tried and self._linked(artifact, entry["target"])):
                artifact.link(entry["target"], aliases=[entry["alias"]])
        else:
            raise TrackingError(f"{run.outbox.folder}: {entry['do']!r} is nothing that W&B does")

    def _artifact(self, place: str, run: WaitingRun, entry: Mapping[str, Any]) -> Any:
        """The artifact that an entry names; recorded now if no tracked stage ever did."""
        alias = alias_of(entry["md5"])
        name = f"{place}/{entry['name']}:{alias}"
        if not self.api.artifact_exists(name):
            if entry["do"] == "link":
                raise TrackingError("it is not there")
            self._record(place, run, entry)
        return self.api.artifact(name)

    def _record(self, place: str, run: WaitingRun, entry: Mapping[str, Any]) -> None:
        """Record an artifact that no tracked stage has, as the run would have done it online.

        Its files are sent if they still lie where the run found them; else the list of them.
        """
        entity, project = place.split("/")
        output = Output(entry["name"], entry["type"], entry["bulky"])
        path, root = Path(entry["path"]), run.outbox.folder.parents[2]
        content = read_content(root / path) if (root / path).exists() else None
        if content and content.md5 == entry["md5"]:
            upload: Upload = entry["upload"]
            objects = remote_objects(root) if upload == "reference" else None
            artifact = described(
                output, root / path, content, {}, upload=upload, objects=objects, settled=True
            )
        else:
            artifact = listed(output, entry["md5"], run.outbox.listing(entry))
        record(artifact, entry["md5"], entity=entity, project=project, root=root)

    def _use(self, path: str, artifact: Any) -> None:
        run = self.api.run(path)
        used = self._used.setdefault(path, {known.id for known in run.used_artifacts()})
        if artifact.id not in used:
            run.use_artifact(artifact)
            used.add(artifact.id)

    @staticmethod
    def _linked(artifact: Any, target: str) -> bool:
        """Whether it is linked: another may have the alias since, and must not lose it."""
        links = artifact.linked_artifacts
        return target in {f"{known.project}/{known.collection.name}" for known in links}
