"""The pipeline as a whole: pure, precise, able to go back in time. Real DVC, git and remotes."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from pathlib import Path

import pytest

import grocery
from conftest import ROOT, Project, checkout
from grocery import runner
from grocery.data.sources import open_source
from grocery.settings import load
from grocery.shards import read_table
from running import SCRATCH, in_one_process
from samples import put
from stages import prepare

STAGES = ["source", "prepare", "version", "featurize", "train", "evaluate", "register", "monitor"]


def ran(said: str) -> list[str]:
    """The stages that a `dvc repro` ran."""
    return [stage for stage in STAGES if f"Running stage '{stage}'" in said]


class TestPurity:
    def test_neither_workers_nor_the_folder_nor_the_clock_matter(
        self, built: Project, tmp_path: Path
    ) -> None:
        elsewhere = tmp_path / "another name" / "clone"
        built.run("git", "clone", "--quiet", str(built.path), str(elsewhere))
        clone = Project(elsewhere)
        clone.edit_params({"compute": {"workers": 2}})
        env = {"TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7", "LC_ALL": "C", "HOME": str(tmp_path)}
        clone.run(*in_one_process(*STAGES), env=env | SCRATCH)
        assert clone.found() == built.hashes()

    def test_other_kernels_would_be_noticed(self, project: Project) -> None:
        """Without the pin, the choice of kernels reaches the bytes; with it, it does not."""
        before = project.found()
        featurize = (sys.executable, "-m", "grocery.runner", "featurize")
        old = SCRATCH | {
            "OPENBLAS_CORETYPE": "Prescott",
            "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR",
        }
        project.run(*featurize, env=old | {"GROCERY_KERNELS": "native"})
        assert project.found()["data/features"] != before["data/features"]
        project.run(*featurize, env=old)
        assert project.found() == before

    @pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="needs Debian's qemu-user")
    def test_an_emulated_processor_without_avx512(self, project: Project) -> None:
        """The stages that compute with floats on a Haswell, the oldest processor that is promised
        the same bytes. Drawing the images takes minutes there."""
        before = project.path.joinpath("models/release/model.json").stat().st_mtime_ns
        emulated = ("qemu-x86_64", "-cpu", "Haswell", *in_one_process(*STAGES[3:]))
        project.run(*emulated, env=SCRATCH)
        assert project.path.joinpath("models/release/model.json").stat().st_mtime_ns > before
        assert project.found() == project.hashes()


def test_the_committed_lock_is_what_this_machine_builds(tmp_path: Path) -> None:
    project = checkout(tmp_path / "project")
    recorded, hashes = project.lock(), project.hashes()
    project.run("dvc", "repro", "--force")
    assert project.hashes() == hashes
    assert project.lock() == recorded
    told = project.run("grocery", "report").stdout.partition("\n\nNext:")[0]
    assert told in (ROOT / "README.md").read_text()


class TestPrecision:
    def test_a_comment_rebuilds_the_stage_and_not_what_follows(self, project: Project) -> None:
        """What follows has the same inputs, since the stage gives the same bytes."""
        for module in ("grocery/semi_supervised/algorithms.py", "README.md"):
            with (project.path / module).open("a") as stream:
                stream.write("\n# A comment.\n")
        before = project.hashes()
        assert ran(project.run("dvc", "repro").stdout) == ["train"]
        assert project.hashes() == before

    def test_who_uses_a_module_or_a_parameter_is_rebuilt(self, project: Project) -> None:
        for module, stages in (
            ("grocery/evaluation/metrics.py", {"evaluate"}),
            ("grocery/monitoring/report.py", {"monitor"}),
            ("grocery/pages/pictures.py", {"version", "evaluate", "monitor"}),
            ("grocery/synthetic/drawing.py", {"prepare"}),
        ):
            text = (project.path / module).read_text()
            (project.path / module).write_text(f"{text}\n# A comment.\n")
            assert project.stale() == stages, module
            (project.path / module).write_text(text)
        project.edit_params({"compute": {"workers": 2}, "tracking": {"project": "elsewhere"}})
        assert project.stale() == set()
        project.edit_params({"train": {"C": 1.0}})
        assert project.stale() == {"train"}

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
        assert project.stale() == set()


def test_more_dimensions_than_images_keep_a_geometry(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PCA that whitens as many dimensions as there are images would make all equally far apart."""
    project.edit_params({"featurize": {"fisher": {"dimensions": 512}}})
    monkeypatch.chdir(project.path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    for stage in ("featurize", "train", "evaluate"):
        measured = runner.run(stage, load())
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
    shown, drawn = map(json.loads, project.dvc("metrics show --json", "plots show --json"))
    (found,) = shown.values()
    assert {"metrics/headline/train.json", "metrics/headline/evaluate.json"} <= set(found["data"])
    assert all("error" not in file for file in found["data"].values())
    assert not drawn.get("errors"), drawn["errors"]
    assert {"Confusion matrix", "Reliability diagram"} <= set(drawn["data"])
    assert {"Residual", "Drift of incoming batches"} <= set(drawn["data"])


class TestBadInput:
    """One sentence, a non-zero exit, and nothing that was built is lost."""

    @pytest.fixture
    def mine(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The folder of a dataset that is chosen and not there yet."""
        project.edit_params({"data": {"source": "mine"}})
        monkeypatch.chdir(project.path)
        monkeypatch.setenv("WANDB_MODE", "disabled")
        return project.path / "data/raw/mine"

    def test_a_wrong_value(self, project: Project) -> None:
        before = project.found()
        project.edit_params({"train": {"labeled_ratio": 1.7}})
        done = project.run("dvc", "repro", check=False)
        assert done.returncode != 0
        assert "Traceback" not in done.stderr
        (sentence,) = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
        assert "train.labeled_ratio is 1.7, but it should be less than or equal to 1" in sentence
        assert project.found() == before
        project.edit_params({"train": {"labeled_ratio": 0.3}})
        assert project.stale() == set()

    def refused(self, project: Project, stage: str, said: pytest.CaptureFixture[str]) -> str:
        """Run a stage in this process, which must fail; its sentence."""
        before = project.found()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["runner", stage])
            with pytest.raises(SystemExit) as end:
                runner.main()
        assert end.value.code
        assert project.found() == before
        (sentence,) = said.readouterr().err.splitlines()
        assert sentence.startswith(f"error: {stage}: ")
        return sentence

    def test_a_dataset_that_is_missing(
        self, project: Project, mine: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = {"path": "mine", "md5": f"{'0' * 32}.dir", "hash": "md5"}
        for known in ("", "mine (get it with: dvc pull), "):
            if known:
                mine.with_suffix(".dvc").write_text(json.dumps({"outs": [out]}))
            sentence = self.refused(project, "source", capsys)
            assert "source: data/raw/mine is missing; data.source can be " in sentence
            assert sentence.endswith(f" -o data/raw/grocery-store), {known}synthetic")

    def test_a_folder_that_is_no_dataset(
        self, project: Project, mine: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        mine.mkdir()
        assert "data/raw/mine" in self.refused(project, "prepare", capsys)
        for name in ("a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg"):
            put(mine, name, f"no image {name}".encode())
        assert "a/1.jpg" in self.refused(project, "prepare", capsys)

    def test_ctrl_c(
        self,
        project: Project,
        mine: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def interrupted(*_: object) -> None:
            signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(prepare, "run", interrupted)
        sentence = self.refused(project, "prepare", capsys)
        assert sentence.endswith("interrupted; earlier outputs are as they were")

    def test_a_full_disk(self, project: Project) -> None:
        """The kernel refuses to let any file grow beyond a limit, as a full disk would."""
        before = project.found()
        project.edit_params({"prepare": {"jpeg_quality": 80}})
        limited = "ulimit -f 20; exec python -m grocery.runner prepare"
        done = project.run("bash", "-c", limited, check=False)
        (sentence,) = done.stderr.splitlines()
        assert done.returncode
        assert sentence.startswith("error: prepare: ")
        assert "earlier outputs are as they were" in sentence
        assert project.found() == before
