"""A piece of work as it reaches a worker on another machine, and what the worker checks first."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from grocery.cluster.sameness import CODE, differences, traits
from grocery.core.errors import GroceryError

# Where DVC keeps what is nobody's output.
_SCRATCH = Path(".dvc/tmp/grocery")


@dataclass(frozen=True)
class Place:
    """Where, and by what, the work is to be done."""

    folder: str  # the project's; the paths in the work are relative to it
    mark: str  # a file in it that only the driver's own folder has
    traits: tuple[tuple[str, str], ...]  # the driver's, see `grocery.cluster.sameness`

    def problem(self) -> str:
        """What is wrong with this process, in a sentence that names the host; empty if nothing."""
        worker = f"the worker on {socket.gethostname()}"
        if not Path(self.folder).is_dir():
            return f"{worker} has no folder {self.folder}; it must be shared, under this path"
        if not Path(self.folder, self.mark).is_file():
            return f"{worker} has another folder {self.folder}; it must be shared, not copied"
        found = differences(dict(self.traits), traits())
        stale = len(found) == 1 and found[0].startswith(CODE)
        advice = "restart it" if stale else "start it in the same environment by `grocery worker`"
        return f"{worker} would compute other bytes: {'; '.join(found)}; {advice}" if found else ""


@contextmanager
def this_place() -> Iterator[Place]:
    """This process's working directory and traits, as workers shall have them."""
    _SCRATCH.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=_SCRATCH, prefix="driver-") as mark:
        name = str(_SCRATCH / Path(mark.name).name)
        yield Place(os.getcwd(), name, tuple(traits().items()))


def call(function: Callable[[Any], Any], place: Place, item: Any) -> Any:
    """Do a piece of work in a place.

    Raises
    ------
    GroceryError
        Where the bytes might be others, or would go elsewhere.
    """
    _check(place)
    os.chdir(place.folder)
    return function(item)


@cache
def _check(place: Place) -> None:
    """Check once a process; a failure is not remembered, so it is said by every task."""
    if problem := place.problem():
        raise GroceryError(problem)
