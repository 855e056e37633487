"""What is recorded in git is what this machine builds. The whole pipeline, as it is."""

from pathlib import Path

from conftest import ROOT, checkout
from running import SCRATCH


def test_the_committed_lock_is_what_this_machine_builds(tmp_path: Path) -> None:
    """All that dvc.lock says of inputs and outputs, and the figures of README."""
    project = checkout(tmp_path / "project")
    recorded = project.lock()
    project.run("dvc", "repro", "--force", env=SCRATCH)
    assert project.lock() == recorded
    told = project.run("grocery", "report").stdout.partition("\n\nNext:")[0]
    assert told in (ROOT / "README.md").read_text()
