"""What the W&B server does with sweeps and their agents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from secrets import token_hex
from typing import Any

from wandb_server_runs import Run
from wandb_server_store_runs import RunStore
from wandb_server_sweeps import Agent, StopRule, Sweep
from wandb_server_types import WandbError

OVER = ("FINISHED", "CANCELED")


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

    def stop_run(self, input: Mapping[str, Any]) -> dict[str, bool]:
        """The button in the app."""
        for project in self.all_projects.values():
            for run in project.runs_by_name.values():
                if run.id == input["id"]:
                    self._set(run, "stopped", True)
                    return {"success": True}
        raise WandbError(f"there is no run with the id {input['id']}")

    def file_stream(
        self, entity: str, project: str, name: str, chunk: Mapping[str, Any]
    ) -> dict[str, Any]:
        answer = super().file_stream(entity, project, name, chunk)
        run = self._run(entity, project, name)
        if run.sweep and self.stop_rule and self.stop_rule.strikes(run):
            self._set(run, "stopped", True)
        return answer | ({"stopped": True} if run.stopped else {})
