"""A command of `grocery`: a function, whose docstring is its help, and what it takes."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

Argument = tuple[tuple[str, ...], dict[str, Any]]
Run = Callable[[argparse.Namespace], None]


def argument(*names: str, **options: Any) -> Argument:
    """What argparse's `add_argument` takes."""
    return names, options


def of_project(path: str) -> str:
    """A path of the project that the working directory is in, as it is reached from there."""
    here = Path.cwd()
    root = next((above for above in (here, *here.parents) if (above / ".dvc").is_dir()), here)
    return path if root == here else str(root / path)


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
            parser.set_defaults(run=run, command=name)

        return add_parser

    return parser_of
