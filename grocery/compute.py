"""Sharing work out to processes, with results that do not depend on how many there are."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from joblib import Parallel, delayed
from tqdm import tqdm

from grocery.errors import GroceryError

Item = TypeVar("Item")
Result = TypeVar("Result")


def parallel_map(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, title: str
) -> Iterator[Result]:
    """Apply `function` to every item and yield the results in the order of the items.

    Parameters
    ----------
    function
        A module-level function, or a `functools.partial` of one; it must not use shared state.
    items
        Independent pieces of work, usually shards.
    workers
        Number of processes; 0 means one a core. With 1 everything runs in this process.
    title
        What the progress bar calls the work. The bar shows on a terminal only.

    Raises
    ------
    GroceryError
        When a worker was killed.
    """
    total = len(items) if isinstance(items, Sized) else None
    workers = workers or len(os.sched_getaffinity(0))
    if total is not None:
        workers = max(1, min(workers, total))
    if workers == 1:
        results: Iterable[Result] = (function(item) for item in items)
    else:
        results = Parallel(n_jobs=workers, return_as="generator", pre_dispatch="2*n_jobs")(
            delayed(function)(item) for item in items
        )
    try:
        yield from progress(results, title=title, total=total)
    except BrokenProcessPool:
        raise GroceryError(
            f"a worker was killed while it did {title!r}, perhaps for lack of memory; "
            "try a smaller compute.workers"
        ) from None


def progress(items: Iterable[Item], *, title: str, total: int | None = None) -> Iterator[Item]:
    """Iterate with a progress bar on a terminal, and in silence anywhere else."""
    quiet = not sys.stderr.isatty()
    yield from tqdm(items, desc=title, total=total, disable=quiet, leave=False)
