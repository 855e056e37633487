"""W&B sweeps: the real `wandb sweep` and `wandb agent`, and trials that are DVC experiments."""

import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import ROOT, Project, environment
from grocery.cli.trial import parse_assignments
from grocery.experiment.process import Experiment, as_override
from grocery.registry import revisions
from grocery.registry.git import Git
from grocery.tracking.sync import waiting_runs
from laboratory import make_laboratory
from registry_project import git, grocery
from running import processes, wait_for
from wandb_pipeline import begin, pipeline, synchronize
from wandb_server import WandbServer

STANDALONE = ".dvc/tmp/exps/standalone"  # where DVC keeps the folders of running experiments

# A sweep whose trials differ; and a stage train that takes a minute, whatever the machine.
ENDLESS = {"train.alpha": {"values": [0.9, 0.8, 0.7]}}
SLOW_STAGE = """
import time
from grocery.core.errors import one_sentence
from grocery.settings import load
from grocery.tracking.run import stage_run
with one_sentence("train"), stage_run("train", settings=load().tracking, config={}) as run:
    for step in range(600):
        run.log({"residual": 1 / (step + 1)}, step=step)
        time.sleep(0.1)
"""


def create_sweep(server: WandbServer, project: Project, parameters: Mapping[str, Any]) -> str:
    """Name of a new sweep over a grid, as `wandb sweep` prints it for `wandb agent`."""
    config = yaml.safe_load((ROOT / "sweep.yaml").read_text())
    file = project.path.parent / "sweep.yaml"
    config |= {"project": "grocery", "method": "grid", "parameters": dict(parameters)}
    file.write_text(yaml.safe_dump(config))
    done = project.run("wandb", "sweep", str(file), env=known(server))
    found = re.search(r"wandb agent team/grocery/(\w+)", done.stderr)
    assert found, done.stderr
    return found[1]


def known(server: WandbServer) -> dict[str, str]:
    """The environment of somebody who has a key."""
    return {"WANDB_MODE": "online", "WANDB_ERROR_REPORTING": "false", **server.environment()}


