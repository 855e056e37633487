"""What each verb of a stage's run does with W&B; in the process that speaks with it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from grocery.core.errors import TrackingError
from grocery.tracking.artifacts import Output, alias_of, copied, described, listed
from grocery.tracking.client import record
from grocery.tracking.outbox import Outbox, brought_later
from grocery.tracking.provenance import dvc_root
from grocery.tracking.remote import remote_objects
from grocery.tracking.sdk import one_line

if TYPE_CHECKING:
    import wandb

LATER = "`grocery sync` will do it"


class NotStored(TrackingError):
    """The server did not take in what an online run sent: the run is to be kept offline."""


class OpenRun:
    """A run that the verbs are done to.

    `run` is W&B's own; None when it was sent before, and only what W&B could not be told then is
    done. `api` is W&B's client, which is asked nothing while the run is offline.
    """

    def __init__(self, outbox: Outbox, run: Any, api: wandb.Api | None) -> None:
        self.opening, self.outbox, self.run, self._api = outbox.run(), outbox, run, api
        self.offline: bool = run is not None and run.offline
        self.logged: list[wandb.Artifact] = []
        self.curves: set[str] = set()
        self.figures: set[str] = set()  # names in the summary
        self.warned: list[str] = []
        self.failed = False  # to make an artifact
        self.last_step = -1

    @cached_property
    def api(self) -> wandb.Api:
        """W&B's client."""
        import wandb

        return self._api or wandb.Api()

    @property
    def project(self) -> str:
        """Path of its project."""
        about = self.outbox.made()[0]
        return f"{about['entity'] or self.api.default_entity}/{about['project']}"

    def warn(self, why: str) -> None:
        """Note what a person is to be told."""
        self.outbox.notes.add({"warn": why})
        self.warned.append(why)

    def stored(self) -> None:
        """Wait for the artifacts of an online run; a NotStored says that one was refused."""
        for artifact in () if self.offline else self.logged:
            try:
                artifact.wait()
            except Exception as error:
                raise NotStored(one_line(error)) from error


def perform(on: OpenRun, number: int, message: Mapping[str, Any]) -> None:
    """Do what one line of an outbox says; what fails alone costs a warning alone."""
    arguments = dict(message)
    verb = VERBS.get(arguments.pop("do", ""))
    later = verb in (uses, link)  # what needs the server can be done by `grocery sync`
    kept = verb is uses and on.offline
    if kept and not on.outbox.keep_listing(arguments["output"].name, arguments["path"]):
        on.outbox.notes.add({"delivered": number})  # nothing was there to be used
    told = verb is link and number not in on.outbox.pending()
    if verb is None and message.get("do") != "open":
        on.warn(f"line {number + 1} of {on.outbox.said.path} cannot be read; what it says is lost")
    if verb is None or told or (later and on.offline):
        return
    try:
        if later:
            on.stored()
        verb(on, **arguments)
        if later:
            on.outbox.notes.add({"delivered": number})
    except NotStored:
        raise
    except Exception as error:
        if on.run is None:
            raise
        why = one_line(error)
        if later:
            name = arguments["output"].name
            on.outbox.notes.add({"later": f"{name} is not linked yet ({why}); {LATER}"})
        else:
            on.warn(why)
            on.failed |= verb is artifact


def log(on: OpenRun, values: Mapping[str, float], step: int) -> None:
    """Add one point to each curve. `step` counts from 0 and never goes back.

    A TrackingError says that the run was stopped from W&B.
    """
    on.curves.update(values)
    on.run.log(dict(values), step=step)
    on.last_step = max(on.last_step, step)


def summary(on: OpenRun, values: Mapping[str, Any]) -> None:
    """Set final metrics, the columns of W&B's table of runs."""
    for name in sorted(on.curves & values.keys()):
        on.run.define_metric(name, summary="none")  # else its curve's last point would win
    on.run.summary.update(dict(values))
    on.figures.update(values)


