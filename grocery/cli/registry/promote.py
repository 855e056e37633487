"""`grocery registry promote` and `rollback`: which version a stage has."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from grocery.cli.registry.common import (
    LOCAL,
    NAME,
    REASON,
    STAGE,
    answer,
    argument,
    command,
    open_registry,
    tell_wandb,
)

if TYPE_CHECKING:
    from grocery.registry.registry import Outcome, Registry

_TOGETHER = (
    "Of two people who move a stage at the same time one succeeds, and the other is told. The git\n"
    "remote that params.yaml names in registry.remote decides."
)


@command(
    "promote",
    "put a version into staging or production",
    NAME,
    STAGE,
    argument("--force", action="store_true", help="whatever the comparison says"),
    REASON,
    LOCAL,
    more=_TOGETHER,
)
def promote(arguments: argparse.Namespace) -> None:
    """Put a version into a stage. Into production only if it beats the present version by
    registry.margin of params.yaml on the same test images. Versions that were evaluated
    on different test data are evaluated anew, on the newer test images that neither
    learned from. --force with a --reason overrides; the reason is kept in the tag.

    examples:
      grocery registry promote v1.1.0 --stage staging
      grocery registry promote staging --stage production
      grocery registry promote v1.0.0 --stage production --force --reason 'knows milk'
    """
    registry = open_registry(local=arguments.local)
    outcome = registry.promote(
        arguments.name, arguments.stage, force=arguments.force, reason=arguments.reason
    )
    _answer(arguments, registry, outcome, "has" if outcome.new else "has already")


@command(
    "rollback",
    "put the version back that a stage had before",
    STAGE,
    REASON,
    LOCAL,
    more=_TOGETHER,
)
def rollback(arguments: argparse.Namespace) -> None:
    """Put the version back that a stage had before. It asks for no comparison, and is
    recorded as a rollback. A version that was rolled back is not come back to: a second
    rollback goes one step further.

    example:
      grocery registry rollback --stage production --reason "mistakes pears for apples"
    """
    registry = open_registry(local=arguments.local)
    outcome = registry.rollback(arguments.stage, reason=arguments.reason)
    _answer(arguments, registry, outcome, "is rolled back to")


def _answer(arguments: argparse.Namespace, registry: Registry, outcome: Outcome, verb: str) -> None:
    tell_wandb(registry)
    document = {
        "version": outcome.version.name,
        "stage": arguments.stage,
        "tag": outcome.tag.name,
        "new": outcome.new,
        "shared": registry.remote is not None,
        "evidence": outcome.tag.evidence,
    }
    lines = [f"{arguments.stage} {verb} {outcome.version.name} (tag {outcome.tag.name})"]
    if outcome.decision:
        lines.append(outcome.decision.sentence)
    answer(arguments, document, lines)
