"""Experiments: DVC's commands, the parameter sets, and several at a time, tracked by W&B."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.hydra import apply_overrides

from conftest import ROOT, Project
from grocery import runner
from grocery.settings import load
from running import SCRATCH, in_one_process, wait_for
from samples import jpeg, picture
from test_dvc_commands import PUT_BACK, Clone
from test_sources import store
from wandb_server import WandbServer

SETS = sorted(path.name for path in (ROOT / "params").iterdir())

README = (ROOT / "README.md").read_text()
# What `dvc exp show` of docs/experiments.md has besides the parameters that differ.
RESULTS = {"val_accuracy", "accuracy", "gain", "macro_f1", "calibration_error"}

# Which stages run in the experiments below, and which values they were asked for.
RAN: dict[str, tuple[set[str], dict[str, Any]]] = {
    "neighbors-1": ({"train", "evaluate"}, {"n_neighbors": 3}),
    "few": ({"train", "evaluate", "register", "monitor"}, {"labeled_ratio": 0.05}),
}


@dataclass
class Explored:
    """A project in which experiments ran two at a time, tracked offline."""

    project: Project
    kept: int  # number of outboxes that they left
    sent: str  # what `grocery sync` said
    state: dict[str, Any]  # what the W&B server holds in the end
    refs: dict[str, str]  # git reference of each experiment

    def lock(self, name: str) -> dict[str, Any]:
        """The dvc.lock of an experiment."""
        text = self.project.run("git", "show", f"{self.refs[name]}:dvc.lock").stdout
        stages: dict[str, Any] = yaml.safe_load(text)["stages"]
        return stages


def references(project: Project, *command: str) -> dict[str, str]:
    """References by name of the experiments that are here, or that a command of git's lists."""
    listed = project.run("git", *(command or ("show-ref",))).stdout.split()
    return {ref.rsplit("/", 1)[-1]: ref for ref in listed if ref.startswith("refs/exps/")}


