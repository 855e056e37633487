"""HTTP for the W&B server: what an address means, and faults. Any key will do."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from wandb_server_graphql import operation_name
from wandb_server_model import WandbError

if TYPE_CHECKING:
    from wandb_server import WandbServer

KEY = "0123456789abcdef0123456789abcdef01234567"  # the form of a key, not a key


@dataclass
class Request:
    """A request that arrived, and what came of it."""

    kind: str  # graphql, file_stream, upload or download
    operation: str  # name of the GraphQL operation, else the path
    size: int = 0  # bytes of the body
    status: int | str = 0  # HTTP status, or the fault that withheld the answer
    effect: tuple[str, ...] = ()  # lines of Store.changes


@dataclass
class Fault:
    """What goes wrong, and with which requests; see `WandbServer.fail`."""

    mode: str
    only: Collection[str]
    after: int = 0
    times: int | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    def strikes(self, request: Request) -> bool:
        """Whether this request is hit; every call counts as one request."""
        if self.only and request.kind not in self.only:
            path = request.operation if request.operation.startswith("/") else ""
            if not (request.operation in self.only or path.startswith(tuple(self.only))):
                return False
        if self.after > 0:
            self.after -= 1
            return False
        if self.times is not None:
            self.times -= 1
            return self.times >= 0
        return True


class Listener(ThreadingHTTPServer):
    """The socket that listens, and the connections that it accepted."""

    daemon_threads = True
    request_queue_size = 128  # the SDK uploads many files at the same time

    def __init__(self, port: int, owner: WandbServer) -> None:
        self.owner = owner
        self._connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def cut_connections(self) -> None:
        for connection in tuple(self._connections):
            _cut(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # the other side may go at any time
            super().handle_error(request, client_address)


def refusal(message: str) -> bytes:
    """Body of an answer that says what is wrong, in the form that the SDK looks for."""
    return json.dumps({"errors": [{"message": message}]}).encode()


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):  # it may be gone already
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body of an answer leave together
    server: Listener

    def do_GET(self) -> None:
        self._handle("download")

    def do_PUT(self) -> None:
        self._handle("upload")

    def do_POST(self) -> None:
        self._handle("graphql" if self.path == "/graphql" else "file_stream")

    def log_message(self, *_: Any) -> None:
        pass

    def _handle(self, kind: str) -> None:
        owner, fault = self.server.owner, None
        size = int(self.headers.get("Content-Length", 0))
        request = Request(kind, self.path, size)
        if kind == "upload":  # it may have to fail before all of it has arrived
            fault = owner.admit(request)
            if fault and fault.mode == "drop":
                size = request.size = size // 2
        body = self.rfile.read(size)
        if len(body) < size:
            request.status = "cut by the client"
            self.close_connection = True
            return
        if kind == "graphql":
            request.operation = operation_name(json.loads(body))
        if kind != "upload":
            fault = owner.admit(request)
        if fault is None:
            self._answer(request, owner.perform(request, lambda: self._act(kind, body)))
        else:
            self._fail(fault, request, body)

    def _fail(self, fault: Fault, request: Request, body: bytes) -> None:
        owner = self.server.owner
        if fault.mode.isdecimal():
            request.status = int(fault.mode)
            self._answer(request, refusal("the server was told to fail"))
            return
        self.close_connection = True
        if fault.mode == "drop" and request.kind != "upload":
            answer = owner.perform(request, lambda: self._act(request.kind, body))
            self._answer(request, answer, sent=len(answer) // 2)
            self.wfile.flush()
        request.status = fault.mode
        if fault.mode == "hang":
            fault.ended.wait()
        elif fault.mode == "refuse":
            owner.stop_listening(fault)
        _cut(self.connection)

    def _answer(self, request: Request, body: bytes, sent: int | None = None) -> None:
        self.send_response(int(request.status))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:sent])

    def _act(self, kind: str, body: bytes) -> tuple[int, bytes]:
        """Status and body of the answer to a request."""
        owner = self.server.owner
        answer = b""
        match kind, [unquote(part) for part in self.path.split("/")[1:]]:
            case "graphql", _:
                return owner.graphql(json.loads(body))
            case "file_stream", [_, entity, project, run, _]:
                said = owner.store.file_stream(entity, project, run, json.loads(body))
                answer = json.dumps(said).encode()
            case "upload", ["storage", "run", entity, project, run, *name]:
                owner.store.run_at(entity, project, run).contents["/".join(name)] = body
            case "upload", ["storage", "artifact", id, hexadecimal, name]:
                owner.store.put_artifact_file(id, hexadecimal, name, body)
            case "upload", ["storage", "manifest", id]:
                owner.store.all_artifacts[id].manifest_text = body
            case "download", ["storage", "manifest", id]:
                answer = owner.store.all_artifacts[id].manifest_text
            case "download", ["storage" | "artifactsV2", *_, id, hexadecimal, _]:
                answer = owner.store.artifact_file(id, hexadecimal)
            case _:
                raise WandbError(f"there is nothing at {self.path}")
        return HTTPStatus.OK, answer
