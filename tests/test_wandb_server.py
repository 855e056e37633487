"""The tests' W&B server: what would let other tests pass wrongly if it were otherwise.

That W&B's own SDK works against it, and that faults strike, is seen in the tests of tracking.
"""

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from wandb_server import WandbServer
from wandb_server_model import WandbError, md5


@pytest.fixture
def server() -> Iterator[WandbServer]:
    """A server for requests without the SDK, with one run."""
    with WandbServer() as server:
        server.store.upsert_bucket({"name": "r1", "model_name": "grocery", "entity_name": "team"})
        yield server


def send(server: WandbServer, method: str, path: str, body: bytes) -> tuple[int, bytes]:
    """A request without the SDK; status and body of the answer."""
    where = server.url.removeprefix("http://")
    with closing(http.client.HTTPConnection(where, timeout=60)) as connection:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()


def ask(server: WandbServer, query: str) -> tuple[int, Any]:
    status, answer = send(server, "POST", "/graphql", json.dumps({"query": query}).encode())
    return status, json.loads(answer)


def only_run(server: WandbServer) -> dict[str, Any]:
    (run,) = server.state()["runs"].values()
    return dict(run)


def test_what_it_does_not_know_is_refused(server: WandbServer) -> None:
    status, answer = ask(server, "query Newer { viewer { username colour } }")
    assert status == 400
    (error,) = server.errors
    assert [each["message"] for each in answer["errors"]] == [error]
    assert error.startswith("Cannot query field 'colour' on type 'User'.")
    assert server.requests[-1].operation == "Newer"


def test_an_artifact_is_committed_when_it_is_whole(server: WandbServer) -> None:
    """And it is linked when it is committed."""
    store = server.store
    where = {"entity_name": "team", "project_name": "grocery"}
    what = {"artifact_type_name": "dataset", "artifact_collection_name": "d", "digest": "d1"}
    artifact = store.create_artifact({**where, **what, "run_name": "r1"})["artifact"]
    link = {"artifact_id": artifact.id, **where, "artifact_portfolio_name": "classifier"}
    with pytest.raises(WandbError, match="d is not committed"):
        store.link_artifact(link)

    manifest = {"contents": {"weights": {"digest": md5(b"red")}}}
    artifact.manifest_text = json.dumps(manifest).encode()
    with pytest.raises(WandbError, match="weights was not uploaded"):
        store.commit_artifact({"artifact_id": artifact.id})
    spec = {"artifact_id": artifact.id, "name": "weights", "md5": md5(b"red")}
    (file,) = store.create_artifact_files({"artifact_files": [spec]})["files"]
    place = file.upload_url.removeprefix(server.url)
    assert send(server, "PUT", place, b"blue")[0] == 400
    assert only_run(server)["logs"] == []
    assert send(server, "PUT", place, b"red")[0] == 200
    store.commit_artifact({"artifact_id": artifact.id})
    assert only_run(server)["logs"] == ["team/grocery/d:v0"]


def test_which_requests_a_fault_hits(server: WandbServer) -> None:
    def statuses() -> list[int]:
        queries = [ask(server, f"query {name} {{ viewer {{ id }} }}") for name in "AB"]
        stream = send(server, "POST", "/files/team/grocery/r1/file_stream", b"{}")
        return [status for status, _ in (*queries, stream)]

    server.fail("503", only="graphql")
    assert statuses() == [503, 503, 200]
    server.fail("503", only=("A", "/files/team"))
    assert statuses() == [503, 200, 503]
    server.fail("503", after=4, times=1)
    assert [statuses(), statuses()] == [[200, 200, 200], [200, 503, 200]]


def test_a_cut_upload_leaves_nothing(server: WandbServer) -> None:
    server.fail("drop", only="upload")
    with pytest.raises((OSError, http.client.HTTPException)):
        send(server, "PUT", "/storage/run/team/grocery/r1/weights", b"x" * 1_000_000)
    assert (server.requests[-1].status, server.requests[-1].size) == ("drop", 500_000)
    assert only_run(server)["files"] == {}
