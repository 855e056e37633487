"""Projects, runs and sweeps over grids, as the W&B server keeps them."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import yaml

from wandb_server_artifacts import (
    Artifact,
    ArtifactCollection,
    ArtifactCollectionMembership,
    ArtifactType,
)
from wandb_server_types import USER, Entity, File, Node, connection, md5

if TYPE_CHECKING:
    from wandb_server_store import Store


@dataclass(eq=False)
class Project(Node):
    """A project: runs and collections of artifacts. A registry is a project too."""

    store: Store
    entity: Entity
    name: str
    runs_by_name: dict[str, Run] = field(default_factory=dict)
    sweeps: dict[str, Sweep] = field(default_factory=dict)
    collections: dict[str, ArtifactCollection] = field(default_factory=dict)

    @property
    def internal_id(self) -> str:
        return str(self.number)

    @property
    def path(self) -> str:
        return f"{self.entity.name}/{self.name}"

    def run(self, name: str) -> Run | None:
        return self.runs_by_name.get(name)

    def sweep(self, sweep_name: str) -> Sweep | None:
        return self.sweeps.get(sweep_name)

    def artifact_type(self, name: str) -> ArtifactType:
        return ArtifactType(self, name)

    def artifact_collection(self, name: str) -> ArtifactCollection | None:
        return self.collections.get(name)

    def artifact_collection_membership(self, name: str) -> ArtifactCollectionMembership | None:
        collection_name, _, alias = name.partition(":")
        collection = self.collections.get(collection_name)
        return collection.artifact_membership(alias) if collection else None

    def artifact(self, name: str) -> Artifact | None:
        membership = self.artifact_collection_membership(name)
        return membership.artifact if membership else None


@dataclass(eq=False)
class Run(Node):
    """A run. Its history, events and output are the lines that the file stream brought."""

    project: Project
    name: str
    display_name: str | None = None
    group: str | None = None
    job_type: str | None = None
    tags: list[str] = field(default_factory=list)
    commit: str | None = None
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

    @property
    def path(self) -> str:
        return f"{self.project.path}/{self.name}"

    @property
    def project_id(self) -> int:
        return self.project.number

    @property
    def user(self) -> dict[str, Any]:
        return {"name": USER, "username": USER}

    @property
    def sweep_name(self) -> str | None:
        return self.sweep.name if self.sweep else None

    @property
    def config(self) -> str:
        return json.dumps(self.config_values)

    @property
    def summary_metrics(self) -> str:
        return json.dumps(self.summary)

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines.get("wandb-history.jsonl", [])]

    @property
    def history_keys(self) -> dict[str, Any]:
        rows = self.rows()
        return {"lastStep": rows[-1]["_step"] if rows else -1}

    def file(self, name: str) -> File:
        data = self.contents.get(name, b"")
        url = f"{self.project.store.url}/storage/run/{quote(self.path)}/{quote(name)}"
        return File(name, url, len(data), md5(data), upload_url=url)

    def files(self, **_: Any) -> dict[str, Any]:
        return connection(self.file(name) for name in sorted(self.contents))

    def input_artifacts(self, **_: Any) -> dict[str, Any]:
        return connection(self.inputs)

    def output_artifacts(self, **_: Any) -> dict[str, Any]:
        return connection(self.outputs)


@dataclass(eq=False)
class Sweep(Node):
    """A sweep: its configuration in YAML, and what is left of its grid for agents."""

    project: Project
    name: str
    config: str
    state: str = "RUNNING"

    def __post_init__(self) -> None:
        parameters = yaml.safe_load(self.config)["parameters"]
        values = [spec.get("values") or [spec["value"]] for spec in parameters.values()]
        self.grid = [
            dict(zip(parameters, point, strict=True)) for point in itertools.product(*values)
        ]

    @property
    def path(self) -> str:
        return f"{self.project.path}/{self.name}"

    @property
    def all_runs(self) -> list[Run]:
        return [run for run in self.project.runs_by_name.values() if run.sweep is self]

    @property
    def runs(self) -> dict[str, Any]:
        """None: of who asks for a sweep, nobody wants its runs."""
        return connection([])


@dataclass(eq=False)
class Agent(Node):
    """A process that runs what the sweep hands out."""

    sweep: Sweep
    runs: list[Run] = field(default_factory=list)
