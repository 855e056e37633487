"""`grocery sweep`: real searches of DVC experiments, stopped, failed, killed and resumed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import ROOT, Project, environment
from grocery.core.errors import DataError, ParamsError
from grocery.sweep.journal import Journal, Trial
from grocery.sweep.report import page, rows, sentences
from grocery.sweep.run import Sweep, best, saved_seconds
from grocery.sweep.search import Search, read_search
from grocery.sweep.steering import ADDRESS, TRIAL, Steering, Stopped, listening
from grocery.tracking.outbox import all_outboxes
from running import processes, wait_for

DEFAULT = yaml.safe_load((ROOT / "sweep.yaml").read_text())


def sweep_file(folder: Path, **changes: Any) -> Path:
    """The project's sweep.yaml with some of its entries replaced; None removes one."""
    document = {key: value for key, value in (DEFAULT | changes).items() if value is not None}
    file = folder / "search.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


def experiments(project: Project) -> set[str]:
    """Names of the recorded experiments."""
    refs = project.run("git", "for-each-ref", "refs/exps", "--format=%(refname)").stdout.split()
    return {ref.rsplit("/", 1)[1] for ref in refs if "/exps/exec/" not in ref}


def journal_of(project: Project, name: str) -> list[Trial]:
    return Journal(project.path / "sweeps" / name / "trials.jsonl").read()[1]


# -- A whole sweep: one trial that is good, one that is stopped, two that cannot run. ------------


@dataclass
class Swept:
    """A project after a sweep, and what the sweep said."""

    project: Project
    out: str
    err: str
    trials: list[Trial]


