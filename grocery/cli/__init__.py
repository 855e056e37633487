"""The `grocery` command: what people ask of the project beside running its pipeline.

A command is a module of two functions: `add_parser` says what it takes, and the other runs it. The
latter imports what it needs, so that the command line itself answers at once. `_COMMANDS` and
`_GROUPS` list them all.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from grocery import __version__
from grocery.cli import (
    data_diff,
    monitor,
    predict,
    registry,
    report,
    samples,
    sweep,
    sync,
    trial,
    worker,
)
from grocery.cli.terminal import standard_output
from grocery.core.errors import meant, one_sentence
from grocery.core.pin import pin

_COMMANDS = (report, predict, monitor, sweep, sync, trial, worker)
_GROUPS: dict[str, tuple[str, list[Callable[[Any], None]]]] = {
    "registry": ("versions of the model and what runs in production", registry.COMMANDS),
    "data": ("look at the dataset", [data_diff.add_parser, samples.add_parser]),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; `argv` defaults to the process's arguments."""
    arguments = build_parser().parse_args(argv)
    with one_sentence(arguments.command), standard_output():
        pin()
        arguments.run(arguments)


class _Parser(argparse.ArgumentParser):
    """A parser, and those below it, that leave the lines of a description as they are."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, formatter_class=argparse.RawDescriptionHelpFormatter)

    def add_commands(self) -> Any:
        """Take commands, and list them where none is given.

        The list is on standard error and the exit code 2, argparse's own for a command line that
        lacks something: a script whose variable was empty does not go on as if all were done.
        """

        def show(_: argparse.Namespace) -> None:
            self.print_help(sys.stderr)
            raise SystemExit(2)

        self.set_defaults(run=show, command=self.prog)
        return self.add_subparsers(title="commands", metavar="COMMAND")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Offer the near one for a word that is none of the choices."""
        if action.choices is not None and value not in action.choices:
            known = ", ".join(map(str, action.choices))
            said = meant(str(value), map(str, action.choices)) or f"; known are {known}"
            raise argparse.ArgumentError(action, f"{value!r} is not known{said}")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = _Parser(
        prog="grocery", description="Use a grocery project's models, and ask about its data."
    )
    parser.add_argument("--version", action="version", version=f"grocery {__version__}")
    commands = parser.add_commands()
    for command in _COMMANDS:
        command.add_parser(commands)
    for name, (text, members) in _GROUPS.items():
        group = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        subparsers = group.add_commands()
        for add_parser in members:
            add_parser(subparsers)
    return parser
