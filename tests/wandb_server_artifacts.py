"""Artifacts, their collections, versions and aliases, as the W&B server keeps them."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from wandb_server_types import File, connection, matches, now, ordered, server_id

if TYPE_CHECKING:
    from wandb_server_runs import Project, Run


@dataclass(eq=False)
class ArtifactType:
    """A type of artifacts, as far as a project has collections of it."""

    project: Project
    name: str

    description = None

    def artifact_collection(self, name: str) -> ArtifactCollection | None:
        collection = self.project.collections.get(name)
        return collection if collection and collection.type_name == self.name else None


@dataclass(eq=False)
class ArtifactCollection:
    """Versions of artifacts, numbered in the order they came; an alias belongs to one of them."""

    project: Project
    name: str
    type_name: str
    memberships: list[ArtifactCollectionMembership] = field(default_factory=list)
    alias_owners: dict[str, ArtifactCollectionMembership] = field(default_factory=dict)
    next_version: int = 0
    created_at: str = field(default_factory=now)

    description = updated_at = None
    state = "READY"

    @property
    def id(self) -> str:
        return server_id("ArtifactCollection", self.path)

    @property
    def path(self) -> str:
        return f"{self.project.entity.name}/{self.project.name}/{self.name}"

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

    def artifacts(
        self, order: str | None = None, filters: str | None = None, **page: Any
    ) -> dict[str, Any]:
        wanted = json.loads(filters or "{}")
        found = [item for item in self.memberships if matches(wanted, item.artifact.fields())]
        answer = connection(ordered(found, order or "-created_at"), **page)
        for edge in answer["edges"]:
            edge["version"] = f"v{edge['node'].version_index}"
            edge["node"] = edge["node"].artifact
        return answer


@dataclass(eq=False)
class ArtifactSequence(ArtifactCollection):
    """The collection that runs log an artifact to; it owns the files."""

    by_digest: dict[str, Artifact] = field(default_factory=dict)
    blobs: dict[str, tuple[bytes, Artifact]] = field(default_factory=dict)

    digest_algorithm = "MANIFEST_MD5"

    @property
    def latest_artifact(self) -> Artifact | None:
        return self.memberships[-1].artifact if self.memberships else None


@dataclass(eq=False)
class ArtifactPortfolio(ArtifactCollection):
    """A collection of links to artifacts, such as a collection of a registry."""


@dataclass(eq=False)
class ArtifactAlias:
    """A name for one version of a collection."""

    artifact_collection: ArtifactCollection
    alias: str

    @property
    def id(self) -> str:
        return server_id("ArtifactAlias", f"{self.artifact_collection.id}:{self.alias}")


@dataclass(eq=False)
class ArtifactCollectionMembership:
    """An artifact as a version of a collection."""

    artifact_collection: ArtifactCollection
    artifact: Artifact
    version_index: int
    created_at: str = field(default_factory=now)

    @property
    def id(self) -> str:
        return server_id("Membership", f"{self.artifact_collection.id}:{self.version_index}")

    @property
    def aliases(self) -> list[ArtifactAlias]:
        collection = self.artifact_collection
        return [
            ArtifactAlias(collection, alias)
            for alias, owner in collection.alias_owners.items()
            if owner is self
        ]

    def files(self, **arguments: Any) -> dict[str, Any]:
        return self.artifact.files(**arguments)


@dataclass(eq=False)
class Artifact:
    """A version of an artifact; PENDING until it is committed."""

    artifact_sequence: ArtifactSequence
    number: int
    digest: str
    created_by: Run | None = None
    description: str | None = None
    metadata: str | None = None
    history_step: int | None = None
    pending_aliases: list[str] = field(default_factory=list)
    tag_names: list[str] = field(default_factory=list)
    state: str = "PENDING"
    version_index: int | None = None
    manifest_text: bytes = b""
    users: list[Run] = field(default_factory=list)
    memberships: list[ArtifactCollectionMembership] = field(default_factory=list)
    created_at: str = field(default_factory=now)

    digest_algorithm = "MANIFEST_MD5"
    commit_hash = updated_at = None
    ttl_duration_seconds = -1  # inherited
    ttl_is_inherited = True

    @property
    def id(self) -> str:
        return server_id("Artifact", self.number)

    @property
    def server_url(self) -> str:
        return self.artifact_sequence.project.store.url

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
    def tags(self) -> list[dict[str, str]]:
        return [{"id": server_id("Tag", name), "name": name} for name in self.tag_names]

    @property
    def aliases(self) -> list[ArtifactAlias]:
        return [alias for membership in self.memberships for alias in membership.aliases]

    @property
    def artifact_memberships(self) -> dict[str, Any]:
        return connection(self.memberships)

    @property
    def current_manifest(self) -> dict[str, Any] | None:
        return self.manifest() if self.manifest_text else None

    def manifest(self) -> dict[str, Any]:
        url = f"{self.server_url}/storage/manifest/{self.number}"
        file = File("wandb_manifest.json", url, len(self.manifest_text), upload_url=url)
        return {"id": server_id("ArtifactManifest", self.number), "file": file}

    @property
    def used_by(self) -> dict[str, Any]:
        return connection(self.users)

    def files(self, names: Sequence[str] | None = None, **page: Any) -> dict[str, Any]:
        found = [
            self.file(name, entry["digest"], entry.get("size") or 0, entry.get("ref"))
            for name, entry in sorted(self.entries.items())
            if not names or name in names
        ]
        return connection(found, **page)

    def file(self, name: str, digest: str, size: int, reference: str | None = None) -> File:
        if reference is not None:
            return File(name, reference, size, digest, storage_path=reference, artifact=self)
        hexadecimal = base64.b64decode(digest).hex()
        path = f"{self.artifact_sequence.path}/{hexadecimal}/{name}"
        url = f"{self.server_url}/storage/artifact/{quote(path)}"
        return File(name, url, size, digest, storage_path=path, artifact=self)

    def fields(self) -> dict[str, Any]:
        """What a filter can ask for."""
        return {
            "state": self.state,
            "digest": self.digest,
            "version_index": self.version_index,
            "metadata": json.loads(self.metadata or "{}"),
            "tag": self.tag_names,
            "alias": [alias.alias for alias in self.aliases],
        }