@pytest.fixture(scope="module")
def swept(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    project = built.copy(tmp_path_factory.mktemp("swept") / "project")
    file = sweep_file(
        project.path,
        name="grid",
        method="grid",
        parameters={
            "train.labeled_ratio": {"values": [1.0, 0.05]},
            "data.source": {"values": ["synthetic", "folder"]},  # there is no such folder
            "train.tol": {"value": 0.0},  # so that there are steps to stop at
        },
        early_terminate={"type": "hyperband", "min_iter": 3, "eta": 3},
    )
    arguments = ["grocery", "sweep", file.name, "--count", "9", "--jobs", "1"]
    done = project.run(*arguments, env={"WANDB_MODE": "offline"})
    return Swept(project, done.stdout, done.stderr, journal_of(project, "grid"))


class TestWholeSweep:
    def states(self, swept: Swept) -> dict[tuple[float, str], Trial]:
        return {
            (t.assignments["train.labeled_ratio"], t.assignments["data.source"]): t
            for t in swept.trials
        }

    def test_a_grid_comes_to_its_end(self, swept: Swept) -> None:
        assert {key: trial.state for key, trial in self.states(swept).items()} == {
            (1.0, "synthetic"): "finished",
            (1.0, "folder"): "failed",
            (0.05, "synthetic"): "stopped",
            (0.05, "folder"): "failed",
        }

    def test_a_trial_is_an_experiment_and_others_leave_none(self, swept: Swept) -> None:
        finished = {trial.name for trial in swept.trials if trial.state == "finished"}
        assert experiments(swept.project) == finished
        (name,) = finished
        (trial,) = (trial for trial in swept.trials if trial.name == name)
        shown = swept.project.run("dvc", "exp", "show", "--json", "--num", "1").stdout
        (found,) = (
            experiment["revs"][0]["data"]
            for commit in json.loads(shown)
            for experiment in commit.get("experiments") or []
        )
        metrics = {
            key: value for file in found["metrics"].values() for key, value in file["data"].items()
        }
        assert metrics["val_accuracy"] == trial.summary["val_accuracy"]
        assert metrics["accuracy"] == trial.summary["test_accuracy"]
        assert found["params"]["params.yaml"]["data"]["train"]["labeled_ratio"] == 1.0

    def test_stopping_ends_the_training_at_that_step(self, swept: Swept) -> None:
        stopped, finished = (
            next(trial for trial in swept.trials if trial.state == state)
            for state in ("stopped", "finished")
        )
        assert len(stopped.steps) == 3 < len(finished.steps)
        assert stopped.summary == {}
        assert "1 stopped" in swept.out
        assert re.search(r"stopping early saved about \d+ s of trials", swept.out)

    def test_a_failure_is_told_with_the_stages_own_sentence(self, swept: Swept) -> None:
        failed = [trial for trial in swept.trials if trial.state == "failed"]
        lines = swept.err.splitlines()
        assert lines == [f"{trial.name} failed: {trial.reason}" for trial in failed]
        assert all(trial.reason and "Traceback" not in trial.reason for trial in failed)

    def test_the_command_that_is_told_applies_the_best(self, swept: Swept) -> None:
        (told,) = re.findall(r"apply it with: (.*)", swept.out)
        (name,) = experiments(swept.project)
        assert told == f"dvc exp apply {name}"
        project = swept.project
        project.run(*told.split())
        assert yaml.safe_load((project.path / "params.yaml").read_text())["train"][
            "labeled_ratio"
        ] == pytest.approx(1.0)
        project.run("dvc", "repro", "--dry", "evaluate")
        said = project.run("dvc", "status", "evaluate").stdout
        assert "up to date" in said

    def test_the_runs_are_a_group(self, swept: Swept) -> None:
        about = [box.run() for box in all_outboxes(swept.project.path / "wandb")]
        trained = [run for run in about if run["stage"] == "train"]
        assert {run["group"] for run in trained} == {"grid"}
        assert len(trained) == 2  # the others failed before

    def test_the_page_stands_alone(self, swept: Swept) -> None:
        text = (swept.project.path / "sweeps/grid/index.html").read_text()
        seen = Seen()
        seen.feed(text)
        assert seen.links == []
        assert len(seen.circles) == 2 * (1 + 3)  # the search, and each parameter
        assert all(trial.name in text for trial in swept.trials)

    def test_it_is_not_begun_twice(self, swept: Swept) -> None:
        before = (swept.project.path / "sweeps/grid/trials.jsonl").read_bytes()
        for options, sentence in (
            ([], "the sweep grid was begun before; go on with --resume, or give another --name"),
            (
                ["--resume", "--seed", "1"],
                "the sweep grid was begun with another file or seed; give another --name",
            ),
        ):
            done = swept.project.run("grocery", "sweep", "search.yaml", *options, check=False)
            assert (done.returncode, done.stderr) == (1, f"error: sweep: {sentence}\n")
        assert (swept.project.path / "sweeps/grid/trials.jsonl").read_bytes() == before


class Seen(HTMLParser):
    """The marks of a page, and whatever it would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.circles: list[Any] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "circle":
            self.circles.append(attrs)
        if tag in ("script", "link", "img", "iframe"):
            self.links.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]


# -- Interrupted and killed, and the rest of it afterwards. --------------------------------------


def start(project: Project, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["grocery", "sweep", "search.yaml", *options],
        cwd=project.path,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_an_interrupted_sweep_goes_on_and_ends_as_if_it_had_not_been(project: Project) -> None:
    sweep_file(
        project.path,
        name="resumed",
        method="random",
        parameters={"train.alpha": {"values": [0.5, 0.7, 0.9]}, "train.tol": {"value": 0.0}},
        early_terminate=None,
    )
    before = project.run("git", "diff").stdout
    search = read_search(project.path / "search.yaml", project.path)
    options = ["--count", "2", "--jobs", "2", "--seed", "5"]

    def trains() -> bool:
        return any("grocery.runner train" in line for line in here())

    def here() -> list[str]:
        return processes(project.path)

    for number, message in (
        (signal.SIGINT, "what has been found is noted; go on with --resume\n"),
        (signal.SIGKILL, ""),
    ):
        process = start(project, *options)
        wait_for(trains)
        process.send_signal(number)
        _, error = process.communicate(timeout=90)
        assert process.returncode == (130 if number == signal.SIGINT else -number)
        assert error.startswith(message)
        assert "Traceback" not in error
        wait_for(lambda: not here(), 60)
        assert project.run("git", "diff").stdout == before
        assert project.run("git", "stash", "list").stdout == ""
        states = [trial.state for trial in journal_of(project, "resumed")]
        assert "running" in states
        assert {*states} <= {"running", "finished"}  # one may have been quicker
        options = [*options, "--resume"] if "--resume" not in options else options

    process = start(project, *options)
    out, error = process.communicate(timeout=180)
    assert (process.returncode, error) == (0, "")
    trials = journal_of(project, "resumed")
    assert [trial.state for trial in trials] == ["finished"] * 2
    drawn = [search.next([], 5 + number) for number in (1, 2)]
    assert [trial.assignments for trial in trials] == drawn
    assert experiments(project) == {trial.name for trial in trials}

    # All is done: nothing runs, and the same is said.
    again = project.run("grocery", "sweep", "search.yaml", *options)
    assert "resumed-001" in again.stdout
    assert journal_of(project, "resumed") == trials
    assert again.stdout.splitlines()[:3] == out.splitlines()[:3]


# -- What is searched. ---------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the project's parameters and nothing else."""
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    return tmp_path


def with_space(name: str, **space: Any) -> dict[str, Any]:
    return {"parameters": DEFAULT["parameters"] | {name: space}}


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "method": ({"method": "magic"}, "method is 'magic', but it should be bayes, random, grid"),
    "metric": (
        {"metric": {"name": "accuracy_on_mars", "goal": "maximize"}},
        "metric.name is 'accuracy_on_mars', which no stage writes; there are ",
    ),
    "no metric": ({"metric": None}, "metric"),
    "unknown": (
        with_space("train.n_neighbours", values=[3]),
        "train.n_neighbours is no parameter that makes a model",
    ),
    "no section": (with_space("alpha", values=[0.5]), "alpha is no parameter that makes a model"),
    "other section": (
        with_space("tracking.timeout", values=[3]),
        "tracking.timeout is no parameter that makes a model",
    ),
    "above": (with_space("train.alpha", min=0.5, max=1.5), "train.alpha may be 1.5, but it should"),
    "below": (
        with_space("train.n_neighbors", min=0, max=5),
        "train.n_neighbors may be 0, but it should",
    ),
    "a fraction": (
        with_space("train.n_neighbors", distribution="uniform", min=1, max=6),
        "train.n_neighbors may be 1.0, but it should",
    ),
    "a word": (
        with_space("train.algorithm", values=["label_spreading", "guessing"]),
        "train.algorithm may be 'guessing', but it should",
    ),
    "in the logarithm": (
        with_space("train.alpha", distribution="log_uniform", min=-1, max=1),
        "train.alpha uses log_uniform, where min/max specify base-e exponents",
    ),
    "no bounds": (
        with_space("train.alpha", distribution="normal", mu=0.5, sigma=0.1),
        "train.alpha has no bounds; give values, or min and max",
    ),
    "hyperband": ({"early_terminate": {"type": "hyperband"}}, "min_iter"),
    "stopping": ({"early_terminate": {"type": "guess", "min_iter": 3}}, "guess"),
    "no parameters": ({"parameters": {}}, "parameters"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_file_is_said_before_the_first_trial(case: str, place: Path) -> None:
    changes, sentence = BAD[case]
    file = sweep_file(place, **changes)
    with pytest.raises(ParamsError) as caught:
        read_search(file, place)
    assert str(caught.value).startswith(f"{file}: ")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("- a list", "holds no sweep: it should be a mapping with method, metric ..."),
        ("method: [", "search.yaml"),
        ("!!python/object/apply:os.getcwd []", "search.yaml"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_what_is_no_sweep_is_said(text: str | None, sentence: str, place: Path) -> None:
    file = place / "search.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ParamsError, match=re.escape(sentence)):
        read_search(file, place)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--count", "0"], "argument --count: '0' is not a whole number of at least 1"),
        (["--jobs", "two"], "argument --jobs: 'two' is not a whole number of at least 1"),
        (["--name", "../up"], "a sweep cannot be called '../up'; use letters, digits, dashes"),
    ],
)
def test_a_wrong_option_is_one_sentence(options: list[str], sentence: str, built: Project) -> None:
    done = built.run("grocery", "sweep", "sweep.yaml", *options, check=False)
    assert done.returncode in (1, 2)
    assert sentence in done.stderr.splitlines()[-1]
    assert not (built.path / "sweeps").exists()


@pytest.fixture
def search(place: Path) -> Search:
    return read_search(sweep_file(place), place)


def test_the_projects_own_file_is_right(search: Search) -> None:
    assert (search.name, search.metric, search.sign) == ("learner", "val_accuracy", 1)
    assert set(search.parameters) == {
        "train.algorithm",
        "train.labeled_ratio",
        "train.n_neighbors",
        "train.alpha",
        "train.C",
    }


def objective(assignments: Mapping[str, Any]) -> float:
    """A hill over two of the parameters."""
    return float(
        1
        - (assignments["train.alpha"] - 0.8) ** 2
        - (assignments["train.n_neighbors"] / 30 - 0.5) ** 2
    )


def explore(search: Search, count: int, seed: int) -> list[dict[str, Any]]:
    """A sweep over the hill, one trial after the other."""
    found: list[dict[str, Any]] = []
    runs: list[Any] = []
    for number in range(count):
        assignments = search.next(runs, seed + number)
        assert assignments is not None
        found.append(assignments)
        value = {"val_accuracy": objective(assignments)}
        runs.append(search.run(str(number), assignments, "finished", [value], value))
    return found


def test_equal_seeds_search_alike_and_others_do_not(search: Search) -> None:
    first = explore(search, 6, seed=3)
    assert explore(search, 6, seed=3) == first
    assert explore(search, 6, seed=100) != first


def test_the_first_draw_of_a_process_is_no_other(place: Path) -> None:
    """The engine imports things at its first call, and those draw random numbers, too."""
    file = sweep_file(place, method="random", early_terminate=None)
    code = (
        "import sys; from pathlib import Path; from grocery.sweep.search import read_search\n"
        "search = read_search(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "print(search.next([], 6) == search.next([], 6))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, file, place], capture_output=True, text=True, check=True
    )
    assert done.stdout == "True\n"


