"""The pipeline as a whole: pure, precise, able to go back in time. Real DVC, git and remotes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import grocery
from conftest import Project, checkout, environment
from grocery.core.files import digest
from grocery.data.sources import open_source
from grocery.shards import read_table

STAGES = ["source", "prepare", "version", "featurize", "train", "evaluate", "register", "monitor"]


def outputs(lock: dict[str, Any]) -> dict[str, str]:
    """Hash of every output."""
    return {out["path"]: out["md5"] for stage in lock.values() for out in stage["outs"]}


def ran(said: str) -> list[str]:
    """The stages that a `dvc repro` ran."""
    return [stage for stage in STAGES if f"Running stage '{stage}'" in said]


# Nothing is kept of what is there, but made anew.
SCRATCH = {"GROCERY_REUSE": "no"}


class TestPurity:
    def test_building_again_gives_the_same_bytes(self, project: Project) -> None:
        before = project.lock()
        assert ran(project.run("dvc", "repro", "--force", env=SCRATCH).stdout) == STAGES
        assert project.lock() == before

    def test_the_number_of_workers_does_not_matter(self, project: Project) -> None:
        before = project.lock()
        project.edit_params({"compute": {"workers": 2}})
        project.run("dvc", "repro", "--force", env=SCRATCH)
        assert project.lock() == before

    def test_nor_do_the_folder_and_the_clock(self, built: Project, tmp_path: Path) -> None:
        elsewhere = tmp_path / "another name" / "clone"
        built.run("git", "clone", "--quiet", str(built.path), str(elsewhere))
        clone = Project(elsewhere)
        (elsewhere / "dvc.lock").unlink()
        env = {"TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7", "LC_ALL": "C", "HOME": str(tmp_path)}
        clone.run("dvc", "repro", env=env)
        assert outputs(clone.lock()) == outputs(built.lock())

    def test_other_kernels_would_be_noticed(self, project: Project) -> None:
        """Without the pin, the choice of kernels reaches the bytes; with it, it does not."""
        before = outputs(project.lock())
        old = SCRATCH | {
            "GROCERY_KERNELS": "native",
            "OPENBLAS_CORETYPE": "Prescott",
            "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR",
        }
        project.run("dvc", "repro", "--force", "--single-item", "featurize", env=old)
        assert outputs(project.lock())["data/features"] != before["data/features"]
        del old["GROCERY_KERNELS"]
        project.run("dvc", "repro", "--force", "--single-item", "featurize", env=old)
        assert outputs(project.lock()) == before

    @pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="needs Debian's qemu-user")
    def test_an_emulated_processor_without_avx512(self, project: Project) -> None:
        """The stages that compute with floats on a Haswell, the oldest processor that is promised
        the same bytes. Drawing the images takes minutes there."""
        before = project.path.joinpath("models/release/model.json").stat().st_mtime_ns
        one_process = (
            "from grocery import runner, settings\n"
            f"for stage in {STAGES[3:]}:\n    runner.run(stage, settings.load())"
        )
        emulated = ("qemu-x86_64", "-cpu", "Haswell", sys.executable, "-c", one_process)
        project.run(*emulated, env=SCRATCH)
        assert project.path.joinpath("models/release/model.json").stat().st_mtime_ns > before
        assert "up to date" in project.run("dvc", "status").stdout


def test_the_committed_lock_is_what_this_machine_builds(tmp_path: Path) -> None:
    project = checkout(tmp_path / "project")
    recorded = project.lock()
    project.run("dvc", "repro", "--force")
    built = project.lock()
    assert outputs(built) == outputs(recorded)
    assert built == recorded


class TestPrecision:
    def test_nothing_to_do(self, project: Project) -> None:
        assert ran(project.run("dvc", "repro").stdout) == []

    @pytest.mark.parametrize(
        ("module", "stages"),
        [
            ("grocery/evaluation/metrics.py", ["evaluate"]),
            ("grocery/semi_supervised/algorithms.py", ["train"]),
            ("grocery/monitoring/report.py", ["monitor"]),
            ("grocery/pages/pictures.py", ["version", "evaluate", "monitor"]),
            ("README.md", []),
        ],
    )
    def test_a_comment_rebuilds_the_stages_that_use_the_module(
        self, project: Project, module: str, stages: list[str]
    ) -> None:
        """What follows has the same inputs, since the stage gives the same bytes."""
        with (project.path / module).open("a") as stream:
            stream.write("\n# A comment.\n")
        before = outputs(project.lock())
        assert ran(project.run("dvc", "repro").stdout) == stages
        assert outputs(project.lock()) == before

    def test_a_comment_outside_of_the_rooms_makes_nothing_stale(self, project: Project) -> None:
        """Who runs a stage, watches it or shares it is no dependency."""
        rooms = [dep["path"] for stage in project.lock().values() for dep in stage.get("deps", [])]
        outside = [
            file
            for file in (project.path / "grocery").rglob("*.py")
            if not any(file.relative_to(project.path).is_relative_to(room) for room in rooms)
        ]
        names = {file.relative_to(project.path / "grocery").parts[0] for file in outside}
        assert names >= {"tracking", "cluster", "registry", "sweep", "cli", "runner.py"}
        for file in outside:
            with file.open("a") as stream:
                stream.write("\n# A comment.\n")
        assert "up to date" in project.run("dvc", "status").stdout

    def test_a_changed_dataset_gives_what_a_build_from_scratch_gives(
        self, project: Project
    ) -> None:
        recipe = project.path / "data/raw/synthetic/recipe.yaml"
        recipe.write_text(recipe.read_text().replace("images: 30", "images: 31", 1))
        assert ran(project.run("dvc", "repro", "featurize").stdout) == ["prepare", "featurize"]
        changed = project.lock()
        project.run("dvc", "repro", "--force", "featurize", env=SCRATCH)
        assert project.lock() == changed

    def test_a_training_parameter_leaves_the_features_alone(self, project: Project) -> None:
        project.edit_params({"train": {"C": 1.0}})
        assert ran(project.run("dvc", "repro").stdout) == STAGES[4:]

    def test_how_work_is_shared_and_tracked_rebuilds_nothing(self, project: Project) -> None:
        project.edit_params({"compute": {"workers": 2}, "tracking": {"project": "elsewhere"}})
        assert ran(project.run("dvc", "repro", env={"WANDB_MODE": "offline"}).stdout) == []


def test_more_dimensions_than_images_keep_a_geometry(project: Project) -> None:
    """PCA that whitens as many dimensions as there are images would make all equally far apart."""
    project.edit_params({"featurize": {"dimensions": 512}})
    project.run("dvc", "repro", "evaluate")
    measured = json.loads((project.path / "metrics/evaluate.json").read_text())
    assert measured["accuracy"] > 0.75


def test_the_release_predicts_raw_files_as_was_evaluated(built: Project) -> None:
    model = grocery.load_model(built.path / "models/release")
    recorded = read_table(built.path / "metrics/evaluation/predictions.parquet").to_pylist()
    raw = {i.path: i for i in open_source(built.path / "data/raw/synthetic").images()}
    for row, said in zip(
        recorded, model.predict(raw[row["path"]].read() for row in recorded), strict=True
    ):
        assert (said.label, said.confidence) == (row["predicted"], row["confidence"])


def test_dvc_shows_metrics_plots_and_the_artifact(project: Project) -> None:
    metrics = json.loads(project.run("dvc", "metrics", "show", "--json").stdout)
    (found,) = metrics.values()
    assert {"metrics/headline/train.json", "metrics/headline/evaluate.json"} <= set(found["data"])
    assert all("error" not in file for file in found["data"].values())
    plots = json.loads(project.run("dvc", "plots", "show", "--json").stdout)
    assert not plots.get("errors"), plots["errors"]
    assert {"Confusion matrix", "Reliability diagram"} <= set(plots["data"])
    assert {"Residual", "Drift of incoming batches"} <= set(plots["data"])


class TestBadInput:
    """One sentence, a non-zero exit, and nothing that was built is lost."""

    def refused(self, project: Project, *command: str, env: dict[str, str] | None = None) -> str:
        made = outputs(project.lock()).keys() - {"data/source.txt"}  # all but the name of the data
        before = {path: digest(project.path / path) for path in made}
        done = project.run(*command, check=False, env=env)
        said = done.stdout + done.stderr
        assert done.returncode != 0
        assert "Traceback" not in said
        assert {path: digest(project.path / path) for path in before} == before
        (sentence,) = [line for line in said.splitlines() if line.startswith("error: ")]
        return sentence

    def test_a_wrong_value(self, project: Project) -> None:
        project.edit_params({"train": {"labeled_ratio": 1.7}})
        sentence = self.refused(project, "dvc", "repro")
        assert "train.labeled_ratio is 1.7, but it should be less than or equal to 1" in sentence
        project.edit_params({"train": {"labeled_ratio": 0.3}})
        assert ran(project.run("dvc", "repro").stdout) == []

    @pytest.mark.parametrize("tracked", [False, True])
    def test_a_dataset_that_is_missing(self, project: Project, tracked: bool) -> None:
        project.edit_params({"data": {"source": "mine"}})
        mine = ""
        if tracked:
            mine = "mine (get it with: dvc pull), "
            out = {"path": "mine", "md5": f"{'0' * 32}.dir", "hash": "md5"}
            (project.path / "data/raw/mine.dvc").write_text(json.dumps({"outs": [out]}))
        sentence = self.refused(project, "dvc", "repro")
        assert sentence.startswith("error: source: data/raw/mine is missing; data.source can be ")
        assert sentence.endswith(f" -o data/raw/grocery-store), {mine}synthetic")

    def test_a_folder_that_is_no_dataset(self, project: Project) -> None:
        raw = project.path / "data/raw/mine"
        raw.mkdir()
        project.edit_params({"data": {"source": "mine"}})
        assert "data/raw/mine" in self.refused(project, "dvc", "repro")

    def test_a_dataset_of_nothing_but_rubbish(self, project: Project) -> None:
        for name in ("a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg"):
            file = project.path / "data/raw/mine" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"no image {name}")
        project.edit_params({"data": {"source": "mine"}})
        assert "a/1.jpg" in self.refused(project, "dvc", "repro")

    def test_a_full_disk(self, project: Project) -> None:
        """The kernel refuses to let any file grow beyond a limit, as a full disk would."""
        project.edit_params({"prepare": {"jpeg_quality": 80}})
        limited = "ulimit -f 20; exec python -m grocery.runner prepare"
        sentence = self.refused(project, "bash", "-c", limited)
        assert "earlier outputs are as they were" in sentence
        assert "up to date" in project.run("dvc", "status", "version").stdout

    def test_a_killed_run_continues(self, project: Project) -> None:
        """Killed in the middle of a stage; the next run picks up and ends with the same bytes."""
        project.edit_params({"featurize": {"seed": 1}})
        process = subprocess.Popen(
            ["dvc", "repro"],
            cwd=project.path,
            env=environment(),
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        while not any((project.path / "data").glob(".features.*.partial")):
            assert process.poll() is None
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert (project.path / "data/features").exists()
        assert ran(project.run("dvc", "repro").stdout)[0] == "featurize"
        continued = outputs(project.lock())
        project.run("dvc", "repro", "--force", "featurize")
        assert outputs(project.lock()) == continued
        assert list(project.path.rglob("data/.*.partial")) == []

    def test_ctrl_c(self, project: Project) -> None:
        code = (
            "import os, signal, sys, threading, grocery.runner as r, stages.prepare\n"
            "sys.argv[1:] = ['prepare']\n"
            "threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
            "r.main()\n"
        )
        sentence = self.refused(project, "python", "-c", code)
        assert "interrupted" in sentence
