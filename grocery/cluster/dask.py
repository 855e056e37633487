"""The door to a Dask cluster, in which every wait has an end.

Dask waits for ever for a worker, and for a scheduler that does not answer. Here the work then ends
with one sentence.
"""

from __future__ import annotations

import logging
import operator
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from typing import Any

from distributed import CancelledError, Client, KilledWorker, wait

from grocery.cluster.task import Place, call, this_place
from grocery.core.errors import GroceryError, public
from grocery.parallel import Item, Result

# All in seconds.
PATIENCE = 15.0  # without any worker; one that was killed is started again within about two
CONNECT = 10.0
_ASK = 1.0  # between two looks at the cluster
ANSWER = 5.0  # for the scheduler to answer
_FETCH = 120.0  # for results to arrive

LOSSES = 3  # times that all workers may be lost at once
_AHEAD = 2  # tasks per worker that are sent, so that none waits for its next one


class DaskCluster:
    """The workers of the scheduler that a ``distributed.Client`` is connected to."""

    def __init__(self, client: Any, address: str, place: Place) -> None:
        self._client, self._address, self._place = client, address, place
        self._workers = 0

    def check(self) -> None:
        """Wait for a first worker, and refuse the cluster if any worker cannot do the work.

        Raises
        ------
        GroceryError
            Names the worker's host and what is wrong.
        """
        with self._reached():
            try:
                self._client.wait_for_workers(1, timeout=PATIENCE)
            except TimeoutError:
                raise GroceryError(
                    f"the Dask scheduler at {self._address} has no worker; "
                    f"start some by: grocery worker {self._address}"
                ) from None
            threads = self._client.ncores()
            answers = self._client.run(self._place.problem, on_error="return")
        for worker, count in threads.items():
            if count != 1:
                raise GroceryError(
                    f"the worker at {public(worker)} has {count} threads and may have one only, "
                    "since a process has one working directory; start it by `grocery worker`"
                )
        for worker, answer in answers.items():
            if isinstance(answer, BaseException):
                raise GroceryError(
                    f"the worker at {public(worker)} fails ({answer}); "
                    "start it by `grocery worker` in this project's environment"
                )
            if answer:
                raise GroceryError(answer)

    def map(
        self, function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, title: str
    ) -> Iterator[Result]:
        """See `grocery.parallel.Mapper`."""
        rest = enumerate(items)
        sent: dict[Any, tuple[int, Item]] = {}
        results: dict[int, Result] = {}
        following, losses = 0, 0
        job = self._scatter(function)
        try:
            while True:
                most = workers or _AHEAD * self._workers
                for number, item in islice(rest, max(0, most - len(sent))):
                    sent[self._submit(job, item)] = number, item
                if not sent:
                    return
                try:
                    for future, result in self._ended(sent):
                        results[sent.pop(future)[0]] = result
                except CancelledError:
                    # Whoever had the job has died, and the tasks with it: all is sent again.
                    losses += 1
                    if losses > LOSSES:
                        raise
                    job = self._scatter(function)
                    sent = {self._submit(job, item): (n, item) for n, item in sent.values()}
                while following in results:
                    yield results.pop(following)
                    following += 1
        except (KilledWorker, CancelledError):
            raise GroceryError(
                f"worker after worker was killed while it did {title!r}, perhaps for lack of memory"
            ) from None
        finally:
            for future in sent:
                future.release()

    def _scatter(self, function: Callable[[Any], Any]) -> Any:
        """Send a job to every worker, once: a fitted encoder is far larger than a shard's name."""
        self._await_workers()
        with self._reached():
            job = partial(call, function, self._place)
            return self._client.scatter(job, broadcast=True, hash=False, timeout=PATIENCE)

    def _submit(self, job: Any, item: Any) -> Any:
        with self._reached():
            return self._client.submit(operator.call, job, item, pure=False)

    def _ended(self, futures: Collection[Any]) -> Iterable[tuple[Any, Any]]:
        """Wait until some of the futures have ended, and fetch their results."""
        ended: list[Any] = []
        while not ended:
            try:
                with self._client.as_current():
                    ended += wait(list(futures), _ASK, "FIRST_COMPLETED").done  # type: ignore[no-untyped-call]
            except TimeoutError:
                self._await_workers()
        for future in ended:
            if future.status == "error":
                future.result()  # raises the work's own error
        try:
            results = self._client.sync(self._client.gather, ended, callback_timeout=_FETCH)
        except OSError:  # or TimeoutError, which is one
            raise self._lost() from None
        return zip(ended, results, strict=True)

    def _await_workers(self) -> None:
        """Wait until there is a worker, but not for ever."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            # Whatever comes instead of a number, the scheduler has not answered.
            with suppress(Exception, CancelledError):
                ask = self._client.ncores
                if found := len(self._client.sync(ask, callback_timeout=ANSWER)):
                    self._workers = found
                    return
            time.sleep(_ASK)
        raise self._lost()

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Say in one sentence that Dask itself, not the work, has failed."""
        try:
            yield
        except (CancelledError, OSError):  # the second includes TimeoutError
            raise self._lost() from None
        except Exception:
            if self._client.status == "closed":
                raise self._lost() from None
            raise

    def _lost(self) -> GroceryError:
        return GroceryError(
            f"the Dask cluster at {self._address} was lost: its scheduler, or its last worker, "
            "does not answer; earlier outputs are as they were"
        )


@contextmanager
def dask_cluster(address: str) -> Iterator[DaskCluster]:
    """Connect to a Dask scheduler.

    Raises
    ------
    GroceryError
        When nobody answers, or a worker would compute other bytes.
    """
    with this_place() as place, connected(address) as client:
        cluster = DaskCluster(client, address, place)
        cluster.check()
        yield cluster


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """A ``distributed.Client`` of a Dask scheduler.

    Raises
    ------
    GroceryError
        When nobody answers.
    """
    # What it would say in many lines, we say in one.
    for name in ("distributed", "tornado"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        # Of other versions the check says something, or is content with them.
        with warnings.catch_warnings(action="ignore"):
            client: Any = Client(  # type: ignore[no-untyped-call]
                address, timeout=CONNECT, set_as_default=False
            )
    except (OSError, ValueError, RuntimeError, TypeError):
        raise GroceryError(
            f"no Dask scheduler answers at the address {address} within {CONNECT:.0f} seconds"
        ) from None
    try:
        yield client
    finally:
        client.close(timeout=2)
