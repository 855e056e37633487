"""What is remembered is what would be made; what would come out otherwise is made again."""

import hashlib
import os
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from grocery import action_cache
from grocery.action_cache import Action, digest_of_texts, remembering
from grocery.core.libraries import installed
from grocery.data import build
from grocery.data.build import decode_shard, image_ids_of
from grocery.images.raw import RawImage
from grocery.parallel import sharing

MADE: list[str] = []


def work(task: tuple[str, Path]) -> tuple[str, str]:
    """Write a text to a file; the value that is given is a list, as it is when it is recalled."""
    text, file = task
    MADE.append(text)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return "made", text


def work_again(task: tuple[str, Path]) -> tuple[str, str]:
    return work(task)


@dataclass
class Cache:
    """A memory, and outputs beside it."""

    folder: Path
    memory: Path

    def actions(self, output: str, *texts: str) -> list[Action[Any]]:
        files = [self.folder / output / text for text in texts]
        return [Action((f.name, f), [f.name], (f,)) for f in files]

    def values(self, these: list[Action[Any]], function: Any = work, **how: Any) -> list[Any]:
        """What actions give; `MADE` holds what was really done."""
        MADE.clear()
        with remembering(self.memory):
            return action_cache.do(function, these, title="work", **how)

    def do(self, output: str, *texts: str, function: Any = work) -> list[str]:
        """Do the actions of some texts; which of them were really done."""
        found = self.values(self.actions(output, *texts), function)
        assert found == [["made", text] for text in texts]
        assert [(self.folder / output / text).read_text() for text in texts] == list(texts)
        return sorted(MADE)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path, tmp_path / "memory")


def test_what_was_done_is_not_done_again(cache: Cache) -> None:
    assert cache.do("one", "a", "b") == ["a", "b"]
    assert cache.do("two", "a", "c", "b") == ["c"]
    assert os.path.samefile(cache.folder / "one/a", cache.folder / "two/a")
    # Another function, of the same module and with the same inputs, is another action.
    assert cache.do("two", "a", function=work_again) == ["a"]
    # A value may be wanted without its files.
    assert cache.values(cache.actions("three", "a"), link=False) == [["made", "a"]]
    assert (MADE, (cache.folder / "three").exists()) == ([], False)


def test_without_a_place_or_inputs_and_of_a_failure_nothing_is_remembered(cache: Cache) -> None:
    def fail(task: tuple[str, Path]) -> None:
        work(task)
        raise MemoryError

    for _ in range(2):
        with remembering(None):
            assert action_cache.do(work, cache.actions("one", "a"), title="work")
        cache.values([Action(("x", cache.folder / "x"), None)])
        assert MADE == ["x"]
        with pytest.raises(MemoryError):
            cache.values(cache.actions("one", "a"), fail)
    assert not list(cache.memory.rglob("*"))


def test_a_file_that_was_changed_in_an_output_is_made_again(cache: Cache) -> None:
    cache.do("one", "a")
    (cache.folder / "one/a").write_text("B")  # the very file that is remembered
    assert cache.do("two", "a") == ["a"]
    assert (cache.folder / "one/a").read_text() == "B", "somebody's file was written to"
    assert cache.do("three", "a") == []


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *(("actions", text) for text in (None, "", "[]", "{", '{"value": 1}')),
        *(("actions", change) for change in (("made", "wrong"), ('"a"', '"b"'))),
        ("files", None),
    ],
)
def test_damage_is_made_good(kind: str, text: str | tuple[str, str] | None, cache: Cache) -> None:
    cache.do("one", "a")
    (place,) = (cache.memory / kind).glob("*/*")
    before = place.read_text()
    place.unlink()
    if text is not None:
        place.write_text(text if isinstance(text, str) else before.replace(*text))
    assert cache.do("two", "a") == ["a"]
    assert cache.do("three", "a") == []


