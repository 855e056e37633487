"""What is remembered is what would be made; what would come out otherwise is made again."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from conftest import ROOT
from grocery import action_cache
from grocery.action_cache import Action, digest_of_texts, remembering
from grocery.card.suspects import find_suspects
from grocery.core.libraries import installed
from grocery.data import build
from grocery.data.build import decode_shard, image_ids_of
from grocery.images.raw import RawImage
from grocery.parallel import sharing

MADE: list[str] = []


def work(task: tuple[str, Path]) -> dict[str, str]:
    """Write a text to a file."""
    text, file = task
    MADE.append(text)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return {"made": text}


def work_again(task: tuple[str, Path]) -> dict[str, str]:
    return work(task)


def work_in_pairs(task: tuple[str, Path]) -> tuple[str, ...]:
    """Write a text to a file and to another one beside it."""
    text, file = task
    work((text, file))
    work((text, file.with_name("second")))
    return (text,)


def fail(task: tuple[str, Path]) -> None:
    work(task)
    raise MemoryError


def do(
    memory: Path | None, output: Path, *texts: str, function: Callable[..., object] = work
) -> list[str]:
    """Do the actions of some texts; which of them were really done."""
    MADE.clear()
    actions = [Action((text, output / text), [text], (output / text,)) for text in texts]
    with remembering(memory):
        values = action_cache.do(function, actions, title="work")
    assert values == [{"made": text} for text in texts]
    assert [(output / text).read_text() for text in texts] == list(texts)
    return sorted(MADE)


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "memory"


def test_what_was_done_is_not_done_again(memory: Path, tmp_path: Path) -> None:
    assert do(memory, tmp_path / "one", "a", "b") == ["a", "b"]
    assert do(memory, tmp_path / "two", "a", "c", "b") == ["c"]
    assert os.path.samefile(tmp_path / "one/a", tmp_path / "two/a")
    # Another function, of the same module and with the same inputs, is another action.
    assert do(memory, tmp_path / "two", "a", function=work_again) == ["a"]


def test_without_a_place_or_inputs_nothing_is_remembered(memory: Path, tmp_path: Path) -> None:
    for output in ("one", "two"):
        assert do(None, tmp_path / output, "a") == ["a"]
    for _ in range(2):
        with remembering(memory):
            action_cache.do(work, [Action(("x", tmp_path / "x"), None)], title="work")
    assert MADE[-2:] == ["x", "x"]


def test_a_value_may_be_wanted_without_its_files(memory: Path, tmp_path: Path) -> None:
    do(memory, tmp_path / "one", "a")
    action = Action(("a", tmp_path / "two"), ["a"], (tmp_path / "two",))
    with remembering(memory):
        assert action_cache.do(work, [action], title="work", link=False) == [{"made": "a"}]
        assert not (tmp_path / "two").exists()


def test_who_must_be_done_is_said_before(memory: Path, tmp_path: Path) -> None:
    do(memory, tmp_path / "one", "a")
    fresh: list[str] = []

    def before(items: Sequence[tuple[str, Path]]) -> None:
        MADE.clear()
        fresh.extend(text for text, _ in items)

    actions = [Action((t, tmp_path / t), [t], (tmp_path / t,)) for t in ("b", "a", "c")]
    with remembering(memory):
        action_cache.do(work, actions, title="work", before=before)
    assert fresh == sorted(MADE) == ["b", "c"]


def test_a_failure_is_no_fact(memory: Path, tmp_path: Path) -> None:
    action = Action(("a", tmp_path / "a"), ["a"], (tmp_path / "a",))
    with remembering(memory), pytest.raises(MemoryError):
        action_cache.do(fail, [action], title="work")
    assert not list(memory.rglob("*"))


@pytest.mark.parametrize("damage", ["", "B", "longer"])
def test_a_file_that_was_changed_in_an_output_is_made_again(
    damage: str, memory: Path, tmp_path: Path
) -> None:
    do(memory, tmp_path / "one", "a")
    (tmp_path / "one/a").write_text(damage)  # the very file that is remembered
    assert do(memory, tmp_path / "two", "a") == ["a"]
    assert (tmp_path / "one/a").read_text() == damage, "somebody's file was written to"
    assert do(memory, tmp_path / "three", "a") == []


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *(("actions", text) for text in (None, "", "[]", "{", '{"value": 1}')),
        *(("files", text) for text in (None, "", "[]")),
    ],
)
def test_a_memory_that_is_damaged_costs_time_only(
    kind: str, text: str | None, memory: Path, tmp_path: Path
) -> None:
    do(memory, tmp_path / "one", "a", "b")
    for place in (memory / kind).glob("*/*"):
        place.unlink()
        if text is not None:
            place.write_text(text)
    assert do(memory, tmp_path / "two", "a", "b") == ["a", "b"]
    assert do(memory, tmp_path / "three", "a", "b") == []


def test_half_a_recall_leaves_somebodys_files_alone(
    memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def once(folder: Path) -> Path:
        action = Action(("a", folder / "first"), ["a"], (folder / "first", folder / "second"))
        with remembering(memory):
            values = action_cache.do(work_in_pairs, [action], title="work")
        assert values == [["a"]], "what is made differs from what is recalled"
        return folder / "first"

    first, placed = once(tmp_path / "one"), []
    inode, replace = first.stat().st_ino, os.replace

    def forgotten(path: Path, target: Path) -> None:
        placed.append(target)
        if len(placed) == 2:
            raise FileNotFoundError
        replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", forgotten)
        second = once(tmp_path / "two")
    assert placed[:2] == [tmp_path / "two/first", tmp_path / "two/second"]
    assert second.stat().st_ino != inode, "the file of an earlier output was written to"
    assert os.path.samefile(first, once(tmp_path / "three"))


@pytest.mark.parametrize("change", [("made", "wrong"), ('"a"', '"b"')])
def test_a_value_that_was_changed_is_made_again(
    change: tuple[str, str], memory: Path, tmp_path: Path
) -> None:
    do(memory, tmp_path / "one", "a")
    (place,) = (memory / "actions").glob("*/*")
    place.write_text(place.read_text().replace(*change))
    assert do(memory, tmp_path / "two", "a") == ["a"]


def test_an_action_that_lies_in_anothers_place_is_not_believed(
    memory: Path, tmp_path: Path
) -> None:
    do(memory, tmp_path / "one", "a", "b")
    one, other = (memory / "actions").glob("*/*")
    shutil.copyfile(one, other)
    assert len(do(memory, tmp_path / "two", "a", "b")) == 1


def test_code_that_was_changed_while_it_is_in_memory_is_not_believed(
    memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work_while_somebody_edits(task: tuple[str, Path]) -> dict[str, str]:
        (tmp_path / "raw.py").write_text("# changed\n")
        monkeypatch.setattr(sys.modules[RawImage.__module__], "__file__", tmp_path / "raw.py")
        return work(task)

    assert do(memory, tmp_path / "one", "a", function=work_while_somebody_edits) == ["a"]
    assert not memory.exists()
    monkeypatch.undo()
    monkeypatch.setattr(action_cache, "BEGUN", 0)  # all code has been changed since
    for _ in range(2):
        assert do(memory, tmp_path / "one", "a") == ["a"]


@pytest.mark.parametrize(("call", "error"), [("utime", PermissionError), ("link", OSError)])
def test_somebody_elses_memory_and_a_disk_without_hard_links_will_do(
    call: str, error: type[OSError], memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, call, refuse)
    assert do(memory, tmp_path / "one", "a") == ["a"]
    assert do(memory, tmp_path / "two", "a") == []
    assert os.path.samefile(tmp_path / "one/a", tmp_path / "two/a") == (call == "utime")


def _at_once(number: int, memory: Path) -> list[str]:
    texts = [str(text) * 1000 for text in range(10)]
    with sharing(1):
        for turn in range(10):
            output = memory.with_name(f"{number}-{turn}")
            actions = [Action((t, output / t[0]), [t], (output / t[0],)) for t in texts]
            with remembering(memory):
                action_cache.do(work, actions, title="work")
            found = [(output / text[0]).read_text() for text in texts]
            assert found == texts
            shutil.rmtree(memory / "files", ignore_errors=True)  # somebody tidies up, too
    return texts


def test_experiments_at_once_see_whole_files(memory: Path) -> None:
    with ProcessPoolExecutor(4) as pool:
        done = list(pool.map(partial(_at_once, memory=memory), range(4)))
    assert len(done) == 4


def test_the_oldest_is_forgotten_first(
    memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(action_cache, "MOST_BYTES", 450)
    do(memory, tmp_path / "one", "a" * 8)
    for place in (memory / "actions").glob("*/*"):
        os.utime(place, ns=(0, 0))  # a file system may count time in steps
    do(memory, tmp_path / "one", "b" * 8, "c" * 8)
    assert do(memory, tmp_path / "two", "b" * 8, "c" * 8) == []
    assert do(memory, tmp_path / "two", "a" * 8) == ["a" * 8]
    assert sum(path.stat().st_size for path in memory.glob("*/*/*")) <= 450


def test_what_nobody_can_use_does_not_pile_up(
    memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(action_cache, "MOST_BYTES", 300)
    do(memory, tmp_path / "one", "a")
    for kind in ("actions", "files"):
        left = memory / kind / "00/.0.partial"  # a process was killed
        left.parent.mkdir(parents=True, exist_ok=True)
        left.write_text("[" + " " * 200 + "]")
    assert do(memory, tmp_path / "two", "a") == []
    assert not list(memory.rglob("*.partial"))
    for text in "bcdef":  # the same file under other keys
        action = Action(("a", tmp_path / "a"), [text], (tmp_path / "a",))
        with remembering(memory):
            action_cache.do(work, [action], title="work")
    assert sum(path.stat().st_size for path in memory.glob("*/*/*")) <= 300
    assert len(list(memory.glob("files/*/*"))) == 1


def test_somebody_else_tidies_up_at_the_same_time(memory: Path, tmp_path: Path) -> None:
    (memory / "files/00").mkdir(parents=True)
    (memory / "files/00/gone").symlink_to("nowhere")  # listed, and not there
    assert do(memory, tmp_path / "one", "a") == ["a"]


class TestWhatDecides:
    """What was remembered is made again after all that could change the bytes, and then known."""

    def of_these(self, memory: Path, output: Path) -> list[str]:
        """What is made, of code that counts as unchanged since it was loaded."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(action_cache, "BEGUN", sys.maxsize)
            return do(memory, output, "a")

    def test_kernels_libraries_and_the_machine(
        self, memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        there, machine = installed(), action_cache.machine()
        assert there.keys() < machine.keys()
        assert self.of_these(memory, tmp_path / "one") == ["a"]
        for name in (*machine, "OPENBLAS_CORETYPE"):
            with monkeypatch.context() as patch:
                if name in there:
                    patch.setattr(action_cache, "installed", lambda: there | {name: "0"})  # noqa: B023
                elif name in machine:
                    patch.setattr(action_cache, "machine", lambda: machine | {name: "0"})  # noqa: B023
                else:
                    patch.setenv(name, "Prescott")
                for made in (["a"], []):
                    assert self.of_these(memory, tmp_path / "two") == made, name
        assert self.of_these(memory, tmp_path / "three") == []

    def test_the_code_that_makes_the_bytes_and_no_other(self) -> None:
        of_shards = action_cache.sources(decode_shard.__module__).keys()
        assert {"grocery.data.build", "grocery.images.decoding", "grocery.shards"} <= of_shards
        assert not any(name.startswith(("grocery.features", "grocery.card")) for name in of_shards)
        of_suspects = action_cache.sources(find_suspects.__module__).keys()
        assert {"grocery.card.suspects", "grocery.features.colour"} <= of_suspects
        assert not any(name.startswith("grocery.synthetic") for name in of_suspects)

    def test_a_comment_counts_and_code_that_cannot_be_read_is_never_known(
        self, memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert self.of_these(memory, tmp_path / "one") == ["a"]
        text = (ROOT / "grocery/images/raw.py").read_bytes() + b"# A comment.\n"
        for name, code, again in (
            ("comment.py", text, []),
            ("none.py", None, ["a"]),
            ("broken.py", b"def (", ["a"]),
            ("other.py", b"# \xff", ["a"]),
        ):
            if code is not None:
                (tmp_path / name).write_bytes(code)
            monkeypatch.setattr(sys.modules[RawImage.__module__], "__file__", str(tmp_path / name))
            assert self.of_these(memory, tmp_path / "two") == ["a"]
            assert self.of_these(memory, tmp_path / "two") == again

    def test_texts_are_told_apart(self) -> None:
        assert len({digest_of_texts(parts) for parts in (["ab", "c"], ["a", "bc"], ["abc"])}) == 3
        # A path need not be UTF-8.
        assert digest_of_texts(["caf\udce9"]) != digest_of_texts(["caf\udcea"])


class TestRawFiles:
    """Files that lie where they lay are not read again; all others are."""

    @pytest.fixture
    def file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A file that counts as settled as soon as it is written."""
        monkeypatch.setattr(build, "SETTLED", 0)
        path = tmp_path / "image.jpg"
        path.write_bytes(b"image")
        return path

    def read(self, memory: Path, file: Path) -> bool:
        """Whether a file is read."""
        read: list[Path] = []

        class Image(RawImage):
            def identify(self, limit: int) -> tuple[str, str | None]:
                read.append(file)
                return super().identify(limit)

        with remembering(memory):
            ((found,), _) = image_ids_of([Image("image.jpg", file=file)], 10**6)
        assert found == hashlib.sha256(file.read_bytes()).hexdigest()
        return bool(read)

    @pytest.mark.parametrize("change", ["longer", "as long", "time restored", "another file"])
    def test_a_file_that_has_changed_is_read(self, change: str, memory: Path, file: Path) -> None:
        assert self.read(memory, file)
        assert not self.read(memory, file)
        before, tick = file.stat(), file.with_name("tick")
        for _ in range(10**6):  # until the file system's clock has moved on
            tick.touch()
            if tick.stat().st_ctime_ns > before.st_ctime_ns:
                break
        written = file.with_name("other") if change == "another file" else file
        written.write_bytes(b"image, longer" if change == "longer" else b"other")
        if change not in ("longer", "as long"):
            os.utime(written, ns=(before.st_atime_ns, before.st_mtime_ns))
        written.replace(file)
        assert self.read(memory, file)

    def test_a_file_that_was_just_written_says_nothing(
        self, memory: Path, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(build, "SETTLED", 10**12)
        assert self.read(memory, file)
        assert self.read(memory, file)

    def test_a_picture_that_is_no_file_is_always_read(self, memory: Path) -> None:
        class Drawn(RawImage):
            def read(self, limit: int = 0) -> bytes:
                return b"drawn"

        for _ in range(2):
            with remembering(memory):
                image_ids_of([Drawn("drawn.png")], 10**6)
        assert not memory.exists()

    def test_a_changed_file_costs_its_chunk(self, memory: Path, tmp_path: Path) -> None:
        files = [tmp_path / f"{number}.jpg" for number in range(600)]
        for number, file in enumerate(files):
            file.write_bytes(str(number).encode())
        images = [RawImage(file.name, file=file) for file in files]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(build, "SETTLED", 0)
            with remembering(memory):
                first = image_ids_of(images, 10**6)
                before = len(list(memory.glob("actions/*/*")))
                files[0].write_bytes(b"another")
                after = image_ids_of(images, 10**6)
        assert [n for n in range(600) if first[0][n] != after[0][n]] == [0]
        assert before == 4
        assert len(list(memory.glob("actions/*/*"))) == before + 1