@pytest.fixture(scope="module")
def explored(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Explored:
    folder = tmp_path_factory.mktemp("explored")
    project = built.copy(folder / "project")
    project.dvc(f"remote add --force --default storage {folder / 'storage'}")
    project.commit("A place for experiments")
    project.run("bash", "-c", "dvc exp run --queue --name few $(cat params/few-labels)")
    project.dvc(
        "exp run --queue evaluate --name neighbors -S train.n_neighbors=3,4",
        "queue remove neighbors-2",
        "exp run --queue --name wrong -S train.labeled_ratio=1.7",
    )
    project.run("dvc", "queue", "start", "--jobs", "2", env={"WANDB_MODE": "offline"})
    wait_for(lambda: references(project).keys() >= RAN.keys(), seconds=300)
    wait_for(lambda: {"Queued", "Running"}.isdisjoint(project.dvc("queue status")[0].split()))
    project.dvc("queue stop --kill")
    kept = len(list((project.path / "wandb/outbox").iterdir()))
    with WandbServer() as server:
        sync = project.run("grocery", "sync", env={"WANDB_MODE": "", **server.environment()})
        assert server.errors == []
        return Explored(project, kept, sync.stdout, server.state(), references(project))


class TestSideBySide:
    """Two experiments at a time, each in a temporary copy that DVC makes."""

    def test_each_ran_with_its_parameters(self, explored: Explored) -> None:
        before = explored.project.lock()
        for name, (stages, asked) in RAN.items():
            lock = explored.lock(name)
            assert asked.items() <= lock["train"]["params"]["params.yaml"]["train"].items()
            assert {stage for stage in lock if lock[stage] != before[stage]} == stages

    def test_one_that_fails_says_why_and_holds_up_no_other(self, explored: Explored) -> None:
        said, status = explored.project.dvc("queue logs wrong", "queue status")
        assert "error: train: params.yaml: train.labeled_ratio is 1.7" in said
        assert "Traceback" not in said
        failed = [line.split()[1] for line in status.splitlines() if line.endswith("Failed")]
        assert failed == ["wrong"]
        assert explored.refs.keys() >= RAN.keys()
        assert explored.refs.keys().isdisjoint({"wrong", "neighbors-2"})

        assert list((explored.project.path / ".dvc/tmp/exps").rglob("tmp*")) == [], "a copy"


class TestTracking:
    """Experiments side by side, sent to a W&B server afterwards."""

    def test_what_was_kept_offline_arrived(self, explored: Explored) -> None:
        assert explored.kept == sum(len(stages) for stages, _ in RAN.values())
        sent, total = explored.sent.split()[0:3:2]
        assert sent == total
        assert list((explored.project.path / "wandb/outbox").iterdir()) == []

    def test_each_experiment_is_a_group_of_the_stages_that_ran(self, explored: Explored) -> None:
        """They share the dataset, and each has its own classifier."""
        runs = explored.state["runs"]
        groups: dict[str, set[str]] = {}
        for path, run in runs.items():
            group, stage = path.split("/")[2:]
            groups.setdefault(group, set()).add(stage)
            assert (run["state"], run["exit_code"]) == ("finished", 0)
        inputs = groups.pop("-")  # what nobody had tracked, recorded by `grocery sync`
        assert {name.split("#")[0] for name in inputs} == {"sync"}
        assert groups == {name: stages for name, (stages, _) in RAN.items()}
        for name, (_, asked) in RAN.items():
            train = runs[f"team/grocery/{name}/train"]
            assert asked.items() <= train["config"]["train"].items()
            (classifier,) = train["logs"]
            used = runs[f"team/grocery/{name}/evaluate"]["uses"]
            assert {"team/grocery/dataset:v0", classifier} <= set(used)
            kind, version = classifier.split(":")
            outs = explored.lock(name)["train"]["outs"]
            (md5,) = [out["md5"] for out in outs if "models" in out["path"]]
            known_as = explored.state["artifacts"][kind]["versions"][version]["aliases"]
            assert f"md5-{md5}" in known_as


class TestCommands:
    """The commands of docs/experiments.md."""

    def test_the_documented_command_leaves_what_differs_in_sight(self, explored: Explored) -> None:
        (command,) = re.findall(r"^\$ (dvc exp show .*)$", README, re.MULTILINE)
        wide = {"COLUMNS": "300"}  # what a pager shows, line by line
        shown = explored.project.run(*shlex.split(command), "--hide-failed", "--no-pager", env=wide)
        (header,) = (line for line in shown.stdout.splitlines() if "Experiment" in line)
        first, *results = header.split()
        assert (first, *results[:2]) == ("Experiment", "val_accuracy", "accuracy")
        assert sorted(results[2:]) == ["train.labeled_ratio", "train.n_neighbors"]
        assert len(header.rstrip()) <= 100

    def test_the_table_and_the_differences(self, explored: Explored) -> None:
        show = "exp show --only-changed --drop .*/ --hide-failed --csv"
        table, difference, drawn = explored.project.dvc(
            f"{show} --sort-by val_accuracy --sort-order desc",
            "exp diff --json neighbors-1 few",
            "plots diff --json main few",
        )
        rows = list(csv.DictReader(io.StringIO(table)))
        varied = {"train.n_neighbors", "train.labeled_ratio"}
        assert {name for name in rows[0] if name.startswith("train.")} == varied
        results = {name for name in rows[0] if "." not in name and name.islower()}
        assert results - {"rev", "typ", "parent", "accepted"} == RESULTS
        # The best comes first.
        found = {row["Experiment"]: float(row["val_accuracy"]) for row in rows if row["Experiment"]}
        assert found.keys() == RAN.keys()
        assert list(found.values()) == sorted(found.values(), reverse=True)
        assert len(set(found.values())) > 1

        changes = json.loads(difference)["params"]["params.yaml"]
        assert changes["train.n_neighbors"] == {"old": 3, "new": 5, "diff": 2}
        assert changes["train.labeled_ratio"]["new"] == 0.05
        assert changes.keys() == varied
        assert json.loads(difference)["metrics"]

        plots = json.loads(drawn)
        assert not plots.get("errors"), plots["errors"]
        assert {"How far labels still move", "Drift of incoming batches"} <= plots["data"].keys()
        for name in ("Confusion matrix", "Reliability diagram", "Recall of each class"):
            assert {r for p in plots["data"][name] for r in p["revisions"]} == {"main", "few"}

    def test_applied_shared_and_made_a_branch(self, explored: Explored, tmp_path: Path) -> None:
        lab = Clone(explored.project.copy(tmp_path / "project").path)
        lab.run("git", "init", "--quiet", "--bare", str(tmp_path / "origin"))
        lab.run("git", "remote", "add", "origin", str(tmp_path / "origin"))
        lab.clean("exp apply few")
        assert lab.lock() == explored.lock("few")
        assert {"dvc.lock", "params.yaml"} <= lab.changed("HEAD")
        lab.run("bash", "-c", PUT_BACK)
        assert lab.changed("HEAD") == set()

        lab.clean("exp push origin few", "exp remove few")
        assert references(lab, "ls-remote", "origin").keys() == {"few"}
        assert "few" not in references(lab)
        lab.dvc("exp pull origin few", "exp branch few kept")
        assert "few" in references(lab)
        lab.run("git", "switch", "--quiet", "kept")
        lab.clean("checkout", "exp remove --git-remote origin few")
        assert references(lab, "ls-remote", "origin") == {}
        assert lab.lock() == explored.lock("few")
        # What ran beside others gives the same bytes alone.
        lab.run(*in_one_process("train", "evaluate"), env=SCRATCH)
        assert lab.found() == lab.hashes()


def with_sets(params: Path, *names: str) -> list[str]:
    """Change the parameters as `dvc exp run` does; the settings of all sets."""
    lines = [line for name in names for line in (ROOT / "params" / name).read_text().splitlines()]
    assert all(line.startswith("--set-param=") for line in lines)
    apply_overrides(params, [line.removeprefix("--set-param=") for line in lines])
    return lines


def settings(file: Path) -> dict[str, Any]:
    """Every value, by its name with dots."""

    def flat(found: dict[str, Any], prefix: str) -> dict[str, Any]:
        inside = [
            flat(value, f"{prefix}{name}.")
            if isinstance(value, dict)
            else {f"{prefix}{name}": value}
            for name, value in found.items()
        ]
        return {name: value for each in inside for name, value in each.items()}

    return flat(yaml.safe_load(file.read_text()), "")


def comments(file: Path) -> list[str]:
    return [line for line in map(str.strip, file.read_text().splitlines()) if line[:1] == "#"]


class TestParameterSets:
    """The files in params/, which `dvc exp run` takes as they are."""

    @pytest.mark.parametrize("name", SETS)
    def test_it_is_valid_documented_and_leaves_the_comments(
        self, name: str, tmp_path: Path
    ) -> None:
        """DVC's own code sets the values; the parameters' own code checks them."""
        params = tmp_path / "params.yaml"
        shutil.copy(ROOT / "params.yaml", params)
        default, before, said = load(params), settings(params), comments(params)
        for _ in range(2):  # one experiment after another; the first may bend, the second break
            lines = with_sets(params, name)
        assert load(params) != default
        assert comments(params) == said
        changed = {name for name, value in settings(params).items() if value != before[name]}
        assert changed == {line.removeprefix("--set-param=").partition("=")[0] for line in lines}
        # Shells split the file at white space, and take these for patterns; of those in brackets,
        # which DVC's lists need, no file has the name.
        assert not set("*?{}~$'\"\\ ") & set("".join(lines))
        for page in ("docs/experiments.md", "README.md"):
            assert f"`{name}`" in (ROOT / page).read_text()

    def test_sets_go_together_and_what_comes_last_wins(self, tmp_path: Path) -> None:
        file = tmp_path / "params.yaml"
        shutil.copy(ROOT / "params.yaml", file)
        with_sets(file, "quick", "few-labels", "full-labels")
        params = load(file)
        assert params.train.labeled_ratio == 1.0
        assert params.featurize.fisher.components == 32

    def test_grocery_store(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        """On a few images in its layout."""
        folder = store(project.path / "data/raw/grocery-store")
        for number, file in enumerate(folder.rglob("*.jpg")):
            file.write_bytes(jpeg(picture(number)))
        monkeypatch.chdir(project.path)
        monkeypatch.setenv("WANDB_MODE", "disabled")
        with_sets(Path("params.yaml"), "grocery-store")
        for stage in ("source", "prepare", "version"):
            runner.run(stage, load())
        assert "Oat-Milk" in Path("data/card/card.json").read_text()
