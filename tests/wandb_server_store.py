"""What the W&B server does with artifacts, their aliases and links, and the lineage of runs.

`Store` is GraphQL's roots Query and Mutation in one. Every change is appended to `Store.changes` as
one line; a request that changes nothing adds none.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from wandb_server_artifacts import (
    Artifact,
    ArtifactCollection,
    ArtifactCollectionMembership,
    ArtifactPortfolio,
    ArtifactSequence,
)
from wandb_server_sweeps import SweepStore
from wandb_server_types import REGISTRY, File, WandbError, connection, md5, server_id

# No two servers of a process give the same id to an artifact: the SDK caches artifacts by it.
NUMBERS = itertools.count(1)


class Store(SweepStore):
    """Everything that the server keeps and can do."""

    def artifact(self, id: str) -> Artifact | None:
        return self.all_artifacts.get(id)

    def artifact_collection(self, id: str) -> ArtifactCollection | None:
        return next((item for item in self._collections() if item.id == id), None)

    # Artifacts

    def create_artifact(self, input: Mapping[str, Any]) -> dict[str, Any]:
        """A version to be filled, or the one of the collection that has the same digest."""
        sequence = self._sequence(input)
        artifact = sequence.by_digest.get(input["digest"])
        if artifact is None:
            artifact = Artifact(sequence, next(NUMBERS), input["digest"])
            sequence.by_digest[artifact.digest] = self.all_artifacts[artifact.id] = artifact
        if artifact.state == "PENDING":  # new, or left behind by somebody who was interrupted
            self._describe(artifact, input)
        else:
            aliases = [item["alias"] for item in input.get("aliases") or ()]
            self._assign(artifact.memberships[0], aliases)
        clients = {"client_id": artifact, "sequence_client_id": sequence}
        self.by_client_id |= {input[key]: item for key, item in clients.items() if input.get(key)}
        return {"artifact": artifact}

    def _describe(self, artifact: Artifact, input: Mapping[str, Any]) -> None:
        if input.get("run_name"):
            keys = ("entity_name", "project_name", "run_name")
            artifact.created_by = self._run(*(input[key] for key in keys))
        artifact.description = input.get("description")
        artifact.metadata = input.get("metadata")
        artifact.history_step = input.get("history_step")
        artifact.tag_names = [item["tag_name"] for item in input.get("tags") or ()]
        artifact.pending_aliases = [item["alias"] for item in input.get("aliases") or ()]

    def create_artifact_manifest(self, input: Mapping[str, Any]) -> dict[str, Any]:
        if input["type"] != "FULL":
            raise WandbError(f"a manifest of type {input['type']} is not known here")
        return {"artifact_manifest": self._artifact(input["artifact_id"]).manifest()}

    def create_artifact_files(self, input: Mapping[str, Any]) -> dict[str, Any]:
        """Where to upload each file; nowhere if the collection has one with the same MD5."""
        return {"files": connection(self._planned(spec) for spec in input["artifact_files"])}

    def _planned(self, spec: Mapping[str, Any]) -> File:
        artifact = self._artifact(spec["artifact_id"])
        if spec.get("upload_parts_input"):
            raise WandbError(f"{spec['name']}: uploads in parts are not known here")
        if known := artifact.artifact_sequence.blobs.get(spec["md5"]):
            return known[1].file(spec["name"], spec["md5"], len(known[0]))
        file = artifact.file(spec["name"], spec["md5"], 0)
        hexadecimal = base64.b64decode(spec["md5"]).hex()
        name = quote(spec["name"], safe="")
        file.upload_url = f"{self.url}/storage/artifact/{artifact.number}/{hexadecimal}/{name}"
        file.upload_headers = (
            f"Content-Md5:{spec['md5']}",
            "Content-Type:application/octet-stream",
        )
        return file

    def commit_artifact(self, input: Mapping[str, Any]) -> dict[str, Any]:
        artifact = self._artifact(input["artifact_id"])
        if artifact.state == "PENDING":
            self._check_complete(artifact)
            artifact.state = "COMMITTED"
            membership = self._join(artifact.artifact_sequence, artifact)
            artifact.version_index = membership.version_index
            self.changes.append(f"artifact {artifact.artifact_sequence.path}: {artifact.label}")
            if artifact.created_by:
                artifact.created_by.outputs.append(artifact)
            self._assign(membership, artifact.pending_aliases)
        return {"artifact": artifact}

    @staticmethod
    def _check_complete(artifact: Artifact) -> None:
        if not artifact.manifest_text:
            raise WandbError(f"{artifact.artifact_sequence.name}: there is no manifest")
        blobs = artifact.artifact_sequence.blobs
        for name, entry in artifact.entries.items():
            if "ref" not in entry and entry["digest"] not in blobs:
                raise WandbError(f"{artifact.artifact_sequence.name}: {name} was not uploaded")

    def update_artifact(self, input: Mapping[str, Any]) -> dict[str, Any]:
        artifact = self._artifact(input["artifact_id"])
        removed = {item["tag_name"] for item in input.get("tags_to_delete") or ()}
        added = [item["tag_name"] for item in input.get("tags_to_add") or ()]
        kept = [name for name in artifact.tag_names if name not in removed]
        updates = {
            "description": input.get("description"),
            "metadata": input.get("metadata"),
            "tag_names": [*kept, *(name for name in added if name not in kept)],
        }
        for name, value in updates.items():
            if value is not None and value != getattr(artifact, name):
                setattr(artifact, name, value)
                self.changes.append(f"artifact {artifact.label}: {name}")
        return {"artifact": artifact}

    def use_artifact(self, input: Mapping[str, Any]) -> dict[str, Any]:
        artifact = self._artifact(input["artifact_id"])
        run = self._run(input["entity_name"], input["project_name"], input["run_name"])
        if artifact not in run.inputs:
            run.inputs.append(artifact)
            artifact.users.append(run)
            self.changes.append(f"run {run.path}: uses {artifact.label}")
        return {"artifact": artifact}

    def link_artifact(self, input: Mapping[str, Any]) -> dict[str, Any]:
        artifact = self._artifact(input.get("artifact_id"), client_id=input.get("client_id"))
        if artifact.state != "COMMITTED":
            raise WandbError(f"{artifact.artifact_sequence.name} is not committed")
        portfolio = self._portfolio(input, artifact)
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
        artifact = self._artifact(input["artifact_id"])
        portfolio = self.artifact_collection(input["artifact_portfolio_id"])
        membership = portfolio.membership_of(artifact) if portfolio else None
        if not isinstance(portfolio, ArtifactPortfolio) or membership is None:
            raise WandbError(f"{artifact.label} is not linked there")
        self._unassign(membership, [alias.alias for alias in membership.aliases])
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
            self._unassign(membership, [alias])
        return {"success": True}

    def _named_aliases(
        self, input: Mapping[str, Any]
    ) -> Iterable[tuple[ArtifactCollectionMembership, str]]:
        artifact = self._artifact(input["artifact_id"])
        for item in input["aliases"]:
            project = self.project(item["project_name"], item["entity_name"])
            name = item["artifact_collection_name"]
            collection = project.artifact_collection(name) if project else None
            membership = collection.membership_of(artifact) if collection else None
            if membership is None:
                raise WandbError(f"{artifact.label} is no version of {name}")
            yield membership, item["alias"]

    # Files

    def put_artifact_file(self, number: str, hexadecimal: str, name: str, body: bytes) -> None:
        artifact = self._artifact(server_id("Artifact", number))
        digest = base64.b64encode(bytes.fromhex(hexadecimal)).decode()
        if md5(body) != digest:
            raise WandbError(f"{name}: the MD5 of what was uploaded is not {digest}")
        if digest not in artifact.artifact_sequence.blobs:
            artifact.artifact_sequence.blobs[digest] = body, artifact
            self.changes.append(f"artifact {artifact.artifact_sequence.path}: file {name}")

    def put_manifest(self, number: str, body: bytes) -> None:
        artifact = self._artifact(server_id("Artifact", number))
        if artifact.state == "PENDING":
            artifact.manifest_text = body

    def get_artifact_file(
        self, entity: str, project: str, collection_name: str, hexadecimal: str
    ) -> bytes | None:
        """Content by the name of any collection that has it: links keep no files of their own."""
        digest = base64.b64encode(bytes.fromhex(hexadecimal)).decode()
        found = self.project(project, entity)
        collection = found.artifact_collection(collection_name) if found else None
        for membership in collection.memberships if collection else ():
            blobs = membership.artifact.artifact_sequence.blobs
            if digest in blobs:
                return blobs[digest][0]
        return None

    def get_manifest(self, number: str) -> bytes:
        return self._artifact(server_id("Artifact", number)).manifest_text

    # Look-ups

    def _artifact(self, id: str | None, client_id: str | None = None) -> Artifact:
        found = self.all_artifacts.get(id) if id else self.by_client_id.get(client_id or "")
        if isinstance(found, Artifact):
            return found
        raise WandbError(f"there is no artifact with the id {id or client_id}")

    def _sequence(self, input: Mapping[str, Any]) -> ArtifactSequence:
        names = input.get("artifact_collection_names") or [input.get("artifact_collection_name")]
        project = self._project(input["entity_name"], input["project_name"])
        name, type_name = names[0], input["artifact_type_name"]
        collection = project.collections.get(name)
        if collection is None:
            collection = project.collections[name] = ArtifactSequence(project, name, type_name)
            self.changes.append(f"collection {collection.path}: created")
        if not isinstance(collection, ArtifactSequence) or collection.type_name != type_name:
            raise WandbError(
                f"{name} is a collection of the type {collection.type_name}, not {type_name}"
            )
        return collection

    def _portfolio(self, input: Mapping[str, Any], artifact: Artifact) -> ArtifactPortfolio:
        entity, name = input.get("entity_name"), input["artifact_portfolio_name"]
        project = self.project(input.get("project_name"), entity)
        if project is None and (input.get("project_name") or "").startswith(REGISTRY):
            raise WandbError(f"there is no registry {entity}/{input['project_name']}")
        project = project or self._project(entity, input.get("project_name"))
        type_name = artifact.artifact_sequence.type_name
        portfolio = project.collections.get(name)
        if portfolio is None:
            portfolio = project.collections[name] = ArtifactPortfolio(project, name, type_name)
            self.changes.append(f"collection {portfolio.path}: created")
        if not isinstance(portfolio, ArtifactPortfolio) or portfolio.type_name != type_name:
            raise WandbError(f"{name} does not take links to artifacts of the type {type_name}")
        return portfolio

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

    def _unassign(self, membership: ArtifactCollectionMembership, aliases: Sequence[str]) -> None:
        collection = membership.artifact_collection
        for alias in aliases:
            if collection.alias_owners.get(alias) is membership:
                del collection.alias_owners[alias]
                self.changes.append(f"alias {collection.path}: {alias} removed")

    def _collections(self) -> Iterable[ArtifactCollection]:
        for project in self.all_projects.values():
            yield from project.collections.values()
