"""`grocery registry status`: is everything as the tags say?"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from grocery.cli.registry.common import add, answer, open_registry
from grocery.core.errors import RegistryError, TrackingError, printable

if TYPE_CHECKING:
    from grocery.registry.registry import Registry


def add_parser(parsers: Any) -> None:
    """Add the command."""
    parser = add(
        parsers,
        "status",
        _run,
        help="where tags, objects and W&B disagree",
        description=(
            "Look for what is wrong: tags that make no sense, tags that are here and not at the\n"
            "git remote, versions whose objects are not in the DVC remote, and places where W&B\n"
            "shows something else than the tags. The exit code is 1 when something is found.\n"
            "--repair makes W&B show what the tags say; git is never changed."
        ),
        epilog=("examples:\n  grocery registry status\n  grocery registry status --repair\n"),
    )
    parser.add_argument("--repair", action="store_true", help="make W&B show what the tags say")


def _run(arguments: argparse.Namespace) -> None:
    registry = open_registry()
    repaired = list(registry.mirror.repair()) if arguments.repair else []
    found: dict[str, list[str]] = {
        "tags": list(registry.state().problems) + registry.unshared(),
        "objects": registry.lost(),
    }
    try:
        found["wandb"] = registry.mirror.disagreements()
    except (TrackingError, RegistryError) as error:  # as without an account
        print(printable(f"wandb: not compared: {error}"), file=sys.stderr)
    document = found | {"stages": _stages(registry), "repaired": repaired}
    answer(arguments, document, _lines(registry, found, repaired))
    if any(found.values()):
        raise SystemExit(1)


def _stages(registry: Registry) -> dict[str, str | None]:
    from grocery.registry.tags import STAGES

    state = registry.state()
    standing = {stage: state.assignment(stage) for stage in STAGES}
    found = {stage: state.at(tag.commit) if tag else None for stage, tag in standing.items()}
    return {stage: version.name if version else None for stage, version in found.items()}


def _lines(registry: Registry, found: dict[str, list[str]], repaired: list[str]) -> list[str]:
    lines = [f"{stage}: {version or 'none'}" for stage, version in _stages(registry).items()]
    lines += [f"repaired: {sentence}" for sentence in repaired]
    for name, sentences in found.items():
        lines += [f"{name}: {sentence}" for sentence in sentences or ["nothing is wrong"]]
    return lines
