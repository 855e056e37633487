"""Sharing work out to processes, with results that do not depend on how many there are.

The processes are this machine's, unless `engine` has opened the door to others.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Literal, TypeVar

from joblib import Parallel, delayed
from tqdm import tqdm

from grocery.cluster import Cluster
from grocery.core.errors import GroceryError

Item = TypeVar("Item")
Result = TypeVar("Result")

_CLUSTER: ContextVar[Cluster | None] = ContextVar("cluster", default=None)


@contextmanager
def engine(backend: str, address: str) -> Iterator[None]:
    """Let `parallel_map` share work out to another engine's workers while the block runs.

    Parameters
    ----------
    backend
        "local" for processes of this machine, "dask" or "ray".
    address
        Where Dask's scheduler or Ray's head is, such as ``tcp://10.0.0.1:8786``.

    Raises
    ------
    GroceryError
        When the engine is not installed, nobody answers, or a worker would compute other bytes.
    """
    if backend == "local":
        yield
        return
    opened: AbstractContextManager[Cluster]
    if backend == "dask":
        from grocery.cluster.dask import dask_cluster

        opened = dask_cluster(address)
    else:
        from grocery.cluster.ray import ray_cluster

        opened = ray_cluster(address)
    with opened as cluster:
        token = _CLUSTER.set(cluster)
        try:
            yield
        finally:
            _CLUSTER.reset(token)


def parallel_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int | None = None,
    title: str,
    prefer: Literal["processes", "threads"] = "processes",
) -> Iterator[Result]:
    """Apply `function` to every item and yield the results in the order of the items.

    Parameters
    ----------
    function
        A module-level function, or a `functools.partial` of one; it must not use shared state.
    items
        Independent pieces of work, usually shards.
    workers
        Most processes at work at a time; 0 means one a core or, in an `engine`, all its workers.
        With 1, and where there is one item only, everything runs in this process.
    title
        What the progress bar calls the work. The bar shows on a terminal only.
    prefer
        "threads" for work that waits for files or hashes them, which is done before processes have
        been started. An `engine` has its own workers.

    Raises
    ------
    GroceryError
        When a worker was killed, or an engine's workers are lost.
    """
    total = len(items) if isinstance(items, Sized) else None
    cluster = _CLUSTER.get()
    if cluster is None:
        workers = workers or len(os.sched_getaffinity(0))
    if total is not None:
        workers = min(workers or 0, total) if total > 1 else 1
    if workers == 1:
        results: Iterable[Result] = (function(item) for item in items)
    elif cluster is not None:
        results = cluster.map(function, items, workers=workers or 0, title=title)
    else:
        results = Parallel(
            n_jobs=workers, prefer=prefer, return_as="generator", pre_dispatch="2*n_jobs"
        )(delayed(function)(item) for item in items)
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
