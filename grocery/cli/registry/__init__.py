"""`grocery registry`: the versions of the model, what each stage runs, and how it got there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from grocery.cli.registry import compare, fetch, promote, register, reproduce, show, status

COMMANDS: list[Callable[[Any], None]] = [
    register.register,
    register.register_all,
    show.list_all,
    show.show,
    compare.compare,
    promote.promote,
    promote.rollback,
    fetch.fetch,
    reproduce.reproduce,
    status.status,
]
