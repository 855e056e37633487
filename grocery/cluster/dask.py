"""The door to a Dask cluster: joblib's own backend, which here gives up when nobody answers.

joblib 1.6 and before wait for ever when Dask itself, not the work, fails: when a task has killed
worker after worker, when all workers are gone, and when the scheduler is. Here each of these ends
the work with one sentence.
"""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from joblib import Parallel, delayed
from joblib._dask import DaskDistributedBackend

from grocery.cluster.task import Job, Place, call, this_place
from grocery.core.errors import GroceryError, public

Item = TypeVar("Item")
Result = TypeVar("Result")

# Seconds without a scheduler, or without any worker, until the work is given up. A worker that was
# killed is started again by its nanny within about two.
PATIENCE = 15.0
_CONNECT = 10.0  # seconds
_ASK = 1.0  # seconds between two looks at the cluster
_ANSWER = 5.0  # seconds that the scheduler may take to answer


class DaskCluster:
    """Workers of a Dask scheduler, all of which have been checked.

    Parameters
    ----------
    client
        A connected ``distributed.Client``.
    address
        Where it is connected to, for sentences.
    place
        Where the work is to be done.
    """

    def __init__(self, client: Any, address: str, place: Place) -> None:
        self._client, self._address, self._place = client, address, place

    def check(self) -> None:
        """Wait for a first worker, and refuse the cluster if any worker cannot do the work.

        Raises
        ------
        GroceryError
            Names the worker's host and what is wrong.
        """
        try:
            self._client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError:
            raise GroceryError(
                f"the Dask scheduler at {self._address} has no worker; "
                f"start some by: grocery worker {self._address}"
            ) from None
        for worker, threads in self._client.ncores().items():
            if threads != 1:
                raise GroceryError(
                    f"the worker at {public(worker)} has {threads} threads and may have one only, "
                    "since a process has one working directory; start it by `grocery worker`"
                )
        for worker, answer in self._ask_all(self._place.problem).items():
            if isinstance(answer, ModuleNotFoundError):
                raise GroceryError(
                    f"the worker at {public(worker)} lacks a module ({answer}); "
                    "start it by `grocery worker` in this project's environment"
                )
            if isinstance(answer, BaseException):
                raise GroceryError(f"the worker at {public(worker)} fails: {answer}")
            if answer:
                raise GroceryError(answer)

    def map(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        workers: int,
        title: str,
    ) -> Iterator[Result]:
        """See `grocery.parallel.parallel_map`; with 0 `workers` all that there are."""
        from distributed import CancelledError, KilledWorker

        backend = _Backend(self._client)
        try:
            # To every worker once: a fitted encoder is far larger than the name of a shard.
            job = self._client.scatter(Job(function, self._place), broadcast=True, hash=False)
            with self._watched(backend):
                yield from Parallel(
                    n_jobs=workers or -1,
                    backend=backend,
                    return_as="generator",
                    pre_dispatch=workers or "2*n_jobs",
                )(delayed(call)(job, item) for item in items)
        except KilledWorker:
            raise GroceryError(
                f"worker after worker was killed while it did {title!r}, perhaps for lack of memory"
            ) from None
        except (CancelledError, TimeoutError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the work's own: a full disk, say
            raise self.lost() from None

    def close(self) -> None:
        """Leave the cluster as it is."""
        self._client.close(timeout=2)

    def _ask_all(self, question: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """Answer, or exception, of every worker; asked beside the work that it does."""
        found: dict[str, Any] = self._client.run(question, *arguments, on_error="return")
        return found

    def lost(self) -> GroceryError:
        """What is said when nobody is left."""
        return GroceryError(
            f"the Dask cluster at {self._address} was lost: its scheduler, or its last worker, "
            "does not answer; earlier outputs are as they were"
        )

    @contextmanager
    def _watched(self, backend: _Backend) -> Iterator[None]:
        """Give up what the backend waits for when nobody is left to do it."""
        done = threading.Event()

        def watch() -> None:
            last_seen = time.monotonic()
            while not done.wait(_ASK):
                if self._has_workers():
                    last_seen = time.monotonic()
                elif time.monotonic() - last_seen > PATIENCE:
                    backend.give_up(self.lost())
                    return

        watcher = threading.Thread(target=watch, name="watch Dask", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()

    def _has_workers(self) -> bool:
        try:
            return bool(self._client.sync(self._client.scheduler.ncores, callback_timeout=_ANSWER))
        except Exception:  # whatever it is, the scheduler has not answered
            return False


class _Backend(DaskDistributedBackend):  # type: ignore[misc]
    """joblib's backend, in which a failure of Dask ends the work as a failure of the work does."""

    def __init__(self, client: Any = None) -> None:
        super().__init__(client=client, wait_for_workers_timeout=PATIENCE)
        self._waiting: set[Future[Any]] = set()

    def effective_n_jobs(self, n_jobs: int) -> int:
        """At most `n_jobs` workers; joblib takes all, and works itself when there is but one."""
        found: int = super().effective_n_jobs(n_jobs)
        return max(2, min(found, n_jobs) if n_jobs > 0 else found)

    def submit(self, func: Any, callback: Any = None) -> Future[Any]:
        """Submit a batch of tasks; tell joblib of every end that it comes to."""
        future: Future[Any] = super().submit(func, callback)
        self._waiting.add(future)

        def ended(future: Future[Any]) -> None:
            self._waiting.discard(future)
            if error := future.exception():
                callback(error)

        future.add_done_callback(ended)
        return future

    def give_up(self, error: Exception) -> None:
        """Let everything that is waited for fail."""
        for future in list(self._waiting):
            with suppress(InvalidStateError):  # it came after all
                future.set_exception(error)

    def retrieve_result_callback(self, out: Any) -> Any:
        """The results of a batch of tasks."""
        if isinstance(out, BaseException):
            raise out
        return super().retrieve_result_callback(out)


@contextmanager
def dask_cluster(address: str) -> Iterator[DaskCluster]:
    """Connect to a Dask scheduler.

    Raises
    ------
    GroceryError
        When Dask is not installed, nobody answers, or a worker would compute other bytes.
    """
    try:
        from distributed import CancelledError, Client
    except ImportError:
        raise GroceryError(
            "compute.backend is dask, which is not installed; pip install '.[dask]'"
        ) from None
    # What it would say in many lines, we say in one.
    for name in ("distributed", "tornado"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    with this_place() as place:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # other versions: the check says so, or is content
                client: Any = Client(  # type: ignore[no-untyped-call]
                    address, timeout=_CONNECT, set_as_default=False
                )
        except (OSError, ValueError, RuntimeError, TypeError) as error:
            raise GroceryError(
                f"no Dask scheduler answers at compute.address {address} within "
                f"{_CONNECT:.0f} seconds ({type(error).__name__})"
            ) from None
        cluster = DaskCluster(client, address, place)
        try:
            try:
                cluster.check()
            except (OSError, TimeoutError, CancelledError) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                raise cluster.lost() from None
            yield cluster
        finally:
            cluster.close()
