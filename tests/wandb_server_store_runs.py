"""What the W&B server does with accounts, projects, runs and sweeps, without GraphQL and HTTP."""

from __future__ import annotations

import json
from collections.abc import Mapping
from secrets import token_hex
from typing import Any

from wandb_server_artifacts import Artifact, ArtifactSequence
from wandb_server_runs import Agent, Project, Run, Sweep
from wandb_server_types import USER, Entity, WandbError, connection

ORG_ENTITY = "example-groceries"  # the one organisation's, which owns the registries

# What the SDK may do with this server; W&B's own newest servers switch on the same.
FEATURES = (
    "LARGE_FILENAMES",
    "ARTIFACT_TAGS",
    "CLIENT_IDS",
    "ARTIFACT_COLLECTION_MEMBERSHIP_FILES",
    "ARTIFACT_COLLECTION_MEMBERSHIP_FILE_DOWNLOAD_HANDLER",
    "USE_ARTIFACT_WITH_ENTITY_AND_PROJECT_INFORMATION",
    "PROJECT_ARTIFACT_COLLECTION_MEMBERSHIP",
    "ARTIFACT_MEMBERSHIP_IN_LINK_ARTIFACT_RESPONSE",
    "ARTIFACT_V2_DOWNLOAD_HANDLER_SUPPORTS_ARTIFACT_ID",
)

# The arguments of `upsertBucket` that only the start of a run sends.
ATTRIBUTES = {
    "display_name": "display_name",
    "group_name": "group",
    "job_type": "job_type",
    "tags": "tags",
    "commit": "commit",
}


