import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar, Literal

import pytest

from grocery.core.errors import GroceryError, one_sentence
from grocery.core.threads import cores
from grocery.parallel import Item, Result, parallel_map, progress, sharing


def square(number: int) -> tuple[int, int]:
    """With the process that did it."""
    return number * number, os.getpid()


@pytest.mark.parametrize(
    ("workers", "items", "here"),
    [(2, 20, False), (0, 20, cores() == 1), (1, 3, True), (2, 1, True)],
)
def test_results_come_in_order(workers: int, items: int, here: bool) -> None:
    """One worker or one item is done in this process."""
    with sharing(workers):
        found = list(parallel_map(square, range(items), title="squares"))
    assert [result for result, _ in found] == [number * number for number in range(items)]
    assert ({process for _, process in found} == {os.getpid()}) == here


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (GroceryError("two\nlines"), 1, "error: test: two lines"),
        (KeyboardInterrupt(), 130, "error: test: interrupted; earlier outputs are as they were"),
        (MemoryError(), 1, "error: test: not enough memory; fewer compute.workers need less"),
        (PermissionError(13, "x", "f"), 1, "error: test: Permission denied 'f'"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(
    error: BaseException, code: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_, one_sentence("test"):
        raise error
    assert exit_.value.code == code
    assert capsys.readouterr().err == sentence + "\n"


def test_a_defect_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), one_sentence("test"):
        1 / 0  # noqa: B018


@pytest.mark.parametrize(
    ("items", "terminal", "shown"), [(3, True, True), (3, False, False), (0, True, False)]
)
def test_a_bar_is_shown_on_a_terminal_where_there_is_work(
    items: int, terminal: bool, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.openpty() if terminal else os.pipe()
    os.set_blocking(reader, False)
    with os.fdopen(reader, "rb", buffering=0) as said, os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        assert [*progress(iter(range(items)), title="work", total=items)] == [*range(items)]
        stream.flush()
        assert (b"work" in (said.read() or b"")) == shown


def processes(count: int) -> set[int]:
    return {process for _, process in parallel_map(square, range(count), title="processes")}


@pytest.mark.parametrize("prefer", ["processes", "threads"])
def test_work_in_a_worker_starts_no_workers(prefer: Literal["processes", "threads"]) -> None:
    with sharing(2):
        outer = parallel_map(processes, [5, 5], title="outer", prefer=prefer)
        assert [len(inner) for inner in outer] == [1, 1]
        (inner,) = parallel_map(processes, [5], title="a single item")
        assert os.getpid() not in inner


class Here:
    """A mapper that does the work itself."""

    asked: ClassVar[list[tuple[int, str]]] = []

    def map(
        self, function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, title: str
    ) -> Iterator[Result]:
        self.asked.append((workers, title))
        return map(function, items)


def test_a_mapper_is_asked_while_it_is_shared() -> None:
    with sharing(0, Here()):
        list(parallel_map(square, range(4), workers=1, title="here"))
        list(parallel_map(square, [1], title="a single item"))
        with sharing(1):
            list(parallel_map(square, range(4), title="here"))
        assert list(parallel_map(processes, [2] * 4, title="mapped")) == [{os.getpid()}] * 4
    assert Here.asked == [(0, "mapped")]  # nor did the mapped work ask it


def die(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_one_sentence() -> None:
    """The last test here, since others would have to start workers again."""
    with sharing(2), pytest.raises(GroceryError, match="'deaths', perhaps for lack of memory"):
        list(parallel_map(die, [1, 2], title="deaths"))
