"""Workers on other machines: the door to Dask, and what a worker must be to compute here.

Whoever runs the work opens the door; the work itself only knows `grocery.parallel.parallel_map`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from grocery.core.errors import GroceryError
from grocery.parallel import sharing
from grocery.settings import ComputeParams


@contextmanager
def opened(compute: ComputeParams) -> Iterator[None]:
    """Share work out as the section `compute` of params.yaml says, while the block runs.

    Raises
    ------
    GroceryError
        When Dask is not installed, nobody answers, or a worker would compute other bytes.
    """
    if compute.backend == "local":
        with sharing(compute.workers):
            yield
        return
    try:
        from grocery.cluster.dask import dask_cluster
    except ModuleNotFoundError:
        raise GroceryError("compute.backend is dask, which is not installed: make extras") from None
    with dask_cluster(compute.address) as cluster, sharing(compute.workers, cluster):
        yield
