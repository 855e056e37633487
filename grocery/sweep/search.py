"""What is searched and how: a W&B sweep file, and W&B's own engine (the package ``sweeps``)."""

from __future__ import annotations

import importlib
import json
import math
import random
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from pydantic import ValidationError

from grocery.core.documents import parse_yaml
from grocery.core.errors import ParamsError, meant
from grocery.settings import Params, load

METHODS = ("bayes", "random", "grid")
# Sections of params.yaml whose values change a trial's model.
SECTIONS = ("data", "prepare", "featurize", "train")
# What training reports at each step.
STEPS = ("val_accuracy", "residual", "pseudo_labels")


def engine() -> ModuleType:
    """W&B's search engine.

    Raises
    ------
    ParamsError
        When it is not installed.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # it has a word of pydantic 1 in it
            return importlib.import_module("sweeps")
    except ImportError as error:
        raise ParamsError(
            f"W&B's search engine is not installed ({error}); `make extras` installs it"
        ) from None


@dataclass(frozen=True)
class Search:
    """A checked sweep file; `config` is what W&B reads."""

    name: str
    config: Mapping[str, Any]

    @property
    def metric(self) -> str:
        """Name of the metric that is optimised."""
        return str(self.config["metric"]["name"])

    @property
    def sign(self) -> int:
        """1 when more is better, -1 when less is."""
        return -1 if self.config["metric"].get("goal", "minimize") == "minimize" else 1

    @property
    def parameters(self) -> list[str]:
        """Dotted names of the parameters that are searched."""
        return list(self.config["parameters"])

    @cached_property
    def _engine(self) -> ModuleType:
        module = engine()
        # At its first call it imports what draws random numbers itself: not after a seed is set.
        module.next_run(dict(self.config), [])
        return module

    def next(self, runs: Sequence[Any], seed: int) -> dict[str, Any] | None:
        """The parameters of the next trial; None when a grid is exhausted.

        Parameters
        ----------
        runs
            The trials so far, as `run` makes them, running ones too.
        seed
            Of the engine's draws: equal runs and seeds give equal parameters.
        """
        engine = self._engine
        random.seed(seed)
        np.random.seed(seed % 2**32)  # what the engine draws from
        # Of scikit-learn's Gaussian process, for a person.
        with warnings.catch_warnings(action="ignore"):
            found = engine.next_run(dict(self.config), list(runs))
        if found is None:
            return None
        values = {name: item["value"] for name, item in found.config.items()}
        # The engine also gives numpy's numbers.
        return {n: v.item() if isinstance(v, np.generic) else v for n, v in values.items()}

    def run(
        self,
        name: str,
        assignments: Mapping[str, Any],
        state: str,
        history: Sequence[Mapping[str, float]],
        summary: Mapping[str, Any],
    ) -> Any:
        """A trial in the engine's terms; for it one that was stopped has finished."""
        return self._engine.SweepRun(
            name=name,
            state="finished" if state == "stopped" else state,
            config={key: {"value": value} for key, value in assignments.items()},
            history=[dict(step) for step in history],
            summary_metrics=dict(summary),
        )

    def to_stop(self, runs: Sequence[Any]) -> set[str]:
        """Names of the running trials that the file says to stop."""
        if "early_terminate" not in self.config:
            return set()
        return {run.name for run in self._engine.stop_runs(dict(self.config), list(runs))}


def read_search(path: Path, root: Path) -> Search:
    """Read a sweep file and check all of it, so that no trial fails for what could be known.

    The params.yaml of the project in `root` says what is allowed.

    Raises
    ------
    ParamsError
        One sentence that says what, where and what is allowed.
    """
    try:
        config = parse_yaml(path.read_bytes(), str(path), ParamsError)
    except OSError as error:
        raise ParamsError(f"{path} cannot be read: {error.strerror}") from None
    if not isinstance(config, dict):
        raise ParamsError(f"{path} holds no sweep: it should be a mapping with method, metric ...")
    params = load(root / "params.yaml")
    try:
        _check(config, _metrics(root), params)
    except ParamsError as error:
        raise ParamsError(f"{path}: {error}") from None
    return Search(str(config.get("name") or path.stem), config)


