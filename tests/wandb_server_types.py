"""What the types of the W&B server have in common: ids, connections, accounts and files.

The server's classes are named and shaped as the types of wandb_server.graphql: a field of a type is
the attribute or method of the same name in snake case, and null where there is none.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wandb_server_artifacts import Artifact

USER = "tester"


class WandbError(Exception):
    """What the server answers as a GraphQL error."""


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data).digest()).decode()


def snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def connection(nodes: Iterable[Any]) -> dict[str, Any]:
    """All nodes on one page: no test has as many as the SDK asks for."""
    edges = [{"node": node} for node in nodes]
    return {"total_count": len(edges), "page_info": {"has_next_page": False}, "edges": edges}


@dataclass(eq=False, kw_only=True)
class Node:
    """What has an id: as W&B's, base64 of the type and a key.

    No two servers of a process give the same one to artifacts, which the SDK caches by it.
    """

    number: int = field(default_factory=itertools.count(1).__next__)
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
