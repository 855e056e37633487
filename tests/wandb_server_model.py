"""What the W&B server keeps: projects, runs, sweeps over grids, and artifacts.

The classes are named and shaped as the types of wandb_server.graphql: a field of a type is the
attribute or method of the same name in snake case, and null where there is none.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count, product
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import yaml

if TYPE_CHECKING:
    from wandb_server_store import Store

USER = "tester"


class WandbError(Exception):
    """What the server answers as a GraphQL error."""


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data).digest()).decode()


@dataclass(eq=False, kw_only=True)
class Node:
    """What has an id: as W&B's, base64 of the type and a key.

    No two servers of a process give the same one to artifacts, which the SDK caches by it.
    """

    number: int = field(default_factory=count(1).__next__)
    created_at: str = field(default_factory=now)

    @property
    def id(self) -> str:
        return base64.b64encode(f"{type(self).__name__}:{self.number}".encode()).decode()


@dataclass(eq=False)
class Entity(Node):
    """A user, a team, or the organisation's own entity, which owns the registries."""

    name: str


@dataclass(eq=False)
class File(Node):
    """A stored file, or one that is to be uploaded when `upload_url` is set."""

    name: str
    direct_url: str
    size_bytes: int = 0
    md5: str | None = None
    upload_url: str | None = None
    artifact: Artifact | None = None


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
    config: dict[str, Any] = field(default_factory=dict)
    summary_metrics: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, list[str]] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    alerts: list[dict[str, Any]] = field(default_factory=list)
    input_artifacts: list[Artifact] = field(default_factory=list)
    output_artifacts: list[Artifact] = field(default_factory=list)
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
    def history_keys(self) -> dict[str, Any]:
        return {"lastStep": len(self.rows()) - 1}

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines.get("wandb-history.jsonl", [])]

    def file(self, name: str) -> File:
        data = self.contents.get(name, b"")
        url = f"{self.project.store.url}/storage/run/{quote(self.path)}/{quote(name)}"
        return File(name, url, len(data), md5(data), upload_url=url)

    @property
    def files(self) -> list[File]:
        return [self.file(name) for name in sorted(self.contents)]


@dataclass(eq=False)
class Sweep(Node):
    """A sweep: its configuration in YAML, and what is left of its grid for agents."""

    project: Project
    name: str
    config: str
    state: str = "RUNNING"

    runs = ()  # of who asks for a sweep, nobody wants them

    def __post_init__(self) -> None:
        parameters = yaml.safe_load(self.config)["parameters"]
        values = [spec.get("values") or [spec["value"]] for spec in parameters.values()]
        self.grid = [dict(zip(parameters, point, strict=True)) for point in product(*values)]


@dataclass(eq=False)
class Agent(Node):
    """A process that runs what the sweep hands out."""

    sweep: Sweep


@dataclass(eq=False)
class ArtifactType:
    """A type of artifacts in a project."""

    project: Project
    name: str

    def artifact_collection(self, name: str) -> ArtifactCollection | None:
        collection = self.project.collections.get(name)
        return collection if collection and collection.type_name == self.name else None


@dataclass(eq=False)
class ArtifactCollection(Node):
    """Versions of artifacts, numbered in the order they came; an alias belongs to one of them."""

    project: Project
    name: str
    type_name: str
    memberships: list[ArtifactCollectionMembership] = field(default_factory=list)
    alias_owners: dict[str, ArtifactCollectionMembership] = field(default_factory=dict)
    next_version: int = 0

    tags = ()

    @property
    def path(self) -> str:
        return f"{self.project.path}/{self.name}"

    @property
    def default_artifact_type(self) -> ArtifactType:
        return ArtifactType(self.project, self.type_name)

    def artifact_membership(self, alias_name: str) -> ArtifactCollectionMembership | None:
        for membership in self.memberships:
            if alias_name == f"v{membership.version_index}":
                return membership
        return self.alias_owners.get(alias_name)

    def membership_of(self, artifact: Artifact) -> ArtifactCollectionMembership | None:
        return next((item for item in self.memberships if item.artifact is artifact), None)

    def artifacts(self, filters: str, **_: Any) -> dict[str, Any]:
        """The versions, newest first; a collection holds none that is not committed."""
        if json.loads(filters) != {"state": "COMMITTED"}:
            raise WandbError(f"the filter {filters} is not known here")
        found = self.memberships[::-1]
        edges = [{"version": f"v{each.version_index}", "node": each.artifact} for each in found]
        page = {"has_next_page": False}
        return {"total_count": len(edges), "page_info": page, "edges": edges}


