"""Projects and runs, as the W&B server keeps them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from wandb_server_artifacts import (
    Artifact,
    ArtifactCollection,
    ArtifactCollectionMembership,
    ArtifactType,
)
from wandb_server_types import (
    REGISTRY,
    USER,
    Entity,
    File,
    connection,
    matches,
    md5,
    now,
    ordered,
    server_id,
)

if TYPE_CHECKING:
    from wandb_server_store import Store
    from wandb_server_sweeps import Sweep


@dataclass(eq=False)
class Project:
    """A project: runs and collections of artifacts. A registry is a project too."""

    store: Store
    entity: Entity
    name: str
    number: int
    runs_by_name: dict[str, Run] = field(default_factory=dict)
    sweeps: dict[str, Sweep] = field(default_factory=dict)
    collections: dict[str, ArtifactCollection] = field(default_factory=dict)
    created_at: str = field(default_factory=now)

    read_only = False

    @property
    def id(self) -> str:
        return server_id("Project", f"{self.entity.name}:{self.name}")

    @property
    def internal_id(self) -> str:
        return str(self.number)

    @property
    def is_registry(self) -> bool:
        return self.name.startswith(REGISTRY)

    def run(self, name: str) -> Run | None:
        return self.runs_by_name.get(name)

    def sweep(self, sweep_name: str) -> Sweep | None:
        return self.sweeps.get(sweep_name)

    def _runs(self, filters: str | None) -> list[Run]:
        wanted = json.loads(filters or "{}")
        return [run for run in self.runs_by_name.values() if matches(wanted, run.fields())]

    def run_count(self, filters: str | None = None) -> int:
        return len(self._runs(filters))

    def runs(
        self, filters: str | None = None, order: str | None = None, **page: Any
    ) -> dict[str, Any]:
        return connection(ordered(self._runs(filters), order), **page)

    def artifact_type(self, name: str) -> ArtifactType | None:
        known = {collection.type_name for collection in self.collections.values()}
        return ArtifactType(self, name) if name in known else None

    def artifact_collection(self, name: str) -> ArtifactCollection | None:
        return self.collections.get(name)

    def artifact_collection_membership(self, name: str) -> ArtifactCollectionMembership | None:
        collection_name, _, alias = name.partition(":")
        collection = self.collections.get(collection_name)
        return collection.artifact_membership(alias or "latest") if collection else None

    def artifact(self, name: str) -> Artifact | None:
        membership = self.artifact_collection_membership(name)
        return membership.artifact if membership else None


@dataclass(eq=False)
class Run:
    """A run. Its history, events and output are the lines that the file stream brought."""

    project: Project
    name: str
    created_at: str = field(default_factory=now)
    display_name: str | None = None
    group: str | None = None
    job_type: str | None = None
    tags: list[str] = field(default_factory=list)
    description: str | None = None
    notes: str | None = None
    commit: str | None = None
    host: str | None = None
    state: str = "running"
    exit_code: int | None = None
    config_values: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, list[str]] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    alerts: list[dict[str, Any]] = field(default_factory=list)
    inputs: list[Artifact] = field(default_factory=list)
    outputs: list[Artifact] = field(default_factory=list)
    sweep: Sweep | None = None
    stopped: bool = False

    read_only = False
    system_metrics = "{}"

    @property
    def id(self) -> str:
        return server_id("Run", f"v1:{self.path}")

    @property
    def path(self) -> str:
        return f"{self.project.entity.name}/{self.project.name}/{self.name}"

    @property
    def project_id(self) -> int:
        return self.project.number

    @property
    def user(self) -> dict[str, Any]:
        return {"id": server_id("User", USER), "name": USER, "username": USER}

    @property
    def heartbeat_at(self) -> str:
        return self.created_at

    @property
    def sweep_name(self) -> str | None:
        return self.sweep.name if self.sweep else None

    @property
    def should_stop(self) -> bool:
        return self.stopped

    @property
    def exitcode(self) -> int | None:
        return self.exit_code

    @property
    def failed(self) -> bool:
        return self.state in ("failed", "crashed")

    @property
    def running(self) -> bool:
        return self.state == "running"

    @property
    def config(self) -> str:
        return json.dumps(self.config_values)

    @property
    def summary_metrics(self) -> str:
        return json.dumps(self.summary)

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines.get("wandb-history.jsonl", [])]

    @property
    def history_line_count(self) -> int:
        return len(self.lines.get("wandb-history.jsonl", []))

    @property
    def history_keys(self) -> dict[str, Any]:
        rows = self.rows()
        keys = {key: {"typeCounts": []} for row in rows for key in row}
        return {"lastStep": rows[-1]["_step"] if rows else -1, "sets": [], "keys": keys}

    def sampled_history(self, specs: Sequence[str]) -> list[list[dict[str, Any]]]:
        """Rows that have all keys of a specification; `maxStep` is inclusive here."""
        answer = []
        for spec in map(json.loads, specs):
            low, high = spec.get("minStep", 0), spec.get("maxStep", float("inf"))
            rows = [row for row in self.rows() if low <= row["_step"] <= high]
            answer.append(
                [
                    {key: row[key] for key in spec.get("keys", ())}
                    for row in rows
                    if all(key in row for key in spec.get("keys", ()))
                ][: spec.get("samples")]
            )
        return answer

    def file(self, name: str) -> File:
        data = self.contents.get(name, b"")
        url = f"{self.project.store.url}/storage/run/{quote(self.path)}/{quote(name)}"
        return File(name, url, len(data), md5(data), upload_url=url)

    @property
    def file_count(self) -> int:
        return len(self.contents)

    def files(self, names: Any = None, pattern: Any = None, **page: Any) -> dict[str, Any]:
        return connection((self.file(name) for name in sorted(self.contents)), **page)

    def input_artifacts(self, **page: Any) -> dict[str, Any]:
        return connection(self.inputs, **page)

    def output_artifacts(self, **page: Any) -> dict[str, Any]:
        return connection(self.outputs, **page)

    def fields(self) -> dict[str, Any]:
        """What a filter can ask for."""
        config = {key: item.get("value") for key, item in self.config_values.items()}
        return {
            "name": self.name,
            "display_name": self.display_name,
            "state": self.state,
            "group": self.group,
            "job_type": self.job_type,
            "tags": self.tags,
            "commit": self.commit,
            "sweep": self.sweep_name,
            "config": config,
            "summary_metrics": self.summary,
        }
