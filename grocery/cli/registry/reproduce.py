"""`grocery registry reproduce`: build a past version again, and compare every byte."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from grocery.cli.registry.common import add, answer, open_registry

if TYPE_CHECKING:
    from grocery.registry.reproduce import Reproduction


def add_parser(parsers: Any) -> None:
    """Add the command."""
    parser = add(
        parsers,
        "reproduce",
        _run,
        help="build a version again from its commit, and compare every output",
        description=(
            "Check the version's commit out into a temporary clone, pull its inputs, run its\n"
            "pipeline by force, and compare the hash of every output with the recorded one.\n"
            "The exit code is 0 when all are identical, and 1 when a stage gave something else:\n"
            "the first such stage is named, and how it differs.\n"
            "\n"
            "The installed packages are used; those of another version than the commit's\n"
            "requirements.lock asks for are named."
        ),
        epilog="example:\n  grocery registry reproduce production\n",
    )
    parser.add_argument("name", metavar="VERSION", help="a version or a stage")


def _run(arguments: argparse.Namespace) -> None:
    from grocery.registry.objects import open_objects
    from grocery.registry.reproduce import reproduce

    registry = open_registry()
    version = registry.state().find(arguments.name)
    with open_objects(registry.root) as objects:
        found = reproduce(objects, registry.git, version)
    answer(arguments, found.document(), _lines(found))
    if not found.identical:
        raise SystemExit(1)


def _lines(found: Reproduction) -> Iterator[str]:
    if found.identical:
        yield f"{found.version}: identical, all {found.outputs} outputs"
    else:
        yield f"{found.version}: {found.stage} gives something else than was recorded"
        yield from (f"  {difference}" for difference in found.differences)
    if found.packages:
        versions = (f"{name} {here} ({there})" for name, (here, there) in found.packages.items())
        yield f"packages of another version than its lock asks for: {', '.join(versions)}"
