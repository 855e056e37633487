"""What a stage tells Weights & Biases: one run a stage, opened with `stage_run`.

Tracking is never in the way. Every verb returns at once, whatever state W&B is in (see
`grocery.tracking.session`); nothing here raises, asks, or changes an output of the stage.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grocery.params import TrackingParams
from grocery.tracking import outbox
from grocery.tracking.provenance import content_digest, digest_alias
from grocery.tracking.session import RunRequest, Session, Task

if TYPE_CHECKING:
    from wandb import Run


@contextmanager
def stage_run(
    stage: str,
    *,
    settings: TrackingParams,
    config: Mapping[str, Any],
    inputs: Mapping[str, Path | str] | None = None,
    tags: Sequence[str] = (),
) -> Iterator[StageRun]:
    """Open the W&B run of one stage and finish it, as failed when the block raises.

    Parameters
    ----------
    stage
        Name of the stage; the run's name and job type.
    settings
        Project, entity and the longest wait. WANDB_PROJECT, WANDB_ENTITY and WANDB_MODE win.
    config
        The stage's parameters, one dict a section.
    inputs
        What the stage reads: a file or folder, or its SHA-256. The digests join the config.
    tags
        Tags of the run, such as the name of the dataset.
    """
    if os.environ.get("WANDB_MODE") == "disabled":
        yield StageRun(None)
        return
    session = Session(
        RunRequest(
            stage=stage,
            project=os.environ.get("WANDB_PROJECT") or settings.project,
            entity=os.environ.get("WANDB_ENTITY") or settings.entity or None,
            config=config,
            inputs=inputs or {},
            tags=tags,
        ),
        timeout=settings.timeout,
    )
    run = StageRun(session)
    exit_code = 1
    try:
        yield run
        exit_code = 0
    finally:
        session.close(exit_code)


class StageRun:
    """The verbs of a stage's run. Values are handed over: do not change them afterwards."""

    def __init__(self, session: Session | None) -> None:
        self._session = session

    @property
    def enabled(self) -> bool:
        """False when WANDB_MODE is disabled: what is only meant for W&B need not be computed."""
        return self._session is not None

    def _tell(self, task: Task) -> None:
        if self._session is not None:
            self._session.submit(task)

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Add one point to each curve. `step` counts from 0 and never goes back."""
        self._tell(lambda run: run.log(dict(values), step=step))

    def summary(self, values: Mapping[str, Any]) -> None:
        """Set final metrics, the columns of W&B's table of runs."""
        self._tell(lambda run: run.summary.update(dict(values)))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Show a table. A cell of type bytes is a picture (JPEG)."""

        def task(run: Run) -> None:
            import wandb

            with tempfile.TemporaryDirectory() as folder:
                cells = [
                    [_picture(cell, folder) if isinstance(cell, bytes) else cell for cell in row]
                    for row in rows
                ]
                run.log({name: wandb.Table(columns=list(columns), data=cells)}, commit=False)

        self._tell(task)

    def images(self, name: str, pictures: Sequence[tuple[bytes, str]]) -> None:
        """Show pictures (JPEG bytes, caption) side by side; W&B takes up to 108."""

        def task(run: Run) -> None:
            with tempfile.TemporaryDirectory() as folder:
                shown = [_picture(data, folder, caption) for data, caption in pictures]
                run.log({name: shown}, commit=False)

        self._tell(task)

    def confusion_matrix(
        self,
        name: str,
        labels: Iterable[int],
        predictions: Iterable[int],
        class_names: Sequence[str],
    ) -> None:
        """Show a confusion matrix of class numbers (n) and (n), each below len(class_names)."""
        truth, predicted = [int(k) for k in labels], [int(k) for k in predictions]

        def task(run: Run) -> None:
            import wandb

            chart = wandb.plot.confusion_matrix(
                y_true=truth, preds=predicted, class_names=list(class_names), title=name
            )
            run.log({name: chart}, commit=False)

        self._tell(task)

    def html(self, name: str, path: Path) -> None:
        """Show a self-contained page."""

        def task(run: Run) -> None:
            import wandb

            run.log({name: wandb.Html(path.read_text("utf-8"), inject=False)}, commit=False)

        self._tell(task)

    def alert(self, title: str, text: str) -> None:
        """Notify the team, by the channel that each member chose in W&B."""
        self._tell(lambda run: run.alert(title=title, text=text, level="WARN"))

    def artifact(
        self,
        name: str,
        kind: str,
        *,
        digest: Path | str,
        metadata: Mapping[str, Any],
        files: Sequence[Path] = (),
    ) -> None:
        """Record an output under its content digest.

        Equal `digest` and `files` make no new version in W&B; another digest always makes one,
        even when no file is sent.

        Parameters
        ----------
        name, kind
            W&B's name and type of the artifact, such as ``features`` and ``dataset``.
        digest
            SHA-256 of the content, or the file or folder that it is the digest of.
        metadata
            What can be queried without a download; JSON, at most 100 keys.
        files
            Files and folders that W&B keeps a copy of. What DVC keeps need not be sent again: leave
            it empty to send the metadata only.
        """

        def task(run: Run) -> None:
            import wandb

            content = content_digest(digest)
            artifact = wandb.Artifact(name, kind, metadata={**metadata, "sha256": content})
            with artifact.new_file("content.sha256") as stream:
                stream.write(content + "\n")
            for path in files:
                add = artifact.add_dir if path.is_dir() else artifact.add_file
                add(str(path), skip_cache=True)
            run.log_artifact(artifact, aliases=["latest", digest_alias(content)])

        self._tell(task)

    def uses(self, name: str, kind: str, *, digest: Path | str) -> None:
        """Declare an artifact with this content as an input, so that W&B draws the lineage.

        What W&B cannot be told now, because the run is offline or the artifact is not there yet,
        is written to the outbox.
        """

        def task(run: Run) -> None:
            reference = f"{name}:{digest_alias(content_digest(digest))}"
            if not run.offline:
                try:
                    run.use_artifact(reference, type=kind)
                    return
                except Exception:
                    pass  # whatever it was, it is said later
            outbox.append(run, {"do": "use_artifact", "artifact": reference, "kind": kind})

        if self._session is not None:
            self._session.submit_last(task)


def _picture(jpeg: bytes, folder: str, caption: str | None = None) -> Any:
    """A W&B image of exactly these bytes, by way of a file: W&B would encode them anew as PNG."""
    import wandb

    with tempfile.NamedTemporaryFile(dir=folder, suffix=".jpg", delete=False) as stream:
        stream.write(jpeg)
    return wandb.Image(stream.name, caption=caption)
