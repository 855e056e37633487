"""Tracking online: what the stages' verbs leave on a W&B server, and what remains if it fails.

It fails in every way and at every point: the stages do not notice, and nothing is lost. After
`grocery sync` the server holds exactly what it would have held without the outage.
"""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from conftest import Project
from grocery.contents import read_content
from grocery.tracking.remote import remote_objects
from wandb_pipeline import (
    RUN,
    STAGES,
    World,
    asking,
    begin,
    jpeg,
    links,
    offline,
    pipeline,
    silent,
    synchronize,
    uses,
    versions,
)
from wandb_server import WandbServer
from wandb_server_http import KEY


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, World]:
    """The folder and the server of stages that nothing disturbed: at first, and after each."""
    found = {"": World(tmp_path_factory.mktemp("worlds"), WandbServer())}
    for before, stage in pairwise(["", *STAGES]):
        with found[before].copy(tmp_path_factory.mktemp(stage) / "after") as world:
            code = f"from wandb_pipeline import *; run_stages(settings(), 'red', ['{stage}'])"
            process = begin(world.folder, world.server, "-c", code)
            assert process.communicate() == ("", ""), "also W&B's process has nothing to say"
            assert process.returncode == 0
        assert world.server.errors == []
        found[stage] = world
    return found


@pytest.fixture
def world(worlds: dict[str, World], tmp_path: Path) -> Iterator[World]:
    """The folder and the server after all stages."""
    with worlds["register"].copy(tmp_path / "world") as one:
        yield one


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with WandbServer() as one:
        yield one


