"""`grocery registry register` and `register-all`: release candidates become versions."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from grocery.cli.registry.common import (
    LOCAL,
    answer,
    argument,
    command,
    metric,
    open_registry,
    tell_wandb,
)

if TYPE_CHECKING:
    from grocery.registry.registry import Outcome, Registry

_REFUSALS = (
    "Refused, with the reason, when dvc.lock is not what the commit holds (parameters or code\n"
    "changed after the last dvc repro), when the candidate was rejected, or when the DVC remote\n"
    "lacks objects of it: a registered version can always be pulled and built again."
)


_BUMP = argument(
    "--bump",
    choices=("major", "minor", "patch"),
    default="minor",
    help="which number of the next version counts up (default: %(default)s)",
)
_PUSH = argument(
    "--push", action="store_true", help="first send the objects that the DVC remote lacks"
)


@command(
    "register",
    "make a release candidate a version",
    argument(
        "revision",
        nargs="?",
        metavar="REV",
        help="anything git knows, or a DVC experiment (default: HEAD, in a clean working tree)",
    ),
    [argument("--version", metavar="vX.Y.Z", help="its name (default: the next one)"), _BUMP],
    _PUSH,
    LOCAL,
    more=_REFUSALS,
)
def register(arguments: argparse.Namespace) -> None:
    """Make the release candidate of a commit or of a DVC experiment a version: an
    annotated git tag in GTO's format, which carries metrics, parameters and digests as
    evidence. What is registered already stays as it is.

    examples:
      grocery registry register                        HEAD becomes the next version
      grocery registry register --push                 send the objects that are missing
      grocery registry register half-labels            a DVC experiment
      grocery registry register --version v2.0.0
    """
    registry = open_registry(local=arguments.local)
    outcome = registry.register(
        arguments.revision,
        version=arguments.version,
        bump=arguments.bump,
        push=arguments.push,
    )
    tell_wandb(registry)
    answer(arguments, _document(registry, outcome), [_line(outcome)])


@command(
    "register-all",
    "register every accepted candidate of the experiments, or of a range of commits",
    argument(
        "span", nargs="?", metavar="RANGE", help="a range of commits (default: DVC experiments)"
    ),
    _BUMP,
    _PUSH,
    LOCAL,
    more=_REFUSALS,
)
def register_all(arguments: argparse.Namespace) -> None:
    """Register, oldest first, every accepted candidate that is no version yet: of all DVC
    experiments, or of the commits of a range that changed dvc.lock. What is refused is
    named with the reason, and passed over.

    examples:
      grocery registry register-all --push               all experiments
      grocery registry register-all v1.0.0..main         commits since a version
    """
    from grocery.registry.registry import Outcome

    registry = open_registry(local=arguments.local)
    document, lines = [], []
    for revision, found in registry.register_all(
        arguments.span, bump=arguments.bump, push=arguments.push
    ):
        about = {"revision": revision.name, "commit": revision.commit}
        if isinstance(found, Outcome):
            document.append(about | _document(registry, found))
            lines.append(f"{revision}: {_line(found)}")
        else:
            document.append(about | {"refused": str(found)})
            lines.append(f"{revision}: not registered: {found}")
    tell_wandb(registry)
    answer(arguments, document, lines or ["there is nothing to register"])


def _document(registry: Registry, outcome: Outcome) -> dict[str, Any]:
    version = outcome.version
    return {
        "version": version.name,
        "commit": version.commit,
        "tag": outcome.tag.name,
        "new": outcome.new,
        "shared": registry.remote is not None,
        "evidence": version.evidence,
    }


def _line(outcome: Outcome) -> str:
    version = outcome.version
    if not outcome.new:
        return f"registered already as {version.name} (commit {version.commit[:7]})"
    return (
        f"registered {version.name} (commit {version.commit[:7]}, test accuracy "
        f"{metric(version, 'accuracy')})"
    )
