"""The tests' W&B server: the real, unmodified SDK and its command line work against it."""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import wandb
from PIL import Image
from wandb.sdk.lib.service.service_connection import WandbApiFailedError

from wandb_server import KEY, WandbServer

OTHER_KEY = KEY[::-1]
SILENT: dict[str, Any] = {
    "silent": True,
    "console": "off",
    "disable_code": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}


@contextmanager
def new_user(folder: Path) -> Iterator[pytest.MonkeyPatch]:
    """Work in an empty folder, as somebody who never heard of W&B."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith(("WANDB_", "NETRC")):
                patch.delenv(name)
        (folder / "project").mkdir()
        patch.setenv("HOME", str(folder))
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        patch.setenv("WANDB_SILENT", "true")
        patch.chdir(folder / "project")
        try:
            yield patch
        finally:
            wandb.teardown()
            if wbauth := sys.modules.get("wandb.sdk.lib.wbauth"):
                wbauth.unauthenticate_session(update_settings=False)


@contextmanager
def serving(folder: Path) -> Iterator[WandbServer]:
    """A server that the SDK of this process speaks to. Errors that a test means it takes away."""
    with WandbServer() as server, new_user(folder) as patch:
        for name, value in server.environment().items():
            patch.setenv(name, value)
        yield server
        assert server.errors == []


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WandbServer]:
    with serving(tmp_path) as server:
        yield server


@pytest.fixture
def bare() -> Iterator[WandbServer]:
    """A server for requests without the SDK, with one run."""
    with WandbServer() as server:
        ask(server, CREATE_RUN, name="r1")
        yield server


def start(name: str = "train", **arguments: Any) -> wandb.Run:
    settings = wandb.Settings(**SILENT, **arguments.pop("settings", {}))
    arguments = {"project": "grocery", "group": "a1b2c3", "job_type": name, **arguments}
    return wandb.init(name=name, settings=settings, reinit="create_new", **arguments)


def artifact(name: str, files: dict[str, str], kind: str = "model", **arguments: Any) -> Any:
    made = wandb.Artifact(name, kind, **arguments)
    for path, text in files.items():
        with made.new_file(path) as stream:
            stream.write(text)
    return made


def log(run: wandb.Run, made: wandb.Artifact, *aliases: str) -> wandb.Artifact:
    return run.log_artifact(made, aliases=["latest", *aliases]).wait()


def effects(server: WandbServer) -> list[str]:
    return [line for request in server.requests for line in request.effect]


def post(server: WandbServer, path: str, body: Any, key: str = KEY) -> tuple[int, Any]:
    """A request without the SDK."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=20)
    token = base64.b64encode(f"api:{key}".encode()).decode()
    try:
        connection.request("POST", path, json.dumps(body), {"Authorization": f"Basic {token}"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def put(server: WandbServer, path: str, body: bytes) -> int:
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=20)
    try:
        connection.request("PUT", path, body)
        return connection.getresponse().status
    finally:
        connection.close()


def ask(server: WandbServer, query: str, **variables: Any) -> Any:
    status, answer = post(server, "/graphql", {"query": query, "variables": variables})
    assert status == 200, answer
    return answer


CREATE_RUN = """
mutation ($name: String!) {
  upsertBucket(input: {name: $name, modelName: "grocery", entityName: "team"}) { bucket { id } }
}
"""


def stream(server: WandbServer, **chunk: Any) -> int:
    return post(server, "/files/team/grocery/r1/file_stream", chunk)[0]


# GraphQL and the key


def test_graphql_is_standard(bare: WandbServer) -> None:
    answer = ask(
        bare,
        """
        query Whatever($run: String!, $name: String = "grocery", $no: Boolean = false) {
          also: project(entityName: "team", name: $name) { __typename, ...Named }
          project(name: $name) {
            run(name: $run) { ... on Run { name state @include(if: $no) } __typename }
          }
        }
        fragment Named on Project { title: name ...Owned }
        fragment Owned on Project { entity { __typename name } }
        """,
        run="r1",
    )
    assert answer["data"] == {
        "also": {
            "__typename": "Project",
            "title": "grocery",
            "entity": {"__typename": "Entity", "name": "team"},
        },
        "project": {"run": {"name": "r1", "__typename": "Run"}},
    }


def test_what_the_schema_does_not_know_is_named(
    bare: WandbServer, capsys: pytest.CaptureFixture[str]
) -> None:
    query = 'query Newer { project(name: "a") { colour } weather { sun } }'
    status, answer = post(bare, "/graphql", {"query": query})
    assert status == 400
    assert [error["message"] for error in answer["errors"]] == bare.errors
    assert [error.split(".")[0] for error in bare.errors] == [
        "Cannot query field 'colour' on type 'Project'",
        "Cannot query field 'weather' on type 'Query'",
    ]
    assert "weather" in capsys.readouterr().err
    assert bare.requests[-1].operation == "Newer"


def test_only_its_key_opens_the_server(server: WandbServer) -> None:
    query = {"query": "{ viewer { username } }"}
    assert post(server, "/graphql", query, OTHER_KEY)[0] == 401
    assert post(server, "/graphql", query) == (200, {"data": {"viewer": {"username": "tester"}}})
    assert wandb.login(key=KEY, verify=True)


def test_the_sdk_says_that_a_key_is_wrong(
    server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", OTHER_KEY)
    with pytest.raises(wandb.errors.AuthenticationError):
        wandb.login(verify=True)
    with pytest.raises(wandb.errors.CommError, match="the API key is not known"):
        start()
    assert effects(server) == []


# Runs


def test_a_run_is_recorded(server: WandbServer) -> None:
    with start(tags=["b", "a"], config={"train": {"alpha": 0.95}}, notes="first") as run:
        for step in range(3):
            run.log({"loss": 1 / (step + 1)}, step=step)
        run.summary["accuracy"] = 0.9
        run.config["late"] = [1, 2]
        run.alert("drift", "batch-2 has drifted", level="WARN")
    assert list(server.state()["runs"]) == ["team/grocery/a1b2c3/train"]
    recorded = server.state()["runs"]["team/grocery/a1b2c3/train"]
    assert recorded == recorded | {
        "job_type": "train",
        "tags": ["a", "b"],
        "notes": "first",
        "state": "finished",
        "exit_code": 0,
        "config": {"late": [1, 2], "train": {"alpha": 0.95}},
        "history": [{"_step": step, "loss": 1 / (step + 1)} for step in range(3)],
        "summary": {"_step": 2, "loss": 1 / 3, "accuracy": 0.9},
        "alerts": [{"title": "drift", "text": "batch-2 has drifted", "severity": "WARN"}],
        "uses": [],
        "logs": [],
    }
    assert json.dumps(server.state())


def test_a_run_is_running_and_then_failed(server: WandbServer) -> None:
    run = start()
    run.log({"loss": 1})
    assert [item["state"] for item in server.state()["runs"].values()] == ["running"]
    run.finish(exit_code=3)
    ended = server.state()["runs"]["team/grocery/a1b2c3/train"]
    assert (ended["state"], ended["exit_code"]) == ("failed", 3)


def test_a_run_is_read_and_updated(server: WandbServer) -> None:
    with start(tags=["a"], config={"alpha": 1}) as run:
        for step in range(5):
            run.log({"loss": step}, step=step)
        run.log({"other": 1}, step=5)
    found = wandb.Api().run(f"team/grocery/{run.id}")
    assert (found.name, found.state, found.group, found.job_type, found.config, found.tags) == (
        ("train", "finished", "a1b2c3", "train", {"alpha": 1}, ["a"])
    )

    def steps(rows: Any) -> list[int]:
        return [row["_step"] for row in rows]

    assert steps(found.scan_history()) == [0, 1, 2, 3, 4, 5]
    assert steps(found.scan_history(keys=["loss"], page_size=2)) == [0, 1, 2, 3, 4]
    assert steps(found.scan_history(min_step=2, max_step=4)) == [2, 3]
    assert steps(found.history(pandas=False)) == [0, 1, 2, 3, 4, 5]
    assert found.history(keys=["other"], pandas=False) == [{"_step": 5, "other": 1}]

    found.config["beta"] = 2
    found.tags.append("b")
    found.summary["accuracy"] = 0.5
    found.update()
    recorded = server.state()["runs"]["team/grocery/a1b2c3/train"]
    assert (recorded["config"], recorded["tags"]) == ({"alpha": 1, "beta": 2}, ["a", "b"])
    assert recorded["summary"]["accuracy"] == 0.5
    assert recorded["state"] == "finished"
    assert len(recorded["history"]) == 6
    with pytest.raises(wandb.errors.CommError, match="Could not find run"):
        wandb.Api().run("team/grocery/nothing")


def test_runs_are_filtered(server: WandbServer) -> None:
    start("train", tags=["a"], config={"alpha": 1}).finish()
    start("evaluate", group="other").finish(exit_code=1)
    api = wandb.Api()

    def named(**filters: Any) -> list[str]:
        return [run.name for run in api.runs("team/grocery", filters=filters, per_page=1)]

    assert named() == ["train", "evaluate"]
    assert named(group="other") == ["evaluate"]
    assert named(display_name="train") == named(displayName="train") == ["train"]
    assert named(state="failed") == ["evaluate"]
    assert named(jobType={"$in": ["train", "x"]}) == ["train"]
    assert named(tags="a") == ["train"]
    assert named(**{"config.alpha": 1}) == ["train"]
    assert named(**{"$or": [{"state": "failed"}, {"group": {"$ne": "other"}}]}) == named()
    assert len(api.runs("team/grocery", filters={"group": "other"})) == 1
    newest = api.runs("team/grocery", order="-created_at")
    assert [run.name for run in newest] == ["evaluate", "train"]
    assert [project.name for project in api.projects("team")] == ["grocery"]
    with pytest.raises(WandbApiFailedError, match="'colour' is not known"):
        named(colour="red")
    server.errors.clear()


def test_files_of_a_run(server: WandbServer) -> None:
    with start() as run:
        Path("confusion.csv").write_text("a,b\n")
        run.save("confusion.csv")
    found = wandb.Api().run(f"team/grocery/{run.id}")
    assert {file.name: file.size for file in found.files()}["confusion.csv"] == 4
    assert [file.name for file in found.files(pattern="%.csv")] == ["confusion.csv"]
    assert found.file("confusion.csv").download(root="copy").read() == "a,b\n"
    Path("later.txt").write_text("more")
    found.upload_file("later.txt")
    assert server.state()["runs"]["team/grocery/a1b2c3/train"]["files"] == {
        "confusion.csv": hashlib.sha256(b"a,b\n").hexdigest(),
        "later.txt": hashlib.sha256(b"more").hexdigest(),
    }


def test_a_run_is_resumed_or_started_over(server: WandbServer) -> None:
    for arguments, steps in [
        ({}, [0, 1]),
        ({"resume": "must"}, [0, 1, 2, 3]),
        ({"resume": "allow"}, [0, 1, 2, 3, 4, 5]),
        ({}, [0, 1]),
    ]:
        with start(id="r1", **arguments) as run:
            run.log({"loss": 1})
            run.log({"loss": 2})
        (recorded,) = server.state()["runs"].values()
        assert [row["_step"] for row in recorded["history"]] == steps
        assert recorded["state"] == "finished"


def test_a_chunk_that_is_sent_twice_is_there_once(bare: WandbServer) -> None:
    def history(offset: int, *steps: int) -> tuple[int, list[int]]:
        lines = [json.dumps({"_step": step}) for step in steps]
        chunk = {"offset": offset, "content": lines}
        status = stream(bare, files={"wandb-history.jsonl": chunk})
        (recorded,) = bare.state()["runs"].values()
        return status, [row["_step"] for row in recorded["history"]]

    assert history(0, 0, 1) == (200, [0, 1])
    assert history(2, 2) == (200, [0, 1, 2])
    assert history(2, 2) == (200, [0, 1, 2])
    assert bare.requests[-1].effect == ()
    assert history(1, 7, 8) == (200, [0, 7, 8])
    assert history(9, 9) == (400, [0, 7, 8])
    assert bare.errors.pop() == "wandb-history.jsonl: line 9 of 3 is too far"
    assert post(bare, "/files/team/grocery/r2/file_stream", {})[0] == 400
    assert bare.errors.pop() == "there is no run team/grocery/r2"


def test_an_alert_is_not_repeated_while_its_wait_lasts(server: WandbServer) -> None:
    def titles() -> list[str]:
        (recorded,) = server.state()["runs"].values()
        return [alert["title"] for alert in recorded["alerts"]]

    with start() as run:
        for title in ("drift", "drift", "decay"):
            run.alert(title, "text")
    assert titles() == ["decay", "drift"]
    server.advance(61)
    with start(id=run.id) as run:
        run.alert("drift", "text")
    assert titles() == ["decay", "drift", "drift"]


# Artifacts


def test_versions_and_aliases_of_an_artifact(server: WandbServer) -> None:
    with start() as run:
        first = log(run, artifact("model", {"a": "1"}, metadata={"n": 1}), "best")
        again = log(run, artifact("model", {"a": "1"}, metadata={"n": 2}), "again")
        other = log(run, artifact("model", {"a": "2"}), "best")
    assert (first.version, again.version, other.version) == ("v0", "v0", "v1")
    versions = server.state()["artifacts"]["team/grocery/model"]["versions"]
    assert {name: item["aliases"] for name, item in versions.items()} == {
        "v0": ["again"],
        "v1": ["best", "latest"],
    }
    assert versions["v0"]["metadata"] == {"n": 1}
    assert versions["v0"]["digest"] == first.digest
    assert versions["v0"]["entries"] == {
        "a": {"digest": base64.b64encode(hashlib.md5(b"1").digest()).decode(), "size": 1}
    }

    api = wandb.Api()
    listed = api.artifacts("model", "grocery/model", per_page=1)
    assert [(item.version, sorted(item.aliases)) for item in listed] == [
        ("v1", ["best", "latest"]),
        ("v0", ["again"]),
    ]
    assert api.artifact("grocery/model").version == "v1"
    assert api.artifact_exists("grocery/model:again")
    assert not api.artifact_exists("grocery/model:v2")
    assert not api.artifact_exists("nothing/model:v0")


def test_only_changed_files_are_sent(server: WandbServer) -> None:
    def sent(files: dict[str, str]) -> int:
        before = len(server.requests)
        with start("prepare") as run:
            log(run, artifact("data", files, "dataset"))
        uploads = [item for item in server.requests[before:] if item.kind == "upload"]
        return sum(item.size for item in uploads if "/storage/artifact/" in item.operation)

    assert sent({"one": "1" * 100, "two": "2" * 100}) == 200
    assert sent({"one": "1" * 100, "two": "3" * 50}) == 50
    assert sent({"three": "1" * 100}) == 0
    assert sent({"three": "1" * 100}) == 0
    assert list(server.state()["artifacts"]["team/grocery/data"]["versions"]) == ["v0", "v1", "v2"]


def test_an_artifact_is_downloaded(server: WandbServer) -> None:
    made = artifact("data", {"shards/one": "1", "card ü.json": "{}"}, "dataset")
    made.add_reference("dvc://store/files/ab/cd", name="two", checksum=False)
    with start() as run:
        log(run, made, "sha256-1")
    found = wandb.Api().artifact("grocery/data:sha256-1")
    assert {name: entry.ref for name, entry in found.manifest.entries.items()} == {
        "shards/one": None,
        "card ü.json": None,
        "two": "dvc://store/files/ab/cd",
    }
    assert sorted(file.name for file in found.files()) == ["card ü.json", "shards/one", "two"]
    assert Path(found.get_entry("shards/one").download("copy")).read_text() == "1"
    assert Path(found.get_entry("card ü.json").download("copy")).read_text() == "{}"
    assert "/artifactsV2/" in server.requests[-1].operation

    Path("here").write_text("2")
    made = artifact("whole", {"shards/one": "1"})
    made.add_reference(Path("here").absolute().as_uri(), name="two")
    with start() as run:
        log(run, made)
    assert [item.size for item in server.requests if item.operation.endswith("/two")] == []
    whole = wandb.Api().artifact("grocery/whole:v0")
    folder = Path(whole.download())  # with skip_cache the SDK mixes up files it gets at once
    assert {path.name: path.read_text() for path in folder.rglob("*") if path.is_file()} == {
        "one": "1",
        "two": "2",
    }
    whole.verify(str(folder))


def test_an_artifact_is_changed(server: WandbServer) -> None:
    with start() as run:
        log(run, artifact("model", {"a": "1"}, metadata={"n": 1}), "one", "two")
    found = wandb.Api().artifact("grocery/model:v0")
    found.metadata["m"] = 2
    found.description = "better"
    found.tags.append("kept")
    found.aliases.remove("one")
    found.aliases.append("three")
    found.save()
    changed = server.state()["artifacts"]["team/grocery/model"]["versions"]["v0"]
    assert changed == changed | {
        "metadata": {"n": 1, "m": 2},
        "description": "better",
        "tags": ["kept"],
        "aliases": ["latest", "three", "two"],
    }
    before = len(effects(server))
    found.save()
    assert len(effects(server)) == before


def test_lineage(server: WandbServer) -> None:
    with start("prepare") as first:
        log(first, artifact("data", {"a": "1"}, "dataset"), "sha256-1")
    with start("train") as second:
        second.use_artifact("data:sha256-1", type="dataset")
        second.use_artifact("data:latest")
        log(second, artifact("model", {"b": "2"}))
    with start("evaluate") as third:
        third.use_artifact(artifact("extra", {"c": "3"}, "dataset"))
    api = wandb.Api()
    model = api.artifact("grocery/model:latest")
    for _ in range(2):
        api.run(f"grocery/{third.id}").use_artifact(model)

    runs = server.state()["runs"]
    uses = {key.rpartition("/")[2]: run["uses"] for key, run in runs.items()}
    logs = {key.rpartition("/")[2]: run["logs"] for key, run in runs.items()}
    assert uses == {
        "prepare": [],
        "train": ["team/grocery/data:v0"],
        "evaluate": ["team/grocery/extra:v0", "team/grocery/model:v0"],
    }
    assert logs == {
        "prepare": ["team/grocery/data:v0"],
        "train": ["team/grocery/model:v0"],
        "evaluate": [],
    }
    assert len([line for line in effects(server) if line.endswith("uses model:v0")]) == 1

    assert [run.name for run in model.used_by()] == ["evaluate"]
    assert model.logged_by().name == "train"
    read = api.run(f"grocery/{second.id}")
    assert [item.name for item in read.used_artifacts()] == ["data:v0"]
    assert [item.name for item in read.logged_artifacts()] == ["model:v0"]


def test_an_artifact_is_saved_without_a_run(server: WandbServer) -> None:
    made = artifact("release", {"a": "1"})
    made.save(project="grocery", settings=wandb.Settings(**SILENT))
    made.wait()
    assert made.qualified_name == "team/grocery/release:v0"
    assert server.state()["artifacts"]["team/grocery/release"]["versions"]["v0"]["entries"]


def test_collections_and_types_are_listed(server: WandbServer) -> None:
    with start() as run:
        log(run, artifact("model", {"a": "1"}), "best")
        log(run, artifact("data", {"a": "1"}, "dataset"))
    api = wandb.Api()
    assert [kind.name for kind in api.artifact_types("grocery")] == ["dataset", "model"]
    assert [item.name for item in api.artifact_collections("grocery", "model")] == ["model"]
    assert [item.name for item in api.artifact_type("dataset", "grocery").collections()] == ["data"]
    collection = api.artifact_collection("model", "grocery/model")
    assert (collection.name, sorted(collection.aliases)) == ("model", ["best", "latest"])
    assert api.artifact_collection_exists("grocery/model", "model")
    assert not api.artifact_collection_exists("grocery/model", "dataset")
    assert not api.artifact_collection_exists("grocery/other", "model")
    with start() as run, pytest.raises(ValueError, match="already exists with type"):
        run.log_artifact(artifact("model", {"a": "2"}, "dataset"))


# The registry

REGISTERED = "wandb-registry-model/grocery"


def links(server: WandbServer) -> dict[str, Any]:
    return server.state()["links"].get(f"example-groceries/{REGISTERED}", {})


def test_links_to_the_registry_and_their_aliases(server: WandbServer) -> None:
    with start("register") as run:
        first = log(run, artifact("release", {"a": "1"}, metadata={"accuracy": 0.9}))
        linked = run.link_artifact(first, REGISTERED, aliases=["candidate"])
    assert linked.qualified_name == f"example-groceries/{REGISTERED}:v0"
    with start("register") as run:
        second = log(run, artifact("release", {"a": "2"}))
    api = wandb.Api()
    second = api.artifact("grocery/release:v1")
    for _ in range(2):
        second.link(REGISTERED, aliases=["candidate"])
    assert links(server) == {
        "v0": {"artifact": "team/grocery/release:v0", "aliases": []},
        "v1": {"artifact": "team/grocery/release:v1", "aliases": ["candidate", "latest"]},
    }

    older = api.artifact(f"{REGISTERED}:v0")
    assert (older.metadata, older.source_name) == ({"accuracy": 0.9}, "release:v0")
    older.aliases.append("production")
    older.save()
    older.aliases.append("candidate")
    older.aliases.remove("production")
    older.save()
    assert links(server)["v0"]["aliases"] == ["candidate"]
    assert links(server)["v1"]["aliases"] == ["latest"]

    candidate = wandb.Api().artifact(f"{REGISTERED}:candidate")
    assert candidate.is_link
    assert (candidate.version, candidate.source_version) == ("v0", "v0")
    assert candidate.logged_by().job_type == "register"
    assert (Path(candidate.download(skip_cache=True)) / "a").read_text() == "1"
    listed = api.artifacts("model", REGISTERED)
    assert [(item.version, item.source_name) for item in listed] == [
        ("v1", "release:v1"),
        ("v0", "release:v0"),
    ]
    assert api.artifact_collection_exists(REGISTERED, "model")
    assert [item.qualified_name for item in second.linked_artifacts] == [
        f"example-groceries/{REGISTERED}:v1"
    ]

    api.artifact(f"{REGISTERED}:v1").unlink()
    assert not api.artifact_exists(f"{REGISTERED}:v1")
    assert list(links(server)) == ["v0"]
    second.link(REGISTERED)
    assert links(server)["v2"] == {"artifact": "team/grocery/release:v1", "aliases": ["latest"]}


def test_a_registry_refuses_what_it_must(server: WandbServer) -> None:
    with start() as run:
        log(run, artifact("release", {"a": "1"})).link(REGISTERED)
        data = log(run, artifact("data", {"a": "1"}, "dataset"))
    with pytest.raises(wandb.errors.CommError, match="does not take links to artifacts of"):
        data.link(REGISTERED)
    with pytest.raises(wandb.errors.CommError, match="there is no registry"):
        data.link("wandb-registry-nothing/grocery")
    with pytest.raises(ValueError, match="not a linked artifact"):
        data.unlink()
    assert not wandb.Api().artifact_exists("wandb-registry-dataset/grocery:latest")
    server.errors.clear()


# Offline, and the way back


def picture(colour: str) -> wandb.Image:
    stream = io.BytesIO()
    Image.new("RGB", (16, 12), colour).save(stream, "JPEG")
    path = Path(f"{colour}.jpg")
    path.write_bytes(stream.getvalue())
    return wandb.Image(str(path), caption=colour)


def speak(run: wandb.Run, steps: int = 3) -> None:
    """Tell of everything that a stage of the pipeline tells of."""
    for step in range(steps):
        run.log({"loss": 1 / (step + 1), "curves": {"accuracy": step}}, step=step)
    run.summary.update({"accuracy": 0.9, "classes": {"apple": 0.5}})
    rows = [["apple", 0.5, picture("red")], ["pear", 0.75, picture("green")]]
    run.log({"per class": wandb.Table(columns=["class", "recall", "worst"], data=rows)})
    run.log({"worst mistakes": [picture("red"), picture("green")]}, commit=False)
    chart = wandb.plot.confusion_matrix(
        y_true=[0, 1, 1], preds=[0, 1, 0], class_names=["apple", "pear"], title="confusion"
    )
    run.log({"confusion": chart}, commit=False)
    run.log({"drift": wandb.Histogram([1, 2, 3])}, commit=False)
    run.log({"report": wandb.Html("<h1>Drift</h1>", inject=False)}, commit=False)
    run.alert("drift", "batch-2 has drifted", level="WARN")
    Path("card.json").write_text("{}")
    run.save("card.json")
    made = artifact("model", {"model.json": "{}"}, metadata={"classes": 2})
    made.add_reference("dvc://store/files/ab/cd", name="weights", checksum=False)
    run.log_artifact(made, aliases=["latest", "sha256-1"])


def sync() -> None:
    """Send the offline runs, oldest first, with W&B's own command.

    One by one: it sends several runs at the same time, and which of them makes v0 of an artifact
    that both log is a matter of chance.
    """
    logs = Path("wandb").glob("offline-run-*/run-*.wandb")
    for path in sorted(logs, key=lambda path: path.stat().st_mtime_ns):
        done = subprocess.run(
            [sys.executable, "-m", "wandb", "sync", "--no-skip-synced", str(path.parent)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def say_all(train_id: str | None = None, **arguments: Any) -> None:
    config = {"train": {"alpha": 0.95}}
    with start("train", id=train_id, tags=["b", "a"], config=config, **arguments) as run:
        speak(run)
    with start("monitor", **arguments) as run:
        speak(run, steps=1)


@pytest.fixture(scope="module")
def without_outage(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The state of a server that was there all the time."""
    with serving(tmp_path_factory.mktemp("always")) as server:
        say_all()
        wandb.teardown()
        return server.state()


def say_all_offline(train_id: str | None = None) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        say_all(train_id)
        wandb.teardown()


def test_synced_runs_leave_what_online_runs_leave(
    without_outage: dict[str, Any], server: WandbServer
) -> None:
    say_all_offline()
    assert server.requests == []
    sync()
    assert server.state() == without_outage
    assert [item["state"] for item in server.state()["runs"].values()] == ["finished"] * 2

    before = len(server.requests)
    sync()
    assert server.state() == without_outage
    kinds = {line.split(":")[-1] for item in server.requests[before:] for line in item.effect}
    assert not any(word in kind for kind in kinds for word in ("alert", "alias", "created"))


def test_a_run_that_was_partly_sent_is_there_once_after_sync(
    without_outage: dict[str, Any], server: WandbServer
) -> None:
    with start("train", id="t1", config={"train": {"alpha": 0.95}}) as run:
        run.log({"loss": 7.0, "lost": 1}, step=0)
        run.log({"loss": 7.0}, step=9)
        run.alert("drift", "batch-2 has drifted", level="WARN")
    say_all_offline("t1")
    sync()
    assert server.state() == without_outage


# Faults

# The SDK waits for seconds before it tries again; one is the least.
IMPATIENT = {
    f"x_{part}_retry_wait_min_seconds": 1.0 for part in ("graphql", "file_stream", "file_transfer")
}


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("mode", "only"),
    [
        ("500", "UpsertBucket"),
        ("502", "file_stream"),
        ("429", "upload"),
        ("503", "CommitArtifact"),
        ("drop", "upload"),
        ("drop", "file_stream"),
        ("drop", "CommitArtifact"),
    ],
)
def test_the_sdk_gets_over_a_short_fault(
    mode: str, only: str, without_outage: dict[str, Any], server: WandbServer
) -> None:
    server.fail(mode, only=only, times=1)
    say_all(settings=IMPATIENT)
    assert [str(item.status) for item in server.requests].count(mode) == 1
    assert server.state() == without_outage


def test_the_sdk_gives_up_on_half_an_answer(server: WandbServer) -> None:
    """Whoever does not wait for an artifact never hears that it was not recorded."""
    server.fail("drop", only="CreateArtifact")
    with start() as run, pytest.raises(ValueError, match="unexpected EOF"):
        log(run, artifact("model", {"a": "1"}))
    assert [item.status for item in server.requests].count("drop") == 1
    assert server.state()["artifacts"]["team/grocery/model"]["versions"] == {}
    assert len(server.state()["artifacts"]["team/grocery/model"]["unfinished"]) == 1
    server.heal()
    with start("again") as run:
        log(run, artifact("model", {"a": "1"}))
    assert list(server.state()["artifacts"]["team/grocery/model"]["versions"]) == ["v0"]
    assert server.state()["artifacts"]["team/grocery/model"]["unfinished"] == []
    logs = {key.rpartition("/")[2]: run["logs"] for key, run in server.state()["runs"].items()}
    assert logs == {"train": [], "again": ["team/grocery/model:v0"]}


@pytest.mark.parametrize(
    ("mode", "only", "after"),
    [("hang", "upload", 2), ("hang", "UpsertBucket", 1), ("refuse", "CommitArtifact", 0)],
)
def test_the_sdk_goes_on_when_the_server_is_healed(
    mode: str, only: str, after: int, without_outage: dict[str, Any], server: WandbServer
) -> None:
    server.fail(mode, only=only, after=after)
    speaker = threading.Thread(target=say_all, kwargs={"settings": IMPATIENT}, daemon=True)
    speaker.start()
    until(lambda: mode in [item.status for item in server.requests])
    assert server.state() != without_outage
    server.heal()
    speaker.join(60)
    assert server.state() == without_outage


def test_a_server_that_forgot_the_key(server: WandbServer) -> None:
    server.fail("401")
    with pytest.raises(wandb.errors.CommError, match="told to fail"):
        start()
    assert [item.status for item in server.requests] == [401]
    server.heal()
    start().finish()


def test_which_requests_a_fault_hits(bare: WandbServer) -> None:
    def statuses() -> list[int]:
        queries = ["query A { viewer { id } }", "query B { viewer { id } }"]
        answers = [post(bare, "/graphql", {"query": query})[0] for query in queries]
        return [*answers, stream(bare)]

    bare.fail("503")
    assert statuses() == [503, 503, 503]
    bare.fail("503", only="graphql")
    assert statuses() == [503, 503, 200]
    bare.fail("503", only="B", after=1, times=1)
    assert [statuses(), statuses(), statuses()] == [
        [200, 200, 200],
        [200, 503, 200],
        [200, 200, 200],
    ]
    bare.fail("503", after=4)
    assert [statuses(), statuses()] == [[200, 200, 200], [200, 503, 503]]
    bare.heal()
    assert statuses() == [200, 200, 200]
    with pytest.raises(ValueError, match="there is no fault 'sleep'"):
        bare.fail("sleep")


def test_a_cut_upload_leaves_nothing(bare: WandbServer) -> None:
    body = b"x" * 1_000_000
    path = "/storage/run/team/grocery/r1/weights"
    bare.fail("drop", only="upload")
    with pytest.raises(OSError, match=r"."):
        put(bare, path, body)
    (cut,) = [item for item in bare.requests if item.kind == "upload"]
    assert (cut.status, cut.size, cut.effect) == ("drop", 500_000, ())
    assert next(iter(bare.state()["runs"].values()))["files"] == {}
    bare.heal()
    assert put(bare, path, body) == 200
    with urlopen(bare.url + path) as answer:
        assert answer.read() == body
    # The other side may go, too.
    with socket.create_connection(("127.0.0.1", int(bare.url.rpartition(":")[2]))) as client:
        head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
        client.sendall(head.encode() + b"half")
    until(lambda: bare.requests[-1].status == "cut by the client")
    assert bare.requests[-1].effect == ()


def test_an_artifact_file_must_be_what_was_announced(server: WandbServer) -> None:
    server.fail("500", only="upload", times=1)
    with start(settings=IMPATIENT) as run:
        log(run, artifact("model", {"a": "1"}))
    (refused, sent) = [item for item in server.requests if item.operation.endswith("/a")]
    assert (refused.status, sent.status) == (500, 200)
    assert put(server, sent.operation, b"another") == 400
    assert "MD5" in server.errors.pop()


def test_a_cut_answer_had_its_effect(bare: WandbServer) -> None:
    bare.fail("drop", times=1)
    with pytest.raises((OSError, http.client.HTTPException)):
        ask(bare, CREATE_RUN, name="r2")
    assert bare.requests[-1].effect == ("run team/grocery/r2: created",)
    ask(bare, CREATE_RUN, name="r2")
    assert bare.requests[-1].effect == ()


def test_a_refusing_server_comes_back_at_the_same_address(bare: WandbServer) -> None:
    url = bare.url
    bare.fail("refuse")
    with pytest.raises(ConnectionRefusedError):
        stream(bare)
    bare.heal()
    assert (bare.url, stream(bare)) == (url, 200)
    bare.fail("refuse", only="file_stream", after=1)
    assert stream(bare) == 200
    with pytest.raises((OSError, http.client.HTTPException)):
        stream(bare)
    with pytest.raises(ConnectionRefusedError):
        ask(bare, "{ viewer { id } }")


def test_a_server_that_was_healed_stays(bare: WandbServer) -> None:
    def call() -> None:
        with suppress(OSError, http.client.HTTPException):
            stream(bare)

    for _ in range(20):
        bare.requests.clear()
        bare.fail("refuse", only="file_stream")
        caller = threading.Thread(target=call)
        caller.start()
        until(lambda: bare.requests)
        bare.heal()  # perhaps before the fault began
        caller.join(20)
        assert stream(bare) == 200


def test_who_hangs_is_let_go(bare: WandbServer) -> None:
    ends: list[type[BaseException]] = []

    def call() -> None:
        try:
            stream(bare)
        except (OSError, http.client.HTTPException) as error:
            ends.append(type(error))

    for end in (bare.heal, bare.close):
        ends.clear()
        bare.requests.clear()
        bare.fail("hang")
        callers = [threading.Thread(target=call) for _ in range(3)]
        for caller in callers:
            caller.start()
        until(lambda: [item.status for item in bare.requests] == ["hang"] * 3)
        assert ends == []
        end()
        for caller in callers:
            caller.join(20)
        assert len(ends) == 3


def test_the_server_is_a_command_too() -> None:
    command = [sys.executable, str(Path(__file__).with_name("wandb_server.py")), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            url = process.stdout.readline().strip()
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urlopen(f"{url}/nothing")
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
