"""The `grocery` command: what people ask of the project beside running its pipeline.

A command (see `grocery.cli.command`) imports what it needs when it runs, so that the command line
itself answers at once. `_COMMANDS` and `_GROUPS` list them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from grocery import __version__
from grocery.cli import monitor, registry, trial
from grocery.cli.backbone import backbone
from grocery.cli.command import Parser
from grocery.cli.data_diff import diff
from grocery.cli.predict import predict
from grocery.cli.report import report
from grocery.cli.samples import samples
from grocery.cli.sweep import sweep
from grocery.cli.sync import sync
from grocery.cli.terminal import EXIT_CODES, standard_output
from grocery.cli.worker import worker
from grocery.core.errors import one_sentence
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


def build_parser() -> Parser:
    """The parser of all commands."""
    parser = Parser(
        prog="grocery",
        description="Use a grocery project's models, and ask about its data.",
        epilog=EXIT_CODES,
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
