from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from grocery.core.files import replacing

KILLED = """
import os, signal, sys
from pathlib import Path
from grocery.core.files import replacing
with replacing(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("half")
    print(folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(path: Path) -> Path:
    """The folder that a killed process has left behind."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, path], stdout=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL
    return Path(done.stdout.strip())


@pytest.mark.parametrize("name", ["output", "odd [name]"])
def test_what_a_killed_run_left_is_removed_and_its_late_writes_go_nowhere(
    tmp_path: Path, name: str
) -> None:
    output, other = tmp_path / name, killed(tmp_path / "other")
    output.mkdir()
    (output / "old").write_text("old")
    neighbour = tmp_path / f".{name}.json.partial"  # of a file that is written beside it
    neighbour.write_text("half")
    left = killed(output)
    assert (left / "half").exists()
    with replacing(output) as folder:
        assert not left.exists()
        assert folder != left
        os.makedirs(left)  # a worker of the killed run, elsewhere, still writes
        (left / "late").write_text("late")
        (folder / "new").write_text("new")
    assert [file.name for file in output.iterdir()] == ["new"]
    assert other.exists()  # another output's
    assert neighbour.exists()
    with replacing(output):
        assert not left.exists()


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.mkdir()
    with pytest.raises(ZeroDivisionError), replacing(output):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == [output]
