from __future__ import annotations

import os
import signal

import pytest

from grocery.core.errors import GroceryError, one_sentence
from grocery.parallel import engine, parallel_map


def square(number: int) -> int:
    return number * number


def die(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("workers", [1, 2, 0])
def test_results_come_in_order(workers: int) -> None:
    squares = list(parallel_map(square, range(20), workers=workers, title="squares"))
    assert squares == [number * number for number in range(20)]


def test_a_killed_worker_is_one_sentence() -> None:
    with pytest.raises(GroceryError, match="'deaths', perhaps for lack of memory"):
        list(parallel_map(die, [1, 2], workers=2, title="deaths"))


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


def process(_: int) -> int:
    return os.getpid()


@pytest.mark.parametrize(("workers", "items"), [(1, 3), (0, 1), (2, 1)])
def test_one_worker_or_one_item_is_done_here(workers: int, items: int) -> None:
    with engine("local", ""):
        found = set(parallel_map(process, range(items), workers=workers, title="here"))
    assert found == {os.getpid()}
