"""`grocery registry status`: is everything as the tags say?"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from grocery.cli.registry.common import answer, argument, command, open_registry
from grocery.core.errors import RegistryError, TrackingError, printable

if TYPE_CHECKING:
    from grocery.registry.registry import Registry


@command(
    "status",
    "where tags, objects and W&B disagree",
    argument("--repair", action="store_true", help="make W&B show what the tags say"),
)
def status(arguments: argparse.Namespace) -> None:
    """Look for what is wrong: tags that make no sense, tags that are here and not at the
    git remote, versions whose objects are not in the DVC remote, and places where W&B
    shows something else than the tags. The exit code is 1 when something is found.
    --repair makes W&B show what the tags say; git is never changed.

    examples:
      grocery registry status
      grocery registry status --repair
    """
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
    stages = _stages(registry)
    lines = [f"{stage}: {version or 'none'}" for stage, version in stages.items()]
    lines += [f"repaired: {sentence}" for sentence in repaired]
    for name, sentences in found.items():
        lines += [f"{name}: {sentence}" for sentence in sentences or ["nothing is wrong"]]
    answer(arguments, found | {"stages": stages, "repaired": repaired}, lines)
    if any(found.values()):
        raise SystemExit(1)


def _stages(registry: Registry) -> dict[str, str | None]:
    from grocery.registry.tags import STAGES

    state = registry.state()
    standing = {stage: state.assignment(stage) for stage in STAGES}
    found = {stage: state.at(tag.commit) if tag else None for stage, tag in standing.items()}
    return {stage: version.name if version else None for stage, version in found.items()}
