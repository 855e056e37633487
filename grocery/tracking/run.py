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

from grocery.contents import Content
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

    Parameters
    ----------
    stage
        Name of the stage; the run's name and job type.
    settings
        WANDB_PROJECT, WANDB_ENTITY and WANDB_MODE win.
    config
        The stage's parameters, one dict a section.
    inputs
        The files and folders that the stage reads. Their DVC hashes join the config, and those that
        are outputs of another stage are declared as the run's input artifacts.
    tags
        Tags of the run, such as the name of the dataset.

    Raises
    ------
    TrackingError
        When the run is stopped from W&B, by a sweep or by a person.
    """
    if os.environ.get("WANDB_MODE") == "disabled":
        yield StageRun(None, settings)
        return
    read = inputs or {}
    named = {key.name if isinstance(key, Output) else key: path for key, path in read.items()}
    session = Session(stage, settings, config=config, inputs=named, tags=tags)
    run = StageRun(session, settings)
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
    """The verbs of a stage's run. Values are handed over: do not change them afterwards."""

    def __init__(self, session: Session | None, settings: TrackingParams) -> None:
        self._session = session
        self._settings = settings

    @property
    def enabled(self) -> bool:
        """False when WANDB_MODE is disabled: what is only meant for W&B need not be computed."""
        return self._session is not None

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Add one point to each curve. `step` counts from 0 and never goes back."""
        self._tell(lambda on: on.run.log(dict(values), step=step))

    def summary(self, values: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> None:
        """Set final metrics, the columns of W&B's table of runs.

        A function is called in W&B's own thread, and not at all when nothing is tracked.
        """
        self._tell(lambda on: on.run.summary.update(dict(values() if callable(values) else values)))

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
            content = on.content(path)
            artifact = self._described(on, output, path, content, metadata)
            aliases = ["latest", alias_of(content.md5)]
            on.logged[output.name] = on.run.log_artifact(artifact, aliases=aliases)
            if on.run.offline:
                on.outbox.add({"do": "log", "name": output.name, "md5": content.md5})

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
            content = on.content(path)
            if self._done(
                on,
                lambda: self._use(on, output, path, content),
                f"{output.name} is not linked yet",
            ):
                return
            entry = {"do": "use", **asdict(output), "md5": content.md5, "path": path.as_posix()}
            on.outbox.add({**entry, "upload": self._settings.upload}, content.listing)

        self._tell(use, last=True)

    def link(self, output: Output, path: Path, *, alias: str) -> None:
        """Link an artifact that this run has logged to the W&B registry, under an alias.

        Without a registry in the settings nothing is done. What W&B cannot be told now is written
        to the outbox.
        """
        target = self._settings.registry

        def link(on: OpenRun) -> None:
            if self._done(
                on,
                lambda: on.run.link_artifact(on.logged[output.name], target, aliases=[alias]),
                f"{output.name} is not linked to {target}",
            ):
                return
            entry = {"do": "link", "name": output.name, "type": output.type, "target": target}
            on.outbox.add({**entry, "md5": on.content(path).md5, "alias": alias})

        if target:
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

    @staticmethod
    def _done(on: OpenRun, request: Callable[[], Any], failure: str) -> bool:
        """Whether the server was told; why it was not becomes a warning that begins `failure`."""
        if on.run.offline:
            return False
        try:
            request()
        except Exception as error:
            on.warn(f"{failure} ({one_line(error)}); {LATER}")
            return False
        return True

    def _use(self, on: OpenRun, output: Output, path: Path, content: Content) -> None:
        name = f"{on.run.entity}/{on.run.project}/{output.name}:{alias_of(content.md5)}"
        if on.api.artifact_exists(name):
            on.run.use_artifact(name)
        elif brought_later(project_root() / "wandb", output.name, content.md5):
            raise LookupError("the run that made it is kept offline")
        else:
            artifact = self._described(on, output, path, content, {})
            on.run.use_artifact(artifact, aliases=[alias_of(content.md5)])

    def _described(
        self,
        on: OpenRun,
        output: Output,
        path: Path,
        content: Content,
        metadata: Mapping[str, Any],
    ) -> Any:
        upload, root = self._settings.upload, dvc_root()
        if upload == "reference" and remote_objects(root) is None:
            on.warn("there is no DVC remote to refer to; lists of the files are sent")
        return described(
            output,
            path,
            content,
            metadata,
            upload=upload,
            root=root,
            settled=not on.run.offline,
        )


def _picture(jpeg: bytes, folder: str, caption: str | None = None) -> Any:
    """A W&B image of exactly these bytes, by way of a file: W&B would encode them anew as PNG.

    The file's name joins a table, so it is the content's too, and equal tables are equal.
    """
    import wandb

    file = Path(folder) / f"{hashlib.sha256(jpeg).hexdigest()[:20]}.jpg"
    file.write_bytes(jpeg)
    return wandb.Image(str(file), caption=caption)
