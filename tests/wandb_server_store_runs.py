"""What the W&B server does with accounts, projects and runs, without GraphQL and HTTP."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from wandb_server_artifacts import Artifact, ArtifactSequence
from wandb_server_runs import Project, Run
from wandb_server_types import (
    ORG_ENTITY,
    REGISTRY,
    USER,
    Entity,
    Organization,
    WandbError,
    connection,
    server_id,
)

if TYPE_CHECKING:
    from wandb_server_sweeps import Sweep

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
    "TOTAL_COUNT_IN_FILE_CONNECTION",
    "ARTIFACT_COLLECTIONS_FILTERING_SORTING",
    "ARTIFACT_V2_DOWNLOAD_HANDLER_SUPPORTS_ARTIFACT_ID",
)

# Registries that every organisation has from the beginning.
REGISTRIES = ("model", "dataset")

# The arguments of `upsertBucket` that only the start of a run and the public API send.
ATTRIBUTES = {
    "display_name": "display_name",
    "group_name": "group",
    "job_type": "job_type",
    "tags": "tags",
    "description": "description",
    "notes": "notes",
    "commit": "commit",
    "host": "host",
}


class RunStore:
    """All that the server knows, and the queries and mutations that are not about artifacts."""

    def __init__(self, entity: str) -> None:
        self.default_entity = entity
        self.url = ""  # where files are up- and downloaded; the server knows it
        self.changes: list[str] = []
        self.all_projects: dict[tuple[str, str], Project] = {}
        self.all_artifacts: dict[str, Artifact] = {}
        self.by_client_id: dict[str, Artifact | ArtifactSequence] = {}
        for name in REGISTRIES:
            self._project(ORG_ENTITY, f"{REGISTRY}{name}")
        self.changes.clear()

    # Queries

    def viewer(self) -> dict[str, Any]:
        return {
            "id": server_id("User", USER),
            "name": USER,
            "username": USER,
            "email": f"{USER}@example.com",
            "flags": "{}",
            "entity": self.default_entity,
            "teams": connection([Entity(self.default_entity)]),
            "organizations": [Organization()],
        }

    def server_info(self) -> dict[str, Any]:
        return {"features": [{"name": name, "is_enabled": True} for name in FEATURES]}

    def entity(self, name: str | None = None) -> Entity:
        return Entity(name or self.default_entity)

    def project(self, name: str | None = None, entity_name: str | None = None) -> Project | None:
        return self.all_projects.get((entity_name or self.default_entity, name or "uncategorized"))

    # Runs

    def upsert_bucket(self, input: Mapping[str, Any]) -> dict[str, Any]:
        given = {key: value for key, value in input.items() if value is not None}
        run, inserted = self._find_or_create(given)
        updates = {own: given[key] for key, own in ATTRIBUTES.items() if key in given}
        if not inserted and "id" not in given and updates.keys() - {"description", "notes"}:
            self._start_over(run)
        if "config" in given:
            updates["config_values"] = json.loads(given["config"])
        if "summary_metrics" in given:
            updates["summary"] = json.loads(given["summary_metrics"])
        if "state" in given:
            updates["state"] = given["state"]
        if "sweep" in given:
            updates["sweep"] = self._sweep(run.project, given["sweep"])
        for name, value in updates.items():
            self._set(run, name, value)
        return {"bucket": run, "inserted": inserted}

    def _set(self, run: Run | Sweep, name: str, value: Any) -> None:
        if getattr(run, name) != value:
            setattr(run, name, value)
            self.changes.append(f"{type(run).__name__.lower()} {run.path}: {name}")

    def _find_or_create(self, given: Mapping[str, Any]) -> tuple[Run, bool]:
        if "id" in given:
            for project in self.all_projects.values():
                for run in project.runs_by_name.values():
                    if run.id == given["id"]:
                        return run, False
            raise WandbError(f"there is no run with the id {given['id']}")
        project = self._project(given.get("entity_name"), given.get("model_name"))
        if project.is_registry:
            raise WandbError(f"{project.name} is a registry; a run needs a project")
        if run := project.run(given["name"]):
            return run, False
        number = len(project.runs_by_name) + 1
        run = Run(project, given["name"], display_name=f"run-{number}")
        project.runs_by_name[run.name] = run
        self.changes.append(f"run {run.path}: created")
        return run, True

    def _start_over(self, run: Run) -> None:
        """A run that starts under the id of another, and does not resume it, takes its place.

        See the argument `resume` of `wandb.init`. A resumed run is upserted by its `id`.
        """
        self._set(run, "lines", {})
        self._set(run, "state", "running")
        self._set(run, "exit_code", None)

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
        return {"limits": {}}

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

    # Files

    def put_run_file(
        self, entity: str, project: str, run_name: str, name: str, body: bytes
    ) -> None:
        run = self._run(entity, project, run_name)
        if run.contents.get(name) != body:
            run.contents[name] = body
            self.changes.append(f"run {run.path}: file {name}")

    def get_run_file(self, entity: str, project: str, run_name: str, name: str) -> bytes | None:
        return self._run(entity, project, run_name).contents.get(name)

    # Look-ups

    def _project(self, entity: str | None, name: str | None) -> Project:
        key = entity or self.default_entity, name or "uncategorized"
        if key not in self.all_projects:
            self.all_projects[key] = Project(
                self, Entity(key[0]), key[1], len(self.all_projects) + 1
            )
            self.changes.append(f"project {key[0]}/{key[1]}: created")
        return self.all_projects[key]

    def _run(self, entity: str, project: str, name: str) -> Run:
        found = self.project(project, entity)
        if run := found.run(name) if found else None:
            return run
        raise WandbError(f"there is no run {entity}/{project}/{name}")

    @staticmethod
    def _sweep(project: Project, name_or_id: str) -> Sweep:
        for sweep in project.sweeps.values():
            if name_or_id in (sweep.name, sweep.id):
                return sweep
        raise WandbError(f"there is no sweep {name_or_id} in {project.name}")
