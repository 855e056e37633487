"""What an experiment has measured, and what is in the workspace."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial, reduce
from pathlib import Path
from typing import Any

from grocery.core.errors import DataError
from grocery.registry.git import Git
from grocery.registry.records import json_at, params_at
from grocery.registry.revisions import experiments


def recorded(root: Path, name: str, assignments: Mapping[str, Any]) -> dict[str, float]:
    """Metrics of the experiment with this name and these parameters; none without it.

    Those of the stage evaluate have `test_` before their names.

    Raises
    ------
    DataError
        When an experiment has the name and other parameters.
    """
    git = Git(root)
    named = [found.commit for found in experiments(git) if found.name == name]
    for commit in named:
        there = params_at(git, commit)
        if all(_value(there, key) == value for key, value in assignments.items()):
            return _metrics(partial(json_at, git, commit))
    if named:
        raise DataError(f"another experiment is called {name}, with other parameters")
    return {}


def in_workspace(root: Path) -> dict[str, float]:
    """Metrics of what is in the workspace, as `recorded`; empty before a first run."""
    try:
        return _metrics(lambda path: json.loads((root / path).read_bytes()))
    except (OSError, ValueError, AttributeError):  # there is none, or it is no JSON object
        return {}


def _value(params: Any, name: str) -> Any:
    """The value of a dotted name; None where there is none."""

    def below(place: Any, key: str) -> Any:
        return place.get(key) if isinstance(place, dict) else None

    return reduce(below, name.split("."), params)


def _metrics(read: Callable[[str], Mapping[str, Any]]) -> dict[str, float]:
    return {
        f"{start}{name}": value
        for stage, start in (("train", ""), ("evaluate", "test_"))
        for name, value in read(f"metrics/{stage}.json").items()
        if isinstance(value, int | float)
    }
