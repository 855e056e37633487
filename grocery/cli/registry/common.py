"""What the registry's commands share: their parsers' style, the project, and how they answer."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from grocery.core.errors import printable

if TYPE_CHECKING:
    from grocery.registry.registry import Outcome, Registry
    from grocery.registry.state import Version

Argument = tuple[tuple[str, ...], dict[str, Any]]


def argument(*names: str, **options: Any) -> Argument:
    """What argparse's `add_argument` takes."""
    return names, options


NAME = argument("name", metavar="VERSION", help="a version or a stage")


def command(
    name: str, help: str, *arguments: Argument | list[Argument], more: str = ""
) -> Callable[[Callable[[argparse.Namespace], None]], Callable[[Any], None]]:
    """Make a function a command of the group `registry`, with a `--json`.

    Its docstring is the description; the last paragraph, the examples, is shown below the options.

    Parameters
    ----------
    arguments
        Of those in one list, only one may be given.
    more
        A paragraph that other commands have, too.
    """

    def parser_of(run: Callable[[argparse.Namespace], None]) -> Callable[[Any], None]:
        def add_parser(parsers: Any) -> None:
            description, _, examples = inspect.cleandoc(run.__doc__ or "").rpartition("\n\n")
            text = f"{description}\n\n{more}".strip()
            parser = parsers.add_parser(name, help=help, description=text, epilog=examples)
            parser.add_argument("--json", action="store_true", help="print JSON, for programs")
            for item in arguments:
                one_of = isinstance(item, list)
                group = parser.add_mutually_exclusive_group() if one_of else parser
                for names, options in item if isinstance(item, list) else [item]:
                    group.add_argument(*names, **options)
            parser.set_defaults(run=run, command=f"registry {name}")

        return add_parser

    return parser_of


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
        sentence = registry.mirror.mirror_now()
        if "W&B: " in sentence:
            print(printable(sentence), file=sys.stderr)


def done(registry: Registry, outcome: Outcome, **more: str) -> dict[str, Any]:
    """What a command that makes a tag answers a program."""
    return {
        "version": outcome.version.name,
        "tag": outcome.tag.name,
        "new": outcome.new,
        "shared": registry.remote is not None,
        "evidence": outcome.tag.evidence,
        **more,
    }


def metric(version: Version, name: str) -> str:
    """A test metric from a version's evidence."""
    value = version.section("metrics").get(name)
    return f"{value:.4f}" if isinstance(value, int | float) and abs(value) < 1e9 else "-"


def said(version: Version, section: str, name: str) -> str:
    """A text or a whole number from a version's evidence."""
    value = version.section(section).get(name)
    return (str(value) if isinstance(value, int | str) else "") or "-"
