"""A small W&B server for the tests: in memory, on loopback, for the unmodified W&B SDK.

Use it as a context manager; `WandbServer.environment` is what the SDK needs to find it.
"""

import json
import threading
from collections.abc import Callable, Collection, Mapping
from copy import deepcopy
from http import HTTPStatus
from typing import Any, Self

from wandb_server_graphql import execute, operation_name
from wandb_server_http import KEY, Fault, Listener, Request, refusal
from wandb_server_model import WandbError
from wandb_server_state import Painter
from wandb_server_store import Store


class WandbServer:
    """The server. It listens from the beginning of the block to its end.

    `requests` is what arrived, in order; `errors` what was answered as an error: a GraphQL field or
    operation that the schema does not know, or a request that cannot be carried out.
    """

    def __init__(self, store: Store | None = None) -> None:
        self.store = store or Store("team")
        self.requests: list[Request] = []
        self.errors: list[str] = []
        self.forgotten: set[str] = set()
        self._port = 0
        self._lock = threading.RLock()
        self._fault: Fault | None = None
        self._listener: Listener | None = None

    def copy(self) -> "WandbServer":
        """Another server, which holds the same; it does not listen yet."""
        with self._lock:
            return WandbServer(deepcopy(self.store))

    def __enter__(self) -> Self:
        self._listen()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop at once; whoever still waits for an answer loses the connection."""
        self._end_fault()
        self.stop_listening()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def environment(self) -> dict[str, str]:
        """Variables with which the SDK speaks to this server."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY}

    def state(self) -> dict[str, Any]:
        """All that was stored, without what a clock, a host or a random id decides."""
        with self._lock:
            return Painter(self.store).picture()

    def fail(
        self, mode: str, *, only: Collection[str] = (), after: int = 0, times: int | None = None
    ) -> None:
        """Fail from now on, until `heal`: `times` requests, or all, `after` others have succeeded.

        The mode is an HTTP status such as "500"; "hang": accept and answer nothing; "drop": cut the
        connection, in the middle of the body of an upload, and of the answer to all other requests,
        which have had their effect; "refuse": listen no longer, from such a request on.

        `only` names kinds of requests (graphql, file_stream, upload, download), GraphQL operations,
        or how addresses begin, such as /storage/artifact.
        """
        self.heal()
        fault = Fault(mode, (only,) if only and isinstance(only, str) else only, after, times)
        with self._lock:
            self._fault = fault
            if mode == "refuse" and not only and after == 0:
                self.stop_listening(fault)

    def heal(self) -> None:
        """End the fault. Requests that hang lose their connection, as if the server restarted."""
        with self._lock:
            self._end_fault()
            if self._listener is None:
                self._listen()

    def forget(self, run: str) -> None:
        """Delete a run by its id, as a person does: no other may take the id."""
        with self._lock:
            self.forgotten.add(run)
            for project in self.store.all_projects.values():
                project.runs_by_name.pop(run, None)

    def _end_fault(self) -> None:
        with self._lock:
            if self._fault:
                self._fault.ended.set()
            self._fault = None

    def _listen(self) -> None:
        self._listener = Listener(self._port, self)
        self._port = self._listener.server_port
        self.store.url = self.url
        threading.Thread(target=self._listener.serve_forever, args=(0.02,), daemon=True).start()

    def stop_listening(self, fault: Fault | None = None) -> None:
        """Refuse further connections, and end those that there are; not if `fault` is over."""
        with self._lock:
            if self._listener and self._fault is fault:
                self._listener.shutdown()
                self._listener.server_close()
                self._listener.cut_connections()
                self._listener = None

    def admit(self, request: Request) -> Fault | None:
        """Record a request; the fault that hits it, if any."""
        with self._lock:
            self.requests.append(request)
            hit = self._fault is not None and self._fault.strikes(request)
            return self._fault if hit else None

    def perform(self, request: Request, action: Callable[[], tuple[int, bytes]]) -> bytes:
        """Do what a request asks, one at a time; the body of the answer."""
        with self._lock:
            before = len(self.store.changes)
            try:
                status, answer = action()
            except (WandbError, LookupError) as error:  # there is no such run, artifact …
                self.errors.append(str(error))
                status, answer = HTTPStatus.BAD_REQUEST, refusal(str(error))
            request.status = int(status)
            request.effect = tuple(self.store.changes[before:])
        return answer

    def graphql(self, body: Mapping[str, Any]) -> tuple[int, bytes]:
        if (
            operation_name(body) == "UpsertBucket"
            and body.get("variables", {}).get("name") in self.forgotten
        ):
            return HTTPStatus.CONFLICT, refusal("the run was deleted; choose another id")
        status, answer = execute(self.store, body)
        self.errors.extend(error["message"] for error in answer.get("errors") or ())
        return status, json.dumps(answer).encode()
