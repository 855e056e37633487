"""What the types of the W&B server have in common: ids, pages, filters, accounts and files.

The server's classes are named and shaped as the types of wandb_server.graphql: a field of a type is
the attribute or method of the same name in snake case.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wandb_server_artifacts import Artifact

REGISTRY = "wandb-registry-"
ORGANIZATION = "Example Groceries"
ORG_ENTITY = "example-groceries"
USER = "tester"


class WandbError(Exception):
    """What the server answers as a GraphQL error."""


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def server_id(kind: str, key: object) -> str:
    """An id as W&B's: base64 of the type and a key; the SDK decodes those of artifacts."""
    return base64.b64encode(f"{kind}:{key}".encode()).decode()


def md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data).digest()).decode()


def connection(
    nodes: Iterable[Any], first: int | None = None, after: str | None = None
) -> dict[str, Any]:
    """A page of nodes; a cursor is the number of nodes up to and with its own."""
    whole = list(nodes)
    start = int(after or 0)
    stop = len(whole) if first is None else min(start + first, len(whole))
    return {
        "total_count": len(whole),
        "page_info": {"has_next_page": stop < len(whole), "end_cursor": str(stop)},
        "edges": [
            {"cursor": str(number + 1), "node": whole[number]} for number in range(start, stop)
        ],
    }


def snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def matches(filters: Mapping[str, Any], fields: Mapping[str, Any]) -> bool:
    """Whether an object passes a filter in MongoDB's language, as far as it is needed here."""
    for key, wanted in filters.items():
        if key in ("$and", "$or"):
            passed = (all if key == "$and" else any)(matches(part, fields) for part in wanted)
        elif snake(key) not in fields or isinstance(wanted, Mapping):
            raise WandbError(f"the filter {key!r}: {wanted!r} is not known here")
        else:
            passed = wanted == fields[snake(key)]
        if not passed:
            return False
    return True


def ordered(nodes: Sequence[Any], order: str | None) -> list[Any]:
    """Sort by `created_at` (nodes come oldest first) or a run's `summary_metrics.NAME`.

    A minus in front means the reverse. Runs without the metric come last.
    """
    if not order:
        return list(nodes)
    kind, _, metric = order.lstrip("+-").removesuffix(".value").partition(".")
    if snake(kind) == "summary_metrics" and metric:
        sign = -1 if order.startswith("-") else 1
        return sorted(nodes, key=lambda run: sign * run.summary.get(metric, sign * math.inf))
    if snake(order.lstrip("+-")) not in ("created_at", "heartbeat_at"):
        raise WandbError(f"the order {order!r} is not known")
    return list(reversed(nodes)) if order.startswith("-") else list(nodes)


@dataclass(eq=False)
class Entity:
    """A user, a team, or the organisation's own entity, which owns the registries."""

    name: str

    @property
    def id(self) -> str:
        return server_id("Entity", self.name)

    @property
    def is_team(self) -> bool:
        return self.name != USER

    @property
    def organization(self) -> Organization | None:
        return Organization() if self.is_team else None

    @property
    def user(self) -> dict[str, Any] | None:
        return None if self.is_team else {"organizations": [Organization()]}


class Organization:
    """The one organisation that every team belongs to."""

    id = server_id("Organization", ORGANIZATION)
    name = ORGANIZATION
    org_entity = Entity(ORG_ENTITY)


@dataclass(eq=False)
class File:
    """A stored file, or one that is to be uploaded when `upload_url` is set."""

    name: str
    url_or_none: str | None
    size_bytes: int = 0
    md5: str | None = None
    upload_url: str | None = None
    upload_headers: Sequence[str] = ()
    storage_path: str | None = None
    artifact: Artifact | None = None

    updated_at = upload_multipart_urls = None
    mimetype = "application/octet-stream"

    @property
    def id(self) -> str:
        return server_id("File", self.url_or_none or self.upload_url)

    def url(self, upload: bool = False) -> str | None:
        return self.url_or_none

    @property
    def direct_url(self) -> str | None:
        return self.url_or_none
