"""GraphQL for the store: requests are parsed, validated and executed by graphql-core."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any

import graphql

from wandb_server_store import Store
from wandb_server_types import WandbError, snake

SCHEMA = Path(__file__).with_name("wandb_server.graphql")


class Executor:
    """Answers GraphQL requests from a store.

    What the schema does not know is refused as W&B's server refuses it: status 400 and an error
    that names the field, which the SDK does not try again. It is printed too, since it means that
    the SDK is newer than this server.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def execute(self, body: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """HTTP status and answer."""
        document, errors = _parsed(body["query"])
        if document is None or errors:
            _print(errors)
            return HTTPStatus.BAD_REQUEST, {"errors": [error.formatted for error in errors]}
        result = graphql.execute_sync(
            _schema(),
            document,
            self._store,
            variable_values=body.get("variables"),
            operation_name=body.get("operationName") or None,
            field_resolver=_resolve,
            type_resolver=lambda value, *_: type(value).__name__,
        )
        _print(result.errors or ())
        return HTTPStatus.OK, result.formatted


def operation_name(body: Mapping[str, Any]) -> str:
    """Name of the operation that a request asks for; "" where it has none."""
    document, _ = _parsed(body["query"])
    names = [
        item.name.value
        for item in (document.definitions if document else ())
        if isinstance(item, graphql.OperationDefinitionNode) and item.name
    ]
    return body.get("operationName") or (names[0] if names else "")


def _print(errors: Iterable[graphql.GraphQLError]) -> None:
    """Print errors that are not the refusals which the store means."""
    for error in errors:
        if not isinstance(error.original_error, WandbError):
            print(f"wandb_server: {error}", file=sys.stderr, flush=True)


@cache
def _schema() -> graphql.GraphQLSchema:
    """The schema; arguments and input fields reach Python in snake case."""
    schema = graphql.build_schema(SCHEMA.read_text("utf-8"))
    for kind in schema.type_map.values():
        if isinstance(kind, graphql.GraphQLInputObjectType):
            for name, field in kind.fields.items():
                field.out_name = snake(name)
        elif isinstance(kind, graphql.GraphQLObjectType):
            for definition in kind.fields.values():
                for name, argument in definition.args.items():
                    argument.out_name = snake(name)
    return schema


@cache
def _parsed(query: str) -> tuple[graphql.DocumentNode | None, list[graphql.GraphQLError]]:
    try:
        document = graphql.parse(query)
    except graphql.GraphQLError as error:
        return None, [error]
    return document, graphql.validate(_schema(), document)


def _resolve(source: Any, info: graphql.GraphQLResolveInfo, **arguments: Any) -> Any:
    name = snake(info.field_name)
    value = source[name] if isinstance(source, Mapping) else getattr(source, name)
    return value(**arguments) if callable(value) else value
