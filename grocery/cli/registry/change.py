"""`grocery registry register`, `register-all`, `promote` and `rollback`: what makes a tag."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from grocery.cli.command import argument
from grocery.cli.registry.common import (
    NAME,
    answer,
    command,
    done,
    metric,
    open_registry,
    promoted,
    sent,
)
from grocery.core.errors import RegistryError

if TYPE_CHECKING:
    from grocery.registry.registry import Outcome

_TOGETHER = (
    "Of two people who move a stage at the same time one succeeds, and the other is told. The git\n"
    "remote that params.yaml names in registry.remote decides."
)
_REFUSALS = (
    "Refused, with the reason, when dvc.lock is not what the commit holds (parameters or code\n"
    "changed after the last dvc repro), when the candidate was rejected, or when the DVC remote\n"
    "lacks objects of it: a registered version can always be pulled and built again."
)

_STAGE = argument("--stage", required=True, metavar="STAGE", help="staging or production")
_REASON = argument("--reason", metavar="TEXT", help="why; is recorded")
_LOCAL = argument(
    "--local", action="store_true", help="make the tag in this clone only, and ask no git remote"
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
    "make a release candidate a version: a tag, sent to the git remote",
    argument(
        "revision",
        nargs="?",
        metavar="REV",
        help="anything git knows, or a DVC experiment (default: HEAD, in a clean working tree)",
    ),
    [argument("--version", metavar="vX.Y.Z", help="its name (default: the next one)"), _BUMP],
    _PUSH,
    _LOCAL,
    more=_REFUSALS,
)
def register(arguments: argparse.Namespace) -> None:
    """Make a release candidate a version: a tag, which is sent to the git remote (not with
    --local). It is the candidate of a commit or of a DVC experiment. The annotated tag, in
    GTO's format, carries metrics, parameters and digests as evidence. With --push the
    objects of the release go to the DVC remote, too. W&B is told, where there is a key.
    What is registered already stays as it is.

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
    document = done(registry, outcome, commit=outcome.version.commit)
    answer(arguments, document, [_line(outcome), *sent(registry, outcome)])


@command(
    "register-all",
    "register all accepted candidates, of experiments or commits; sends tags",
    argument(
        "span", nargs="?", metavar="RANGE", help="a range of commits (default: DVC experiments)"
    ),
    _BUMP,
    _PUSH,
    _LOCAL,
    more=_REFUSALS,
)
def register_all(arguments: argparse.Namespace) -> None:
    """Register, oldest first, every accepted candidate that is no version yet, and send the
    tags to the git remote (not with --local): of all DVC experiments, or of the commits of
    a range that changed dvc.lock. What is refused is named with the reason, and passed over.

    examples:
      grocery registry register-all --push               all experiments
      grocery registry register-all v1.0.0..main         commits since a version
    """
    registry = open_registry(local=arguments.local)
    document, lines = [], []
    for revision, found in registry.register_all(
        arguments.span, bump=arguments.bump, push=arguments.push
    ):
        document.append(done(registry, found, revision=revision.name, commit=revision.commit))
        if isinstance(found, RegistryError):
            lines.append(f"{revision}: not registered: {found}")
        else:
            lines += [f"{revision}: {_line(found)}", *sent(registry, found)]
    answer(arguments, document, lines or ["there is nothing to register"])


def _line(outcome: Outcome) -> str:
    version = outcome.version
    if not outcome.new:
        return f"registered already as {version.name} (commit {version.commit[:7]})"
    return (
        f"registered {version.name} (commit {version.commit[:7]}, test accuracy "
        f"{metric(version, 'accuracy')})"
    )


@command(
    "promote",
    "put a version into staging or production: sends tags to the git remote",
    NAME,
    _STAGE,
    argument("--force", action="store_true", help="whatever the comparison says"),
    _REASON,
    _LOCAL,
    more=_TOGETHER,
)
def promote(arguments: argparse.Namespace) -> None:
    """Put a version into a stage: the tag is sent to the git remote (not with --local), and
    that of the version if it is not there. W&B is told, where there is a key.
    Into production only if it knows all classes of the present version, and is better, or
    not worse, on the same test images: registry.rule of params.yaml. Versions that were
    evaluated on different test data are evaluated anew, on the newer test images that
    neither learned from. --force with a --reason overrides; the tag keeps the reason.

    examples:
      grocery registry promote v1.1.0 --stage staging
      grocery registry promote staging --stage production
      grocery registry promote v1.0.0 --stage production --force --reason 'knows milk'
    """
    registry = open_registry(local=arguments.local)
    outcome = registry.promote(
        arguments.name, arguments.stage, force=arguments.force, reason=arguments.reason
    )
    lines = promoted(registry, outcome, arguments.stage)
    answer(arguments, done(registry, outcome, stage=arguments.stage), lines)


@command(
    "rollback",
    "put the version back that a stage had before: sends a tag to the git remote",
    _STAGE,
    _REASON,
    _LOCAL,
    more=_TOGETHER,
)
def rollback(arguments: argparse.Namespace) -> None:
    """Put the version back that a stage had before; the tag is sent to the git remote (not
    with --local). It asks for no comparison, and is recorded as a rollback. A version that
    was rolled back is not come back to: a second rollback goes one step further.

    example:
      grocery registry rollback --stage production --reason "mistakes pears for apples"
    """
    registry = open_registry(local=arguments.local)
    outcome = registry.rollback(arguments.stage, reason=arguments.reason)
    lines = promoted(registry, outcome, arguments.stage, "is rolled back to")
    answer(arguments, done(registry, outcome, stage=arguments.stage), lines)
