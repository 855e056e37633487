"""The door to a Ray cluster: the joblib backend that Ray brings."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from joblib import Parallel, delayed

import grocery
from grocery.cluster.task import Job, Place, call, this_place
from grocery.core.errors import GroceryError
from grocery.core.pin import KERNELS

Item = TypeVar("Item")
Result = TypeVar("Result")

# Ray's backend gives results by the block, when all are there: tasks a worker and block.
_TASKS = 16
_CONNECT = 20.0  # seconds


class RayCluster:
    """Workers of a Ray cluster.

    Parameters
    ----------
    ray
        The connected module.
    place
        Where the work is to be done.
    """

    def __init__(self, ray: Any, place: Place) -> None:
        self._ray, self._place = ray, place

    def map(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        workers: int,
        title: str,
    ) -> Iterator[Result]:
        """See `grocery.parallel.parallel_map`; with 0 `workers` all that there are."""
        from ray.exceptions import RayError

        processors = int(self._ray.cluster_resources().get("CPU", 0))
        if not processors:
            raise GroceryError("the Ray cluster has no processor; start a node by `ray start`")
        workers = min(workers or sys.maxsize, processors)
        job = self._ray.put(Job(function, self._place))
        rest = iter(items)
        # A worker that is killed is started again, and so is its task.
        lives = {"max_restarts": 3, "max_task_retries": 3}
        try:
            with Parallel(n_jobs=workers, backend="ray", ray_remote_args=lives) as pool:
                while block := list(islice(rest, _TASKS * workers)):
                    yield from pool(delayed(_call)([job], item) for item in block)
        except RayError as error:
            first = str(error).strip().partition("\n")[0]
            raise GroceryError(f"Ray failed while it did {title!r}: {first}") from None


def _call(job: list[Any], item: Any) -> Any:
    """Fetch the job, of which a machine keeps one copy, and do it."""
    import ray

    return call(ray.get(job[0]), item)


@contextmanager
def ray_cluster(address: str) -> Iterator[RayCluster]:
    """Connect to a Ray cluster, whose worker processes are started with our kernels.

    Raises
    ------
    GroceryError
        When Ray is not installed or nobody answers.
    """
    try:
        import ray
        from ray.util.joblib import register_ray
    except ImportError:
        raise GroceryError(
            "compute.backend is ray, which is not installed; pip install '.[ray]'"
        ) from None
    environment = {"PYTHONPATH": str(Path(grocery.__file__).parent.parent)}
    if os.environ.get("GROCERY_KERNELS") != "native":
        environment |= KERNELS
    _find(address)
    with this_place() as place:
        try:
            ray.init(
                address=address,
                runtime_env={"env_vars": environment},
                logging_level=logging.CRITICAL,
                log_to_driver=False,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise GroceryError(
                f"no Ray cluster answers at compute.address {address} ({type(error).__name__})"
            ) from None
        try:
            register_ray()
            yield RayCluster(ray, place)
        finally:
            ray.shutdown()


def _find(address: str) -> None:
    """Fail soon where no cluster is: Ray itself waits for a minute, and then ends the process."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check"]
    where = [] if address == "auto" else ["--address", address]
    try:
        done = subprocess.run(
            [*command, *where], capture_output=True, timeout=_CONNECT, check=False
        )
        answers = done.returncode == 0
    except subprocess.TimeoutExpired:
        answers = False
    if not answers:
        raise GroceryError(f"no Ray cluster answers at compute.address {address}")
