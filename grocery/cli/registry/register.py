"""`grocery registry register` and `register-all`: release candidates become versions."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from grocery.cli.registry.common import LOCAL, add, answer, metric, open_registry, tell_wandb

if TYPE_CHECKING:
    from grocery.registry.registry import Outcome, Registry

_REFUSALS = (
    "Refused, with the reason, when dvc.lock is not what the commit holds (parameters or code\n"
    "changed after the last dvc repro), when the candidate was rejected, or when the DVC remote\n"
    "lacks objects of it: a registered version can always be pulled and built again."
)


def add_parser(parsers: Any) -> None:
    """Add the command."""
    parser = add(
        parsers,
        "register",
        _run,
        help="make a release candidate a version",
        description=(
            "Make the release candidate of a commit or of a DVC experiment a version: an\n"
            "annotated git tag in GTO's format, which carries metrics, parameters and digests as\n"
            "evidence. "
            "What is registered already stays as it is.\n\n" + _REFUSALS
        ),
        epilog=(
            "examples:\n"
            "  grocery registry register                        HEAD becomes the next version\n"
            "  grocery registry register --push                 send the objects that are missing\n"
            "  grocery registry register half-labels            a DVC experiment\n"
            "  grocery registry register --version v2.0.0\n"
        ),
    )
    parser.add_argument(
        "revision",
        nargs="?",
        metavar="REV",
        help="anything git knows, or a DVC experiment (default: HEAD, in a clean working tree)",
    )
    name = parser.add_mutually_exclusive_group()
    name.add_argument("--version", metavar="vX.Y.Z", help="its name (default: the next one)")
    _add_common(parser, name)


def add_parser_of_all(parsers: Any) -> None:
    """Add the command for many."""
    parser = add(
        parsers,
        "register-all",
        _run_all,
        help="register every accepted candidate of the experiments, or of a range of commits",
        description=(
            "Register, oldest first, every accepted candidate that is no version yet: of all DVC\n"
            "experiments, or of the commits of a range that changed dvc.lock. What is refused is\n"
            "named with the reason, and passed over.\n\n" + _REFUSALS
        ),
        epilog=(
            "examples:\n"
            "  grocery registry register-all --push               all experiments\n"
            "  grocery registry register-all v1.0.0..main         commits since a version\n"
        ),
    )
    parser.add_argument(
        "span", nargs="?", metavar="RANGE", help="a range of commits (default: DVC experiments)"
    )
    _add_common(parser, parser)


def _add_common(parser: argparse.ArgumentParser, name: Any) -> None:
    name.add_argument(
        "--bump",
        choices=("major", "minor", "patch"),
        default="minor",
        help="which number of the next version counts up (default: %(default)s)",
    )
    parser.add_argument(
        "--push", action="store_true", help="first send the objects that the DVC remote lacks"
    )
    parser.add_argument("--local", action="store_true", help=LOCAL)


def _run(arguments: argparse.Namespace) -> None:
    registry = open_registry(local=arguments.local)
    outcome = registry.register(
        arguments.revision,
        version=arguments.version,
        bump=arguments.bump,
        push=arguments.push,
    )
    tell_wandb(registry)
    answer(arguments, _document(registry, outcome), [_line(outcome)])


def _run_all(arguments: argparse.Namespace) -> None:
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