def test_what_is_drawn_is_allowed_and_plain(search: Search) -> None:
    space = DEFAULT["parameters"]
    for assignments in explore(search, 12, seed=0):
        for name, value in assignments.items():
            assert type(value) in (int, float, str)
            if "values" in space[name]:
                assert value in space[name]["values"]
            else:
                assert space[name]["min"] <= value <= space[name]["max"]
        assert type(assignments["train.n_neighbors"]) is int
    json.dumps(assignments)


def test_the_search_learns(search: Search) -> None:
    """After some trials it asks where the hill is high, which chance does not."""
    late = [objective(found) for found in explore(search, 40, seed=1)[25:]]
    early = [objective(found) for found in explore(search, 15, seed=1)]
    assert sum(late) / len(late) > sum(early) / len(early)


def test_the_poor_are_stopped_where_the_file_says(search: Search) -> None:
    def trial(name: str, state: str, value: float, steps: int) -> Any:
        history = [{"val_accuracy": value}] * steps
        return search.run(name, {"train.alpha": 0.5}, state, history, {})

    good = [trial(f"good{k}", "finished", 0.9 + k / 100, 9) for k in range(3)]
    assert search.to_stop([*good, trial("poor", "running", 0.2, 2)]) == set()
    assert search.to_stop([*good, trial("poor", "running", 0.2, 3)]) == {"poor"}
    assert search.to_stop([*good, trial("best", "running", 0.99, 3)]) == set()


