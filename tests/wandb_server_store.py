"""What the W&B server does with artifacts, their aliases and links, and the lineage of runs.

`Store` is GraphQL's roots Query and Mutation in one. Every change is appended to `Store.changes` as
one line; a request that changes nothing adds none.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from wandb_server_artifacts import (
    Artifact,
    ArtifactCollection,
    ArtifactCollectionMembership,
    ArtifactPortfolio,
    ArtifactSequence,
)
from wandb_server_runs import Project
from wandb_server_store_runs import RunStore
from wandb_server_types import File, WandbError, connection, md5

C = TypeVar("C", bound=ArtifactCollection)


class Store(RunStore):
    """Everything that the server keeps and can do."""

    def artifact(self, id: str) -> Artifact | None:
        return self.all_artifacts.get(id)

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
                keys = ("entity_name", "project_name", "run_name")
                artifact.created_by = self._run(*(input[key] for key in keys))
            artifact.metadata = input.get("metadata")
            artifact.pending_aliases = aliases
        else:
            self._assign(artifact.memberships[0], aliases)
        clients = {"client_id": artifact, "sequence_client_id": sequence}
        self.by_client_id |= {input[key]: item for key, item in clients.items() if input.get(key)}
        return {"artifact": artifact}

    def create_artifact_manifest(self, input: Mapping[str, Any]) -> dict[str, Any]:
        return {"artifact_manifest": self.all_artifacts[input["artifact_id"]].current_manifest}

    def create_artifact_files(self, input: Mapping[str, Any]) -> dict[str, Any]:
        """Where to upload each file; nowhere if the collection has one with the same MD5."""
        return {"files": connection(self._planned(spec) for spec in input["artifact_files"])}

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
                artifact.created_by.outputs.append(artifact)
            self._assign(membership, artifact.pending_aliases)
        return {"artifact": artifact}

    def update_artifact(self, input: Mapping[str, Any]) -> dict[str, Any]:
        artifact = self.all_artifacts[input["artifact_id"]]
        if artifact.metadata != input["metadata"]:
            artifact.metadata = input["metadata"]
            self.changes.append(f"artifact {artifact.label}: metadata")
        return {"artifact": artifact}

    def use_artifact(self, input: Mapping[str, Any]) -> dict[str, Any]:
        artifact = self.all_artifacts[input["artifact_id"]]
        run = self._run(input["entity_name"], input["project_name"], input["run_name"])
        if artifact not in run.inputs:
            run.inputs.append(artifact)
            artifact.users.append(run)
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
            self.changes.append(
                f"link {portfolio.path}: v{membership.version_index} is {artifact.label}"
            )
        aliases = [item["alias"] for item in input.get("aliases") or ()]
        self._assign(membership, ["latest", *aliases])
        return {"version_index": membership.version_index, "artifact_membership": membership}

    def unlink_artifact(self, input: Mapping[str, Any]) -> dict[str, bool]:
        artifact = self.all_artifacts[input["artifact_id"]]
        where = input["artifact_portfolio_id"]
        (membership,) = (m for m in artifact.memberships if m.artifact_collection.id == where)
        portfolio = membership.artifact_collection
        for alias in membership.aliases:
            self._unassign(membership, alias.alias)
        portfolio.memberships.remove(membership)
        artifact.memberships.remove(membership)
        self.changes.append(f"link {portfolio.path}: v{membership.version_index} removed")
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
            if membership is None:
                raise WandbError(f"{artifact.label} is no version of {name}")
            yield membership, item["alias"]

    # Files

    def put_artifact_file(self, id: str, hexadecimal: str, name: str, body: bytes) -> None:
        sequence = self.all_artifacts[id].artifact_sequence
        digest = base64.b64encode(bytes.fromhex(hexadecimal)).decode()
        if md5(body) != digest:
            raise WandbError(f"{name}: the MD5 of what was uploaded is not {digest}")
        if digest not in sequence.blobs:
            sequence.blobs[digest] = body
            self.changes.append(f"artifact {sequence.path}: file {name}")

    def get_artifact_file(self, id: str, hexadecimal: str) -> bytes:
        digest = base64.b64encode(bytes.fromhex(hexadecimal)).decode()
        return self.all_artifacts[id].artifact_sequence.blobs[digest]

    def _collection(self, kind: type[C], project: Project, name: str, type_name: str) -> C:
        collection = project.collections.get(name)
        if collection is None:
            collection = project.collections[name] = kind(project, name, type_name)
            self.changes.append(f"collection {collection.path}: created")
        if not isinstance(collection, kind) or collection.type_name != type_name:
            raise WandbError(f"{name} does not take artifacts of the type {type_name}")
        return collection

    @staticmethod
    def _join(collection: ArtifactCollection, artifact: Artifact) -> ArtifactCollectionMembership:
        membership = ArtifactCollectionMembership(collection, artifact, collection.next_version)
        collection.next_version += 1
        collection.memberships.append(membership)
        artifact.memberships.append(membership)
        return membership

    def _assign(self, membership: ArtifactCollectionMembership, aliases: Sequence[str]) -> None:
        collection = membership.artifact_collection
        for alias in aliases:
            if collection.alias_owners.get(alias) is not membership:
                collection.alias_owners[alias] = membership
                self.changes.append(f"alias {collection.path}: {alias}")

    def _unassign(self, membership: ArtifactCollectionMembership, alias: str) -> None:
        collection = membership.artifact_collection
        if collection.alias_owners.get(alias) is membership:
            del collection.alias_owners[alias]
            self.changes.append(f"alias {collection.path}: {alias} removed")