def test_what_is_made_is_never_written_to_somebodys_file(cache: Cache) -> None:
    """A recall that was broken off may have left one in the output."""
    cache.do("one", "a")
    (cache.folder / "two").mkdir()
    os.link(cache.folder / "one/a", cache.folder / "two/a")
    assert cache.do("two", "a", function=work_again) == ["a"]
    assert not os.path.samefile(cache.folder / "one/a", cache.folder / "two/a")


def test_an_action_that_lies_in_anothers_place_is_not_believed(cache: Cache) -> None:
    cache.do("one", "a", "b")
    one, other = (cache.memory / "actions").glob("*/*")
    shutil.copyfile(one, other)
    assert len(cache.do("two", "a", "b")) == 1


def test_changed_code_is_not_believed(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def work_while_somebody_edits(task: tuple[str, Path]) -> tuple[str, str]:
        (cache.folder / "raw.py").write_text("# changed\n")
        monkeypatch.setattr(sys.modules[RawImage.__module__], "__file__", cache.folder / "raw.py")
        return work(task)

    assert cache.do("one", "a", function=work_while_somebody_edits) == ["a"]
    assert not cache.memory.exists()
    monkeypatch.undo()
    monkeypatch.setattr(action_cache, "BEGUN", 0)  # all code has been changed since
    for _ in range(2):
        assert cache.do("one", "a") == ["a"]


@pytest.mark.parametrize(("call", "error"), [("utime", PermissionError), ("link", OSError)])
def test_somebody_elses_memory_and_a_disk_without_hard_links_will_do(
    call: str, error: type[OSError], cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, call, refuse)
    (cache.memory / "files/00").mkdir(parents=True)
    (cache.memory / "files/00/gone").symlink_to("nowhere")  # listed, and tidied up by somebody
    assert cache.do("one", "a") == ["a"]
    assert cache.do("two", "a") == []
    assert os.path.samefile(cache.folder / "one/a", cache.folder / "two/a") == (call == "utime")


def _at_once(number: int, cache: Cache) -> None:
    texts = [str(text) * 200 for text in range(10)]
    with sharing(1):
        for turn in range(10):
            cache.do(f"{number}-{turn}", *texts)  # it looks at the files
            shutil.rmtree(cache.memory / "files", ignore_errors=True)  # somebody tidies up, too


def test_experiments_at_once_see_whole_files(cache: Cache) -> None:
    with ProcessPoolExecutor(4) as pool:
        assert len(list(pool.map(partial(_at_once, cache=cache), range(4)))) == 4


def test_the_oldest_is_forgotten_first(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(action_cache, "MOST_BYTES", 450)
    cache.do("one", "a" * 8)
    for place in (cache.memory / "actions").glob("*/*"):
        os.utime(place, ns=(0, 0))  # a file system may count time in steps
    cache.do("one", "b" * 8, "c" * 8)
    assert cache.do("two", "b" * 8, "c" * 8) == []
    assert cache.do("two", "a" * 8) == ["a" * 8]
    assert sum(path.stat().st_size for path in cache.memory.glob("*/*/*")) <= 450


def test_what_nobody_can_use_is_removed(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(action_cache, "MOST_BYTES", 300)
    cache.do("one", "a")
    for kind in ("actions", "files"):
        left = cache.memory / kind / "00/.0.partial"  # a process was killed
        left.parent.mkdir(parents=True, exist_ok=True)
        left.write_text("[" + " " * 200 + "]")
    assert cache.do("two", "a") == []
    assert not list(cache.memory.rglob("*.partial"))
    for text in "bcdef":  # the same file under other keys
        cache.values([Action(("a", cache.folder / "a"), [text], (cache.folder / "a",))])
    assert sum(path.stat().st_size for path in cache.memory.glob("*/*/*")) <= 300
    assert len(list(cache.memory.glob("files/*/*"))) == 1


class TestWhatDecides:
    """What was remembered is made again after all that could change the bytes, and then known."""

    def of_these(self, cache: Cache, output: str) -> list[str]:
        """What is made, of code that counts as unchanged since it was loaded."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(action_cache, "BEGUN", sys.maxsize)
            return cache.do(output, "a")

    def test_what_computes(self, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
        there, machine = installed(), action_cache.machine()
        assert there.keys() < machine.keys()
        assert self.of_these(cache, "one") == ["a"]
        for name in (*machine, "OPENBLAS_CORETYPE"):
            with monkeypatch.context() as patch:
                if name in there:
                    patch.setattr(action_cache, "installed", lambda: there | {name: "0"})  # noqa: B023
                elif name in machine:
                    patch.setattr(action_cache, "machine", lambda: machine | {name: "0"})  # noqa: B023
                else:
                    patch.setenv(name, "Prescott")
                for made in (["a"], []):
                    assert self.of_these(cache, "two") == made, name
        assert self.of_these(cache, "three") == []

    def test_the_code_that_makes_the_bytes_and_no_other(self) -> None:
        of_shards = action_cache.sources(decode_shard.__module__).keys()
        assert {"grocery.data.build", "grocery.images.decoding", "grocery.shards"} <= of_shards
        assert not any(name.startswith(("grocery.features", "grocery.card")) for name in of_shards)

    def test_a_comment_counts_and_code_that_cannot_be_read_is_never_known(
        self, cache: Cache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert self.of_these(cache, "one") == ["a"]
        text = (ROOT / "grocery/images/raw.py").read_bytes() + b"# A comment.\n"
        for number, (code, again) in enumerate(
            [(text, []), (None, ["a"]), (b"def (", ["a"]), (b"# \xff", ["a"])]
        ):
            file = cache.folder / f"{number}.py"
            if code is not None:
                file.write_bytes(code)
            monkeypatch.setattr(sys.modules[RawImage.__module__], "__file__", str(file))
            assert self.of_these(cache, "two") == ["a"]
            assert self.of_these(cache, "two") == again

    def test_texts_are_told_apart(self) -> None:
        assert len({digest_of_texts(parts) for parts in (["ab", "c"], ["a", "bc"], ["abc"])}) == 3
        # A path need not be UTF-8.
        assert digest_of_texts(["caf\udce9"]) != digest_of_texts(["caf\udcea"])


class TestRawFiles:
    """Files that lie where they lay are known without being read; all others are read."""

    @pytest.fixture
    def file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A file that counts as settled as soon as it is written."""
        monkeypatch.setattr(build, "SETTLED", 0)
        path = tmp_path / "image.jpg"
        path.write_bytes(b"image")
        return path

    def chunks(self, cache: Cache, *files: Path) -> int:
        """How many chunks are remembered, once files were identified rightly."""
        with remembering(cache.memory):
            found, _ = image_ids_of([RawImage(file.name, file=file) for file in files], 10**6)
        assert found == [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
        return len(list(cache.memory.glob("actions/*/*")))

    def test_a_file_that_was_rewritten_is_read(self, cache: Cache, file: Path) -> None:
        """Though it is as long as before, and its time was put back."""
        assert self.chunks(cache, file) == self.chunks(cache, file) == 1
        before, tick = file.stat(), file.with_name("tick")
        for _ in range(10**6):  # until the file system's clock has moved on
            tick.touch()
            if tick.stat().st_ctime_ns > before.st_ctime_ns:
                break
        file.write_bytes(b"other")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert self.chunks(cache, file) == 2

    def test_a_changed_file_costs_its_chunk(self, cache: Cache, file: Path) -> None:
        files = [file.with_name(f"{number}.jpg") for number in range(600)]
        for each in files:
            each.write_text(each.name)
        assert self.chunks(cache, *files) == 4
        files[0].write_text("another")
        assert self.chunks(cache, *files) == 5

    def test_what_was_just_written_or_is_no_file_is_always_read(
        self, cache: Cache, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Drawn(RawImage):
            def read(self, limit: int = 0) -> bytes:
                return b"drawn"

        with remembering(cache.memory):
            image_ids_of([Drawn("drawn.png")], 10**6)
        monkeypatch.setattr(build, "SETTLED", 10**12)
        assert self.chunks(cache, file) == 0
