"""Sweeps over grids and their agents, as the W&B server keeps them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from wandb_server_types import WandbError, connection, now, ordered, server_id

if TYPE_CHECKING:
    from wandb_server_runs import Project, Run


@dataclass(eq=False)
class Sweep:
    """A sweep: its configuration in YAML, and the runs that were handed out to agents."""

    project: Project
    name: str
    config: str
    display_name: str | None = None
    description: str | None = None
    state: str = "RUNNING"
    created_at: str = field(default_factory=now)
    _grid: list[dict[str, Any]] | None = None

    early_stop_job_running = False
    heartbeat_at = updated_at = best_loss = run_count_expected = None
    controller = scheduler = None

    def __post_init__(self) -> None:
        if self.method != "grid":
            raise WandbError(f"invalid sweep config: the method {self.method!r} is not known here")
        if not self.settings.get("parameters"):
            raise WandbError("invalid sweep config: there are no parameters")

    @property
    def id(self) -> str:
        return server_id("Sweep", f"v1:{self.name}:{self.project.name}:{self.project.entity.name}")

    @property
    def path(self) -> str:
        return f"{self.project.entity.name}/{self.project.name}/{self.name}"

    @property
    def settings(self) -> dict[str, Any]:
        loaded: dict[str, Any] = yaml.safe_load(self.config) or {}
        return loaded

    @property
    def method(self) -> str | None:
        return self.settings.get("method")

    @property
    def all_runs(self) -> list[Run]:
        return [run for run in self.project.runs_by_name.values() if run.sweep is self]

    @property
    def run_count(self) -> int:
        return len(self.all_runs)

    def runs(self, order: str | None = None, **page: Any) -> dict[str, Any]:
        return connection(ordered(self.all_runs, order), **page)

    def next_parameters(self) -> dict[str, Any] | None:
        """What the next run should try; None when the grid has come to its end."""
        parameters = self.settings["parameters"]
        if self._grid is None:
            values = [spec.get("values") or [spec["value"]] for spec in parameters.values()]
            self._grid = [
                dict(zip(parameters, point, strict=True)) for point in itertools.product(*values)
            ]
        return self._grid.pop(0) if self._grid else None


@dataclass(eq=False)
class Agent:
    """A process that runs what the sweep hands out."""

    sweep: Sweep
    number: int
    host: str
    runs: list[Run] = field(default_factory=list)
    created_at: str = field(default_factory=now)

    @property
    def id(self) -> str:
        return server_id("Agent", self.number)


@dataclass
class StopRule:
    """When runs of sweeps are stopped; see `WandbServer.stop_runs`."""

    steps: int
    times: int

    def strikes(self, run: Run) -> bool:
        """Whether this run is to be stopped now; every stop counts."""
        if run.stopped or self.times == 0 or run.history_line_count < self.steps:
            return False
        self.times -= 1
        return True
