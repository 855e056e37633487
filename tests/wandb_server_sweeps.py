"""Sweeps over grids and their agents, as the W&B server keeps them, and what it does with them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any

import yaml

from wandb_server_runs import Project, Run
from wandb_server_store_runs import RunStore
from wandb_server_types import WandbError, connection, now, ordered, server_id

OVER = ("FINISHED", "CANCELED")


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


class SweepStore(RunStore):
    """The mutations that `wandb sweep` and `wandb agent` send."""

    def __init__(self, entity: str) -> None:
        super().__init__(entity)
        self.all_agents: dict[str, Agent] = {}
        self.stop_rule: StopRule | None = None

    def upsert_sweep(self, input: Mapping[str, Any]) -> dict[str, Any]:
        given = {key: value for key, value in input.items() if value is not None}
        project = self._project(given.get("entity_name"), given.get("project_name"))
        if "id" in given:
            sweep = self._sweep(project, given["id"])
        else:
            name = token_hex(4)
            sweep = project.sweeps[name] = Sweep(project, name, given["config"])
            self.changes.append(f"sweep {sweep.path}: created")
        for key in {"config", "state", "description", "display_name"} & given.keys():
            self._set(sweep, key, given[key])
        return {"sweep": sweep, "config_validation_warnings": []}

    def create_agent(self, input: Mapping[str, Any]) -> dict[str, Any]:
        project = self._project(input.get("entity_name"), input.get("project_name"))
        sweep = self._sweep(project, input["sweep"])
        agent = Agent(sweep, len(self.all_agents) + 1, input["host"])
        self.all_agents[agent.id] = agent
        return {"agent": agent}

    def agent_heartbeat(self, input: Mapping[str, Any]) -> dict[str, Any]:
        """What an agent is to do; it names the runs whose processes live."""
        agent = self.all_agents.get(input["id"])
        if agent is None:
            raise WandbError(f"there is no agent with the id {input['id']}")
        alive = json.loads(input.get("run_state") or "{}")
        for run in agent.runs:
            if run.name not in alive:
                self._end(run)
        return {"agent": agent, "commands": json.dumps(self._commands(agent, alive))}

    def _end(self, run: Run) -> None:
        """The process of a run has ended, whether or not the run has said so."""
        if run.state == "running" and run.stopped:
            self._set(run, "state", "killed")
        elif run.state == "pending":
            self._set(run, "state", "crashed")

    def _commands(self, agent: Agent, alive: Mapping[str, bool]) -> list[dict[str, Any]]:
        sweep = agent.sweep
        if sweep.state == "CANCELED" or (sweep.state in OVER and not alive):
            return [{"type": "exit"}]
        stops = [
            {"type": "stop", "run_id": run.name}
            for run in agent.runs
            if run.name in alive and run.stopped
        ]
        if stops or alive or sweep.state != "RUNNING":
            return stops
        parameters = sweep.next_parameters()
        if parameters is None:
            self._set(sweep, "state", "FINISHED")
            return [{"type": "exit"}]
        arguments = {name: {"value": value} for name, value in parameters.items()}
        run = self._hand_out(agent, arguments)
        program = sweep.settings.get("program")
        return [{"type": "run", "run_id": run.name, "program": program, "args": arguments}]

    def _hand_out(self, agent: Agent, arguments: dict[str, Any]) -> Run:
        project = agent.sweep.project
        run = Run(project, token_hex(4), state="pending", config_values=arguments)
        run.display_name = f"sweep-{agent.sweep.run_count + 1}"
        project.runs_by_name[run.name] = run
        self._set(run, "sweep", agent.sweep)
        agent.runs.append(run)
        return run

    def stop_run(self, input: Mapping[str, Any]) -> None:
        """The button in the app."""
        for project in self.all_projects.values():
            for run in project.runs_by_name.values():
                if run.id == input["id"]:
                    self._set(run, "stopped", True)
                    return
        raise WandbError(f"there is no run with the id {input['id']}")

    def file_stream(
        self, entity: str, project: str, name: str, chunk: Mapping[str, Any]
    ) -> dict[str, Any]:
        answer = super().file_stream(entity, project, name, chunk)
        run = self._run(entity, project, name)
        if run.sweep and self.stop_rule and self.stop_rule.strikes(run):
            self._set(run, "stopped", True)
        return answer | ({"stopped": True} if run.stopped else {})
