"""What a stage is: a function of its parameters and its paths, that may speak while it works.

A stage is a module of `stages` that is named as in dvc.yaml and has

- ``Paths``: a frozen dataclass of what it `reads` and `writes`, the same as in dvc.yaml;
- ``run(params, paths, report)``: reads and writes these paths and no others, depends on its own
  section of params.yaml and no other, and returns what it found as JSON. (`stages.source` alone
  looks at more, see there.)

Who runs it (`grocery.runner`) sees to it that all that it writes takes the place of what was there
before, together, when all went well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from pathlib import Path
from typing import Any, Protocol

from grocery.core.errors import GroceryError


def reads(path: str) -> Any:
    """A field of ``Paths``: a dependency in dvc.yaml, with its ``${parameter}`` if it has one."""
    return field(default=Path(path), metadata={"written": False})


def writes(path: str) -> Any:
    """A field of ``Paths``: an output in dvc.yaml. A path with a suffix is a file, else a folder.

    The folder is there and empty when the stage runs.
    """
    return field(default=Path(path), metadata={"written": True})


def read_by(paths: Any) -> dict[str, Path]:
    """What a stage reads, by the names of the fields."""
    return {f.name: getattr(paths, f.name) for f in fields(paths) if not f.metadata["written"]}


def written_by(paths: Any) -> dict[str, Path]:
    """What a stage writes, by the names of the fields."""
    return {f.name: getattr(paths, f.name) for f in fields(paths) if f.metadata["written"]}


class Stopped(GroceryError):
    """Who watches the stage has seen enough of it."""


class Report(Protocol):
    """How a stage speaks while it works. Nothing that is said comes back to it."""

    def step(self, values: Mapping[str, Any]) -> None:
        """Report one step of the work, such as an iteration or a batch.

        Raises
        ------
        Stopped
            When the work is to end here.
        """

    def warn(self, sentence: str) -> None:
        """Say what a person should know, though the work goes on."""
