"""Sharing numpy work out to threads, with results that do not depend on how many there are.

numpy and scipy let go of the interpreter lock inside their loops, so threads that share one copy of
the arrays are enough here, where processes would each need their own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def thread_map() -> Iterator[Callable[[Callable[[Item], Result], Iterable[Item]], list[Result]]]:
    """Open a map over as many threads as this process may use cores.

    Results come in the order of the items. They do not depend on the number of threads as long as
    the items do not, and as long as no item writes what another one reads.
    """
    with ThreadPoolExecutor(cores()) as pool:
        yield lambda function, items: list(pool.map(function, items))


def blocks(count: int, size: int) -> list[slice]:
    """Cut `count` rows into slices of at most `size`."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
