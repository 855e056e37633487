"""What the commands share: exit codes, numbers they take, and standard output, as text or JSON."""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grocery.core.errors import DataError, printable

# What a command's exit code says: the one table for all of them.
FOUND = 3
EXIT_CODES = f"""\
exit codes:
  0    done, and nothing was found that needs a look; `registry register-all` has said of
       each candidate whether it is registered, or why not
  1    refused, or something is wrong: one sentence on standard error says what
  2    the command line is wrong; nothing was done
  {FOUND}    done, and something needs a look: an alert of `monitor`, a trial of `sweep` that has
       failed, a difference that `registry reproduce` or a disagreement that `registry status`
       has found
  130  interrupted; earlier outputs are as they were
  141  whoever read the output went away, as `head` does
"""


def count(text: str) -> int:
    """A number of things, as the type of an argument."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def in_project(path: str | Path, *, or_name: str = "") -> Path:
    """A path of the project that we are in, as seen from here, such as ``../params.yaml``.

    `or_name` is the option that names another.

    Raises
    ------
    DataError
        When we are in no project, and the path is not here.
    """
    from grocery.tracking.provenance import dvc_root

    root = dvc_root()
    if not ((root / ".dvc").is_dir() or (root / path).exists()):
        instead = f", or name another with {or_name}" if or_name else ""
        raise DataError(f"no project is here, whose {path} is needed; go to a clone of it{instead}")
    return Path(os.path.relpath(root / path))


@contextmanager
def standard_output() -> Iterator[None]:
    """Write standard output to its end, and stop quietly when nobody reads it any more.

    A character that the output's encoding lacks is written as a backslash escape.

    Raises
    ------
    SystemExit
        141 when the reader closed the pipe, as ``head`` does: what a shell reports of a program
        that ``SIGPIPE`` ended. The signal itself would also end the process for a lost connection.
    OSError
        When the output cannot be written.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError as error:
        try:
            sys.stdout.flush()
        except OSError:  # Python would try again, and complain, at its own end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise SystemExit(128 + signal.SIGPIPE) from None
        raise


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned columns; the first row is the header."""
    shown = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in shown
    ]


def print_json(document: Any) -> None:
    """Print one JSON document: on one line, in ASCII, and without NaN, which is no JSON."""
    finite = json.loads(json.dumps(document), parse_constant=lambda _: None)
    print(json.dumps(finite, allow_nan=False), flush=True)
