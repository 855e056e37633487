"""The tests' W&B server: what would let other tests pass wrongly if it were otherwise.

That W&B's own SDK works against it is seen in the tests of tracking.
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from running import wait_for
from wandb_server import KEY, WandbServer
from wandb_server_types import WandbError, md5

FILE = "/storage/run/team/grocery/r1/weights"


@pytest.fixture
def server() -> Iterator[WandbServer]:
    """A server for requests without the SDK, with one run."""
    with WandbServer() as server:
        create_run(server, "r1")
        yield server


def send(
    server: WandbServer, method: str, path: str, body: bytes = b"", key: str = KEY
) -> tuple[int, bytes]:
    """A request without the SDK; status and body of the answer."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=60)
    token = base64.b64encode(f"api:{key}".encode()).decode()
    try:
        connection.request(method, path, body, {"Authorization": f"Basic {token}"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def ask(server: WandbServer, query: str, key: str = KEY) -> tuple[int, Any]:
    status, answer = send(server, "POST", "/graphql", json.dumps({"query": query}).encode(), key)
    return status, json.loads(answer)


def create_run(server: WandbServer, name: str) -> None:
    given = f'name: "{name}", modelName: "grocery", entityName: "team"'
    status, answer = ask(server, f"mutation {{ upsertBucket(input: {{{given}}}) {{ inserted }} }}")
    assert (status, list(answer)) == (200, ["data"])


def stream(server: WandbServer, run: str = "r1", **chunk: Any) -> int:
    """What a run logs; the status of the answer."""
    path = f"/files/team/grocery/{run}/file_stream"
    return send(server, "POST", path, json.dumps(chunk).encode())[0]


def only_run(server: WandbServer) -> dict[str, Any]:
    (run,) = server.state()["runs"].values()
    return dict(run)


# What it takes in


def test_what_the_schema_does_not_know_is_named(
    server: WandbServer, capsys: pytest.CaptureFixture[str]
) -> None:
    status, answer = ask(server, 'query Newer { project(name: "a") { colour } weather { sun } }')
    assert status == 400
    assert [error["message"] for error in answer["errors"]] == server.errors
    assert [error.split(".")[0] for error in server.errors] == [
        "Cannot query field 'colour' on type 'Project'",
        "Cannot query field 'weather' on type 'Query'",
    ]
    assert "weather" in capsys.readouterr().err
    assert server.requests[-1].operation == "Newer"


def test_only_its_key_opens_the_server(server: WandbServer) -> None:
    query = "{ viewer { username } }"
    assert ask(server, query, KEY[::-1])[0] == 401
    assert ask(server, query) == (200, {"data": {"viewer": {"username": "tester"}}})


def test_a_chunk_that_is_sent_twice_is_there_once(server: WandbServer) -> None:
    def history(offset: int, *steps: int) -> tuple[int, list[int]]:
        lines = [json.dumps({"_step": step}) for step in steps]
        chunk = {"offset": offset, "content": lines}
        status = stream(server, files={"wandb-history.jsonl": chunk})
        return status, [row["_step"] for row in only_run(server)["history"]]

    assert history(0, 0, 1) == (200, [0, 1])
    assert history(2, 2) == (200, [0, 1, 2])
    assert history(2, 2) == (200, [0, 1, 2])
    assert server.requests[-1].effect == ()
    assert history(1, 7, 8) == (200, [0, 7, 8])
    assert history(9, 9) == (400, [0, 7, 8])
    assert server.errors.pop() == "wandb-history.jsonl: line 9 of 3 is too far"
    assert stream(server, run="r2") == 400
    assert server.errors.pop() == "there is no run team/grocery/r2"


def test_a_run_that_starts_over_takes_the_place_of_the_other(server: WandbServer) -> None:
    lines = {"offset": 0, "content": [json.dumps({"_step": 0})]}
    assert stream(server, files={"wandb-history.jsonl": lines}, complete=True, exitcode=3) == 200
    assert (only_run(server)["state"], only_run(server)["exit_code"]) == ("failed", 3)
    given = 'name: "r1", modelName: "grocery", entityName: "team", displayName: "again"'
    ask(server, f"mutation {{ upsertBucket(input: {{{given}}}) {{ inserted }} }}")
    run = only_run(server)
    assert (run["state"], run["exit_code"], run["history"]) == ("running", None, [])


def announced(server: WandbServer, kind: str, digest: str, **more: Any) -> Any:
    """A version of an artifact that is to be filled."""
    where = {"entity_name": "team", "project_name": "grocery"}
    what = {"artifact_type_name": kind, "artifact_collection_name": kind, "digest": digest}
    return server.store.create_artifact({**where, **what, **more})["artifact"]


def commit(server: WandbServer, artifact: Any, *files: bytes) -> None:
    """Commit a version that holds these files."""
    contents = {f"file {n}": {"digest": md5(data)} for n, data in enumerate(files)}
    server.store.put_manifest(str(artifact.number), json.dumps({"contents": contents}).encode())
    server.store.commit_artifact({"artifact_id": artifact.id})


def test_an_artifact_is_there_when_it_is_committed_and_it_is_when_it_is_whole(
    server: WandbServer,
) -> None:
    def held() -> tuple[list[str], list[str]]:
        (found,) = server.state()["artifacts"].values()
        return list(found["versions"]), found["unfinished"]

    aliases = [{"alias": "latest"}]
    first = announced(server, "dataset", "d1", run_name="r1", aliases=aliases)
    assert announced(server, "dataset", "d1", run_name="r1", aliases=aliases) is first
    assert held() == ([], ["d1"])
    with pytest.raises(WandbError, match="file 0 was not uploaded"):
        commit(server, first, b"red")
    spec = {"artifact_id": first.id, "name": "file 0", "md5": md5(b"red")}
    (edge,) = server.store.create_artifact_files({"artifact_files": [spec]})["files"]["edges"]
    place = edge["node"].upload_url.removeprefix(server.url)
    assert send(server, "PUT", place, b"blue")[0] == 400
    assert "MD5" in server.errors.pop()
    assert send(server, "PUT", place, b"red")[0] == 200
    assert held() == ([], ["d1"])
    commit(server, first, b"red")
    assert held() == (["v0"], [])
    assert only_run(server)["logs"] == ["team/grocery/dataset:v0"]
    before = len(server.store.changes)
    announced(server, "dataset", "d1", run_name="r1", aliases=aliases)
    assert server.store.changes[before:] == []


def test_a_registry_refuses_what_it_must(server: WandbServer) -> None:
    data, model = (announced(server, kind, "d1") for kind in ("dataset", "model"))

    def link(artifact: Any, registry: str = "wandb-registry-model") -> None:
        where = {"entity_name": "example-groceries", "project_name": registry}
        name = {"artifact_portfolio_name": "classifier"}
        server.store.link_artifact({"artifact_id": artifact.id, **where, **name})

    with pytest.raises(WandbError, match="model is not committed"):
        link(model)
    for artifact in (data, model):
        commit(server, artifact)
    link(model)
    with pytest.raises(WandbError, match="does not take links to artifacts of"):
        link(data)
    with pytest.raises(WandbError, match="there is no registry"):
        link(data, "wandb-registry-nothing")


# Faults


def test_which_requests_a_fault_hits(server: WandbServer) -> None:
    def statuses() -> list[int]:
        queries = ("query A { viewer { id } }", "query B { viewer { id } }")
        return [*(ask(server, query)[0] for query in queries), stream(server)]

    server.fail("503")
    assert statuses() == [503, 503, 503]
    server.fail("503", only="graphql")
    assert statuses() == [503, 503, 200]
    server.fail("503", only=("A", "file_stream"))
    assert statuses() == [503, 200, 503]
    server.fail("503", only="B", after=1, times=1)
    assert [statuses(), statuses(), statuses()] == [
        [200, 200, 200],
        [200, 503, 200],
        [200, 200, 200],
    ]
    server.fail("503", after=4)
    assert [statuses(), statuses()] == [[200, 200, 200], [200, 503, 503]]
    server.heal()
    assert statuses() == [200, 200, 200]
    with pytest.raises(ValueError, match="there is no fault 'sleep'"):
        server.fail("sleep")


def test_a_cut_upload_leaves_nothing(server: WandbServer) -> None:
    body = b"x" * 1_000_000
    server.fail("drop", only="upload")
    with pytest.raises(OSError, match=r"."):
        send(server, "PUT", FILE, body)
    (cut,) = [item for item in server.requests if item.kind == "upload"]
    assert (cut.status, cut.size, cut.effect) == ("drop", 500_000, ())
    assert only_run(server)["files"] == {}
    server.heal()
    assert send(server, "PUT", FILE, body)[0] == 200
    assert send(server, "GET", FILE) == (200, body)
    # The other side may go, too.
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as client:
        head = f"PUT {FILE} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
        client.sendall(head.encode() + b"half")
    wait_for(lambda: server.requests[-1].status == "cut by the client")
    assert server.requests[-1].effect == ()


def test_a_cut_answer_had_its_effect(server: WandbServer) -> None:
    server.fail("drop", times=1)
    with pytest.raises((OSError, http.client.HTTPException)):
        create_run(server, "r2")
    assert server.requests[-1].effect == ("run team/grocery/r2: created",)
    create_run(server, "r2")
    assert server.requests[-1].effect == ()


def test_a_refusing_server_comes_back_at_the_same_address(server: WandbServer) -> None:
    url = server.url
    server.fail("refuse")
    with pytest.raises(ConnectionRefusedError):
        stream(server)
    server.heal()
    assert (server.url, stream(server)) == (url, 200)
    server.fail("refuse", only="file_stream", after=1)
    assert stream(server) == 200
    with pytest.raises((OSError, http.client.HTTPException)):
        stream(server)
    with pytest.raises(ConnectionRefusedError):
        ask(server, "{ viewer { id } }")


def test_a_server_that_was_healed_stays(server: WandbServer) -> None:
    def call() -> None:
        with suppress(OSError, http.client.HTTPException):
            stream(server)

    for _ in range(20):
        server.requests.clear()
        server.fail("refuse", only="file_stream")
        caller = threading.Thread(target=call)
        caller.start()
        wait_for(lambda: server.requests)
        server.heal()  # perhaps before the fault began
        caller.join()
        assert stream(server) == 200


def test_who_hangs_is_let_go(server: WandbServer) -> None:
    ends: list[type[BaseException]] = []

    def call() -> None:
        try:
            stream(server)
        except (OSError, http.client.HTTPException) as error:
            ends.append(type(error))

    for end in (server.heal, server.close):
        ends.clear()
        server.requests.clear()
        server.fail("hang")
        callers = [threading.Thread(target=call) for _ in range(3)]
        for caller in callers:
            caller.start()
        wait_for(lambda: [item.status for item in server.requests] == ["hang"] * 3)
        assert ends == []
        end()
        for caller in callers:
            caller.join()
        assert len(ends) == 3
