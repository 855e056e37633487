"""Experiments: DVC's commands, the parameter sets, and several at a time, tracked by W&B."""

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.flatten import flatten
from dvc.utils.hydra import apply_overrides

from conftest import ROOT, Project
from grocery.settings import load
from grocery.tracking.outbox import all_outboxes
from running import SCRATCH, in_one_process, wait_for
from test_dvc_commands import PUT_BACK, Clone

SETS = sorted(path.name for path in (ROOT / "params").iterdir())

README = (ROOT / "README.md").read_text()
# Which stages run in the experiments below, and which values they were asked for.
RAN: dict[str, tuple[set[str], dict[str, Any]]] = {
    "neighbors-1": ({"train", "evaluate"}, {"n_neighbors": 3}),
    "few": ({"train", "evaluate", "register", "monitor"}, {"labeled_ratio": 0.05}),
}


def references(project: Project, *command: str) -> dict[str, str]:
    """References by name of the experiments that are here, or that a command of git's lists."""
    listed = project.run("git", *(command or ("show-ref",))).stdout.split()
    return {ref.rsplit("/", 1)[-1]: ref for ref in listed if ref.startswith("refs/exps/")}


def lock_of(project: Project, name: str) -> dict[str, Any]:
    """The dvc.lock of an experiment."""
    text = project.run("git", "show", f"{references(project)[name]}:dvc.lock").stdout
    return dict(yaml.safe_load(text)["stages"])