def test_the_search_counts_models_and_not_steps(search: Search, tmp_path: Path) -> None:
    """The graph may do well where the model, for its regularisation, does not."""

    def value(trials: list[Trial]) -> list[Any]:
        sweep = Sweep(search, tmp_path, Journal(tmp_path / "trials.jsonl"), seed=0, trials=trials)
        return [
            (run.history, run.summary_metrics.get("val_accuracy"))
            for run in sweep._results_so_far()
        ]

    steps = [{"val_accuracy": 0.8}, {"val_accuracy": 0.95}]
    finished = [trial(k, value=v, steps=steps) for k, v in enumerate((0.3, 0.6, 0.9))]
    assert value(finished) == [([], 0.3), ([], 0.6), ([], 0.9)]
    low = trial(4, "stopped", steps=[{"val_accuracy": 0.5}])
    high = trial(5, "stopped", steps=steps)
    running, failed = trial(6, "running", steps=steps), trial(7, "failed")
    others = [low, high, running, failed]
    assert value([*finished, *others])[3:] == [([], 0.5), ([], 0.6), ([], None), ([], None)]
    assert value(others) == [([], 0.5), ([], 0.95), ([], None), ([], None)]


# -- What is remembered, and what is shown. ------------------------------------------------------


def trial(number: int, state: Any = "finished", value: float | None = None, **more: Any) -> Trial:
    summary = {} if value is None else {"val_accuracy": value, "test_accuracy": value - 0.01}
    assignments = {"train.alpha": number / 10, "train.algorithm": "supervised"}
    return Trial(number, f"t-{number:03d}", assignments, state, summary=summary, **more)