@dataclass(eq=False)
class ArtifactSequence(ArtifactCollection):
    """The collection that runs log an artifact to; it owns the files."""

    by_digest: dict[str, Artifact] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)


@dataclass(eq=False)
class ArtifactPortfolio(ArtifactCollection):
    """A collection of links to artifacts, such as a collection of a registry."""


@dataclass(eq=False)
class ArtifactAlias(Node):
    """A name for one version of a collection."""

    artifact_collection: ArtifactCollection
    alias: str


@dataclass(eq=False)
class ArtifactCollectionMembership(Node):
    """An artifact as a version of a collection."""

    artifact_collection: ArtifactCollection
    artifact: Artifact
    version_index: int

    @property
    def aliases(self) -> list[ArtifactAlias]:
        collection = self.artifact_collection
        names = [name for name, owner in collection.alias_owners.items() if owner is self]
        return [ArtifactAlias(collection, name) for name in names]

    @property
    def files(self) -> list[File]:
        found = self.artifact.entries.items()
        return [self.artifact.file(name, entry) for name, entry in sorted(found)]


@dataclass(eq=False)
class Artifact(Node):
    """A version of an artifact; PENDING until it is committed."""

    artifact_sequence: ArtifactSequence
    digest: str
    created_by: Run | None = None
    metadata: str | None = None
    pending_aliases: list[str] = field(default_factory=list)
    state: str = "PENDING"
    version_index: int | None = None
    manifest_text: bytes = b""
    used_by: list[Run] = field(default_factory=list)
    artifact_memberships: list[ArtifactCollectionMembership] = field(default_factory=list)

    tags = ()
    ttl_duration_seconds = -1  # inherited
    ttl_is_inherited = True

    @property
    def label(self) -> str:
        return f"{self.artifact_sequence.name}:v{self.version_index}"

    @property
    def artifact_type(self) -> ArtifactType:
        return self.artifact_sequence.default_artifact_type

    @property
    def entries(self) -> dict[str, dict[str, Any]]:
        return json.loads(self.manifest_text)["contents"] if self.manifest_text else {}

    @property
    def size(self) -> int:
        return sum(entry.get("size") or 0 for entry in self.entries.values())

    @property
    def file_count(self) -> int:
        return len(self.entries)

    @property
    def aliases(self) -> list[ArtifactAlias]:
        return [alias for each in self.artifact_memberships for alias in each.aliases]

    @property
    def current_manifest(self) -> dict[str, Any]:
        url = f"{self.artifact_sequence.project.store.url}/storage/manifest/{self.id}"
        return {"id": self.id, "file": File("wandb_manifest.json", url, upload_url=url)}

    def file(self, name: str, entry: Mapping[str, Any]) -> File:
        """A file as an entry of a manifest has it; one that is only referred to lies elsewhere."""
        url = entry.get("ref")
        if url is None:
            hexadecimal = base64.b64decode(entry["digest"]).hex()
            store = f"{self.artifact_sequence.project.store.url}/storage"
            url = f"{store}/artifact/{self.id}/{hexadecimal}/{quote(name, safe='')}"
        return File(name, url, entry.get("size") or 0, entry["digest"], artifact=self)