@pytest.fixture(scope="module")
def explored(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project in which experiments ran two at a time, tracked offline."""
    folder = tmp_path_factory.mktemp("explored")
    project = built.copy(folder / "project")
    project.dvc(f"remote modify --local storage url {folder}/storage")  # as the docs say
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
    return project


def test_each_ran_and_one_that_fails_holds_up_no_other(explored: Project) -> None:
    """Two at a time, each in a temporary copy that DVC makes, and each a group in W&B."""
    before = explored.lock()
    for name, (stages, asked) in RAN.items():
        lock = lock_of(explored, name)
        assert asked.items() <= lock["train"]["params"]["params.yaml"]["train"].items()
        assert {stage for stage in lock if lock[stage] != before[stage]} == stages
    assert references(explored).keys() & {*RAN, "wrong", "neighbors-2"} == RAN.keys()
    said, status = explored.dvc("queue logs wrong", "queue status")
    assert "error: train: params.yaml: train.labeled_ratio is 1.7" in said
    assert "Traceback" not in said
    failed = [line.split()[1] for line in status.splitlines() if line.endswith("Failed")]
    assert failed == ["wrong"]
    assert list((explored.path / ".dvc/tmp/exps").rglob("tmp*")) == [], "a copy"

    groups: dict[str, list[str]] = {}
    for box in all_outboxes(explored.path / "wandb"):
        groups.setdefault(box.run()["group"], []).append(box.run()["stage"])
    assert {name: sorted(stages) for name, stages in groups.items()} == {
        name: sorted(stages) for name, (stages, _) in RAN.items()
    }


class TestCommands:
    """The commands of docs/experiments.md."""

    def test_the_documented_command_leaves_what_differs_in_sight(self, explored: Project) -> None:
        (command,) = re.findall(r"^\$ (dvc exp show .*)$", README, re.MULTILINE)
        wide = {"COLUMNS": "300"}  # what a pager shows, line by line
        shown = explored.run(*shlex.split(command), "--hide-failed", "--no-pager", env=wide)
        (header,) = (line for line in shown.stdout.splitlines() if "Experiment" in line)
        first, *results = header.split()
        assert (first, *results[:2]) == ("Experiment", "val_accuracy", "accuracy")
        assert sorted(results[2:]) == ["train.labeled_ratio", "train.n_neighbors"]
        assert len(header.rstrip()) <= 100

    def test_the_differences(self, explored: Project) -> None:
        difference, drawn = explored.dvc(
            "exp diff --json neighbors-1 few", "plots diff --json main few"
        )
        changes = json.loads(difference)["params"]["params.yaml"]
        assert changes.keys() == {"train.n_neighbors", "train.labeled_ratio"}
        assert changes["train.n_neighbors"] == {"old": 3, "new": 5, "diff": 2}
        assert changes["train.labeled_ratio"]["new"] == 0.05
        assert json.loads(difference)["metrics"]

        plots = json.loads(drawn)
        assert not plots.get("errors"), plots["errors"]
        assert {"How far labels still move", "Drift of incoming batches"} <= plots["data"].keys()
        for name in ("Confusion matrix", "Reliability diagram", "Recall of each class"):
            assert {r for p in plots["data"][name] for r in p["revisions"]} == {"main", "few"}

    def test_applied_shared_and_made_a_branch(self, explored: Project, tmp_path: Path) -> None:
        lab = Clone(explored.copy(tmp_path / "project").path)
        lab.run("git", "init", "--quiet", "--bare", str(tmp_path / "origin"))
        lab.run("git", "remote", "add", "origin", str(tmp_path / "origin"))
        lab.clean("exp apply few")
        assert lab.lock() == lock_of(explored, "few")
        assert {"dvc.lock", "params.yaml"} <= lab.changed("HEAD")
        lab.run("bash", "-c", PUT_BACK)
        assert lab.changed("HEAD") == set()
        lab.clean("exp push origin few", "exp remove few")
        assert references(lab, "ls-remote", "origin").keys() == {"few"}
        assert "few" not in references(lab)
        lab.dvc("exp pull origin few", "exp branch few kept")
        lab.run("git", "switch", "--quiet", "kept")
        lab.clean("checkout", "exp remove --git-remote origin few")
        assert references(lab, "ls-remote", "origin") == {}
        # What ran beside others gives the same bytes alone.
        assert lab.lock() == lock_of(explored, "few")
        lab.run(*in_one_process("train", "evaluate"), env=SCRATCH)
        assert lab.found() == lab.hashes()


def with_sets(params: Path, *names: str) -> list[str]:
    """Change the parameters as `dvc exp run` does; the settings of all sets."""
    lines = [line for name in names for line in (ROOT / "params" / name).read_text().splitlines()]
    assert all(line.startswith("--set-param=") for line in lines)
    apply_overrides(params, [line.removeprefix("--set-param=") for line in lines])
    return lines


def values(file: Path) -> dict[str, Any]:
    """Every value, by its name with dots."""
    return dict(flatten(yaml.safe_load(file.read_text())))


def comments(file: Path) -> list[str]:
    return [line for line in map(str.strip, file.read_text().splitlines()) if line[:1] == "#"]


class TestParameterSets:
    """The files in params/, which `dvc exp run` takes as they are."""

    @pytest.fixture
    def params(self, tmp_path: Path) -> Path:
        return Path(shutil.copy(ROOT / "params.yaml", tmp_path))

    @pytest.mark.parametrize("name", SETS)
    def test_it_is_valid_documented_and_leaves_the_comments(self, name: str, params: Path) -> None:
        """DVC's own code sets the values; the parameters' own code checks them."""
        default, before, said = load(params), values(params), comments(params)
        for _ in range(2):  # one experiment after another; the first may bend, the second break
            lines = with_sets(params, name)
        assert load(params) != default
        assert comments(params) == said
        changed = {name for name, value in values(params).items() if value != before[name]}
        assert changed == {line.removeprefix("--set-param=").partition("=")[0] for line in lines}
        # Shells split the file at white space, and take these for patterns; of those in brackets,
        # which DVC's lists need, no file has the name.
        assert not set("*?{}~$'\"\\ ") & set("".join(lines))
        for page in ("docs/experiments.md", "README.md"):
            assert f"`{name}`" in (ROOT / page).read_text()

    def test_sets_go_together_and_what_comes_last_wins(self, params: Path) -> None:
        with_sets(params, "quick", "few-labels", "full-labels")
        assert load(params).train.labeled_ratio == 1.0
        assert load(params).featurize.fisher.components == 32
