"""Experiments: DVC's commands, the parameter sets, and several at a time, tracked by W&B."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from dvc.utils.hydra import apply_overrides
from PIL import Image

from conftest import ROOT, Project
from grocery.settings import load
from wandb_server import WandbServer

SETS = sorted(path.name for path in (ROOT / "params").iterdir())

README = (ROOT / "README.md").read_text()
# All results beside what was varied.
FEW_COLUMNS = ["dvc", "exp", "show", "--only-changed", "--drop", ".*/"]
RESULTS = {"val_accuracy", "accuracy", "gain", "macro_f1", "calibration_error"}

# Which stages run in the experiments below, and which values they were asked for.
OFFLINE: dict[str, tuple[set[str], dict[str, Any]]] = {
    "neighbors-1": ({"train", "evaluate"}, {"n_neighbors": 3}),
    "neighbors-2": ({"train", "evaluate"}, {"n_neighbors": 4}),
    "few": ({"train", "evaluate", "register", "monitor"}, {"labeled_ratio": 0.05}),
}
ONLINE: dict[str, tuple[set[str], dict[str, Any]]] = {
    "seeds-1": ({"train", "evaluate"}, {"label_seed": 1}),
    "seeds-2": ({"train", "evaluate"}, {"label_seed": 2}),
}


@dataclass
class Explored:
    """A project in which experiments ran two at a time: some tracked offline, some online.

    Attributes
    ----------
    kept
        Number of outboxes that the offline experiments left.
    sent
        What `grocery sync` said.
    state
        What the W&B server holds in the end.
    refs
        Git reference of each experiment.
    """

    project: Project
    kept: int
    sent: str
    state: dict[str, Any]
    refs: dict[str, str]

    def lock(self, name: str) -> dict[str, Any]:
        """The dvc.lock of an experiment."""
        text = self.project.run("git", "show", f"{self.refs[name]}:dvc.lock").stdout
        stages: dict[str, Any] = yaml.safe_load(text)["stages"]
        return stages


def make_project(built: Project, folder: Path) -> Project:
    """A copy with a DVC remote of its own in `folder`."""
    project = built.copy(folder / "project")
    remote = ["--force", "--default", "storage", str(folder / "storage")]
    project.run("dvc", "remote", "add", *remote)
    project.commit("A place for experiments")
    return project


def run_queue(project: Project, **env: str) -> None:
    """Run what is queued, two at a time; the workers hold the pipe, so this waits for them."""
    project.run("dvc", "queue", "start", "--jobs", "2", env=env)


def references(project: Project) -> dict[str, str]:
    lines = project.run("git", "for-each-ref", "--format=%(refname)", "refs/exps").stdout.split()
    return {ref.rsplit("/", 1)[-1]: ref for ref in lines}


@pytest.fixture(scope="module")
def explored(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Explored]:
    project = make_project(built, tmp_path_factory.mktemp("explored"))
    queue = ["dvc", "exp", "run", "--queue"]
    project.run(*queue, "evaluate", "--name", "neighbors", "-S", "train.n_neighbors=3,4")
    project.run("bash", "-c", "dvc exp run --queue --name few $(cat params/few-labels)")
    project.run(*queue, "--name", "wrong", "-S", "train.labeled_ratio=1.7")
    with WandbServer() as server:
        run_queue(project, WANDB_MODE="offline")
        kept = len(list((project.path / "wandb/outbox").iterdir()))
        sync = project.run("grocery", "sync", env={"WANDB_MODE": "", **server.environment()})
        project.run(*queue, "evaluate", "--name", "seeds", "-S", "train.label_seed=1,2")
        run_queue(project, WANDB_MODE="online", **server.environment())
        assert server.errors == []
        yield Explored(project, kept, sync.stdout, server.state(), references(project))


class TestSideBySide:
    """Two experiments at a time, each in a temporary copy that DVC makes."""

    def test_each_ran_with_its_parameters(self, explored: Explored) -> None:
        for name, (stages, asked) in (OFFLINE | ONLINE).items():
            params = explored.lock(name)["train"]["params"]["params.yaml"]["train"]
            assert asked.items() <= params.items()
            differ = {
                stage
                for stage, entry in explored.lock(name).items()
                if entry != explored.project.lock()[stage]
            }
            assert differ == stages

    def test_one_that_fails_says_why_and_holds_up_no_other(self, explored: Explored) -> None:
        said = explored.project.run("dvc", "queue", "logs", "wrong").stdout
        assert "error: train: params.yaml: train.labeled_ratio is 1.7" in said
        assert "Traceback" not in said
        status = explored.project.run("dvc", "queue", "status").stdout.splitlines()
        assert [line.split()[1] for line in status if line.endswith("Failed")] == ["wrong"]
        assert explored.refs.keys() >= OFFLINE.keys() | ONLINE.keys()
        assert "wrong" not in explored.refs

    def test_the_workspace_is_as_it_was(self, explored: Explored) -> None:
        project = explored.project
        assert project.run("git", "status", "--porcelain").stdout == ""
        assert "up to date" in project.run("dvc", "status").stdout
        assert list((project.path / ".dvc/tmp/exps").rglob("tmp*")) == [], "a copy was left"

    def test_they_share_the_cache(self, explored: Explored) -> None:
        objects = explored.project.path / ".dvc/cache/files/md5"
        for name in OFFLINE | ONLINE:
            for stage in explored.lock(name).values():
                for out in (out for out in stage["outs"] if not out["path"].endswith(".json")):
                    assert (objects / out["md5"][:2] / out["md5"][2:]).is_file(), out["path"]


class TestTracking:
    """Experiments side by side, at a W&B server."""

    def test_what_was_kept_offline_arrived(self, explored: Explored) -> None:
        assert explored.kept == sum(len(stages) for stages, _ in OFFLINE.values())
        sent, total = explored.sent.split()[0:3:2]
        assert sent == total
        assert list((explored.project.path / "wandb/outbox").iterdir()) == []

    def test_each_experiment_is_a_group_of_the_stages_that_ran(self, explored: Explored) -> None:
        runs = explored.state["runs"]
        groups: dict[str, set[str]] = {}
        for path, run in runs.items():
            group, stage = path.split("/")[2:]
            groups.setdefault(group, set()).add(stage)
            assert (run["state"], run["exit_code"]) == ("finished", 0)
        inputs = groups.pop("-")  # what nobody had tracked, recorded by `grocery sync`
        assert {name.split("#")[0] for name in inputs} == {"sync"}
        assert groups == {name: stages for name, (stages, _) in (OFFLINE | ONLINE).items()}
        for name, (_, asked) in (OFFLINE | ONLINE).items():
            config = runs[f"team/grocery/{name}/train"]["config"]
            assert asked.items() <= config["train"].items()

    @pytest.mark.parametrize("name", OFFLINE | ONLINE)
    def test_artifacts_are_shared_by_their_hash(self, explored: Explored, name: str) -> None:
        lock, artifacts = explored.lock(name), explored.state["artifacts"]
        outs = {out["path"]: out["md5"] for stage in lock.values() for out in stage["outs"]}
        (dataset,) = artifacts["team/grocery/dataset"]["versions"].values()
        assert f"md5-{outs['data/prepared/shards']}" in dataset["aliases"]
        runs = explored.state["runs"]
        (classifier,) = runs[f"team/grocery/{name}/train"]["logs"]
        kind, version = classifier.split(":")
        assert f"md5-{outs['models/classifier']}" in artifacts[kind]["versions"][version]["aliases"]
        used = runs[f"team/grocery/{name}/evaluate"]["uses"]
        assert {"team/grocery/dataset:v0", classifier} <= set(used)


class TestCommands:
    """The commands of docs/experiments.md."""

    def table(self, project: Project, *options: str) -> list[dict[str, str]]:
        said = project.run(*FEW_COLUMNS, "--csv", *options).stdout
        return list(csv.DictReader(io.StringIO(said)))

    def test_the_table_shows_what_was_varied_and_what_came_of_it(self, explored: Explored) -> None:
        rows = self.table(explored.project, "--hide-failed")
        varied = {"train.n_neighbors", "train.labeled_ratio", "train.label_seed"}
        assert {name for name in rows[0] if "." in name and name.startswith("train")} == varied
        results = {name for name in rows[0] if "." not in name and name.islower()}
        assert results - {"rev", "typ", "parent", "accepted"} == RESULTS

    def test_the_documented_command_leaves_what_differs_in_sight(self, explored: Explored) -> None:
        (command,) = re.findall(r"^\$ (dvc exp show .*)$", README, re.MULTILINE)
        assert command in (ROOT / "docs/experiments.md").read_text()
        wide = {"COLUMNS": "300"}  # what a pager shows, line by line
        shown = explored.project.run(*shlex.split(command), "--hide-failed", "--no-pager", env=wide)
        (header,) = (line for line in shown.stdout.splitlines() if "Experiment" in line)
        first, *results = header.split()
        varied = ["train.label_seed", "train.labeled_ratio", "train.n_neighbors"]
        assert (first, *results[:2]) == ("Experiment", "val_accuracy", "accuracy")
        assert sorted(results[2:]) == varied
        assert header.index(results[3]) + len(results[3]) <= 100

    def test_the_best_comes_first(self, explored: Explored) -> None:
        options = ["--hide-failed", "--sort-by", "val_accuracy", "--sort-order", "desc"]
        rows = self.table(explored.project, *options)
        found = {row["Experiment"]: float(row["val_accuracy"]) for row in rows if row["Experiment"]}
        assert found.keys() == (OFFLINE | ONLINE).keys()
        assert list(found.values()) == sorted(found.values(), reverse=True)
        assert len(set(found.values())) > 1

    def test_the_difference_of_two(self, explored: Explored) -> None:
        diff = ["dvc", "exp", "diff", "--json", "neighbors-1", "few"]
        found = json.loads(explored.project.run(*diff).stdout)
        changes = found["params"]["params.yaml"]
        assert changes["train.n_neighbors"] == {"old": 3, "new": 5, "diff": 2}
        assert changes["train.labeled_ratio"]["new"] == 0.05
        assert changes.keys() == {"train.n_neighbors", "train.labeled_ratio"}
        assert found["metrics"]

    def test_the_plots_of_two(self, explored: Explored) -> None:
        show = ["dvc", "plots", "diff", "--json", "main", "few"]
        plots = json.loads(explored.project.run(*show).stdout)
        assert not plots.get("errors"), plots["errors"]
        revisions = {
            name: {r for p in plot for r in p["revisions"]} for name, plot in plots["data"].items()
        }
        for name in ("Confusion matrix", "Reliability diagram", "Recall of each class"):
            assert revisions[name] == {"main", "few"}

    def test_apply_and_build_again(self, explored: Explored, tmp_path: Path) -> None:
        """What ran beside others gives the same bytes alone."""
        project = explored.project.copy(tmp_path / "project")
        project.run("dvc", "exp", "apply", "few")
        assert project.lock() == explored.lock("few")
        assert "up to date" in project.run("dvc", "status").stdout
        text = (project.path / "params.yaml").read_text()
        assert yaml.safe_load(text)["train"]["labeled_ratio"] == 0.05
        project.commit("The best one")
        project.run("dvc", "repro", "--force", "--single-item", "train", "evaluate")
        assert project.lock() == explored.lock("few")
        assert project.run("git", "status", "--porcelain").stdout == ""


class TestParameterSets:
    """The files in params/, which `dvc exp run` takes as they are."""

    @pytest.mark.parametrize("name", SETS)
    def test_it_is_valid_and_leaves_the_comments(self, name: str, tmp_path: Path) -> None:
        """DVC's own code sets the values; the parameters' own code checks them."""
        params = tmp_path / "params.yaml"
        shutil.copy(ROOT / "params.yaml", params)
        default, before = load(params), params.read_text().splitlines()
        lines = (ROOT / "params" / name).read_text().splitlines()
        assert all(line.startswith("--set-param=") for line in lines)
        for _ in range(2):  # one experiment after another; the first may bend, the second break
            apply_overrides(params, [line.removeprefix("--set-param=") for line in lines])
        assert load(params) != default
        after = params.read_text().splitlines()
        assert len(after) == len(before)
        assert sum(a != b for a, b in zip(after, before, strict=True)) == len(lines)
        # Shells split the file at white space, and some would take these for patterns.
        assert not set("*?[]{}~$'\"\\ ") & set("".join(lines))

    @pytest.mark.parametrize("name", SETS)
    def test_it_is_in_the_docs(self, name: str) -> None:
        for page in ("docs/experiments.md", "README.md"):
            assert f"`{name}`" in (ROOT / page).read_text()

    def test_sets_go_together_and_what_comes_last_wins(self, project: Project) -> None:
        sets = "$(cat params/quick params/few-labels params/full-labels)"
        command = f"dvc exp run evaluate --name all {sets} -S train.n_neighbors=3"
        project.run("bash", "-c", command)
        params = load(project.path / "params.yaml")
        assert (params.train.labeled_ratio, params.train.n_neighbors) == (1.0, 3)
        assert params.featurize.fisher.components == 32
        measured = json.loads((project.path / "metrics/evaluate.json").read_text())
        assert measured["accuracy"] > 0.75

    def test_grocery_store(self, project: Project) -> None:
        """On a few images in its layout."""
        folder = project.path / "data/raw/grocery-store"
        names = ["Class Name (str),Class ID (int),Coarse Class Name (str),Coarse Class ID (int)"]
        names += ["Pear,0,Fruit,0", "Milk,1,Dairy,1"]
        draw = Random(0)
        folder.mkdir()
        (folder / "classes.csv").write_text("\n".join(names) + "\n")
        for split in ("train", "val", "test"):
            lines = [f"{split}/{k}.png, {k % 2}, {k % 2}\n" for k in range(6)]
            (folder / f"{split}.txt").write_text("".join(lines))
            (folder / split).mkdir()
            for k in range(6):
                noise = Image.frombytes("RGB", (64, 64), draw.randbytes(64 * 64 * 3))
                noise.save(folder / split / f"{k}.png")
        project.run("bash", "-c", "dvc exp run version --name store $(cat params/grocery-store)")
        card = json.loads((project.path / "data/card/card.json").read_text())
        assert "Pear" in json.dumps(card)
        assert "store" in project.run("dvc", "exp", "list").stdout
