"""`grocery registry promote` and `rollback`: which version a stage has."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from grocery.cli.registry.common import LOCAL, add, answer, open_registry, tell_wandb

if TYPE_CHECKING:
    from grocery.registry.registry import Outcome, Registry

_TOGETHER = (
    "Of two people who move a stage at the same time one succeeds, and the other is told. The git\n"
    "remote that params.yaml names in registry.remote decides."
)


def add_parser(parsers: Any) -> None:
    """Add the command."""
    parser = add(
        parsers,
        "promote",
        _run,
        help="put a version into staging or production",
        description=(
            "Put a version into a stage. Into production only if it beats the present version by\n"
            "registry.margin of params.yaml on the same test images. Versions that were evaluated\n"
            "on different test data are evaluated anew, on the newer test images that neither\n"
            "learned from. --force with a --reason overrides; the reason is kept in the tag.\n\n"
            + _TOGETHER
        ),
        epilog=(
            "examples:\n"
            "  grocery registry promote v1.1.0 --stage staging\n"
            "  grocery registry promote staging --stage production\n"
            "  grocery registry promote v1.0.0 --stage production --force --reason 'knows milk'\n"
        ),
    )
    parser.add_argument("name", metavar="VERSION", help="a version or a stage")
    parser.add_argument("--stage", required=True, metavar="STAGE", help="staging or production")
    parser.add_argument("--force", action="store_true", help="whatever the comparison says")
    parser.add_argument("--reason", metavar="TEXT", help="why; is recorded")
    parser.add_argument("--local", action="store_true", help=LOCAL)


def add_parser_of_rollback(parsers: Any) -> None:
    """Add the way back."""
    parser = add(
        parsers,
        "rollback",
        _run_rollback,
        help="put the version back that a stage had before",
        description=(
            "Put the version back that a stage had before. It asks for no comparison, and is\n"
            "recorded as a rollback. A version that was rolled back is not come back to: a second\n"
            "rollback goes one step further.\n\n" + _TOGETHER
        ),
        epilog=(
            "example:\n"
            '  grocery registry rollback --stage production --reason "mistakes pears for apples"\n'
        ),
    )
    parser.add_argument("--stage", required=True, metavar="STAGE", help="staging or production")
    parser.add_argument("--reason", metavar="TEXT", help="why; is recorded")
    parser.add_argument("--local", action="store_true", help=LOCAL)


def _run(arguments: argparse.Namespace) -> None:
    registry = open_registry(local=arguments.local)
    outcome = registry.promote(
        arguments.name, arguments.stage, force=arguments.force, reason=arguments.reason
    )
    _answer(arguments, registry, outcome, "has" if outcome.new else "has already")


def _run_rollback(arguments: argparse.Namespace) -> None:
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
    if outcome.judgement:
        lines.append(outcome.judgement.sentence)
    answer(arguments, document, lines)
