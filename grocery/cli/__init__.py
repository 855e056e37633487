"""The `grocery` command: what people ask of the project beside running its pipeline.

A command (see `grocery.cli.command`) imports what it needs when it runs, so that the command line
itself answers at once. `_COMMANDS` and `_GROUPS` list them all.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from grocery import __version__
from grocery.cli import monitor, registry, trial
from grocery.cli.backbone import backbone
from grocery.cli.data_diff import diff
from grocery.cli.predict import predict
from grocery.cli.report import report
from grocery.cli.samples import samples
from grocery.cli.sweep import sweep
from grocery.cli.sync import sync
from grocery.cli.terminal import standard_output
from grocery.cli.worker import worker
from grocery.core.errors import meant, one_sentence
from grocery.core.pin import pin

_COMMANDS = (report, predict, monitor.add_parser, sweep, sync, trial.add_parser, worker, backbone)
_GROUPS: dict[str, tuple[str, list[Callable[[Any], None]]]] = {
    "registry": ("versions of the model and what runs in production", registry.COMMANDS),
    "data": ("look at the dataset", [diff, samples]),
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
            known = [*map(str, action.choices)]
            said = meant(str(value), known) or f"; known are {', '.join(known)}"
            raise argparse.ArgumentError(action, f"{value!r} is not known{said}")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = _Parser(
        prog="grocery", description="Use a grocery project's models, and ask about its data."
    )
    parser.add_argument("--version", action="version", version=f"grocery {__version__}")
    commands = parser.add_commands()
    for command in _COMMANDS:
        command(commands)
    for name, (text, members) in _GROUPS.items():
        group = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        subparsers = group.add_commands()
        for add_parser in members:
            add_parser(subparsers)
    return parser
