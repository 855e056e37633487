"""The model that judges batches: opened by its name, with its reference and the thresholds."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from grocery.core.documents import Section, read_document
from grocery.core.errors import (
    GroceryError,
    ModelError,
    ParamsError,
    RegistryError,
    printable,
)
from grocery.core.files import digest
from grocery.core.params import MonitorParams
from grocery.inbox import incoming
from grocery.inbox.entries import Entry
from grocery.inbox.record import Release
from grocery.monitoring.batches import Batch, examine
from grocery.monitoring.report import BatchReport
from grocery.monitoring.speed import Timing
from grocery.reference.reference import Reference
from grocery.registry.git import Git, GitFailed
from grocery.registry.serving import find
from grocery.registry.state import is_registry_name, read_state
from grocery.registry.tags import ARTIFACT
from grocery.release.advice import on_monitoring
from grocery.release.model import Model
from grocery.settings import load
from grocery.tracking.provenance import dvc_root


class Thresholds(Section, extra="ignore"):
    """The section `monitor` alone: where a model is used there need be no pipeline."""

    monitor: MonitorParams


@dataclass(frozen=True)
class Judged:
    """What was found of a batch; of its pictures only those that are shown are kept."""

    incoming: str  # where it lay
    report: BatchReport
    timing: Timing
    not_read: Sequence[str] = ()  # what of it is left out or cannot be read, a sentence each
    entry: Entry | None = None  # its line in the history

    @property
    def alert(self) -> bool:
        """Whether somebody is to be told."""
        return self.entry.alert if self.entry else self.report.judgement.verdict == "alert"


@dataclass(frozen=True)
class Judge:
    """A model with its reference and the thresholds."""

    model: Model
    release: Release
    params: MonitorParams

    def examine(self, origin: Path, *, labelled: bool, flat: bool) -> tuple[Judged, Batch]:
        """Read and judge one batch; see `grocery.inbox.incoming.read`."""
        batch, not_read = incoming.read(origin, self.model, labelled=labelled, flat=flat)
        reference = self.release.reference
        report, timing = examine(batch, model=self.model, reference=reference, params=self.params)
        return Judged(str(origin), report, timing, not_read), batch


def open_judge(name: str, params: MonitorParams, *, fetch: bool = False) -> Judge:
    """Load a model by its name in the registry or from its folder, and its reference.

    With `fetch` the tags of the git remote say what the name means, where that can be asked.

    Raises
    ------
    ModelError
        When the reference is missing, or is another model's.
    """
    if fetch and is_registry_name(name):
        _fetch_tags()
    folder, version = find(name)
    model = Model.load(folder)
    reference = Reference.load(folder / "reference")
    reference.check_fits(model.classes, model.digest)
    advice = on_monitoring(folder, reference.images, params)
    return Judge(model, Release(reference, digest(folder / "reference"), version, advice), params)


def check_model(name: str, *, fetch: bool) -> None:
    """Refuse a model that there is not, while there is no batch yet to load it for.

    With `fetch` the git remote is asked, too, where the tags that are here do not name it.
    """
    if not is_registry_name(name):
        if not find(name)[0].is_dir():
            raise ModelError(f"{name} is not here; run the pipeline, or name another --model")
        return
    try:
        read_state(Git(dvc_root())).find(name)
    except RegistryError:
        if not fetch:
            raise
        _fetch_tags()
        read_state(Git(dvc_root())).find(name)


def _fetch_tags() -> None:
    """Bring the tags of the git remote here, or warn that those that are here count."""
    git, remote = Git(dvc_root()), load(dvc_root() / "params.yaml").registry.remote
    try:
        git.fetch_tags(remote, f"{ARTIFACT}*")
    except GitFailed as error:
        sentence = f"the tags of {remote!r} cannot be fetched ({error}); those of this clone count"
        print(printable(f"warning: monitor: {sentence}"), file=sys.stderr)


def read_thresholds(file: Path) -> MonitorParams:
    """Read the section `monitor` of a params file.

    Raises
    ------
    ParamsError
        One sentence that names the file and what is wrong.
    """
    if not file.is_file():
        raise ParamsError(
            f"{file} is not here; name the file whose section monitor holds the thresholds "
            "with --params"
        )
    return read_document(file, Thresholds, ParamsError).monitor


@contextmanager
def kept_apart(troubles: list[str], what: str) -> Iterator[None]:
    """Take down what is wrong with one thing, which stops no other."""
    try:
        yield
    except GroceryError as error:
        troubles.append(str(error))
    except MemoryError as error:
        troubles.append(f"not enough memory {str(error) or f'for {what}'}")
    except OSError as error:
        if error.errno is None:  # it is a defect
            raise
        troubles.append(f"{os.strerror(error.errno)}: {error.filename or what}")