@contextmanager
def agent(
    server: WandbServer, project: Project, sweep: str, *options: str
) -> Iterator[subprocess.Popen[str]]:
    """`wandb agent` at work; it is ended with the block, and its trials with it."""
    command = ("-m", "wandb", "agent", *options, f"team/grocery/{sweep}")
    code = f"{project.path}{os.pathsep}{ROOT}"  # its own comes first
    env = known(server) | {"PYTHONPATH": code, "HOME": str(project.path.parent)}
    process = begin(project.path, server, *command, env=env, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        while process.poll() is None:  # the third signal is the one that it heeds at once
            process.terminate()
            time.sleep(0.2)
        process.communicate()


def runs_of(server: WandbServer, sweep: str) -> list[Any]:
    """The runs of a sweep, the oldest first."""
    runs = server.store.all_projects["team", "grocery"].runs_by_name.values()
    return [run for run in runs if run.sweep_name == sweep]


def experiments(project: Project) -> dict[str, str]:
    """Commits of the experiments, by name."""
    return {each.name: each.commit for each in revisions.experiments(Git(project.path))}


@dataclass
class World:
    """A server, and a project in which two agents have shared the trials of a sweep."""

    server: WandbServer
    project: Project
    sweep: str
    said: str


@pytest.fixture(scope="module")
def world(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    project = built.copy(tmp_path_factory.mktemp("sweep") / "project")
    # As if FAISS was not installed, which the approximate search needs.
    (project.path / "faiss.py").write_text('raise ImportError("not here")')
    project.commit("Do without FAISS")
    parameters = {
        "train.neighbor_search": {"values": ["exact", "auto", "approximate"]},
        "train.algorithm": {"value": "label_spreading"},
    }
    with WandbServer() as server:
        sweep = create_sweep(server, project, parameters)
        with (
            agent(server, project, sweep, "--count", "2") as one,
            agent(server, project, sweep, "--count", "2") as two,
        ):
            said = [process.communicate(timeout=360)[0] for process in (one, two)]
        assert (one.returncode, two.returncode) == (0, 0), said
        yield World(server, project, sweep, "".join(said))
        assert server.errors == []


def trial(world: World, search: str) -> tuple[str, Any]:
    """Of the trial with this search: the experiment's name, and its train run."""
    runs = runs_of(world.server, world.sweep)
    (run,) = (run for run in runs if run.config["train.neighbor_search"]["value"] == search)
    return f"{world.sweep}-{run.name}", run


def shown(world: World, experiment: str, path: str) -> Any:
    """A file of an experiment."""
    commit = experiments(world.project)[experiment]
    return yaml.safe_load(git(world.project, "show", f"{commit}:{path}"))


@pytest.mark.parametrize(
    "search", ["exact", pytest.param("auto", id="auto, which DVC has done already")]
)
def test_a_trial_is_an_experiment_and_a_run_of_the_sweep(world: World, search: str) -> None:
    name, run = trial(world, search)
    assert (run.state, run.exit_code, run.job_type) == ("finished", 0, "train")
    assert run.display_name == f"train {name}"
    params = shown(world, name, "params.yaml")["train"]
    assert params["neighbor_search"] == search
    config = {key: item["value"] for key, item in run.config.items()}
    assert config["train.neighbor_search"] == search
    assert config["train"] == params
    metrics = shown(world, name, "metrics/train.json")
    assert run.summary_metrics["val_accuracy"] == pytest.approx(metrics["val_accuracy"], abs=1e-6)
    assert [row["_step"] for row in run.rows()] == list(range(metrics["iterations"]))
    assert all("val_accuracy" in row for row in run.rows())


def test_other_stages_are_runs_of_their_own_in_the_sweeps_group(world: World) -> None:
    name, _ = trial(world, "exact")
    runs = world.server.state()["runs"]
    stages = {key: value for key, value in runs.items() if key.endswith(name)}
    group = f"team/grocery/{world.sweep}"
    assert stages.keys() == {f"{group}/train {name}", f"{group}/evaluate {name}"}
    train, evaluate = stages[f"{group}/train {name}"], stages[f"{group}/evaluate {name}"]
    assert (train["sweep"], evaluate["sweep"]) == (True, False)
    assert not any(key.startswith("train.") for key in evaluate["config"])
    assert {re.split("[/:]", use)[2] for use in train["uses"]} == {"dataset", "features"}
    (classifier,) = (log for log in train["logs"] if log.startswith("team/grocery/classifier:"))
    assert classifier in evaluate["uses"]


def test_a_failing_trial_is_failed_and_the_agent_goes_on(world: World) -> None:
    name, run = trial(world, "approximate")
    assert (run.state, run.exit_code) == ("failed", 1)
    assert name not in experiments(world.project)
    (said,) = re.findall(rf"error: trial: {name} failed: .*", world.said)
    assert "searched approximately, which needs the package faiss-cpu" in said


def test_the_agents_have_taken_turns_and_left_nothing(world: World) -> None:
    assert len(runs_of(world.server, world.sweep)) == 3
    assert len(experiments(world.project)) == 2
    assert processes(world.project.path) == []
    assert [path.name for path in (world.project.path / STANDALONE).iterdir()] == ["run"]
    assert world.project.run("git", "status", "--porcelain").stdout == ""


@pytest.fixture
def slow(tmp_path: Path) -> Project:
    return make_laboratory(tmp_path / "slow", SLOW_STAGE)


@pytest.mark.long
def test_a_stopped_trial_ends_and_so_does_a_killed_one(slow: Project) -> None:
    slow.edit_params({"monitor": {"sample_images": 1}})  # not committed, as people work
    before = slow.run("git", "diff").stdout
    with WandbServer() as server:
        sweep = create_sweep(server, slow, ENDLESS)
        with agent(server, slow, sweep) as process:
            wait_for(lambda: any(run.rows() for run in runs_of(server, sweep)))
            runs_of(server, sweep)[0].stopped = True  # told to the agent, which sends SIGTERM
            wait_for(lambda: len(runs_of(server, sweep)) > 1)
            first, second = runs_of(server, sweep)
            assert (first.state, first.exit_code) == ("killed", 1)
            assert [line for line in processes(slow.path) if first.name in line] == []

            wait_for(second.rows)
            slow.run("wandb", "sweep", "--cancel", f"team/grocery/{sweep}", env=known(server))
            said, _ = process.communicate(timeout=60)  # it sends SIGKILL
        wait_for(lambda: not processes(slow.path), 60)
        assert (second.state, second.exit_code) == ("failed", 1)
        assert "Detected" not in said, "the agent takes a stop for a failure"
        assert server.errors == []
    nothing_is_left(slow, before)


@pytest.mark.parametrize("moment", ["at once", "in its folder"])
def test_an_experiment_that_ends_at_once_leaves_nothing(slow: Project, moment: str) -> None:
    slow.edit_params({"monitor": {"sample_images": 1}})
    before = slow.run("git", "diff").stdout
    experiment = Experiment(slow.path, "early", {"train.alpha": 0.9}, environment())
    if moment == "in its folder":
        wait_for(lambda: [*(slow.path / STANDALONE).glob("*")])
    experiment.terminate()
    assert experiment.wait() != 0
    assert processes(slow.path) == []
    nothing_is_left(slow, before)


def nothing_is_left(project: Project, before: str) -> None:
    """Require that no experiment is recorded or waits, and that the workspace is as it was."""
    assert {path.name for path in (project.path / STANDALONE).glob("*")} <= {"run"}
    assert waiting_runs(project.path) == []
    assert experiments(project) == {}
    assert project.run("git", "diff").stdout == before
    assert project.run("git", "stash", "list").stdout == ""


def hand_out(server: WandbServer) -> str:
    """Name of a new sweep, for trials without an agent."""
    config = yaml.safe_dump({"method": "grid", "parameters": ENDLESS})
    made = server.store.upsert_sweep({"project_name": "grocery", "config": config})
    return str(made["sweep"].name)


def test_a_trial_that_is_stopped_from_wandb_ends(slow: Project) -> None:
    with WandbServer() as server:
        sweep = hand_out(server)
        command = ("-m", "grocery.cli", "trial", "--train.alpha=0.9")
        handed_out = {"WANDB_SWEEP_ID": sweep, "WANDB_RUN_ID": "pressed"}
        trial = begin(slow.path, server, *command, env=known(server) | handed_out)
        (run,) = wait_for(lambda: runs_of(server, sweep))
        run.stopped = True  # the button in the app; the SDK hears of it within 15 s
        out, error = trial.communicate(timeout=60)
        assert (trial.returncode, error) == (0, f"{sweep}-pressed was stopped from W&B\n")
        assert "error: train: stopped from W&B; earlier outputs are as they were\n" in out
        assert (run.name, run.state, run.exit_code) == ("pressed", "killed", 1)
        assert 1 < len(run.rows()) < 600
    nothing_is_left(slow, "")


def test_a_sweeps_run_that_is_kept_offline_comes_to_the_sweep(tmp_path: Path) -> None:
    parameters = tmp_path / "chosen.yaml"
    parameters.write_text("wandb_version: 1\ntrain.alpha:\n  value: 0.5\n")
    with WandbServer() as server:
        sweep = hand_out(server)
        handed_out: dict[str, Any] = {"WANDB_SWEEP_ID": sweep, "WANDB_RUN_ID": "fromsweep"}
        handed_out["WANDB_SWEEP_PARAM_PATH"] = str(parameters)
        server.fail("refuse")
        done = pipeline(tmp_path, server, "train", **handed_out)
        assert (done.code, done.err.count("the run is kept offline")) == (0, 1)
        server.heal()
        assert runs_of(server, sweep) == []
        assert synchronize(tmp_path, server).code == 0
        (run,) = runs_of(server, sweep)
        assert (run.name, run.state, run.job_type) == ("fromsweep", "finished", "train")
        assert run.config["train.alpha"]["value"] == 0.5
        assert len(run.rows()) == 4
        assert server.errors == []


def test_assignments_are_read_as_the_agent_writes_them() -> None:
    values: dict[str, Any] = {
        **{"a": 0.95, "b": 1e-05, "c": True, "d": False, "e": 12, "f": None, "g": "self_training"},
        **{"h": [1.0, 0.5], "i": ["x", "y z"], "j": "", "k": "it's = [1"},
    }
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    made = create_sweep_command_args({"args": {k: {"value": v} for k, v in values.items()}})
    for form in ("args", "args_no_hyphens"):
        assert parse_assignments(made[form]) == values


@pytest.mark.parametrize(
    "value",
    ["a", "it's", "a\\'b", "a\\\\", "", "é, [1]", "a=b:c", "1e-3", "true", 1e-05, True, None, 7],
)
def test_dvc_reads_an_override_as_it_is_meant(value: Any) -> None:
    from dvc.utils.hydra import to_hydra_overrides

    (override,) = to_hydra_overrides([f"key={as_override(value)}"])
    read = override.value()
    read = getattr(read, "text", read)  # of a string in quotes
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "value"),
    [("train.alpha", "7"), ("train.alhpa", "0.5"), ("train.algorithm", "[1")],
)
def test_a_bad_assignment_is_one_sentence(built: Project, name: str, value: str) -> None:
    done = grocery(built, "trial", f"--{name}={value}")
    assert (done.code, done.out) == (1, "")
    assert done.sentence.startswith(f"error: trial: {name}")


def test_what_is_no_assignment_is_a_wrong_command_line(built: Project) -> None:
    for words, said in (
        (["-v"], "'-v' is no assignment; write --PARAMETER=VALUE"),
        ([], "the following arguments are required: --PARAMETER=VALUE"),
    ):
        done = grocery(built, "trial", *words)
        assert (done.code, done.out) == (2, "")
        assert done.err.endswith(f"error: {said}\n")
