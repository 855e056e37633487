"""What a stage tells Weights & Biases: one run a stage, opened with `stage_run`.

Tracking is never in the way. Every verb returns at once, whatever state W&B is in (see
`grocery.tracking.session`); nothing here raises, asks, or changes an output of the stage. Only a
stop that is asked for in W&B ends it.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from grocery.core.errors import TrackingError
from grocery.settings import TrackingParams
from grocery.tracking.artifacts import Output, alias_of, described
from grocery.tracking.outbox import brought_later
from grocery.tracking.provenance import dvc_root, project_root
from grocery.tracking.remote import remote_objects
from grocery.tracking.session import NotStored, OpenRun, Session, Task, one_line

LATER = "`grocery sync` will do it"
STOPPED = "stopped from W&B"


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

    WANDB_PROJECT, WANDB_ENTITY and WANDB_MODE win over the settings. `config` is the stage's
    parameters, one dict a section. `inputs` are the files and folders that it reads: their DVC
    hashes join the config, and outputs of other stages are declared as the run's input artifacts.

    A TrackingError is raised when the run is stopped from W&B, by a sweep or by a person.
    """
    if os.environ.get("WANDB_MODE") == "disabled":
        yield StageRun(None)
        return
    read = inputs or {}
    named = {key.name if isinstance(key, Output) else key: path for key, path in read.items()}
    session = Session(stage, settings, config=config, inputs=named, tags=tags)
    run = StageRun(session)
    exit_code = 1
    try:
        for key, path in read.items():
            if isinstance(key, Output):
                run.uses(key, path)
        yield run
        exit_code = 0
    except KeyboardInterrupt:
        if session.stopped:
            raise TrackingError(f"{STOPPED}; earlier outputs are as they were") from None
        raise
    finally:
        session.close(exit_code)


