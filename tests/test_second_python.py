"""Another supported Python, where one is installed, builds the same bytes from the same lock."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import ROOT, Project
from grocery.runner import STAGES
from running import SCRATCH, in_one_process

OLDEST = 11  # minor version, as pyproject.toml says
LOCK = ROOT / "requirements.lock"


def others() -> Iterator[Path]:
    """Other Pythons, the newest first: on PATH, or pyenv's, whose shims may be none."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    released = "import sys, venv, ensurepip; sys.exit(sys.version_info.releaselevel != 'final')"
    for minor in range(30, OLDEST - 1, -1):
        found = [Path(path) for path in [shutil.which(f"python3.{minor}")] if path]
        for python in [*found, *sorted(pyenv.glob(f"versions/3.{minor}.*/bin/python"))]:
            runs = subprocess.run([python, "-c", released], check=False, capture_output=True)
            if minor != sys.version_info.minor and not runs.returncode:
                yield python


def test_another_python_gives_the_same_bytes(built: Project, tmp_path: Path) -> None:
    python = next(others(), None)
    if python is None:
        pytest.skip(f"no other Python than 3.{sys.version_info.minor}, from 3.{OLDEST} on, is here")
    subprocess.run([python, "-m", "venv", tmp_path / "venv"], check=True)
    other = str(tmp_path / "venv/bin/python")
    install = f"-m pip install --quiet --no-compile --require-hashes -r {LOCK}".split()
    subprocess.run([other, *install], check=True)

    built.run("git", "clone", "--quiet", str(built.path), str(tmp_path / "clone"))
    clone = Project(tmp_path / "clone")
    clone.run(other, *in_one_process(*STAGES)[1:], env=SCRATCH | {"PYTHONPATH": ""})
    assert clone.found() == built.hashes()
    version = clone.run(other, "-c", "import sys; print(sys.version_info.minor)").stdout
    assert int(version) != sys.version_info.minor
