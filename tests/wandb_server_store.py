"""What the W&B server does with accounts, runs, sweeps and artifacts, without GraphQL and HTTP.

`Store` is GraphQL's roots Query and Mutation in one. What must not happen twice (a version of an
artifact, a use, a link, an alias) is appended to `Store.changes` as one line.
"""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from secrets import token_hex
from typing import Any, TypeVar

from wandb_server_model import (
    USER,
    Agent,
    Artifact,
    ArtifactCollection,
    ArtifactCollectionMembership,
    ArtifactPortfolio,
    ArtifactSequence,
    Entity,
    File,
    Project,
    Run,
    Sweep,
    WandbError,
    md5,
)

C = TypeVar("C", bound=ArtifactCollection)

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
START = ("display_name", "job_type", "tags", "commit")


class Store:
    """Everything that the server keeps and can do."""

    def __init__(self, entity: str) -> None:
        self.default_entity = entity
        self.url = ""  # where files are up- and downloaded; the server knows it
        self.changes: list[str] = []
        self.all_projects: dict[tuple[str, str], Project] = {}
        self.all_artifacts: dict[str, Artifact] = {}
        self.all_agents: dict[str, Agent] = {}
        self.by_client_id: dict[str, Artifact | ArtifactSequence] = {}
        self._project(ORG_ENTITY, "wandb-registry-model")  # every organisation has it

    # Queries

    def viewer(self) -> dict[str, Any]:
        entity = self.default_entity
        teams = [Entity(entity)]
        return {"id": USER, "username": USER, "flags": "{}", "entity": entity, "teams": teams}

    def server_info(self) -> dict[str, Any]:
        return {"features": [{"name": name, "is_enabled": True} for name in FEATURES]}

    def entity(self, name: str) -> dict[str, Any]:
        """Of a team, the one organisation that every team belongs to."""
        return {"organization": {"name": "Example Groceries", "org_entity": Entity(ORG_ENTITY)}}

    def project(self, name: str, entity_name: str) -> Project | None:
        return self.all_projects.get((entity_name, name))

    def artifact(self, id: str) -> Artifact | None:
        return self.all_artifacts.get(id)

    # Runs

    def upsert_bucket(self, input: Mapping[str, Any]) -> dict[str, Any]:
        given = {key: value for key, value in input.items() if value is not None}
        project = self._project(given.get("entity_name"), given["model_name"])
        run, inserted = project.run(given["name"]), False
        updates = {key: given[key] for key in START if key in given}
        if run is None:
            run, inserted = Run(project, given["name"]), True
            project.runs_by_name[run.name] = run
        elif updates:  # one that starts under the id of another, without `resume`, replaces it
            updates |= {"lines": {}, "state": "running", "exit_code": None}
        if "group_name" in given:
            updates["group"] = given["group_name"]
        if "config" in given:
            updates["config"] = json.loads(given["config"])
        if "sweep" in given:
            updates["sweep"] = self._sweep(project, given["sweep"])
        for name, value in updates.items():
            setattr(run, name, value)
        return {"bucket": run, "inserted": inserted}

    def file_stream(
        self, entity: str, project: str, name: str, chunk: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Take in what a run logs; the lines of a file from an offset on replace those there."""
        run = self.run_at(entity, project, name)
        for file_name, part in chunk.get("files", {}).items():
            if file_name == "wandb-summary.json":  # the whole of it, every time
                run.summary_metrics = json.loads(part["content"][-1])
            else:
                lines, offset = run.lines.get(file_name, []), part["offset"]
                if offset > len(lines):
                    raise WandbError(f"{file_name}: line {offset} of {len(lines)} is too far")
                run.lines[file_name] = [*lines[:offset], *part["content"]]
        run.state, run.exit_code = "running", None
        if chunk.get("complete"):
            run.exit_code = chunk.get("exitcode", 0)
            failed = "killed" if run.stopped else "failed"
            run.state = failed if run.exit_code else "finished"
        return {"limits": {}, "stopped": run.stopped}

    def create_run_files(self, input: Mapping[str, Any]) -> dict[str, Any]:
        run = self._run_of(input)
        files = [run.file(name) for name in input["files"]]
        return {"run_id": run.id, "upload_headers": [], "files": files}

    def notify_scriptable_run_alert(self, input: Mapping[str, Any]) -> dict[str, bool]:
        """Send an alert, once of each title: W&B waits a minute, and no test takes so long."""
        run = self._run_of(input)
        if input["title"] not in [alert["title"] for alert in run.alerts]:
            run.alerts.append({name: input[name] for name in ("title", "text", "severity")})
        return {"success": True}

    # Sweeps

    def upsert_sweep(self, input: Mapping[str, Any]) -> dict[str, Any]:
        project = self._project(input.get("entity_name"), input["project_name"])
        if input.get("id"):
            sweep = self._sweep(project, input["id"])
            sweep.state = input["state"]
        else:
            name = token_hex(4)
            sweep = project.sweeps[name] = Sweep(project, name, input["config"])
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
        return {"agent": agent, "commands": self._commands(agent, alive)}

    @staticmethod
    def _commands(agent: Agent, alive: Mapping[str, bool]) -> list[dict[str, Any]]:
        sweep, runs = agent.sweep, agent.sweep.project.runs_by_name
        if alive and sweep.state != "CANCELED":
            return [{"type": "stop", "run_id": name} for name in alive if runs[name].stopped]
        if sweep.state != "RUNNING" or not sweep.grid:
            return [{"type": "exit"}]
        arguments = {name: {"value": value} for name, value in sweep.grid.pop(0).items()}
        name = token_hex(4)
        runs[name] = Run(sweep.project, name, state="pending", config=arguments, sweep=sweep)
        return [{"type": "run", "run_id": name, "program": None, "args": arguments}]

    # Artifacts

    def create_artifact(self, input: Mapping[str, Any]) -> dict[str, Any]:
        """A version to be filled, or the one of the collection that has the same digest."""
        project = self._project(input["entity_name"], input["project_name"])
        name, type_name = input["artifact_collection_name"], input["artifact_type_name"]
        sequence = self._collection(ArtifactSequence, project, name, type_name)
        artifact = sequence.by_digest.get(input["digest"])
        aliases = [item["alias"] for item in input.get("aliases") or ()]
        if artifact is None:
            artifact = Artifact(sequence, input["digest"])
            sequence.by_digest[artifact.digest] = self.all_artifacts[artifact.id] = artifact
        if artifact.state == "PENDING":  # new, or left behind by somebody who was interrupted
            if input.get("run_name"):
                artifact.created_by = self._run_of(input)
            artifact.metadata = input.get("metadata")
            artifact.pending_aliases = aliases
        else:
            self._assign(artifact.artifact_memberships[0], aliases)
        clients = {"client_id": artifact, "sequence_client_id": sequence}
        self.by_client_id |= {input[key]: item for key, item in clients.items() if input.get(key)}
        return {"artifact": artifact}

    def create_artifact_manifest(self, input: Mapping[str, Any]) -> dict[str, Any]:
        return {"artifact_manifest": self.all_artifacts[input["artifact_id"]].current_manifest}

    def create_artifact_files(self, input: Mapping[str, Any]) -> dict[str, Any]:
        """Where to upload each file; nowhere if the collection has one with the same MD5."""
        return {"files": [self._planned(spec) for spec in input["artifact_files"]]}

    def _planned(self, spec: Mapping[str, Any]) -> File:
        artifact = self.all_artifacts[spec["artifact_id"]]
        file = artifact.file(spec["name"], {"digest": spec["md5"]})
        if spec["md5"] not in artifact.artifact_sequence.blobs:
            file.upload_url = file.direct_url
        return file

    def commit_artifact(self, input: Mapping[str, Any]) -> dict[str, Any]:
        artifact = self.all_artifacts[input["artifact_id"]]
        if artifact.state == "PENDING":
            for name, entry in artifact.entries.items():
                if "ref" not in entry and entry["digest"] not in artifact.artifact_sequence.blobs:
                    raise WandbError(f"{artifact.artifact_sequence.name}: {name} was not uploaded")
            artifact.state = "COMMITTED"
            membership = self._join(artifact.artifact_sequence, artifact)
            artifact.version_index = membership.version_index
            self.changes.append(f"artifact {artifact.artifact_sequence.path}: {artifact.label}")
            if artifact.created_by:
                artifact.created_by.output_artifacts.append(artifact)
            self._assign(membership, artifact.pending_aliases)
        return {"artifact": artifact}

    def update_artifact(self, input: Mapping[str, Any]) -> dict[str, Any]:
        artifact = self.all_artifacts[input["artifact_id"]]
        artifact.metadata = input["metadata"]
        return {"artifact": artifact}

    def use_artifact(self, input: Mapping[str, Any]) -> dict[str, Any]:
        artifact, run = self.all_artifacts[input["artifact_id"]], self._run_of(input)
        if artifact not in run.input_artifacts:
            run.input_artifacts.append(artifact)
            artifact.used_by.append(run)
            self.changes.append(f"run {run.path}: uses {artifact.label}")
        return {"artifact": artifact}

    def link_artifact(self, input: Mapping[str, Any]) -> dict[str, Any]:
        artifact = self.all_artifacts[input["artifact_id"]]
        if artifact.state != "COMMITTED":
            raise WandbError(f"{artifact.artifact_sequence.name} is not committed")
        registry = self.all_projects[input["entity_name"], input["project_name"]]
        name, type_name = input["artifact_portfolio_name"], artifact.artifact_sequence.type_name
        portfolio = self._collection(ArtifactPortfolio, registry, name, type_name)
        membership = portfolio.membership_of(artifact)
        if membership is None:
            membership = self._join(portfolio, artifact)
            self.changes.append(f"link {portfolio.path}: {artifact.label}")
        aliases = [item["alias"] for item in input.get("aliases") or ()]
        self._assign(membership, ["latest", *aliases])
        return {"version_index": membership.version_index, "artifact_membership": membership}

    def unlink_artifact(self, input: Mapping[str, Any]) -> dict[str, bool]:
        artifact = self.all_artifacts[input["artifact_id"]]
        where = input["artifact_portfolio_id"]
        found = artifact.artifact_memberships
        (membership,) = (each for each in found if each.artifact_collection.id == where)
        for alias in membership.aliases:
            self._unassign(membership, alias.alias)
        membership.artifact_collection.memberships.remove(membership)
        found.remove(membership)
        return {"success": True}

    def add_aliases(self, input: Mapping[str, Any]) -> dict[str, bool]:
        for membership, alias in self._named_aliases(input):
            self._assign(membership, [alias])
        return {"success": True}

    def delete_aliases(self, input: Mapping[str, Any]) -> dict[str, bool]:
        for membership, alias in self._named_aliases(input):
            self._unassign(membership, alias)
        return {"success": True}

    def _named_aliases(
        self, input: Mapping[str, Any]
    ) -> Iterable[tuple[ArtifactCollectionMembership, str]]:
        artifact = self.all_artifacts[input["artifact_id"]]
        for item in input["aliases"]:
            project = self.all_projects[item["entity_name"], item["project_name"]]
            name = item["artifact_collection_name"]
            membership = project.collections[name].membership_of(artifact)
            assert membership
            yield membership, item["alias"]

    # Files of artifacts

    def put_artifact_file(self, id: str, hexadecimal: str, name: str, body: bytes) -> None:
        digest = base64.b64encode(bytes.fromhex(hexadecimal)).decode()
        if md5(body) != digest:
            raise WandbError(f"{name}: the MD5 of what was uploaded is not {digest}")
        self.all_artifacts[id].artifact_sequence.blobs[digest] = body

    def artifact_file(self, id: str, hexadecimal: str) -> bytes:
        digest = base64.b64encode(bytes.fromhex(hexadecimal)).decode()
        return self.all_artifacts[id].artifact_sequence.blobs[digest]

    # What several of them need

    def _project(self, entity: str | None, name: str) -> Project:
        key = entity or self.default_entity, name
        if key not in self.all_projects:
            self.all_projects[key] = Project(self, Entity(key[0]), name)
        return self.all_projects[key]

    def run_at(self, entity: str, project: str, name: str) -> Run:
        return self.all_projects[entity or self.default_entity, project].runs_by_name[name]

    def _run_of(self, input: Mapping[str, Any]) -> Run:
        return self.run_at(input["entity_name"], input["project_name"], input["run_name"])

    @staticmethod
    def _sweep(project: Project, name_or_id: str) -> Sweep:
        known = {key: sweep for sweep in project.sweeps.values() for key in (sweep.name, sweep.id)}
        return known[name_or_id]

    @staticmethod
    def _collection(kind: type[C], project: Project, name: str, type_name: str) -> C:
        collection = project.collections.setdefault(name, kind(project, name, type_name))
        assert isinstance(collection, kind)
        return collection

    @staticmethod
    def _join(collection: ArtifactCollection, artifact: Artifact) -> ArtifactCollectionMembership:
        membership = ArtifactCollectionMembership(collection, artifact, collection.next_version)
        collection.next_version += 1
        collection.memberships.append(membership)
        artifact.artifact_memberships.append(membership)
        return membership

    def _assign(self, membership: ArtifactCollectionMembership, aliases: Sequence[str]) -> None:
        collection = membership.artifact_collection
        for alias in aliases:
            if collection.alias_owners.get(alias) is not membership:
                collection.alias_owners[alias] = membership
                self.changes.append(f"alias {collection.path}: {alias}")

    @staticmethod
    def _unassign(membership: ArtifactCollectionMembership, alias: str) -> None:
        owners = membership.artifact_collection.alias_owners
        if owners.get(alias) is membership:
            del owners[alias]
