"""`grocery registry reproduce`: build a past version again, and compare every byte."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from grocery.cli.registry.common import NAME, answer, command, open_registry

if TYPE_CHECKING:
    from grocery.registry.reproduce import Reproduction


@command("reproduce", "build a version again from its commit, and compare every output", NAME)
def reproduce(arguments: argparse.Namespace) -> None:
    """Check the version's commit out into a temporary clone, pull its inputs, run its
    pipeline by force, and compare the hash of every output with the recorded one.
    The exit code is 0 when all are identical, and 1 when a stage gave something else:
    the first such stage is named, and how it differs.

    The installed packages are used; those of another version than the commit's
    requirements.lock asks for are named.

    example:
      grocery registry reproduce production
    """
    from grocery.registry import reproduce
    from grocery.registry.store import open_store

    registry = open_registry()
    version = registry.state().find(arguments.name)
    with open_store(registry.root) as store:
        found = reproduce.reproduce(store, version)
    answer(arguments, asdict(found), _lines(found))
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