def test_a_run_is_there_with_all_that_the_stage_said_but_the_key(world: World) -> None:
    state = world.server.state()
    runs = state["runs"]
    assert set(runs) == {RUN + "prepare", RUN + "train", RUN + "register"}
    train = runs[RUN + "train"]
    assert (train["job_type"], train["state"], train["exit_code"]) == ("train", "finished", 0)
    inputs = {"dataset": read_content(world.folder / "shards").md5}
    assert train["config"] == {"train": {"alpha": 0.95, "scales": [1.5, 0.5]}, "inputs": inputs}
    assert runs[RUN + "prepare"]["tags"] == ["synthetic"]
    assert [row["residual"] for row in train["history"]] == [1, 0.5, 1 / 3, 0.25]
    assert [row["_step"] for row in train["history"]] == [0, 1, 2, 3]
    shown = {"predictions", "worst mistakes", "confusion_table", "confidence", "card"}
    assert shown <= train["history"][-1].keys()
    assert train["summary"]["accuracy"] == 0.9, "not the last point of its curve"
    assert [alert["title"] for alert in train["alerts"]] == ["Drift in batch noon"]
    assert sum(name.endswith(".jpg") for name in train["files"]) == 1  # mistakes
    (mistakes,) = world.folder.glob("wandb/run-*/files/media/images/*.jpg")
    assert mistakes.read_bytes() == jpeg("green"), "it was encoded again"
    (table,) = state["artifacts"][RUN + "train/predictions"]["versions"].values()
    assert sum(name.endswith(".jpg") for name in table["entries"]) == 1

    assert KEY not in json.dumps(state)
    files = [path for path in world.folder.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


def test_the_lineage_is_whole_and_known_without_a_download(world: World) -> None:
    runs = world.server.state()["runs"]
    edges = {name.removeprefix(RUN): (run["uses"], run["logs"]) for name, run in runs.items()}
    assert edges["prepare"] == ([], [f"{RUN}prepare/quarantine:v0", "team/grocery/dataset:v0"])
    assert edges["train"][0] == ["team/grocery/dataset:v0"]
    assert edges["train"][1][-1] == "team/grocery/classifier:v0", "after its tables"
    assert edges["register"] == (["team/grocery/classifier:v0"], ["team/grocery/release:v0"])
    assert links(world.server) == [{"candidate", "latest"}]

    md5 = read_content(world.folder / "shards").md5
    with asking(world.server, world.folder) as api:
        dataset = api.artifact(f"team/grocery/dataset:md5-{md5}")
        assert dataset.metadata == {"images": 3, "files": 2, "bytes": 12_000, "md5": md5}
        readers = api.artifact("team/grocery/classifier:latest").used_by()
        assert [run.name for run in readers] == ["register"]
        candidate = api.artifact("wandb-registry-model/grocery-classifier:candidate")
        assert candidate.source_name == "release:v0"
    assert {request.kind for request in world.server.requests} == {"graphql"}


def test_a_new_version_is_made_of_changed_content_alone(world: World) -> None:
    folder, server = world.folder, world.server
    before = server.state()["artifacts"]
    silent(pipeline(folder, server))
    after = server.state()["artifacts"]
    for name in ("dataset", "classifier", "release"):
        assert after[f"team/grocery/{name}"] == before[f"team/grocery/{name}"]
    assert uses(server, "train#2") == ["team/grocery/dataset:v0"]
    silent(pipeline(folder, server, "prepare", "register", word="blue"))
    for name in ("dataset", "release"):
        assert list(versions(server, name)) == ["v0", "v1"]
    assert links(server) == [set(), {"candidate", "latest"}]


def test_an_untracked_stage_is_in_the_lineage(server: WandbServer, tmp_path: Path) -> None:
    silent(pipeline(tmp_path, None, "prepare", WANDB_MODE="disabled"))
    silent(pipeline(tmp_path, server, "train"))
    assert uses(server, "train") == ["team/grocery/dataset:v0"]
    (dataset,) = versions(server, "dataset").values()
    assert dataset["metadata"]["md5"] == read_content(tmp_path / "shards").md5

    silent(pipeline(tmp_path, server, "prepare"))
    assert list(versions(server, "dataset")) == ["v0"], "its own stage makes a second one"


# What is sent of an artifact


def uploads(server: WandbServer, name: str) -> list[int]:
    sent = [request for request in server.requests if request.kind == "upload"]
    return [request.size for request in sent if request.operation.endswith(f"/{name}")]


def test_files_sends_changed_shards_only(server: WandbServer, tmp_path: Path) -> None:
    silent(pipeline(tmp_path, server, "prepare", upload="files"))
    silent(pipeline(tmp_path, server, "prepare", upload="files", word="blue"))
    assert list(versions(server, "dataset")) == ["v0", "v1"]
    assert len(uploads(server, "one")) == 1
    assert uploads(server, "two") == [3000, 4000]
    with asking(server, tmp_path) as api:
        api.artifact("team/grocery/dataset:v0").download(root="got")
    assert (tmp_path / "got/two").read_text() == "red" * 1000


def set_remote(folder: Path, url: str) -> None:
    """Make the folder a DVC project without git, which has a remote."""
    (folder / ".dvc").mkdir(parents=True)
    config = f"[core]\nno_scm = True\nremote = storage\n['remote \"storage\"']\nurl = {url}\n"
    (folder / ".dvc/config").write_text(config)


def test_reference_points_at_the_objects_of_dvc(server: WandbServer, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    set_remote(folder, "../../remote")
    silent(pipeline(folder, server, "prepare", "register", upload="reference"))
    Project(folder).dvc("add --quiet shards release", "push --quiet")
    with asking(server, folder) as api:
        for name, output in (("dataset", "shards"), ("release", "release")):
            (version,) = versions(server, name).values()
            assert all("ref" in entry for entry in version["entries"].values())
            md5 = read_content(folder / output).md5
            assert version["metadata"]["md5"] == md5
            api.artifact(f"team/grocery/{name}:v0").download(root=f"got/{name}")
            assert read_content(folder / "got" / name).md5 == md5


def test_a_reference_does_not_tell_the_remotes_password(tmp_path: Path) -> None:
    set_remote(tmp_path, "https://ann:hunter2@example.invalid/d/?key=hunter2")
    assert remote_objects(tmp_path) == "https://example.invalid/d/files/md5"


def test_what_a_kept_run_will_bring_is_left_to_it(server: WandbServer, tmp_path: Path) -> None:
    offline(tmp_path, "prepare")
    done = pipeline(tmp_path, server, "train")
    assert done.err == f"warning: W&B: dataset is not linked yet {LATER}\n"
    assert synchronize(tmp_path, server).out == "2 of 2 sent\n"
    assert "team/grocery/dataset:v0" in server.state()["runs"][RUN + "prepare"]["logs"]
    assert uses(server, "train") == ["team/grocery/dataset:v0"]
    assert versions(server, "dataset")["v0"]["metadata"]["images"] == 3


# When W&B fails


OFFLINE = "; the run is kept offline, for `grocery sync`"
LATER = "(the run that made it is kept offline); `grocery sync` will do it"

# What goes wrong, with which requests, after how many that go well, and from which stage on.
FAULTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "hangs later": ("hang", {"only": "graphql", "after": 8}, "train"),
    "history is refused": ("404", {"only": "file_stream"}, "train"),
    "media are refused": ("403", {"only": "/storage/run"}, "train"),
    "cut in an upload": ("drop", {"only": "upload", "after": 2}, "train"),
    "history hangs": ("hang", {"only": "file_stream"}, "train"),
    "artifacts refused": ("500", {"only": "CreateArtifact", "after": 1}, "train"),
    "storage refuses": ("403", {"only": "/storage/artifact"}, "train"),
    "refused": ("refuse", {}, "prepare"),
    "hangs": ("hang", {}, "prepare"),
    "500": ("500", {}, "prepare"),
    "401": ("401", {}, "prepare"),
    "refused in an upload": ("refuse", {"only": "upload", "after": 1}, "train"),
    "cut after the effect": ("drop", {"only": "CommitArtifact", "after": 1}, "train"),
    "inputs refused": ("500", {"only": "UseArtifact"}, "train"),
    "questions hang": ("hang", {"only": "GetDefaultEntity"}, "train"),
    "links hang": ("hang", {"only": "LinkArtifact"}, "register"),
}
FAST = list(FAULTS)[:3]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in FAST else [pytest.mark.long]) for name in FAULTS],
)
def test_no_fault_loses_anything(name: str, tmp_path: Path, worlds: dict[str, World]) -> None:
    mode, how, first = FAULTS[name]
    before = ["", *STAGES][STAGES.index(first)]
    stages = STAGES if first == "prepare" else [first]
    expected = worlds[stages[-1]].server.state()
    with worlds[before].copy(tmp_path / "folder") as world:
        folder, server = world.folder, world.server
        server.fail(mode, **how)
        done = pipeline(folder, server, *stages, timeout=2)
        assert done.out == ""
        assert (folder / "classifier/weights").read_text() == "red"

        warnings = done.err.splitlines()
        assert 1 <= len(warnings) <= len(stages), "one warning a stage at most"
        assert all(line.startswith("warning: W&B: ") for line in warnings)
        assert all(line.endswith((OFFLINE, LATER)) for line in warnings)
        if name == "hangs later":
            assert warnings == [f"warning: W&B: no answer within 2 s{OFFLINE}"]
        kept = sorted((folder / "wandb").glob("offline-run-*"))
        assert len(kept) == sum(line.endswith(OFFLINE) for line in warnings) >= 1
        online = sorted((folder / "wandb").glob("run-*"))

        server.heal()
        assert server.state() != expected, "the outage did no harm"
        sync = synchronize(folder, server)
        assert (sync.code, sync.err) == (0, "")
        assert " sent\n" in sync.out
        assert server.state() == expected
        again = sorted((folder / "wandb").glob("run-*"))
        assert again == online, "what was kept was not whole, and a run was made again"
