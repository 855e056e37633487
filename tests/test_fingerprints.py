"""Files that lie where they lay are not read again; all others are."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from grocery.fingerprints import Fingerprints

from grocery import fingerprints


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "memory.parquet"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that counts as settled as soon as it is written."""
    monkeypatch.setattr(fingerprints, "SETTLED", 0)
    path = tmp_path / "image.jpg"
    path.write_bytes(b"image")
    return path


def learn(memory: Path, *files: Path) -> None:
    """A run that hashes files; here a file's hash is its name."""
    found = Fingerprints(memory)
    for path in files:
        signs, _ = found.look(path)
        found.learn(path, signs, path.name)
    found.save()


def known(memory: Path, path: Path) -> str | None:
    return Fingerprints(memory).look(path)[1]


def test_a_file_that_lies_where_it_lay_is_known(memory: Path, file: Path) -> None:
    assert known(memory, file) is None
    learn(memory, file)
    assert known(memory, file) == "image.jpg"


def _longer(path: Path) -> None:
    path.write_bytes(b"image, longer")


def _as_long(path: Path) -> None:
    path.write_bytes(b"other")


def _time_restored(path: Path) -> None:
    before = path.stat()
    path.write_bytes(b"other")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _another_in_its_place(path: Path) -> None:
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(b"other")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize("change", [_longer, _as_long, _time_restored, _another_in_its_place])
def test_a_file_that_has_changed_is_not(
    change: Callable[[Path], None], memory: Path, file: Path
) -> None:
    learn(memory, file)
    time.sleep(0.02)  # a tick of the file system's clock
    change(file)
    assert known(memory, file) is None
    learn(memory, file)
    assert known(memory, file) == "image.jpg"


def test_a_file_that_was_just_written_says_nothing(
    memory: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprints, "SETTLED", 10**12)
    learn(memory, file)
    monkeypatch.setattr(fingerprints, "SETTLED", 0)
    assert known(memory, file) is None


def test_only_the_last_run_is_remembered(memory: Path, file: Path) -> None:
    other = file.with_name("other.jpg")
    other.write_bytes(b"other")
    learn(memory, file, other)
    learn(memory, other)
    assert (known(memory, file), known(memory, other)) == (None, "other.jpg")
    learn(memory)
    assert known(memory, other) is None


def test_a_file_that_is_gone_is_left_to_who_reads_it(memory: Path, file: Path) -> None:
    learn(memory, file)
    file.unlink()
    assert Fingerprints(memory).look(file) == (None, None)


@pytest.mark.parametrize("damage", [lambda d: b"", lambda d: d[:-9], lambda d: d[9:]])
def test_a_damaged_memory_knows_nothing(
    damage: Callable[[bytes], bytes], memory: Path, file: Path
) -> None:
    learn(memory, file)
    memory.write_bytes(damage(memory.read_bytes()))
    assert known(memory, file) is None
    learn(memory, file)
    assert known(memory, file) == "image.jpg"


def test_without_a_place_nothing_is_remembered(file: Path) -> None:
    found = Fingerprints()
    found.learn(file, found.look(file)[0], "image.jpg")
    found.save()
    assert list(file.parent.iterdir()) == [file]