class RunStore:
    """All that the server knows, and the queries and mutations that are not about artifacts."""

    def __init__(self, entity: str) -> None:
        self.default_entity = entity
        self.url = ""  # where files are up- and downloaded; the server knows it
        self.changes: list[str] = []
        self.all_projects: dict[tuple[str, str], Project] = {}
        self.all_artifacts: dict[str, Artifact] = {}
        self.all_agents: dict[str, Agent] = {}
        self.by_client_id: dict[str, Artifact | ArtifactSequence] = {}
        self._project(ORG_ENTITY, "wandb-registry-model")  # every organisation has it
        self.changes.clear()

    # Queries

    def viewer(self) -> dict[str, Any]:
        teams = connection([Entity(self.default_entity)])
        entity = self.default_entity
        return {"id": USER, "username": USER, "flags": "{}", "entity": entity, "teams": teams}

    def server_info(self) -> dict[str, Any]:
        return {"features": [{"name": name, "is_enabled": True} for name in FEATURES]}

    def entity(self, name: str) -> dict[str, Any]:
        """Of a team, the one organisation that every team belongs to."""
        return {"organization": {"name": "Example Groceries", "org_entity": Entity(ORG_ENTITY)}}

    def project(self, name: str, entity_name: str) -> Project | None:
        return self.all_projects.get((entity_name, name))

    # Runs

    def upsert_bucket(self, input: Mapping[str, Any]) -> dict[str, Any]:
        given = {key: value for key, value in input.items() if value is not None}
        project = self._project(given.get("entity_name"), given["model_name"])
        run, inserted = project.run(given["name"]), False
        updates = {own: given[key] for key, own in ATTRIBUTES.items() if key in given}
        if run is None:
            run, inserted = Run(project, given["name"]), True
            project.runs_by_name[run.name] = run
            self.changes.append(f"run {run.path}: created")
        elif updates:  # one that starts under the id of another, without `resume`, replaces it
            updates |= {"lines": {}, "state": "running", "exit_code": None}
        if "config" in given:
            updates["config_values"] = json.loads(given["config"])
        if "sweep" in given:
            updates["sweep"] = self._sweep(project, given["sweep"])
        for name, value in updates.items():
            self._set(run, name, value)
        return {"bucket": run, "inserted": inserted}

    def _set(self, item: Run | Sweep, name: str, value: Any) -> None:
        if getattr(item, name) != value:
            setattr(item, name, value)
            self.changes.append(f"{type(item).__name__.lower()} {item.path}: {name}")

    def file_stream(
        self, entity: str, project: str, name: str, chunk: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Take in what a run logs; the lines of a file from an offset on replace those there."""
        run = self._run(entity, project, name)
        for file_name, part in chunk.get("files", {}).items():
            if file_name == "wandb-summary.json":  # the whole of it, every time
                self._set(run, "summary", json.loads(part["content"][-1]))
            else:
                lines, offset = run.lines.get(file_name, []), part["offset"]
                if offset > len(lines):
                    raise WandbError(f"{file_name}: line {offset} of {len(lines)} is too far")
                whole = {**run.lines, file_name: [*lines[:offset], *part["content"]]}
                self._set(run, "lines", whole)
        state, exit_code = "running", None
        if chunk.get("complete"):
            exit_code = chunk.get("exitcode", 0)
            failed = "killed" if run.stopped else "failed"
            state = failed if exit_code else "finished"
        self._set(run, "state", state)
        self._set(run, "exit_code", exit_code)
        return {"limits": {}, "stopped": run.stopped}

    def create_run_files(self, input: Mapping[str, Any]) -> dict[str, Any]:
        run = self._run(input["entity_name"], input["project_name"], input["run_name"])
        files = [run.file(name) for name in input["files"]]
        return {"run_id": run.id, "upload_headers": [], "files": files}

    def notify_scriptable_run_alert(self, input: Mapping[str, Any]) -> dict[str, bool]:
        """Send an alert, once of each title: W&B waits a minute, and no test takes so long."""
        run = self._run(input["entity_name"], input["project_name"], input["run_name"])
        if input["title"] not in [alert["title"] for alert in run.alerts]:
            run.alerts.append({name: input[name] for name in ("title", "text", "severity")})
            self.changes.append(f"run {run.path}: alert {input['title']}")
        return {"success": True}

    def put_run_file(
        self, entity: str, project: str, run_name: str, name: str, body: bytes
    ) -> None:
        run = self._run(entity, project, run_name)
        if run.contents.get(name) != body:
            run.contents[name] = body
            self.changes.append(f"run {run.path}: file {name}")

    # Sweeps

    def upsert_sweep(self, input: Mapping[str, Any]) -> dict[str, Any]:
        project = self._project(input.get("entity_name"), input["project_name"])
        if input.get("id"):
            sweep = self._sweep(project, input["id"])
            self._set(sweep, "state", input["state"])
        else:
            name = token_hex(4)
            sweep = project.sweeps[name] = Sweep(project, name, input["config"])
            self.changes.append(f"sweep {sweep.path}: created")
        return {"sweep": sweep, "config_validation_warnings": []}

    def create_agent(self, input: Mapping[str, Any]) -> dict[str, Any]:
        project = self.all_projects[input["entity_name"], input["project_name"]]
        agent = Agent(self._sweep(project, input["sweep"]))
        self.all_agents[agent.id] = agent
        return {"agent": agent}

    def agent_heartbeat(self, input: Mapping[str, Any]) -> dict[str, Any]:
        """What an agent is to do; it names the runs whose processes live."""
        agent = self.all_agents[input["id"]]
        alive = json.loads(input["run_state"])
        return {"agent": agent, "commands": json.dumps(self._commands(agent, alive))}

    def _commands(self, agent: Agent, alive: Mapping[str, bool]) -> list[dict[str, Any]]:
        sweep = agent.sweep
        if alive and sweep.state != "CANCELED":
            stopped = [run.name for run in agent.runs if run.stopped and run.name in alive]
            return [{"type": "stop", "run_id": name} for name in stopped]
        if sweep.state != "RUNNING" or not sweep.grid:
            return [{"type": "exit"}]
        arguments = {name: {"value": value} for name, value in sweep.grid.pop(0).items()}
        run = Run(sweep.project, token_hex(4), state="pending", config_values=arguments)
        sweep.project.runs_by_name[run.name] = run
        self._set(run, "sweep", sweep)
        agent.runs.append(run)
        return [{"type": "run", "run_id": run.name, "program": None, "args": arguments}]

    # Look-ups

    def _project(self, entity: str | None, name: str) -> Project:
        key = entity or self.default_entity, name
        if key not in self.all_projects:
            self.all_projects[key] = Project(self, Entity(key[0]), name)
            self.changes.append(f"project {key[0]}/{name}: created")
        return self.all_projects[key]

    def _run(self, entity: str, project: str, name: str) -> Run:
        return self.all_projects[entity or self.default_entity, project].runs_by_name[name]

    @staticmethod
    def _sweep(project: Project, name_or_id: str) -> Sweep:
        known = {key: sweep for sweep in project.sweeps.values() for key in (sweep.name, sweep.id)}
        return known[name_or_id]
