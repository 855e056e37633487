"""`grocery registry`: the versions of the model, what each stage runs, and how it got there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from grocery.cli.registry import compare, fetch, promote, register, reproduce, show, status

COMMANDS: list[Callable[[Any], None]] = [
    register.add_parser,
    register.add_parser_of_all,
    show.add_parser_of_list,
    show.add_parser,
    compare.add_parser,
    promote.add_parser,
    promote.add_parser_of_rollback,
    fetch.add_parser,
    reproduce.add_parser,
    status.add_parser,
]
