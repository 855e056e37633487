import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from grocery.core.files import replacing, write_bytes

KILLED: list[AbstractContextManager[tuple[Path, ...]]] = []


def left_behind(path: Path) -> Path:
    """What a killed run leaves: a folder that it wrote to, and never put in place."""
    KILLED.append(replacing(path))  # kept here, or Python would put it away
    (folder,) = KILLED[-1].__enter__()
    (folder / "half").write_text("half")
    return folder


def test_what_a_killed_run_left_is_removed_and_its_late_writes_go_nowhere(tmp_path: Path) -> None:
    name = "odd [name]"
    output, other = tmp_path / name, left_behind(tmp_path / "other")
    output.mkdir()
    (output / "old").write_text("old")
    neighbour = tmp_path / f".{name}.json.partial"  # of a file that is written beside it
    neighbour.write_text("half")
    left = left_behind(output)
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


@pytest.mark.parametrize("missing", [None, 0, 1, 2])
def test_all_take_their_place_together_or_none_does(tmp_path: Path, missing: int | None) -> None:
    paths = [tmp_path / "a.json", tmp_path / "b-new.json", tmp_path / "c.json"]
    for path in paths[::2]:
        path.write_text("old")
    whole = missing is None
    with (
        nullcontext() if whole else pytest.raises(FileNotFoundError),
        replacing(*paths, files=paths) as partials,
    ):
        for number, partial in enumerate(partials):
            if number != missing:
                partial.write_text("new")
        assert [path.exists() and path.read_text() for path in paths] == ["old", False, "old"]
    there = paths if whole else paths[::2]
    assert sorted(tmp_path.iterdir()) == there
    assert {path.read_text() for path in there} == {"new" if whole else "old"}


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
