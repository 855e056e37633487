"""Errors that a person can act on: one sentence that says what, where and what is allowed."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class GroceryError(Exception):
    """Base of every error that this project raises on purpose."""


class ParamsError(GroceryError):
    """params.yaml holds a value or a key that is not allowed."""


class DataError(GroceryError):
    """A raw dataset, a shard or another data file cannot be used."""


class UnreadableImage(DataError):
    """A raw file is no image, a damaged one, or too large; the message is a short reason.

    It is a fact about the file. What only happened to fail, for a lack of memory or an error of the
    disk, is a `MemoryError` or an `OSError` with a number.
    """


class NotInstalled(DataError):
    """Something optional is needed and not there: a fact about this machine, not about the data."""


class ModelError(GroceryError):
    """A model file is damaged, of another version, or does not fit the data."""


class TrackingError(GroceryError):
    """W&B cannot be told something."""


class RegistryError(GroceryError):
    """A version cannot be registered, moved, found or trusted."""


class OutOfMemory(MemoryError):
    """There is not enough memory for something; the message says for what."""


@contextmanager
def memory_for(what: object) -> Iterator[None]:
    """Say, when there is not enough memory, that it was for this, such as a file.

    Raises
    ------
    OutOfMemory
        In place of any other `MemoryError`.
    """
    try:
        yield
    except MemoryError as error:
        raise OutOfMemory(f"for {what}") from error


@contextmanager
def one_sentence(command: str) -> Iterator[None]:
    """Turn the errors a user can cause into one line on standard error and a non-zero exit.

    The sentence begins with the `command`, such as ``prepare``.

    Raises
    ------
    SystemExit
        1 for an error of the user's or the machine's making, 130 after an interrupt. Anything else
        is a defect of this project and keeps its traceback.
    """
    try:
        yield
    except GroceryError as error:
        _exit(f"{command}: {error}", 1, error)
    except KeyboardInterrupt as error:
        _exit(f"{command}: interrupted; earlier outputs are as they were", 130, error)
    except MemoryError as error:
        what = f" {error}" if isinstance(error, OutOfMemory) else ""
        _exit(f"{command}: not enough memory{what}; fewer compute.workers need less", 1, error)
    except OSError as error:
        if error.errno is None:
            raise
        where = f" {os.fspath(error.filename)!r}" if isinstance(error.filename, str) else ""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        hint = "; free some space and run again, earlier outputs are as they were" if full else ""
        _exit(f"{command}: {os.strerror(error.errno)}{where}{hint}", 1, error)


def meant(name: str, names: Iterable[str]) -> str:
    """The nearest of the other names, as a question in brackets; nothing where none is near."""
    from difflib import get_close_matches

    others = [other for other in names if other != name]
    return "".join(f" (did you mean {near}?)" for near in get_close_matches(name, others, n=1))


def printable(text: str) -> str:
    """Replace what is not printable: a name may hold anything, such as codes for the terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def public(text: str) -> str:
    """Leave user names, passwords and tokens out of the addresses in a text."""
    return re.sub(r"(?<=://)[^/\s]*@", "", text)


def _exit(sentence: str, code: int, cause: BaseException) -> None:
    print(f"error: {printable(' '.join(sentence.split()))}", file=sys.stderr)
    raise SystemExit(code) from cause
