"""Artifacts, their collections, versions and aliases, as the W&B server keeps them."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from wandb_server_types import File, Node, WandbError, connection

if TYPE_CHECKING:
    from wandb_server_runs import Project, Run


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

    @property
    def path(self) -> str:
        return f"{self.project.path}/{self.name}"

    @property
    def default_artifact_type(self) -> ArtifactType:
        return ArtifactType(self.project, self.type_name)

    @property
    def tags(self) -> dict[str, Any]:
        return connection([])

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
        return {**connection(found), "edges": edges}


@dataclass(eq=False)
class ArtifactSequence(ArtifactCollection):
    """The collection that runs log an artifact to; it owns the files."""

    by_digest: dict[str, Artifact] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)

    @property
    def latest_artifact(self) -> Artifact | None:
        return self.memberships[-1].artifact if self.memberships else None


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
        return [
            ArtifactAlias(collection, alias)
            for alias, owner in collection.alias_owners.items()
            if owner is self
        ]

    def files(self, **_: Any) -> dict[str, Any]:
        found = self.artifact.entries.items()
        return connection(self.artifact.file(name, entry) for name, entry in sorted(found))


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
    users: list[Run] = field(default_factory=list)
    memberships: list[ArtifactCollectionMembership] = field(default_factory=list)

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
        return [alias for membership in self.memberships for alias in membership.aliases]

    @property
    def artifact_memberships(self) -> dict[str, Any]:
        return connection(self.memberships)

    @property
    def used_by(self) -> dict[str, Any]:
        return connection(self.users)

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
