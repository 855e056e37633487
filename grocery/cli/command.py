"""A command of `grocery`: a function, whose docstring is its help, and what it takes."""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from grocery.core.errors import meant, printable

Argument = tuple[tuple[str, ...], dict[str, Any]]
Run = Callable[[argparse.Namespace], None]


class Parser(argparse.ArgumentParser):
    """A parser, and those below it, that offer the near word for one that is not known.

    They leave the lines of a description as they are.
    """

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

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse unknown options here: the parser above does not know which ones there are."""
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return namespace, unknown

    def error(self, message: str) -> NoReturn:
        """Say what argparse says, with the near word where an option or a choice is mistyped."""
        typed = re.search(r"(?:unrecognized arguments: (?=-)|invalid choice: ')([^\s'=]+)", message)
        known = message.partition("choose from ")[2] or self.format_usage()
        near = meant(typed[1], re.findall(r"[\w-]+", known)) if typed else ""
        super().error(printable(f"{message}{near}"))


def argument(*names: str, **options: Any) -> Argument:
    """What argparse's `add_argument` takes."""
    return names, options


def command(
    name: str, help: str, *arguments: Argument | list[Argument], more: str = ""
) -> Callable[[Run], Callable[[Any], None]]:
    """Make a function a command: one that adds its parser to those of its group.

    Its docstring is the description; the examples at its end are shown below the options.

    Parameters
    ----------
    name
        As it is typed, such as ``data diff``.
    arguments
        Of those in one list, only one may be given.
    more
        A paragraph that other commands have, too.
    """

    def parser_of(run: Run) -> Callable[[Any], None]:
        def add_parser(parsers: Any) -> None:
            text, mark, examples = inspect.cleandoc(run.__doc__ or "").partition("\n\nexample")
            parser = parsers.add_parser(
                name.rsplit(maxsplit=1)[-1],
                help=help,
                description=f"{text}\n\n{more}".strip(),
                epilog=f"{mark}{examples}".strip(),
            )
            for item in arguments:
                one_of = isinstance(item, list)
                group = parser.add_mutually_exclusive_group() if one_of else parser
                for names, options in item if isinstance(item, list) else [item]:
                    group.add_argument(*names, **options)
            parser.set_defaults(run=run, command=name, parser=parser)

        return add_parser

    return parser_of