def _check(config: Mapping[str, Any], metrics: Collection[str], params: Params) -> None:
    if (method := config.get("method")) not in METHODS:
        raise ParamsError(f"method is {method!r}, but it should be {', '.join(METHODS)}")
    if violation := _violation(config):
        raise ParamsError(violation)
    if (metric := config.get("metric", {}).get("name")) not in metrics:
        known = ", ".join(sorted(metrics))
        raise ParamsError(f"metric.name is {metric!r}, which no stage writes; there are {known}")
    for name, space in config["parameters"].items():
        for value in _extremes(name, space):
            with_values(params, {name: value})


def _violation(config: Mapping[str, Any]) -> str | None:
    """What W&B's own schema of sweep files has against this one, if anything, and where."""
    module = engine()
    from jsonschema.exceptions import best_match  # a requirement of the engine's

    error = best_match(module.config.schema.validator.iter_errors(config))
    if error is not None:
        place = ".".join(str(part) for part in error.absolute_path)
        said = " or ".join(dict.fromkeys(part.message for part in error.context)) or error.message
        return f"{place}: {said}" if place else said
    try:
        violations = module.schema_violations_from_proposed_config(config)
    except (ValueError, TypeError, KeyError, AttributeError) as failure:
        violations = [str(failure)]
    return "; ".join(violations) or None


def _metrics(root: Path) -> set[str]:
    """Names of the metrics that the stage train writes, as its last run tells."""
    try:
        trained = json.loads((root / "metrics/train.json").read_bytes())
    except (OSError, ValueError):
        trained = {}
    return {*STEPS, *(name for name, value in trained.items() if isinstance(value, int | float))}


def with_values(params: Params, assignments: Mapping[str, Any]) -> Params:
    """Parameters with some values changed, checked.

    Raises
    ------
    ParamsError
        When a name is unknown, belongs to nothing that makes a model, or a value is not allowed.
    """
    document = params.model_dump(by_alias=True)
    for name, value in assignments.items():
        *sections, key = name.split(".")
        place: Any = document
        for section in sections:
            place = place.get(section) if isinstance(place, dict) else None
        known = place if isinstance(place, dict) else {}
        if not sections or sections[0] not in SECTIONS or key not in known:
            near = meant(key, known) or meant(name.partition(".")[0], SECTIONS)
            raise ParamsError(
                f"{name} is no parameter that makes a model{near}; see the sections "
                f"{', '.join(SECTIONS)} of params.yaml"
            )
        place[key] = value
    try:
        return Params.model_validate(document)
    except ValidationError as error:
        detail = error.errors()[0]
        key = ".".join(str(part) for part in detail["loc"]) or "params.yaml"
        reason = detail["msg"].removeprefix("Value error, ").replace("Input should", "it should")
        raise ParamsError(f"{key} may be {detail['input']!r:.80}, but {reason}") from None


def _extremes(name: str, space: Mapping[str, Any]) -> Iterator[Any]:
    """Values of a parameter that show whether all of its values are allowed."""
    if "value" in space or "values" in space:
        yield from [space["value"]] if "value" in space else space["values"]
        return
    if "min" not in space or "max" not in space:
        raise ParamsError(f"{name} has no bounds; give values, or min and max")
    low, high = space["min"], space["max"]
    whole = isinstance(low, int) and isinstance(high, int)
    distribution = space.get("distribution") or ("int_uniform" if whole else "uniform")
    if distribution.removeprefix("q_") in ("log_uniform", "inv_log_uniform"):
        low, high = math.exp(low), math.exp(high)
    q = space.get("q", 1) if distribution.startswith("q_") else None
    if distribution == "int_uniform":
        yield from (low, high)
    elif isinstance(q, int):  # rounded to whole numbers, which W&B gives as such
        yield from (round(low / q) * q, round(high / q) * q)
    else:
        yield from (float(low), float(high), (float(low) + float(high)) / 2)
