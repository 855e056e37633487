"""`grocery registry`: the versions of the model, what each stage runs, and how it got there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from grocery.cli.registry import change, show, verify

COMMANDS: list[Callable[[Any], None]] = [
    change.register,
    change.register_all,
    show.list_all,
    show.show,
    show.compare,
    change.promote,
    change.rollback,
    verify.fetch,
    verify.reproduce,
    verify.status,
]
