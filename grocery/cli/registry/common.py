"""What the registry's commands share: their parsers' style, the project, and how they answer."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from grocery.cli.command import Argument, Run, argument
from grocery.cli.command import command as any_command
from grocery.cli.terminal import print_json
from grocery.core.errors import RegistryError, printable

if TYPE_CHECKING:
    from grocery.registry.registry import Outcome, Registry
    from grocery.registry.state import Version

NAME = argument("name", metavar="VERSION", help="a version or a stage")
_JSON = argument("--json", action="store_true", help="print JSON, for programs")


def command(
    name: str, help: str, *arguments: Argument | list[Argument], more: str = ""
) -> Callable[[Run], Callable[[Any], None]]:
    """Make a function a command of the group `registry`, with a `--json`."""
    return any_command(f"registry {name}", help, _JSON, *arguments, more=more)


def open_registry(*, local: bool = False) -> Registry:
    """The registry of the project that the working directory is in."""
    from grocery.registry.registry import Registry
    from grocery.tracking.provenance import dvc_root

    def say(sentence: str) -> None:
        print(printable(sentence), file=sys.stderr)

    return Registry(dvc_root(), local=local, say=say)


def answer(arguments: argparse.Namespace, document: Any, lines: Iterable[str]) -> None:
    """Print one or the other."""
    if arguments.json:
        print_json(document)
    else:
        for line in lines:
            print(printable(line))


def done(registry: Registry, outcome: Outcome | RegistryError, **more: str) -> dict[str, Any]:
    """What a command that makes a tag, or was refused, answers a program."""
    if isinstance(outcome, RegistryError):
        return {**more, "refused": str(outcome)}
    return {
        "version": outcome.version.name,
        "tag": outcome.tag.name,
        "new": outcome.new,
        "shared": registry.ledger.remote is not None,
        "sent": [*outcome.sent],
        "pushed": [*outcome.pushed],
        "evidence": outcome.tag.evidence,
        **more,
    }


def sent(registry: Registry, outcome: Outcome) -> list[str]:
    """A line for each place that something was sent to."""
    from grocery.registry.judge import listed

    lines = []
    if outcome.sent:
        word = "tag" if len(outcome.sent) == 1 else "tags"
        lines.append(f"sent to {registry.ledger.remote}: the {word} {', '.join(outcome.sent)}")
    if outcome.pushed:
        lines.append(f"sent to the DVC remote: {listed(outcome.pushed, 'output', 'outputs')}")
    return lines


def promoted(registry: Registry, outcome: Outcome, stage: str, verb: str = "has") -> list[str]:
    """What a command that moves a stage says of it."""
    verb = verb if outcome.new else "has already"
    lines = [f"{stage} {verb} {outcome.version.name} (tag {outcome.tag.name})"]
    lines += [outcome.decision.sentence] if outcome.decision else []
    return lines + sent(registry, outcome)


def metric(version: Version, name: str) -> str:
    """A test metric from a version's evidence."""
    value = version.section("metrics").get(name)
    return f"{value:.4f}" if isinstance(value, int | float) and abs(value) < 1e9 else "-"


def said(version: Version, section: str, name: str) -> str:
    """A text or a whole number from a version's evidence."""
    value = version.section(section).get(name)
    return (str(value) if isinstance(value, int | str) else "") or "-"