def test_a_journal_outlives_a_line_that_was_cut_off(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "new/trials.jsonl")
    journal.begin({"seed": 1})
    journal.write(trial(1, "running"))
    journal.write(trial(1, value=0.5))
    journal.write(trial(2, "running"))
    whole = journal.file.read_bytes()
    for end in range(len(whole) - 20, len(whole) - 1):
        journal.file.write_bytes(whole[:end])
        assert journal.read() == ({"seed": 1}, [trial(1, value=0.5)])
        journal.write(trial(2, value=0.7))
        assert journal.read()[1] == [trial(1, value=0.5), trial(2, value=0.7)]


@pytest.mark.parametrize("text", ["", "{}\n", "[1]\n", '{"sweep": {}}\n{"number": 1}\n'])
def test_what_is_no_journal_is_said(text: str, tmp_path: Path) -> None:
    file = tmp_path / "trials.jsonl"
    file.write_text(text)
    with pytest.raises(DataError, match=re.escape(str(file))):
        Journal(file).read()


def test_the_table_begins_with_the_best_and_ends_with_what_failed(search: Search) -> None:
    trials = [
        trial(1, "failed", reason="no images"),
        trial(2, value=0.5, seconds=10.0),
        trial(3, "stopped", steps=[{"val_accuracy": 0.9}, {"val_accuracy": 0.3}], seconds=4.0),
        trial(4, value=0.8, seconds=20.0),
        trial(5, value=0.8, seconds=12.0),
    ]
    table = rows(trials, search)
    assert table[0][:6] == ["trial", "state", "val_accuracy", "test accuracy", "steps", "s"]
    assert [row[0] for row in table[1:]] == ["t-004", "t-005", "t-002", "t-003", "t-001"]
    assert [row[2] for row in table[1:]] == ["0.8000", "0.8000", "0.5000", "0.9000", "-"]
    found = best(trials, search)
    assert found is trials[3]
    assert saved_seconds(trials) == pytest.approx(14 - 4)
    workspace = {"val_accuracy": 0.7, "test_accuracy": 0.65}
    assert sentences(trials, search, 30.0, before=2, workspace=workspace) == [
        "5 trials of 46 s, 3 of them now, in 30 s, 1 stopped, 1 failed",
        "stopping early saved about 10 s of trials",
        "best: t-004, val_accuracy 0.8000 (workspace: 0.7000), "
        "test accuracy 0.7900 (workspace: 0.6500)",
        "apply it with: dvc exp apply t-004",
    ]


def test_a_sweep_without_a_winner_says_so(search: Search) -> None:
    trials = [trial(1, "failed", reason="<b>no & images")]
    assert sentences(trials, search, 1.0)[-1] == "no trial has finished, so there is no best one"
    assert best(trials, search) is None
    assert "<b>" not in page(trials, search, sentences(trials, search, 1.0)).split("<body>")[1]


# -- The line between a stage and the one who steers. --------------------------------------------


def told(patch: pytest.MonkeyPatch, address: str) -> Steering:
    patch.setenv(ADDRESS, address)
    patch.setenv(TRIAL, "t-001")
    return Steering()


def test_each_step_is_heard_and_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[str, dict[str, float]]] = []

    def on_step(name: str, values: dict[str, float]) -> bool:
        heard.append((name, values))
        return values["val_accuracy"] > 0.5

    with listening(on_step) as address, told(monkeypatch, address) as steering:
        steering.step({"val_accuracy": 0.25})
        with pytest.raises(Stopped, match="stopped early by the sweep"):
            steering.step({"val_accuracy": 0.75})
    assert heard == [("t-001", {"val_accuracy": 0.25}), ("t-001", {"val_accuracy": 0.75})]
    assert not os.path.exists(address)


@pytest.mark.parametrize("end", [lambda s: None, lambda s: s.step({"val_accuracy": 0.5})])
def test_a_stage_goes_on_when_nobody_listens_any_more(
    end: Callable[[Steering], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening(lambda name, values: False) as address:
        steering = told(monkeypatch, address)
        end(steering)
    for _ in range(3):
        steering.step({"val_accuracy": 0.5})
    with told(monkeypatch, address) as late:
        late.step({"val_accuracy": 0.5})


def test_a_stage_that_nobody_steers_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ADDRESS, raising=False)
    with Steering() as steering:
        steering.step({"val_accuracy": 0.5})