def table(on: OpenRun, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Show a table. A cell of type bytes is a picture (JPEG)."""
    import wandb

    with TemporaryDirectory() as folder:
        cells = [[_picture(c, folder) if isinstance(c, bytes) else c for c in row] for row in rows]
        _expect(on, name, columns, cells)
        _show(on, name, wandb.Table(columns=[*columns], data=cells))


def images(on: OpenRun, name: str, pictures: Sequence[tuple[bytes, str]]) -> None:
    """Show pictures (JPEG bytes, caption) side by side; W&B takes up to 108."""
    with TemporaryDirectory() as folder:
        if shown := [_picture(jpeg, folder, caption) for jpeg, caption in pictures]:
            _show(on, name, shown)


def confusion_matrix(
    on: OpenRun,
    name: str,
    labels: Sequence[int],
    predictions: Sequence[int],
    class_names: Sequence[str],
) -> None:
    """Show a confusion matrix of class numbers (n) and (n), each below len(class_names)."""
    import wandb

    chart = wandb.plot.confusion_matrix(
        y_true=labels, preds=predictions, class_names=class_names, title=name
    )
    _expect(on, f"{name}_table", chart.table.columns, chart.table.data)
    _show(on, name, chart)


def html(on: OpenRun, name: str, text: str) -> None:
    """Show a self-contained page."""
    import wandb

    _show(on, name, wandb.Html(text, inject=False))


def histogram(on: OpenRun, name: str, counts: Sequence[int], edges: Sequence[float]) -> None:
    """Show a histogram of `counts` (n) between `edges` (n + 1)."""
    import numpy as np
    import wandb

    _show(on, name, wandb.Histogram(np_histogram=(np.asarray(counts), np.asarray(edges))))


def alert(on: OpenRun, title: str, text: str) -> None:
    """Notify the team, by the channel that each member chose in W&B."""
    on.run.alert(title=title, text=text, level="WARN")


def artifact(on: OpenRun, output: Output, path: Path, metadata: Mapping[str, Any]) -> None:
    """Record an output that is complete, under the DVC hash of its content.

    Unchanged content makes no new version. `metadata` is what can be queried in W&B without a
    download: JSON, at most 100 keys.
    """
    first = on.outbox.artifact(output.name)
    if first and on.outbox.hash_at(path) != first["md5"]:  # made again, after its files changed
        made = copied(output, first, on.outbox.wandb)
    else:
        made = _artifact(on, output, path, metadata)
    md5 = made.metadata["md5"]
    on.logged.append(on.run.log_artifact(made, aliases=["latest", alias_of(md5)]))
    entries = made.manifest.entries.items()
    copies = {
        name: os.path.relpath(entry.local_path, on.outbox.wandb)
        for name, entry in entries
        if on.offline and entry.local_path is not None
    }
    on.outbox.notes.add(
        {
            "made": "artifact",
            **{"name": output.name, "md5": md5, "digest": made.digest},
            **{"metadata": dict(made.metadata), "copies": copies},
        }
    )


def uses(on: OpenRun, output: Output, path: Path) -> None:
    """Declare an output of another stage as an input, so that W&B draws the lineage.

    If nobody has recorded it, because its stage was not run here or not tracked, this run does.
    """
    if not (md5 := on.outbox.hashed(output.name, path)):  # the stage itself will say so
        return
    name = f"{on.project}/{output.name}:{alias_of(md5)}"
    if not on.api.artifact_exists(name):
        if on.run is not None and brought_later(on.outbox.wandb, output.name, md5):
            raise LookupError("the run that made it is kept offline")
        there = on.outbox.hash_at(path) == md5
        listing = on.outbox.listing(output.name)
        made = _artifact(on, output, path, {}) if there else listed(output, md5, listing)
        if on.run is not None:
            on.run.use_artifact(made, aliases=[alias_of(md5)])
            return
        entity, _, project = on.project.partition("/")
        record(made, md5, entity=entity, project=project, root=on.outbox.wandb.parent)
    if on.run is not None:
        on.run.use_artifact(name)
        return
    reader: Any = on.api.run(f"{on.project}/{on.outbox.folder.name}")
    artifact: Any = on.api.artifact(name)
    if artifact.id not in {known.id for known in reader.used_artifacts()}:
        reader.use_artifact(artifact)


def link(on: OpenRun, output: Output, alias: str) -> None:
    """Link an artifact that this run has logged to the W&B registry, under an alias.

    Without a registry in the settings nothing is done.
    """
    if target := on.opening["registry"]:
        md5 = on.outbox.artifact(output.name)["md5"]
        artifact: Any = on.api.artifact(f"{on.project}/{output.name}:{alias_of(md5)}")
        # Where a kill has come between it and its note, another may have the alias since.
        begun = {"begun": target, "md5": md5}
        links = artifact.linked_artifacts if begun in on.outbox.notes.entries() else ()
        if on.run is None:
            on.outbox.notes.add(begun)
        if target not in {f"{known.project}/{known.collection.name}" for known in links}:
            artifact.link(target, aliases=[alias])


VERBS: dict[str, Callable[..., None]] = {
    verb.__name__: verb
    for verb in (
        *(log, summary, table, images, confusion_matrix, html, histogram, alert),
        *(artifact, uses, link),
    )
}


def _artifact(on: OpenRun, output: Output, path: Path, metadata: Mapping[str, Any]) -> Any:
    root, settled = dvc_root(), not on.offline
    if on.opening["upload"] == "reference" and remote_objects(root) is None:
        on.warn("there is no DVC remote to refer to; lists of the files are sent")
    content = on.outbox.content(path)
    return described(
        output, path, content, metadata, upload=on.opening["upload"], root=root, settled=settled
    )


def _show(on: OpenRun, name: str, value: Any) -> None:
    """Add to the last point of the curves; it is sent with the end of the run."""
    on.run.log({name: value}, commit=False)
    on.last_step = max(on.last_step, 0)


def _expect(on: OpenRun, name: str, columns: Any, rows: Any) -> None:
    """Note the digest that the server is to have of a table: that of an artifact which holds it."""
    import wandb

    same = wandb.Artifact("table", "table")
    same.add(wandb.Table(columns=columns, data=rows), name)
    on.outbox.notes.add({"made": "table", "name": name, "digest": same.digest})


def _picture(jpeg: bytes, folder: str, caption: str | None = None) -> Any:
    """A W&B image of exactly these bytes, by way of a file: W&B would encode them again as PNG.

    The file's name joins a table, so it is the content's too, and equal tables are equal.
    """
    import wandb

    file = Path(folder) / f"{hashlib.sha256(jpeg).hexdigest()[:20]}.jpg"
    file.write_bytes(jpeg)
    return wandb.Image(str(file), caption=caption)
