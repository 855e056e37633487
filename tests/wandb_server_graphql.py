"""GraphQL for the store: requests are parsed, validated and executed by graphql-core."""

import json
import re
import sys
from collections.abc import Mapping
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any

import graphql

from wandb_server_store import Store

SCHEMA = Path(__file__).with_name("wandb_server.graphql")


def execute(store: Store, body: Mapping[str, Any]) -> tuple[int, Mapping[str, Any]]:
    """Answer a request from the store; HTTP status and answer.

    What the schema does not know is refused as W&B's server refuses it: status 400 and an error
    that names the field, which the SDK does not try again. It is printed too, since it means that
    the SDK is newer than this server.
    """
    document, errors = _parsed(body["query"])
    if errors:
        print("wandb_server:", *errors, file=sys.stderr, flush=True)
        return HTTPStatus.BAD_REQUEST, {"errors": [error.formatted for error in errors]}
    result = graphql.execute_sync(
        _schema(),
        document,
        store,
        variable_values=body.get("variables"),
        field_resolver=_resolve,
        type_resolver=lambda value, *_: type(value).__name__,
    )
    return HTTPStatus.OK, result.formatted


def operation_name(body: Mapping[str, Any]) -> str:
    """Name of the operation that a request asks for; "" where it has none."""
    document, _ = _parsed(body["query"])
    kind = graphql.OperationDefinitionNode
    (operation,) = (each for each in document.definitions if isinstance(each, kind))
    return operation.name.value if operation.name else ""


@cache
def _schema() -> graphql.GraphQLSchema:
    """The schema; input fields reach Python in snake case."""
    schema = graphql.build_schema(SCHEMA.read_text("utf-8"))
    for kind in schema.type_map.values():
        if isinstance(kind, graphql.GraphQLInputObjectType):
            for name, field in kind.fields.items():
                field.out_name = _snake(name)
    return schema


@cache
def _parsed(query: str) -> tuple[graphql.DocumentNode, list[graphql.GraphQLError]]:
    document = graphql.parse(query)
    return document, graphql.validate(_schema(), document)


def _resolve(source: Any, info: graphql.GraphQLResolveInfo[Any], **arguments: Any) -> Any:
    """A field; one that the store does not keep is null, which the schema may forbid.

    A connection is the store's list, all of it on one page: no list is as long as the SDK asks for.
    What the SDK wants as a text of JSON may be kept as what it says.
    """
    name = _snake(info.field_name)
    value = source.get(name) if isinstance(source, Mapping) else getattr(source, name, None)
    if callable(value):
        value = value(**{_snake(name): argument for name, argument in arguments.items()})
    kind = graphql.get_named_type(info.return_type).name
    if kind.endswith("Connection") and isinstance(value, list | tuple):
        edges = [{"node": node} for node in value]
        return {"total_count": len(edges), "page_info": {"has_next_page": False}, "edges": edges}
    if kind == "JSONString" and isinstance(value, dict | list):
        return json.dumps(value)
    return value


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
