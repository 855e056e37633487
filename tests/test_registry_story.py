"""docs/registry.sh, the life of three models: it runs, and W&B's mirror is right at its end."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from conftest import ROOT, Project, environment
from wandb_server import WandbServer

SCRIPT = ROOT / "docs/registry.sh"
# What the tests' small dataset needs, to give a first model that can be beaten and a poor one.
MODELS = {
    "FIRST": "-S train.algorithm=supervised -S train.labeled_ratio=0.05",
    "POOR": "-S featurize.encoder=colour -S featurize.colour.dimensions=2 "
    "-S register.min_accuracy=0.8",
    "BETTER": "-S train.algorithm=label_spreading -S train.labeled_ratio=1.0",
}


@pytest.mark.long
def test_the_story(project: Project, tmp_path: Path) -> None:
    """Tags, objects and W&B agree after every step: the script asks `grocery registry status`."""
    project.commit("The tests' dataset")
    with WandbServer() as server:
        variables = environment(**server.environment(), **MODELS, WANDB_MODE="online")
        done = subprocess.run(
            [SCRIPT, project.path],
            cwd=tmp_path,
            env=variables | {"TMPDIR": str(tmp_path), "HOME": str(tmp_path)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        aliases = server.state()["links"]
    said = done.stdout
    assert "error: registry register: the candidate of poor" in said
    assert "error: registry promote: v1.0.0 is not shown to be better than v1.1.0" in said
    assert "v1.1.0 is better than v1.0.0, which is in production" in said
    assert "production is rolled back to v1.1.0" in said
    assert "Data and pipelines are up to date." in said
    assert "v1.0.0: identical, all" in said
    assert "production" in str(aliases)
    assert list(tmp_path.glob("tmp.*")) == []


def test_the_docs_tell_what_the_script_does() -> None:
    """The commands of docs/registry.md are the script's, in its order."""
    told = re.findall(r"^\$ (.*)$", (ROOT / "docs/registry.md").read_text(), re.MULTILINE)
    done = [
        re.sub(r"^(run|quietly|refused) ", "", line.strip())
        for line in SCRIPT.read_text().splitlines()
        if line.startswith(("run ", "quietly ", "refused "))
    ]
    shown = [line for line in done if "$" not in line]
    assert len(shown) > 15
    rest = iter(told)
    assert [line for line in shown if line.replace('"', "'") not in rest] == []
