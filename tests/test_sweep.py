"""`grocery sweep`: real searches of DVC experiments, stopped, failed, killed and resumed."""

import os
import re
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from optuna.samplers import RandomSampler

from conftest import ROOT, Project, environment, refusal
from grocery.core.errors import DataError, ParamsError
from grocery.core.stage import Stopped
from grocery.experiment.process import Experiment
from grocery.experiment.results import in_workspace, recorded
from grocery.experiment.steering import ADDRESS, TRIAL, Steering, listening
from grocery.journal import held
from grocery.registry.git import Git
from grocery.registry.revisions import experiments
from grocery.runner import Speaker
from grocery.sweep.hyperband import Hyperband
from grocery.sweep.report import page, rows, sentences
from grocery.sweep.search import Search, Space, read_search
from grocery.sweep.study import Study, Trial
from grocery.tracking.outbox import all_outboxes
from grocery.tracking.run import StageRun
from laboratory import make_laboratory
from registry_project import git, grocery
from running import processes, wait_for

DEFAULT = yaml.safe_load((ROOT / "sweep.yaml").read_text())


def sweep_file(folder: Path, **changes: Any) -> Path:
    """The project's sweep.yaml with some of its entries replaced."""
    file = folder / "search.yaml"
    file.write_text(yaml.safe_dump(DEFAULT | changes))
    return file


def names(project: Project) -> set[str]:
    """Names of the recorded experiments."""
    return {each.name for each in experiments(Git(project.path))}


def trials_of(project: Project, name: str) -> list[Trial]:
    search = read_search(project.path / "search.yaml", project.path)
    return Study(project.path / "sweeps" / name / "journal.log", search, 0).trials()


@dataclass
class Swept:
    """A project after a sweep, and what the sweep said."""

    project: Project
    done: subprocess.CompletedProcess[str]
    trials: list[Trial]


