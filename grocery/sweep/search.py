"""What is searched and how: a sweep file of W&B's, as it stands."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from grocery.core.documents import Section, read_document
from grocery.core.errors import ParamsError
from grocery.experiment.results import in_workspace
from grocery.settings import load, with_values
from grocery.sweep.hyperband import Hyperband

# The keys of W&B's distributions that have bounds. Without a name the first that fits is meant.
_LINES = ["uniform", "log_uniform", "inv_log_uniform"]
_LINES += ["log_uniform_values", "inv_log_uniform_values"]
_KEYS = {
    "constant": {"value"},
    "categorical": {"values"},
    "int_uniform": {"min", "max"},
    **{name: {"min", "max"} for name in _LINES},
    **{f"q_{name}": {"min", "max", "q"} for name in _LINES},
}


class Space(Section):
    """The values of one parameter; W&B's documentation says what the keys mean."""

    distribution: str = ""
    value: Any = None
    values: list[Any] = Field([], min_length=1)
    min: int | float = 0
    max: int | float = 0
    q: int | float = Field(1, gt=0)

    @cached_property
    def kind(self) -> str:
        """W&B's name of the distribution; empty for one without bounds."""
        given = self.model_fields_set - {"distribution"}
        for name in [self.distribution] if self.distribution else _KEYS:
            keys = _KEYS.get(name, {""})
            whole = name != "int_uniform" or isinstance(self.min + self.max, int)
            if whole and keys - {"q"} <= given <= keys:
                return name
        return ""

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if not self.kind:
            bounded = "no distribution of W&B's that has bounds"
            raise ValueError(f"its keys fit {bounded}; give a value, values, or min and max")
        if "min" in _KEYS[self.kind] and self.min >= self.max:
            raise ValueError(f"min {self.min} is not less than max {self.max}")
        if "log_uniform_values" in self.kind and self.min <= 0:
            raise ValueError("its min should be greater than 0, for there are logarithms")
        return self

    @cached_property
    def listed(self) -> list[Any]:
        """All values, each once, where a list of them is what is searched; else nothing."""
        values = [self.value] if self.kind == "constant" else self.values
        return [*{json.dumps(value, default=str): value for value in values}.values()]

    @cached_property
    def grid(self) -> Sequence[Any]:
        """All values, if there is an end to them; else nothing."""
        whole = self.kind == "int_uniform"
        return range(int(self.min), int(self.max) + 1) if whole else self.listed

    @property
    def extremes(self) -> Sequence[Any]:
        """Values that show whether all of them are allowed."""
        ends = (self.min, self.max) if self.kind == "int_uniform" else (0, 1, 0.5)
        return self.listed or [*map(self.value_of, ends)]

    def value_of(self, drawn: Any) -> Any:
        """The value for what was drawn: a place in the list, a whole number, or a share of 1.

        It is the value below which this share of W&B's draws lies.
        """
        if self.listed or self.kind == "int_uniform":
            return self.listed[drawn] if self.listed else drawn
        low, high, line = self.min, self.max, self.kind.removeprefix("q_")
        if "values" in line:
            low, high = math.log(low), math.log(high)
        elif "inv" in line:
            low, high = -high, -low
        found = low + drawn * (high - low)
        if "log" in line:
            found = math.exp(min(found, 709))  # the largest that is finite
        if line == "uniform" or "values" in line:
            found = min(max(found, self.min), self.max)
        return float(found) if line == self.kind else round(found / self.q) * self.q


class Metric(Section):
    """What is optimised; `target` is for W&B's server."""

    name: str
    goal: Literal["minimize", "maximize"] = "minimize"
    target: Any = None


class Search(Section):
    """A sweep file. The keys below `early_terminate` are for W&B's server and its agents."""

    name: str = ""
    method: Literal["bayes", "random", "grid"]
    metric: Metric
    parameters: dict[str, Space] = Field(min_length=1)
    early_terminate: Hyperband | None = None
    project: Any = None
    entity: Any = None
    description: Any = None
    program: Any = None
    command: Any = None
    run_cap: Any = None

    @property
    def sign(self) -> int:
        """1 when more is better, -1 when less is."""
        return 1 if self.metric.goal == "maximize" else -1

    @model_validator(mode="after")
    def _fit(self) -> Self:
        endless = [name for name, space in self.parameters.items() if not space.grid]
        if self.method == "grid" and endless:
            raise ValueError(f"a grid needs values of {endless[0]}, or whole numbers as bounds")
        return self

    def cell(self, number: int) -> dict[str, Any] | None:
        """The values of a grid's trial, whose number is counted from 0; None after the last."""
        found = {}
        for name, space in sorted(self.parameters.items(), reverse=True):
            number, place = divmod(number, len(space.grid))
            found[name] = space.grid[place]
        return None if number else found


def read_search(path: Path, root: Path) -> Search:
    """Read a sweep file and check all of it, so that no trial fails for what could be known.

    The params.yaml of the project in `root` says what is allowed.

    Raises
    ------
    ParamsError
        One sentence that says what, where and what is allowed.
    """
    search, params = read_document(path, Search, ParamsError), load(root / "params.yaml")
    # What training reports at each step is known before anything has been trained.
    metrics = {"val_accuracy", "residual", "pseudo_labels"}
    metrics |= {name for name in in_workspace(root) if not name.startswith("test_")}
    try:
        if (metric := search.metric.name) not in metrics:
            known = f"which no stage writes; there are {', '.join(sorted(metrics))}"
            raise ParamsError(f"metric.name is {metric!r}, {known}")
        for name, space in search.parameters.items():
            for value in space.extremes:
                with_values(params, {name: value})
    except ParamsError as error:
        raise ParamsError(f"{path}: {error}") from None
    return search if search.name else search.model_copy(update={"name": path.stem})
