"""What the registry's commands share: their parsers' style, the project, and how they answer."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from grocery.core.errors import printable

if TYPE_CHECKING:
    from grocery.registry.registry import Registry
    from grocery.registry.state import State, Version

LOCAL = "make the tag in this clone only, and ask no git remote"


def add(
    parsers: Any,
    name: str,
    run: Callable[[argparse.Namespace], None],
    *,
    help: str,
    description: str,
    epilog: str,
) -> argparse.ArgumentParser:
    """Add a command of the group `registry`, with its `--json`."""
    parser: argparse.ArgumentParser = parsers.add_parser(
        name,
        help=help,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.set_defaults(run=run, command=f"registry {name}")
    return parser


def open_registry(*, local: bool = False) -> Registry:
    """The registry of the project that the working directory is in."""
    from grocery.registry.registry import Registry
    from grocery.tracking.provenance import dvc_root

    return Registry(dvc_root(), local=local)


def answer(arguments: argparse.Namespace, document: Any, lines: Iterable[str]) -> None:
    """Print one or the other."""
    if arguments.json:
        print(json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False))
    else:
        for line in lines:
            print(printable(line))


def tell_wandb(registry: Registry) -> None:
    """Bring W&B up to date; what comes of it is said on standard error, unless it is offline.

    W&B shows what all have: a tag that stays in this clone waits until it is shared.
    """
    if registry.mirror.waiting and registry.public:
        said = registry.mirror.mirror_now()
        if "W&B: " in said:
            print(printable(said), file=sys.stderr)


def facts(state: State, version: Version) -> dict[str, Any]:
    """What a list or a page of versions says of one."""
    return {
        "version": version.name,
        "stages": state.stages_of(version),
        "commit": version.commit,
        "tag": version.tag.name,
        "when": version.tag.when,
        "who": version.tag.who,
        "evidence": version.evidence,
    }


def metric(version: Version, name: str) -> str:
    """A test metric from a version's evidence."""
    value = version.section("metrics").get(name)
    return f"{value:.4f}" if isinstance(value, int | float) and abs(value) < 1e9 else "-"


def digest(version: Version, what: str) -> str:
    """The beginning of a digest from a version's evidence."""
    return (version.said(what, "digest") or "-")[:12]


def number(version: Version, section: str, name: str) -> str:
    """A whole number from a version's evidence."""
    value = version.section(section).get(name)
    return str(value) if isinstance(value, int) else "-"