@pytest.fixture(scope="module")
def swept(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    project = built.copy(tmp_path_factory.mktemp("swept") / "project")
    space = {
        "train.labeled_ratio": {"values": [1.0, 0.05, 0.001]},
        "train.label_draw": {"value": "random"},  # so that the last one knows one label
        "train.tol": {"value": 0.0},  # so that there are steps to stop at
        "train.max_iter": {"value": 9},
    }
    stop = {"type": "hyperband", "min_iter": 3, "eta": 3}
    sweep_file(project.path, name="grid", method="grid", parameters=space, early_terminate=stop)
    arguments = ["grocery", "sweep", "search.yaml", "--count", "9", "--jobs", "1"]
    done = project.run(*arguments, check=False, env={"WANDB_MODE": "offline"})
    return Swept(project, done, trials_of(project, "grid"))


class TestWholeSweep:
    def test_one_trial_is_good_one_is_stopped_and_one_fails(self, swept: Swept) -> None:
        """The failure is told with the stage's own sentence; what finished is an experiment."""
        states = {trial.assignments["train.labeled_ratio"]: trial.state for trial in swept.trials}
        assert states == {1.0: "finished", 0.05: "stopped", 0.001: "failed"}
        finished, stopped, failed = swept.trials
        assert names(swept.project) == {finished.name}
        assert len(stopped.steps) == 3 < len(finished.steps)
        assert stopped.summary == {}
        assert "1 stopped, 1 failed" in swept.done.stdout
        assert swept.done.returncode == 3
        assert swept.done.stderr == (
            f"{failed.name} failed: train: the labelled training images have one class "
            "only; a classifier needs at least two\n"
        )
        # Its runs are a group, and its page stands alone.
        about = [box.run() for box in all_outboxes(swept.project.path / "wandb")]
        trained = [(run["group"], run["name"]) for run in about if run["stage"] == "train"]
        assert sorted(trained) == [("grid", f"train {trial.name}") for trial in swept.trials]
        text = (swept.project.path / "sweeps/grid/index.html").read_text()
        assert not re.search(r"<(script|link|img|iframe)|(href|src)=", text)
        assert text.count("<circle") == 2 * (1 + 4)  # the search, and each parameter
        assert all(trial.name in text for trial in swept.trials)

    def test_the_command_that_is_told_applies_the_best(self, swept: Swept) -> None:
        project, (name,) = swept.project, names(swept.project)
        assert f"apply it with: dvc exp apply {name}\n" in swept.done.stdout
        project.dvc(f"exp apply {name}")
        params = yaml.safe_load((project.path / "params.yaml").read_text())
        assert params["train"]["labeled_ratio"] == 1.0
        assert in_workspace(project.path) == swept.trials[0].summary
        assert project.stale() == {"register"}, "a trial ends with evaluate"

    def test_an_experiment_of_another_sweep_is_none_of_its_trials(self, swept: Swept) -> None:
        project, folder = swept.project, swept.project.path / "sweeps"
        folder.rename(folder.with_name("kept"))
        name, done = swept.trials[0].name, grocery(project, "sweep", "search.yaml")
        assert done.sentence == (
            f"error: sweep: {name} is an experiment of an earlier sweep; give another --name, or "
            f"remove it with: dvc exp remove {name}"
        )
        assert not folder.exists()
        folder.with_name("kept").rename(folder)
        with pytest.raises(DataError, match=f"experiment is called {name}, with other parameters"):
            recorded(project.path, name, {"train.alpha": 0.5})  # it came in between

    def test_it_is_not_begun_twice(self, swept: Swept) -> None:
        journal = swept.project.path / "sweeps/grid/journal.log"
        before = journal.read_bytes()

        def refusal(*options: str) -> str:
            return grocery(swept.project, "sweep", "search.yaml", *options).sentence

        begun = "error: sweep: the sweep grid was begun"
        assert refusal() == f"{begun} before; go on with --resume, or give another --name"
        other = f"{begun} with another file or seed; give another --name"
        assert refusal("--resume", "--seed=1") == other
        none = "error: sweep: there is no sweep gird to go on with; begin it without --resume"
        assert refusal("--resume", "--name=gird") == none
        with held(swept.project.path / ".dvc/tmp/sweep-grid.lock"):
            assert "another command is at work on the sweep grid" in refusal("--resume")
        assert journal.read_bytes() == before


# Waits until somebody writes into the pipe; then the metric is what the parameter says.
TRAIN = """
import json, os, yaml
if "PIPE" in os.environ:
    open(os.environ["PIPE"]).read()
with open("params.yaml") as params, open("metrics/train.json", "w") as metrics:
    json.dump({"val_accuracy": yaml.safe_load(params)["train"]["alpha"]}, metrics)
"""


def test_an_interrupted_sweep_goes_on_and_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    project = make_laboratory(tmp_path / "project", TRAIN)
    space = {"train.alpha": {"values": [0.5, 0.7, 0.9]}}
    sweep_file(project.path, name="resumed", method="random", parameters=space)
    os.mkfifo(pipe := tmp_path / "pipe")
    options = ["--count", "1", "--seed", "5"]

    def trains() -> bool:
        return any(line.startswith("python train.py") for line in processes(project.path))

    for number, message in (
        (signal.SIGINT, "what has been found is noted; go on with --resume\n"),
        (signal.SIGKILL, ""),
    ):
        command, env = ["grocery", "sweep", "search.yaml", *options], environment(PIPE=str(pipe))
        how: dict[str, Any] = {"cwd": project.path, "env": env, "text": True}
        process = subprocess.Popen(command, stderr=subprocess.PIPE, **how)
        wait_for(trains)
        process.send_signal(number)
        _, error = process.communicate(timeout=90)
        assert process.returncode == (130 if number == signal.SIGINT else -number)
        assert error.startswith(message)
        assert "Traceback" not in error
        wait_for(lambda: not processes(project.path))
        assert project.run("git", "diff").stdout == project.run("git", "stash", "list").stdout == ""
        (trial,) = trials_of(project, "resumed")
        assert trial.state == "running"
        options = ["--count", "1", "--seed", "5", "--resume"]

    # It is begun again, and another one beside it; then all is done, and nothing runs.
    options[1] = "2"
    done = project.run("grocery", "sweep", "search.yaml", *options)
    assert done.stderr == ""
    trials = trials_of(project, "resumed")
    assert [trial.state for trial in trials] == ["finished"] * 2
    found = [trial.summary["val_accuracy"] for trial in trials]
    assert found == [trial.assignments["train.alpha"] for trial in trials]
    assert trials[0].assignments == trial.assignments
    assert names(project) == {trial.name for trial in trials}
    again = grocery(Project(project.path / "metrics"), "sweep", "../search.yaml", *options)
    assert again.out.endswith("plots: ../sweeps/resumed/index.html\n")
    assert trials_of(project, "resumed") == trials
    assert again.out.splitlines()[:3] == done.stdout.splitlines()[:3]


def test_one_that_begins_when_another_ends_is_left_alone(tmp_path: Path) -> None:
    """It waits in DVC's stash, as somebody's `dvc exp run --temp` beside the sweep does."""
    project = make_laboratory(tmp_path / "project", TRAIN)
    (project.path / "params.yaml").write_text("train: {alpha: 0.1}\n")
    head, begins = git(project, "rev-parse", "HEAD"), git(project, "stash", "create")
    waits = ["--create-reflog", "-m", f"commit: dvc-exp:{head}:{head}:other", "refs/exps/stash"]
    project.run("git", "update-ref", *waits, begins)
    project.run("git", "checkout", "params.yaml")
    assert Experiment(project.path, "mine", {"train.alpha": 0.7}).wait() == 0
    assert names(project) == {"mine"}
    assert git(project, "for-each-ref", "--format=%(objectname)", "refs/exps/stash") == begins
    assert not git(project, "for-each-ref", "refs/exps/temp")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the project's parameters and nothing else."""
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    return tmp_path


def with_space(name: str, **space: Any) -> dict[str, Any]:
    return {"parameters": {name: space}}


BAD: dict[str, dict[str, Any]] = {
    "method is 'magic', but it should be 'bayes', ": {"method": "magic"},
    "metric.name is 'nothing', which no stage writes; there are ": {"metric": {"name": "nothing"}},
    "train.n_neighbours is no parameter that": with_space("train.n_neighbours", values=[3]),
    "train.alpha may be 1.5, but it should": with_space("train.alpha", min=0.5, max=1.5),
    "train.alpha.mu is not a known key (known are ": with_space("train.alpha", mu=0.5, sigma=0.1),
    "min_iter": {"early_terminate": {"type": "hyperband"}},
}


def test_a_wrong_file_is_said_before_the_first_trial(place: Path) -> None:
    """In one sentence; docs/sweeps.md shows such sentences."""
    said = set()
    for sentence, changes in BAD.items():
        file = sweep_file(place, **changes)
        told = refusal(ParamsError, read_search, file, place)
        assert told.startswith(f"{file}: ")
        assert sentence in told
        said.add(told.replace(str(file), "my.yaml"))
    docs = (ROOT / "docs/sweeps.md").read_text()
    assert set() < set(re.findall(r"^error: sweep: (.*)", docs, re.MULTILINE)) <= said


def test_a_name_that_leads_elsewhere_is_refused(built: Project) -> None:
    done = grocery(built, "sweep", "sweep.yaml", "--name", "../up")
    assert "a sweep cannot be called '../up'; use letters, digits, dashes" in done.sentence
    assert not (built.path / "sweeps").exists()


@pytest.fixture
def search(place: Path) -> Search:
    return read_search(sweep_file(place), place)


def objective(assignments: Mapping[str, Any]) -> float:
    """A hill over two of the parameters."""
    alpha, neighbors = assignments["train.alpha"], assignments["train.n_neighbors"]
    return float(1 - (alpha - 0.8) ** 2 - (neighbors / 30 - 0.5) ** 2)


def drawn(study: Study) -> Trial:
    found = study.draw()
    assert found is not None
    return found


def explore(study: Study, count: int) -> list[dict[str, Any]]:
    """A sweep over the hill, one trial after the other."""
    study.begin()
    found = []
    for _ in range(count):
        each = drawn(study)
        found.append(each.assignments)
        each.state, each.summary = "finished", {"val_accuracy": objective(each.assignments)}
        study.end(each)
    return found


def test_what_is_drawn_is_allowed_and_the_search_learns(search: Search, tmp_path: Path) -> None:
    """After some trials it asks where the hill is high, which chance does not."""
    space, found = DEFAULT["parameters"], explore(Study(tmp_path / "study", search, 1), 30)
    for assignments in found:
        assert set(assignments) == set(space)
        for name, value in assignments.items():
            listed = space[name].get("values")
            assert value in listed if listed else space[name]["min"] <= value <= space[name]["max"]
        assert type(assignments["train.n_neighbors"]) is int
    assert sum(map(objective, found[20:])) > sum(map(objective, found[:10]))


def test_the_next_trial_is_the_same_for_the_same_journal(search: Search, tmp_path: Path) -> None:
    """Also with trials that run, were stopped or failed, and whoever has asked before."""
    study = Study(tmp_path / "study", search, 7)
    explore(study, 10)
    for state in ("stopped", "failed"):
        study.end(replace(drawn(study), state=state, steps=[0.5, 0.6], reason="none"))
    drawn(study)
    journal = (tmp_path / "study").read_bytes()

    def draws(name: str, seed: int) -> list[Any]:
        (tmp_path / name).write_bytes(journal)
        return [Study(tmp_path / name, search, seed).draw() for _ in range(2)]

    first, second = draws("one", 7)
    assert [study.draw(), study.draw()] == [first, second] == draws("two", 7)
    assert first.assignments != second.assignments
    assert first not in draws("three", 100)


def test_another_seed_draws_nothing_of_the_first(search: Search, tmp_path: Path) -> None:
    one, two = (explore(Study(tmp_path / str(seed), search, seed), 10) for seed in (0, 1))
    assert not [each for each in one if each in two]


def test_the_search_counts_models_and_not_steps(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph may do well where the model does not, so a step is worth the middle at most."""
    given: list[Any] = []

    class Asked(RandomSampler):
        def before_trial(self, study: Any, trial: Any) -> None:
            given[:] = [each.value for each in study.trials[:-1]]

    monkeypatch.setattr("grocery.sweep.study.TPESampler", Asked)
    study = Study(tmp_path / "study", search, 0)
    study.begin()
    finished: list[tuple[Any, float]] = [("finished", value) for value in (0.25, 0.5, 0.75)]
    for state, value in [("stopped", 0.95), *finished, ("stopped", 0.4), ("failed", 0.9)]:
        each = replace(drawn(study), state=state, steps=[0.8, value])
        study.end(replace(each, summary={"val_accuracy": value}))
    study.draw()
    assert given == [0.5, 0.25, 0.5, 0.75, 0.4, None]


@pytest.mark.parametrize(
    ("keys", "values"),
    [
        ({"min": 1.0, "max": 3}, [1.2, 2.0, 2.8]),
        ({"distribution": "log_uniform", "min": -1, "max": 1}, [0.449329, 1.0, 2.225541]),
        ({"distribution": "inv_log_uniform", "min": 0, "max": 2}, [0.165299, 0.367879, 0.818731]),
        ({"distribution": "log_uniform_values", "min": 0.1, "max": 10}, [0.158489, 1.0, 6.309573]),
        ({"distribution": "inv_log_uniform_values", "min": 1, "max": 4}, [1.148698, 2.0, 3.482202]),
        ({"distribution": "q_uniform", "min": 0, "max": 20, "q": 5}, [0, 10, 20]),
        ({"distribution": "q_log_uniform_values", "min": 1, "max": 100, "q": 0.5}, [1.5, 10, 63]),
    ],
)
def test_values_are_distributed_as_with_wandb(keys: dict[str, Any], values: list[float]) -> None:
    """The quantiles at 0.1, 0.5 and 0.9 are those of its engine."""
    found = [Space(**keys).value_of(share) for share in (0.1, 0.5, 0.9)]
    assert {type(each) for each in found} == {int if keys.get("q") == 5 else float}
    assert found == pytest.approx(values, abs=1e-6)


def test_a_grid_is_walked_in_order_and_ends(place: Path) -> None:
    parameters = {
        "train.n_neighbors": {"min": 3, "max": 4},
        "train.alpha": {"values": [0.5, 0.7, 0.5]},  # each once
        "train.tol": {"value": 0.0},  # not left out for being nothing
    }
    search = read_search(sweep_file(place, method="grid", parameters=parameters), place)
    study = Study(place / "study", search, 0)
    study.begin()
    names, found = sorted(parameters), [each.assignments for each in iter(study.draw, None)]
    values = [[each[name] for name in names] for each in found]
    assert values == [[0.5, 3, 0.0], [0.5, 4, 0.0], [0.7, 3, 0.0], [0.7, 4, 0.0]]


HYPERBANDS: list[dict[str, Any]] = [
    {"min_iter": 3},
    {"min_iter": 1, "eta": 2, "strict": False},
    {"min_iter": 2, "eta": 1.5},
    {"max_iter": 27, "s": 2},
    {"max_iter": 20, "s": 4, "eta": 2.5, "strict": True},
    {"max_iter": 9, "s": 3, "eta": 3, "strict": False},
]


def test_the_poor_are_stopped_as_wandb_stops_them() -> None:
    """Of 1,500 trials the very ones that W&B's local engine, sweeps 0.3.0, has stopped."""
    draw, stopped = Random(20).random, []
    for number in range(1500):
        rule = Hyperband(type="hyperband", **HYPERBANDS[number % len(HYPERBANDS)])
        trials = range(1 + int(draw() * 8))
        costs = [[int(draw() * 20) for _ in range(int(draw() * 30))] for _ in trials]
        stopped += [number] * rule.stops(costs[0], costs)
    assert len(stopped) == 286
    assert sha256(repr(stopped).encode()).hexdigest().startswith("aeb094ddf19d642509e6340bda989540")


def trial(number: int, state: Any = "finished", value: float | None = None, **more: Any) -> Trial:
    summary = {} if value is None else {"val_accuracy": value, "test_accuracy": value - 0.01}
    assignments = dict.fromkeys(DEFAULT["parameters"], number / 10)
    return Trial(number, f"t-{number:03d}", assignments, state, summary=summary, **more)


def test_a_study_outlives_a_line_that_was_cut_off(search: Search, tmp_path: Path) -> None:
    file = tmp_path / "new/journal.log"
    study = Study(file, search, 1)
    explore(study, 2)
    known, whole = study.trials(), file.read_bytes()
    for end in range(len(whole) - 500, len(whole), 60):
        file.write_bytes(whole[:end])
        study.begin(resume=True)
        (second,) = study.trials()[1:] or [drawn(study)]  # it runs, or is chosen again
        assert second == replace(known[1], state="running", summary={})
        study.end(known[1])
        assert study.trials() == known


@pytest.mark.parametrize("text", ["{}\n", "[1]\n", "none\n", '{"op_code": 1}\n'])
def test_what_is_no_journal_is_said(text: str, search: Search, tmp_path: Path) -> None:
    file = tmp_path / "journal.log"
    file.write_text(text)
    with pytest.raises(DataError, match=re.escape(str(file))):
        Study(file, search, 0).begin(resume=True)


def test_the_table_begins_with_the_best_and_ends_with_what_failed(search: Search) -> None:
    trials = [
        trial(1, "failed", reason="no images"),
        trial(2, value=0.5, seconds=10.0),
        trial(3, "stopped", steps=[0.9, 0.3], seconds=4.0),
        trial(4, value=0.8, seconds=20.0),
        trial(5, value=0.8, seconds=12.0),
    ]
    table = rows(trials, search)
    assert table[0][:6] == ["trial", "state", "val_accuracy", "test accuracy", "steps", "s"]
    assert [row[0] for row in table[1:]] == ["t-004", "t-005", "t-002", "t-003", "t-001"]
    assert [row[2] for row in table[1:]] == ["0.8000", "0.8000", "0.5000", "0.9000", "-"]
    workspace = {"val_accuracy": 0.7, "test_accuracy": 0.65}
    assert sentences(trials, search, 30.0, workspace) == [
        "5 trials of 46 s, 1 stopped, 1 failed; this command took 30 s",
        "best: t-004, val_accuracy 0.8000 (workspace: 0.7000), "
        "test accuracy 0.7900 (workspace: 0.6500)",
        "apply it with: dvc exp apply t-004",
    ]
    assert sentences(trials, search, 30.0, {"val_accuracy": 0.8})[-2:] == [
        "best: t-004, val_accuracy 0.8000 (workspace: 0.8000), test accuracy 0.7900",
        "no trial beats the workspace, so there is nothing to apply",
    ]

    nothing = [trial(1, "failed", reason="<b>no & images")]
    account = sentences(nothing, search, 1.0, {})
    assert account[-1] == "no trial has finished, so there is no best one"
    assert "<b>" not in page(nothing, search, account).split("<body>")[1]


def test_each_step_is_heard_and_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[str, dict[str, float]]] = []

    def on_step(name: str, values: dict[str, float]) -> bool:
        heard.append((name, values))
        return values["val_accuracy"] > 0.5

    monkeypatch.setenv(TRIAL, "t-001")
    with listening(on_step) as address:
        monkeypatch.setenv(ADDRESS, address)
        stage = Speaker("train", StageRun(None), Steering())
        stage.step({"val_accuracy": 0.25})
        with pytest.raises(Stopped, match="stopped early by the sweep"):
            stage.step({"val_accuracy": 0.75})
    assert heard == [("t-001", {"val_accuracy": 0.25}), ("t-001", {"val_accuracy": 0.75})]
    assert not os.path.exists(address)
    for _ in range(2):  # the first finds out that nobody listens, and the second does not ask
        stage.step({"val_accuracy": 0.75})
