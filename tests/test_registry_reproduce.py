"""Reproduce a past version: real clones, whose pipelines really run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from conftest import Project
from registry_project import ARTIFACT, World, create_world, git, object_of, output_at

EVALUATION, METRICS = "metrics/evaluation", "metrics/evaluate.json"


@pytest.fixture
def world(built: Project, tmp_path: Path) -> World:
    """One version."""
    world = create_world(built, tmp_path / "world")
    world.done("register", "--push")
    return world


def test_a_past_version_is_identical(world: World) -> None:
    """Its own code, parameters and data are used; those of today cannot even run."""
    project = world.project
    (project.path / "stages/train.py").write_text("raise SystemExit('never run this')\n")
    (project.path / "data/raw/synthetic/recipe.yaml").write_text("nothing: at all\n")
    project.edit_params({"featurize": {"dimensions": 16}})
    project.commit("All is different now")
    said = world.registry("reproduce", "v1.0.0")
    assert (said.code, said.err) == (0, "")
    outputs = sum(len(stage["outs"]) for stage in project.lock().values())
    assert said.out.startswith(f"v1.0.0: identical, all {outputs} outputs\n")
    assert git(project, "status", "--porcelain") == ""
    assert "'v2.0.0' is no version" in world.refused("reproduce", "v2.0.0")


def test_what_differs_is_named(world: World) -> None:
    """A commit that claims other results than its code and data give."""
    project = world.project
    metrics = project.path / METRICS
    claimed = json.loads(metrics.read_text()) | {"accuracy": 0.5}
    metrics.write_text(json.dumps(claimed))
    recorded = {
        METRICS: hashlib.md5(metrics.read_bytes(), usedforsecurity=False).hexdigest(),
        EVALUATION: _with_other_predictions(project, output_at(project, "HEAD", EVALUATION)),
    }
    lock = project.path / "dvc.lock"
    text = lock.read_text()
    for path, md5 in recorded.items():
        text = text.replace(output_at(project, "HEAD", path), md5)
    lock.write_text(text)
    project.commit("Other results")
    git(project, "tag", "-a", f"{ARTIFACT}@v5.0.0", "-m", "By hand")

    said = world.registry("reproduce", "v5.0.0", "--json")
    assert (said.code, said.err) == (1, "")
    found = said.document
    assert (found["version"], found["identical"], found["stage"]) == ("v5.0.0", False, "evaluate")
    assert sorted(found["differences"]) == [
        f"{METRICS}: accuracy is 1.0, was 0.5",
        f"{EVALUATION}: predictions.parquet differs",
    ]


def _with_other_predictions(project: Project, md5: str) -> str:
    """Put a folder into DVC's cache that differs in one file; its hash."""
    cache = project.path / ".dvc/cache"
    rows = json.loads(object_of(cache, md5).read_text())
    for row in rows:
        if row["relpath"] == "predictions.parquet":
            row["md5"] = "0" * 32
    text = json.dumps(rows)
    other = f"{hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()}.dir"
    place = object_of(cache, other)
    place.parent.mkdir(exist_ok=True)
    place.write_text(text)
    return other
