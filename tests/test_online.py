"""Tracking online: what the stages' verbs leave on a W&B server."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import Project
from grocery.contents import read_content
from grocery.tracking import artifacts
from grocery.tracking.artifacts import described
from wandb_pipeline import (
    RUN,
    World,
    asking,
    begin,
    candidates,
    offline,
    pipeline,
    silent,
    synchronize,
    uses,
    versions,
    write,
)
from wandb_server import KEY, WandbServer

REGISTRY = "example-groceries/wandb-registry-model/grocery-classifier"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("online")
    code = "from wandb_pipeline import *; run_stages(settings(), 'red', STAGES)"
    with WandbServer() as server:
        process = begin(folder, server, "-c", code)
        assert process.communicate() == ("", ""), "also W&B's own process has nothing to say"
        assert process.returncode == 0
        yield World(folder, server)
        assert server.errors == []


@pytest.fixture
def state(world: World) -> dict[str, Any]:
    return world.server.state()


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with WandbServer() as one:
        yield one


def test_a_run_is_there_with_all_that_the_stage_said(world: World, state: dict[str, Any]) -> None:
    runs = state["runs"]
    assert set(runs) == {RUN + "prepare", RUN + "train", RUN + "register"}
    train = runs[RUN + "train"]
    assert (train["job_type"], train["state"], train["exit_code"]) == ("train", "finished", 0)
    assert train["config"] == {
        "train": {"alpha": 0.95, "scales": [1.5, 0.5]},
        "inputs": {"dataset": read_content(world.folder / "shards").md5},
    }
    assert runs[RUN + "prepare"]["tags"] == ["synthetic"]
    assert [row["residual"] for row in train["history"]] == [1, 0.5, 1 / 3, 0.25]
    assert [row["_step"] for row in train["history"]] == [0, 1, 2, 3]
    shown = {"predictions", "worst mistakes", "confusion_table", "confidence", "card"}
    assert shown <= train["history"][-1].keys()
    assert train["summary"]["accuracy"] == 0.9, "not the last point of its curve"
    assert [alert["title"] for alert in train["alerts"]] == ["Drift in batch noon"]
    assert sum(name.endswith(".jpg") for name in train["files"]) == 1  # mistakes
    (table,) = state["artifacts"][RUN + "train/predictions"]["versions"].values()
    assert sum(name.endswith(".jpg") for name in table["entries"]) == 1


def test_an_artifact_is_found_by_the_hash_in_dvc_lock_and_tells_without_a_download(
    world: World,
) -> None:
    content = read_content(world.folder / "shards")
    seen = len(world.server.requests)
    with asking(world.server, world.folder) as api:
        found = api.artifact(f"team/grocery/dataset:md5-{content.md5}").metadata
    assert found == {"images": 3, "files": 2, "bytes": 12_000, "md5": content.md5}
    assert {request.kind for request in world.server.requests[seen:]} == {"graphql"}


def test_the_lineage_is_whole(world: World, state: dict[str, Any]) -> None:
    runs = state["runs"]
    edges = {name: (run["uses"], run["logs"]) for name, run in runs.items()}
    assert edges[RUN + "prepare"][0] == []
    assert "team/grocery/dataset:v0" in edges[RUN + "prepare"][1]
    assert edges[RUN + "train"][0] == ["team/grocery/dataset:v0"]
    assert edges[RUN + "train"][1] == [
        f"{RUN}train/confusion_table:v0",
        f"{RUN}train/predictions:v0",
        "team/grocery/classifier:v0",
    ]
    assert edges[RUN + "register"] == (["team/grocery/classifier:v0"], ["team/grocery/release:v0"])
    with asking(world.server, world.folder) as api:
        readers = api.artifact("team/grocery/classifier:latest").used_by()
        assert [run.name for run in readers] == ["register"]


def test_an_accepted_release_is_the_candidate_of_the_registry(
    world: World, state: dict[str, Any]
) -> None:
    (link,) = state["links"][REGISTRY].values()
    assert link == {"artifact": "team/grocery/release:v0", "aliases": ["candidate", "latest"]}
    with asking(world.server, world.folder) as api:
        found = api.artifact("wandb-registry-model/grocery-classifier:candidate")
        assert found.source_name == "release:v0"


def test_the_key_is_nowhere(world: World, state: dict[str, Any]) -> None:
    files = [path for path in world.folder.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    assert KEY not in json.dumps(state)


def test_unchanged_content_makes_no_new_version(world: World, tmp_path: Path) -> None:
    with world.copy(tmp_path / "again") as again:
        before = again.server.state()["artifacts"]
        silent(pipeline(again.folder, again.server))
        after = again.server.state()["artifacts"]
        for name in ("dataset", "classifier", "release"):
            assert after[f"team/grocery/{name}"] == before[f"team/grocery/{name}"]
        assert uses(again.server, "train#2") == ["team/grocery/dataset:v0"]
        silent(pipeline(again.folder, again.server, "register", word="blue"))
        assert list(versions(again.server, "release")) == ["v0", "v1"]
        assert candidates(again.server) == [[], ["candidate", "latest"]]


def test_a_stage_that_was_skipped_or_not_tracked_is_in_the_lineage_all_the_same(
    server: WandbServer, tmp_path: Path
) -> None:
    silent(pipeline(tmp_path, None, "prepare", WANDB_MODE="disabled"))
    silent(pipeline(tmp_path, server, "train"))
    assert uses(server, "train") == ["team/grocery/dataset:v0"]
    (dataset,) = versions(server, "dataset").values()
    assert dataset["metadata"]["md5"] == read_content(tmp_path / "shards").md5

    silent(pipeline(tmp_path, server, "prepare"))
    assert list(versions(server, "dataset")) == ["v0"], "its own stage makes a second one"


# What is sent of an artifact


def uploads(server: WandbServer, name: str) -> list[int]:
    return [
        request.size
        for request in server.requests
        if request.kind == "upload" and request.operation.rsplit("/")[-1] == name
    ]


def test_metadata_sends_the_list_of_a_dataset_and_the_files_of_a_model(
    world: World, tmp_path: Path
) -> None:
    (dataset,) = versions(world.server, "dataset").values()
    assert list(dataset["entries"]) == ["manifest.json"]
    (release,) = versions(world.server, "release").values()
    assert list(release["entries"]) == ["card", "weights"]
    assert uploads(world.server, "one") == []
    with asking(world.server, tmp_path) as api:
        api.artifact("team/grocery/dataset:v0").download(root="got")
    listing = (tmp_path / "got/manifest.json").read_bytes()
    assert f"{hashlib.md5(listing).hexdigest()}.dir" == read_content(world.folder / "shards").md5


def test_files_sends_changed_shards_only(server: WandbServer, tmp_path: Path) -> None:
    silent(pipeline(tmp_path, server, "prepare", upload="files"))
    silent(pipeline(tmp_path, server, "prepare", upload="files", word="blue"))
    assert list(versions(server, "dataset")) == ["v0", "v1"]
    assert len(uploads(server, "one")) == 1
    assert uploads(server, "two") == [3000, 4000]
    with asking(server, tmp_path) as api:
        api.artifact("team/grocery/dataset:v0").download(root="got")
    assert (tmp_path / "got/two").read_text() == "red" * 1000


def project_with_remote(folder: Path, url: str) -> Project:
    """A DVC project without git."""
    (folder / ".dvc").mkdir(parents=True)
    config = f"[core]\nno_scm = True\nremote = storage\n['remote \"storage\"']\nurl = {url}\n"
    (folder / ".dvc/config").write_text(config)
    return Project(folder)


def test_reference_points_at_the_objects_that_dvc_pushes(
    server: WandbServer, tmp_path: Path
) -> None:
    folder = tmp_path / "project"
    project = project_with_remote(folder, "../../remote")
    silent(pipeline(folder, server, "prepare", "register", upload="reference"))
    sent = [r.operation for r in server.requests if r.kind == "upload"]
    copies = [name for name in sent if "/artifact/" in name]
    assert copies
    assert [name for name in copies if not name.endswith((".jpg", ".table.json"))] == []
    (dataset,) = versions(server, "dataset").values()
    assert dataset["metadata"]["md5"] == read_content(folder / "shards").md5

    project.run("dvc", "add", "--quiet", "shards", "release")
    project.run("dvc", "push", "--quiet")
    with asking(server, folder) as api:
        for name, output in (("dataset", "shards"), ("release", "release")):
            api.artifact(f"team/grocery/{name}:v0").download(root=f"got/{name}")
            assert read_content(folder / "got" / name).md5 == read_content(folder / output).md5


def test_a_reference_does_not_tell_the_remotes_password(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    project_with_remote(folder, "https://ann:hunter2@example.invalid/d/?key=hunter2")
    content = read_content(write(str(tmp_path / "shards"), one="red"))
    made = described(
        artifacts.DATASET, tmp_path / "shards", content, {}, upload="reference", root=folder
    )
    md5 = content.files["one"]
    place = f"https://example.invalid/d/files/md5/{md5[:2]}/{md5[2:]}"
    assert [entry.ref for entry in made.manifest.entries.values()] == [place]


# Online and offline together


def test_a_registry_that_refuses_does_not_send_the_run_offline(
    server: WandbServer, tmp_path: Path
) -> None:
    server.fail("403", only="LinkArtifact")
    done = pipeline(tmp_path, server, "register")
    assert done.stdout == ""
    assert done.stderr.startswith("warning: W&B: release is not linked yet (")
    assert done.stderr.count("\n") == 1
    assert server.state()["runs"][RUN + "register"]["state"] == "finished"
    assert candidates(server) == []

    server.heal()
    assert synchronize(tmp_path, server).stdout == "1 of 1 sent\n"
    assert candidates(server) == [["candidate", "latest"]]


def test_what_an_offline_run_will_bring_is_not_brought_by_another(
    server: WandbServer, tmp_path: Path
) -> None:
    offline(tmp_path, "prepare")
    done = pipeline(tmp_path, server, "train")
    assert done.stderr == (
        "warning: W&B: dataset is not linked yet (the run that made it is kept offline); "
        "`grocery sync` will do it\n"
    )
    assert synchronize(tmp_path, server).stdout == "2 of 2 sent\n"
    assert "team/grocery/dataset:v0" in server.state()["runs"][RUN + "prepare"]["logs"]
    assert uses(server, "train") == ["team/grocery/dataset:v0"]
    assert versions(server, "dataset")["v0"]["metadata"]["images"] == 3
