"""What both forms of the command do: read the thresholds, open the model, examine a batch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from grocery.cli.monitor import incoming
from grocery.core.errors import DataError, ParamsError, printable

if TYPE_CHECKING:
    from grocery.core.params import MonitorParams
    from grocery.inbox.record import Release
    from grocery.monitoring.batches import Batch
    from grocery.monitoring.report import BatchReport
    from grocery.monitoring.speed import Timing
    from grocery.release.model import Model
    from grocery.settings import TrackingParams


@dataclass(frozen=True)
class Examined:
    """A batch, what is found in it, the time it took, and what of it cannot be read."""

    batch: Batch
    report: BatchReport
    timing: Timing
    unreadable: list[str]


@dataclass(frozen=True)
class Judge:
    """A model with its reference and the thresholds."""

    model: Model
    release: Release
    params: MonitorParams

    def examine(self, origin: Path, arguments: argparse.Namespace) -> Examined:
        """Read and judge one batch."""
        from grocery.monitoring.batches import examine

        batch, unreadable = incoming.read(
            origin, self.model, labelled=arguments.labelled, flat=arguments.each
        )
        report, timing = examine(
            batch, model=self.model, reference=self.release.reference, params=self.params
        )
        return Examined(batch, report, timing, unreadable)


def open_judge(name: str, params: MonitorParams) -> Judge:
    """Load a model by its name in the registry or from its folder, and its reference.

    Raises
    ------
    ModelError
        When the reference is missing, or is another model's.
    """
    from grocery.core.files import digest
    from grocery.inbox.record import Release
    from grocery.reference.reference import Reference
    from grocery.registry.serving import fetch
    from grocery.registry.state import is_registry_name
    from grocery.release.model import Model

    folder, version = Path(name), None
    if is_registry_name(name):
        fetched = fetch(name)
        folder, version = fetched.folder, fetched.version
    model = Model.load(folder)
    reference = Reference.load(folder / "reference")
    reference.check_fits(model.classes, model.digest)
    return Judge(model, Release(reference, digest(folder / "reference"), version), params)


def read_thresholds(file: Path) -> MonitorParams:
    """Read the section `monitor` alone: where a model is used there need be no pipeline."""
    from grocery.core import params
    from grocery.core.documents import Section, read_document

    class Thresholds(Section, extra="ignore"):
        monitor: params.MonitorParams

    _refuse_missing(file)
    return read_document(file, Thresholds, ParamsError).monitor


def read_tracking(file: Path) -> TrackingParams:
    """Read the section `tracking` alone."""
    from grocery import settings
    from grocery.core.documents import Section, read_document

    class Settings(Section, extra="ignore"):
        tracking: settings.TrackingParams

    return read_document(file, Settings, ParamsError).tracking


def check_report(name: str | None) -> Path | None:
    """Where the page goes; a folder is refused before any work is done for it."""
    if name is not None and Path(name).is_dir():
        raise DataError(f"{name} is a folder; --report wants the name of a file")
    return None if name is None else Path(name)


def say_unreadable(sentences: Iterable[str]) -> None:
    """Name the files that cannot be read, on standard error."""
    for sentence in sentences:
        print(printable(f"unreadable: {sentence}"), file=sys.stderr)


def _refuse_missing(file: Path) -> None:
    if not file.is_file():
        raise ParamsError(
            f"{file} is not here; name the file whose section monitor holds the thresholds "
            "with --params"
        )
