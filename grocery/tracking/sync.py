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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grocery.contents import read_content
from grocery.core.errors import TrackingError
from grocery.journal import held
from grocery.tracking.artifacts import Output, alias_of, described, listed
from grocery.tracking.client import NotNow, open_client, raise_refusals, record
from grocery.tracking.mode import check_server
from grocery.tracking.outbox import Outbox, all_outboxes
from grocery.tracking.session import KNOCK, contained, one_line

if TYPE_CHECKING:
    import wandb


@dataclass(frozen=True)
class WaitingRun:
    """A run that W&B has not got whole."""

    outbox: Outbox
    about: Mapping[str, Any]  # names it: ``id``, ``stage``, ``group``, ``project``, ``entity``
    upload: bool  # the run itself is still to be sent
    entries: Mapping[int, Mapping[str, Any]]  # lines of the outbox to deliver, by number

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

    Runs that a stage is still writing are left for later. `timeout` is the longest wait for one
    answer of W&B, in seconds. A TrackingError is raised when another synchronisation is at work,
    when no key is configured, and when W&B cannot be reached or refuses something; what was sent
    before stays sent, and the rest can be sent later.
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
        for run in runs:
            if run.upload:
                _upload(run.outbox.run_folder, inherited=whole)
                yield f"run {run.about['stage']} {run.about['id']}"
        yield from _deliver_all(runs, client.api, client.url)


def _upload(folder: Path, *, inherited: int) -> None:
    """Send a run with W&B's own sync, which holds our lock to its end even if we are killed."""
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", str(folder)],
        env={**os.environ, "WANDB_MODE": "online"},
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


def _deliver_all(runs: Sequence[WaitingRun], api: wandb.Api, url: str) -> Iterator[str]:
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
                _deliver(api, run, number, entry)
            except Exception as error:
                what = f"{entry['do']} of {entry['name']}:{alias_of(entry['md5'])}"
                refusals.append(f"W&B refuses the {what}: {one_line(error)}")
                failed.add(entry["do"])
                check_server(url, timeout=KNOCK)
            else:
                run.outbox.note("delivered", number)
                yield f"{entry['do']} {entry['name']}"
        if not run.outbox.pending():
            run.outbox.discard()
    raise_refusals(refusals)


def _deliver(api: wandb.Api, run: WaitingRun, number: int, entry: Mapping[str, Any]) -> None:
    """Deliver one line of an outbox, if it has not arrived yet."""
    entity = str(run.about["entity"] or api.default_entity)
    project = run.about["project"]
    name = f"{entity}/{project}/{entry['name']}:{alias_of(entry['md5'])}"
    if not api.artifact_exists(name):
        if entry["do"] == "link":
            raise TrackingError("it is not there")
        _record(run, entry, entity, project)
    artifact: Any = api.artifact(name)
    if entry["do"] == "use":
        reader = api.run(f"{entity}/{project}/{run.about['id']}")
        if artifact.id not in {known.id for known in reader.used_artifacts()}:
            reader.use_artifact(artifact)
    elif entry["do"] == "link":
        tried = run.outbox.begun(number)
        run.outbox.note("begun", number)
        if not (tried and _linked(artifact, entry["target"])):
            artifact.link(entry["target"], aliases=[entry["alias"]])
    else:
        raise TrackingError(f"{run.outbox.folder}: {entry['do']!r} is nothing that W&B does")


def _record(run: WaitingRun, entry: Mapping[str, Any], entity: str, project: str) -> None:
    """Record an artifact that no tracked stage has, as the run would have done it online.

    Its files are sent if they still lie where the run found them; else the list of them.
    """
    output = Output(entry["path"], entry["name"], entry["type"], entry["bulky"])
    root = run.outbox.folder.parents[2]
    path = root / output.path
    content = read_content(path) if path.exists() else None
    if content and content.md5 == entry["md5"]:
        artifact = described(output, path, content, {}, upload=entry["upload"], root=root)
    else:
        artifact = listed(output, entry["md5"], run.outbox.listing(entry))
    record(artifact, entry["md5"], entity=entity, project=project, root=root)


def _linked(artifact: Any, target: str) -> bool:
    """Whether it is linked: another may have the alias since, and must not lose it."""
    links = artifact.linked_artifacts
    return target in {f"{known.project}/{known.collection.name}" for known in links}
