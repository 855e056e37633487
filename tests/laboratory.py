"""A project whose stages take no time, for what is about experiments and not about models."""

import shutil
from pathlib import Path

import yaml

from conftest import ROOT, TINY_PARAMS, Project

STAGES = {
    "train": {
        "cmd": "python train.py",
        "deps": ["train.py"],
        "params": ["train"],
        "metrics": [{"metrics/train.json": {"cache": False}}],
    },
    "evaluate": {
        "cmd": "cp metrics/train.json metrics/evaluate.json",
        "deps": ["metrics/train.json"],
        "metrics": [{"metrics/evaluate.json": {"cache": False}}],
    },
}


def make_laboratory(folder: Path, train: str) -> Project:
    """A repository with the project's parameters, whose stage train is this script."""
    folder.mkdir()
    project = Project(folder)
    project.run("git", "init", "--quiet", "--initial-branch=main")
    project.dvc("init --quiet")
    for name in ("params.yaml", ".gitignore"):
        shutil.copy2(ROOT / name, folder / name)
    project.edit_params({"tracking": TINY_PARAMS["tracking"]})
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}))
    (folder / "train.py").write_text(train)
    (folder / "metrics").mkdir()
    (folder / "metrics/.gitkeep").touch()
    project.commit("A laboratory")
    return project
