"""The pipeline as a whole: the same bytes on another processor, and precise. Real DVC and git."""

import json
import re
import shutil
from pathlib import Path

import pytest

from conftest import Project
from grocery.runner import STAGES
from running import SCRATCH, in_one_process


@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="needs Debian's qemu-user")
def test_an_emulated_processor_without_avx512(project: Project, tmp_path: Path) -> None:
    """The stages that compute with floats on a Haswell, the oldest processor that is promised
    the same bytes. Drawing the images takes minutes there, and so would many trials."""
    few = "from grocery import runner\nfrom grocery.reference import trials\ntrials.IMAGES = 5\n"
    here, before = project.copy(tmp_path / "here"), project.found()
    python, option, code = in_one_process(*STAGES[3:])
    project.run("qemu-x86_64", "-cpu", "Haswell", python, option, few + code, env=SCRATCH)
    *_, code = in_one_process("evaluate", "register", "monitor")
    here.run(python, option, few + code, env=SCRATCH)
    assert project.found() == here.found() != before


def test_a_comment_rebuilds_the_stage_and_not_what_follows(project: Project) -> None:
    """What follows has the same inputs, since the stage gives the same bytes.

    Who runs a stage, watches it or shares it is no dependency.
    """
    library = project.path / "grocery"
    rooms = ("tracking", "cluster", "registry", "sweep", "inbox", "drill", "cli")
    outside = [file for room in rooms for file in (library / room).rglob("*.py")]
    assert len(outside) > 50
    inside = library / "semi_supervised/algorithms.py"
    for file in (inside, project.path / "README.md", library / "runner.py", *outside):
        with file.open("a") as stream:
            stream.write("\n# A comment.\n")
    before = project.hashes()
    said = project.run("dvc", "repro").stdout
    assert re.findall(r"Running stage '(\w+)'", said) == ["train"]
    assert project.hashes() == before


def test_more_dimensions_than_images_keep_a_geometry(project: Project) -> None:
    """PCA that whitens as many dimensions as there are images would make all equally far apart."""
    project.edit_params({"featurize": {"fisher": {"dimensions": 512}}})
    project.run(*in_one_process("featurize", "train", "evaluate"))
    measured = json.loads((project.path / "metrics/evaluate.json").read_text())
    assert measured["accuracy"] > 0.75


def test_a_full_disk(project: Project) -> None:
    """One sentence, a non-zero exit, and nothing that was built is lost.

    The kernel refuses to let any file grow beyond a limit, as a full disk would.
    """
    before = project.found()
    project.edit_params({"prepare": {"jpeg_quality": 80}})
    limited = "ulimit -f 20; exec python -m grocery.runner prepare"
    done = project.run("bash", "-c", limited, check=False)
    (sentence,) = done.stderr.splitlines()
    assert done.returncode
    assert sentence.startswith("error: prepare: ")
    assert "earlier outputs are as they were" in sentence
    assert project.found() == before
