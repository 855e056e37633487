"""Workers on other machines: the doors to Dask and Ray, and what a worker must be to compute here.

`grocery.parallel.engine` opens a door; `grocery.parallel.parallel_map` sends the work through it.
Neither engine is imported before it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Cluster(Protocol):
    """Workers on other machines."""

    def map(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        workers: int,
        title: str,
    ) -> Iterator[Result]:
        """See `grocery.parallel.parallel_map`; with 0 `workers` all that there are."""
