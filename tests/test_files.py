from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from grocery.core.files import replacing, write_bytes

KILLED = """
import os, signal, sys
from pathlib import Path
from grocery.core.files import replacing
with replacing(Path(sys.argv[1])) as (folder,):
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


def test_what_a_killed_run_left_is_removed_and_its_late_writes_go_nowhere(tmp_path: Path) -> None:
    name = "odd [name]"
    output, other = tmp_path / name, killed(tmp_path / "other")
    output.mkdir()
    (output / "old").write_text("old")
    neighbour = tmp_path / f".{name}.json.partial"  # of a file that is written beside it
    neighbour.write_text("half")
    left = killed(output)
    assert (left / "half").exists()
    with replacing(output) as (folder,):
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


def test_several_take_their_place_together(tmp_path: Path) -> None:
    folder, file, new = tmp_path / "folder", tmp_path / "file.json", tmp_path / "new"
    folder.mkdir()
    file.write_text("old")
    with replacing(folder, file, new, files=[file]) as (one, other, third):
        (one / "a").write_text("new")
        other.write_text("new")
        (third / "b").write_text("new")
        assert (list(folder.iterdir()), file.read_text(), new.exists()) == ([], "old", False)
    assert sorted(tmp_path.iterdir()) == [file, folder, new]
    assert [p.read_text() for p in (folder / "a", file, new / "b")] == ["new"] * 3


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_when_one_cannot_take_its_place_all_stay_as_they_were(tmp_path: Path, missing: int) -> None:
    paths = [tmp_path / "a.json", tmp_path / "new.json", tmp_path / "c.json"]
    paths[0].write_text("old")
    paths[2].write_text("old")

    def write_all_but_one() -> None:
        with replacing(*paths, files=paths) as partials:
            for partial in partials[:missing] + partials[missing + 1 :]:
                partial.write_text("new")

    with pytest.raises(FileNotFoundError):
        write_all_but_one()
    assert sorted(tmp_path.iterdir()) == [paths[0], paths[2]]
    assert [paths[0].read_text(), paths[2].read_text()] == ["old", "old"]


def test_of_many_writers_of_one_file_each_writes_all_of_it(tmp_path: Path) -> None:
    file = tmp_path / "file"
    contents = [bytes([number]) * 100_000 for number in range(8)]
    seen: set[bytes] = set()

    def write(number: int) -> None:
        write_bytes(file, contents[number % 8])
        seen.add(file.read_bytes())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(100)))
    assert seen <= set(contents)
    assert list(tmp_path.iterdir()) == [file]
