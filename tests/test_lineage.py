"""The whole pipeline, run by DVC and tracked at a W&B server on loopback."""

import importlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from conftest import ROOT, Project
from grocery import runner
from grocery.shards import read_columns
from grocery.tracking.artifacts import OUTPUTS
from running import in_one_process
from wandb_server import WandbServer

# What W&B shows without an artifact: as a table, as curves, or as the run's summary.
SHOWN_IN_RUNS = {"data/prepared/report.json", "metrics/curves"}


@dataclass
class Tracked:
    """A project whose stages have all run, tracked online."""

    project: Project
    server: WandbServer
    state: dict[str, Any]
    group: str


@pytest.fixture(scope="module")
def tracked(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracked]:
    project = built.copy(tmp_path_factory.mktemp("tracked") / "project")
    group = project.run("git", "rev-parse", "HEAD").stdout[:7]
    with WandbServer() as server:
        online = {"WANDB_MODE": "online", **server.environment()}
        done = project.run(*in_one_process(*runner.STAGES), env=online)
        assert "warning: W&B" not in done.stdout + done.stderr
        yield Tracked(project, server, server.state(), group)
        assert server.errors == []


def test_the_lineage_graph_is_that_of_dvc_yaml(tracked: Tracked) -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    del stages["source"]  # which makes nothing that W&B would show
    assert len(tracked.state["runs"]) == len(stages)
    for name, stage in stages.items():
        run = tracked.state["runs"][f"team/grocery/{tracked.group}/{name}"]
        for kind, told in (("deps", run["uses"]), ("outs", run["logs"])):
            paths = [item if isinstance(item, str) else next(iter(item)) for item in stage[kind]]
            declared = {OUTPUTS[path].name for path in paths if path in OUTPUTS}
            # W&B's own tables lie deeper.
            own = {path.split("/")[2].split(":")[0] for path in told if path.count("/") == 2}
            assert own == declared, (name, kind)
    items = [out for stage in stages.values() for item in stage["outs"] for out in item.items()]
    outs = {path for path, how in items if how.get("cache", True)}  # metrics are in git
    assert outs == OUTPUTS.keys() | SHOWN_IN_RUNS, "an output is no artifact"


def test_the_picture_in_the_docs(tracked: Tracked, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is that graph, and ends at the registry's candidate."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    drawn = importlib.import_module("lineage").drawn(tracked.state)
    picture = "".join(f"{line}\n" for line in drawn)
    assert picture.count(" --> ") > 20
    assert "wandb-registry-model/grocery-classifier<br/>candidate, latest" in picture
    assert f"```mermaid\n{picture}```" in (ROOT / "docs/wandb.md").read_text()


def test_each_artifact_is_found_by_the_hash_in_dvc_lock(tracked: Tracked) -> None:
    hashes = tracked.project.hashes()
    for path, output in OUTPUTS.items():
        (version,) = tracked.state["artifacts"][f"team/grocery/{output.name}"]["versions"].values()
        assert f"md5-{hashes[path]}" in version["aliases"]
        assert version["metadata"]["md5"] == hashes[path]


def test_a_run_knows_its_commit_parameters_and_inputs(tracked: Tracked) -> None:
    run = tracked.state["runs"][f"team/grocery/{tracked.group}/train"]
    assert run["commit"].startswith(tracked.group)
    assert run["config"]["git"]["dirty"] is False
    assert run["config"]["train"]["labeled_ratio"] == 0.3
    hashes = tracked.project.hashes()
    inputs = {"dataset": hashes["data/prepared/shards"], "features": hashes["data/features"]}
    assert run["config"]["inputs"] == inputs
    assert run["tags"] == ["label_spreading", "synthetic"]
    assert {"val_accuracy", "residual"} <= run["history"][0].keys()


def test_what_a_team_looks_at_is_there(tracked: Tracked) -> None:
    runs = {name.rsplit("/")[-1]: run for name, run in tracked.state["runs"].items()}
    last = {name: run["history"][-1] if run["history"] else {} for name, run in runs.items()}
    assert {"predictions", "mistakes", "per_class", "reliability"} <= last["evaluate"].keys()
    assert any(key.startswith("confusion matrix") for key in last["evaluate"])
    assert {"contact sheet", "dataset card"} <= last["version"].keys()
    assert set(runs["version"]["summary"]["changes"].values()) == {0}
    assert "quarantine" in last["prepare"]
    batches = [key for key in last["monitor"] if key.startswith("confidence/")]
    assert batches
    assert {key.replace("confidence", "samples") for key in batches} <= last["monitor"].keys()
    assert runs["monitor"]["alerts"], "the drills hold a batch that has drifted"
    assert runs["evaluate"]["summary"]["accuracy"] > 0.3
    metadata = {
        name: tracked.state["artifacts"][f"team/grocery/{name}"]["versions"]["v0"]["metadata"]
        for name in ("release", "dataset", "incoming")
    }
    expected = {"accuracy", "accepted", "dataset_digest", "model_digest"}
    assert expected <= metadata["release"].keys()
    shards = read_columns(tracked.project.path / "data/prepared/shards", ["split", "label"])
    labeled = Counter((row["split"], row["label"]) for row in shards.to_pylist() if row["label"])
    assert labeled == {
        (split, name): number
        for split, numbers in metadata["dataset"]["images_per_class"].items()
        for name, number in zip(metadata["dataset"]["class_names"], numbers, strict=True)
        if number
    }
    incoming = metadata["incoming"]
    assert incoming["images_per_class"].keys() == incoming["batches"].keys() != set()


def test_no_setting_changes_an_output_or_runs_a_stage(tracked: Tracked, built: Project) -> None:
    project = tracked.project
    assert project.found() == built.hashes(), "tracked online or not tracked: the same bytes"
    before = len(tracked.server.requests)
    changed = {"upload": "files", "registry": "", "project": "p", "timeout": 5}
    project.edit_params({"tracking": changed})
    online = {**tracked.server.environment(), "WANDB_MODE": "online", "WANDB_PROJECT": "q"}
    (said,) = project.dvc("repro", env=online)
    assert "Running stage" not in said
    assert len(tracked.server.requests) == before
    project.run("git", "checkout", "--quiet", "params.yaml")