class StageRun:
    """The verbs of a stage's run. Values are handed over: do not change them afterwards.

    Without a session nothing is tracked.
    """

    def __init__(self, session: Session | None) -> None:
        self._session = session

    @property
    def enabled(self) -> bool:
        """False when WANDB_MODE is disabled: what is only meant for W&B need not be computed."""
        return self._session is not None

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Add one point to each curve. `step` counts from 0 and never goes back."""

        def log(on: OpenRun) -> None:
            on.curves.update(values)
            on.run.log(dict(values), step=step)

        self._tell(log)

    def summary(self, values: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> None:
        """Set final metrics, the columns of W&B's table of runs.

        A function is called in W&B's own thread, and not at all when nothing is tracked.
        """

        def summarize(on: OpenRun) -> None:
            final = dict(values() if callable(values) else values)
            for name in sorted(on.curves & final.keys()):
                on.run.define_metric(name, summary="none")  # else its curve's last point would win
            on.run.summary.update(final)

        self._tell(summarize)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Show a table. A cell of type bytes is a picture (JPEG)."""

        def table(wandb: Any, folder: str) -> Any:
            cells = [
                [_picture(cell, folder) if isinstance(cell, bytes) else cell for cell in row]
                for row in rows
            ]
            return wandb.Table(columns=list(columns), data=cells)

        self._show(name, table)

    def images(self, name: str, pictures: Sequence[tuple[bytes, str]]) -> None:
        """Show pictures (JPEG bytes, caption) side by side; W&B takes up to 108."""
        if pictures:
            self._show(name, lambda _, folder: [_picture(jpeg, folder, c) for jpeg, c in pictures])

    def confusion_matrix(
        self,
        name: str,
        labels: Iterable[int],
        predictions: Iterable[int],
        class_names: Sequence[str],
    ) -> None:
        """Show a confusion matrix of class numbers (n) and (n), each below len(class_names)."""
        pairs = {"y_true": [int(k) for k in labels], "preds": [int(k) for k in predictions]}
        names = list(class_names)
        self._show(
            name,
            lambda wandb, _: wandb.plot.confusion_matrix(**pairs, class_names=names, title=name),
        )

    def html(self, name: str, path: Path) -> None:
        """Show a self-contained page."""
        self._show(name, lambda wandb, _: wandb.Html(path.read_text("utf-8"), inject=False))

    def histogram(self, name: str, counts: Sequence[int], edges: Sequence[float]) -> None:
        """Show a histogram of `counts` (n) between `edges` (n + 1)."""
        bins = (np.asarray(counts), np.asarray(edges))
        self._show(name, lambda wandb, _: wandb.Histogram(np_histogram=bins))

    def alert(self, title: str, text: str) -> None:
        """Notify the team, by the channel that each member chose in W&B."""
        self._tell(lambda on: on.run.alert(title=title, text=text, level="WARN"))

    def artifact(self, output: Output, path: Path, metadata: Mapping[str, Any]) -> None:
        """Record an output that is complete, under the DVC hash of its content.

        Unchanged content makes no new version. `metadata` is what can be queried in W&B without a
        download: JSON, at most 100 keys.
        """

        def log(on: OpenRun) -> None:
            md5 = on.content(path).md5
            artifact = _artifact(on, output, path, metadata)
            aliases = ["latest", alias_of(md5)]
            on.logged[output.name] = on.run.log_artifact(artifact, aliases=aliases)
            if on.run.offline:
                on.outbox.add({"do": "log", "name": output.name, "md5": md5})

        def wait(on: OpenRun) -> None:
            if not on.run.offline and output.name in on.logged:
                try:
                    on.logged[output.name].wait()
                except Exception as error:
                    raise NotStored(one_line(error)) from error

        self._tell(log)
        self._tell(wait, last=True)

    def uses(self, output: Output, path: Path) -> None:
        """Declare an output of another stage as an input, so that W&B draws the lineage.

        If nobody has recorded it, because its stage was not run here or not tracked, this run does.
        What W&B cannot be told now is written to the outbox.
        """

        def use(on: OpenRun) -> None:
            if not path.exists():  # the stage itself will say so
                return
            if not _told(on, lambda: _use(on, output, path), f"{output.name} is not linked yet"):
                content = on.content(path)
                entry = {"do": "use", **asdict(output), "md5": content.md5, "path": path.as_posix()}
                on.outbox.add({**entry, "upload": on.settings.upload}, content.listing)

        self._tell(use, last=True)

    def link(self, output: Output, path: Path, *, alias: str) -> None:
        """Link an artifact that this run has logged to the W&B registry, under an alias.

        Without a registry in the settings nothing is done. What W&B cannot be told now is written
        to the outbox.
        """

        def link(on: OpenRun) -> None:
            if not (target := on.settings.registry):
                return

            def tell() -> None:
                on.run.link_artifact(on.logged[output.name], target, aliases=[alias])

            if not _told(on, tell, f"{output.name} is not linked to {target}"):
                entry = {"do": "link", "name": output.name, "type": output.type, "target": target}
                on.outbox.add({**entry, "md5": on.content(path).md5, "alias": alias})

        self._tell(link, last=True)

    def _tell(self, task: Task, *, last: bool = False) -> None:
        if self._session is not None:
            self._session.submit(task, last=last)

    def _show(self, name: str, make: Callable[[Any, str], Any]) -> None:
        """Show what is made with the module `wandb`, and with a folder to write files to."""

        def task(on: OpenRun) -> None:
            import wandb

            with tempfile.TemporaryDirectory() as folder:
                on.run.log({name: make(wandb, folder)}, commit=False)

        self._tell(task)


def _told(on: OpenRun, tell: Callable[[], Any], failure: str) -> bool:
    """Whether the server was told; why it was not becomes a warning that begins with `failure`."""
    if not on.run.offline:
        try:
            tell()
            return True
        except Exception as error:
            on.warn(f"{failure} ({one_line(error)}); {LATER}")
    return False


def _use(on: OpenRun, output: Output, path: Path) -> None:
    md5 = on.content(path).md5
    name = f"{on.run.entity}/{on.run.project}/{output.name}:{alias_of(md5)}"
    if on.api.artifact_exists(name):
        on.run.use_artifact(name)
    elif brought_later(project_root() / "wandb", output.name, md5):
        raise LookupError("the run that made it is kept offline")
    else:
        on.run.use_artifact(_artifact(on, output, path, {}), aliases=[alias_of(md5)])


def _artifact(on: OpenRun, output: Output, path: Path, metadata: Mapping[str, Any]) -> Any:
    upload, root, settled = on.settings.upload, dvc_root(), not on.run.offline
    if upload == "reference" and remote_objects(root) is None:
        on.warn("there is no DVC remote to refer to; lists of the files are sent")
    content = on.content(path)
    return described(output, path, content, metadata, upload=upload, root=root, settled=settled)


def _picture(jpeg: bytes, folder: str, caption: str | None = None) -> Any:
    """A W&B image of exactly these bytes, by way of a file: W&B would encode them anew as PNG.

    The file's name joins a table, so it is the content's too, and equal tables are equal.
    """
    import wandb

    file = Path(folder) / f"{hashlib.sha256(jpeg).hexdigest()[:20]}.jpg"
    file.write_bytes(jpeg)
    return wandb.Image(str(file), caption=caption)
