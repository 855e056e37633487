"""Sharing work out to processes, with results that do not depend on how many there are.

How many there are, and on which machines, is for who runs the work to say, by `sharing`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Literal, Protocol, TypeVar

from joblib import Parallel, delayed
from tqdm import tqdm

from grocery.core.errors import GroceryError
from grocery.core.threads import cores

Item = TypeVar("Item")
Result = TypeVar("Result")


class Mapper(Protocol):
    """Workers that are not processes of this machine's own."""

    def map(
        self, function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, title: str
    ) -> Iterator[Result]:
        """As `parallel_map`, with at most so many workers; 0 means all that there are."""


_SHARING: ContextVar[tuple[int, Mapper | None]] = ContextVar("sharing", default=(0, None))


@contextmanager
def sharing(workers: int, mapper: Mapper | None = None) -> Iterator[None]:
    """Say how `parallel_map` shares work out while the block runs.

    Parameters
    ----------
    workers
        Most processes at work at a time; 0, the default where nobody says, means one per core, or
        all the workers of `mapper`. With 1 everything runs in this process.
    mapper
        Other workers than this machine's processes.
    """
    token = _SHARING.set((workers, mapper))
    try:
        yield
    finally:
        _SHARING.reset(token)


def parallel_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    title: str,
    workers: int | None = None,
    prefer: Literal["processes", "threads"] = "processes",
) -> Iterator[Result]:
    """Apply `function` to every item and yield the results in the order of the items.

    A function that calls this itself shares out its own items only where it runs in this process:
    where it is the only item, or `workers` is 1. In a worker they are done one after another.

    Parameters
    ----------
    function
        A module-level function, or a `functools.partial` of one; it must not use shared state.
    items
        Independent pieces of work, usually shards. A single one is done in this process.
    title
        What the progress bar calls the work. The bar shows on a terminal only.
    workers
        Another number than the one that `sharing` says, such as 1 for what is done sooner than
        processes are started.
    prefer
        "threads" for work that waits for files or hashes them, which is done before processes have
        been started. A mapper has its own workers.

    Raises
    ------
    GroceryError
        When a worker was killed, or a mapper's workers are lost.
    """
    shared, mapper = _SHARING.get()
    workers = shared if workers is None else workers
    total = len(items) if isinstance(items, Sized) else None
    if not mapper:
        workers = min(workers or cores(), total or sys.maxsize)
    alone = partial(_alone, function)
    if workers == 1 or total in (0, 1):
        results: Iterable[Result] = map(function, items)
    elif mapper:
        results = mapper.map(alone, items, workers=workers, title=title)
    else:
        pool = Parallel(workers, prefer=prefer, return_as="generator", pre_dispatch="2*n_jobs")
        results = pool(delayed(alone)(item) for item in items)
    try:
        yield from progress(results, title=title, total=total)
    except BrokenProcessPool:
        raise GroceryError(
            f"a worker was killed while it did {title!r}, perhaps for lack of memory; "
            "try a smaller compute.workers"
        ) from None


def _alone(function: Callable[[Item], Result], item: Item) -> Result:
    """Do an item in a worker, which must not start workers of its own."""
    with sharing(1):
        return function(item)


def progress(items: Iterable[Item], *, title: str, total: int | None = None) -> Iterator[Item]:
    """Iterate with a progress bar on a terminal, and in silence anywhere else."""
    shown = sys.stderr.isatty() and total != 0
    # One that does not know its size says 0, and tqdm would draw nothing.
    width, height = os.get_terminal_size(sys.stderr.fileno()) if shown else (0, 0)
    columns, rows = width or 80, height or 24
    yield from tqdm(items, title, total, False, disable=not shown, ncols=columns, nrows=rows)
