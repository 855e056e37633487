"""Change central lines one at a time, and say which changes no fast test notices.

    python benchmarks/mutants.py
    python benchmarks/mutants.py grocery/data stages/train.py

`mutants.yaml` holds the changes, each with what is wrong then, and which test files are about which
files. Every change is made alone in a copy of the project, where the tests about its file run until
the first one fails. A change under which they all pass survives: it is printed, and the exit code
is 1 where more than one in twenty does.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import yaml
from tqdm import tqdm

ROOT = Path(__file__).parent.parent
TABLE = Path(__file__).with_name("mutants.yaml")
ALLOWED = 0.05
LIMIT = 900  # seconds for the tests of one change; a change that never ends is noticed too


@dataclass(frozen=True)
class Mutant:
    """A change of one place in a file, and the test files that should notice it."""

    file: str
    old: str
    new: str
    wrong: str
    tests: tuple[str, ...]

    def applied(self, text: str) -> str:
        """The file's text with the change; ValueError where its place is not there, or not once."""
        if text.count(self.old) != 1:
            raise ValueError(f"{self.file} has {text.count(self.old)} times {self.old!r}, not once")
        return text.replace(self.old, self.new)


def read_table() -> list[Mutant]:
    """All changes, in order."""
    table = yaml.safe_load(TABLE.read_text())
    about = {Path(place): tuple(names) for place, names in table["tests"].items()}

    def tests(file: Path) -> tuple[str, ...]:
        return next(about[place] for place in (file, *file.parents) if place in about)

    return [Mutant(**each, tests=tests(Path(each["file"]))) for each in table["mutants"]]


@contextmanager
def copies(number: int) -> Iterator[SimpleQueue[Path]]:
    """So many copies of the project's files, each a git repository of its own."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.check_output(listed, cwd=ROOT, text=True).split("\0")
    free: SimpleQueue[Path] = SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        for n in range(number):
            copy = Path(folder, str(n))
            for name in filter(None, names):
                if (ROOT / name).is_file():
                    (copy / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(ROOT / name, copy / name)
            subprocess.run(["git", "init", "--quiet"], cwd=copy, check=True)
            subprocess.run(["git", "add", "--all"], cwd=copy, check=True)
            free.put(copy)
        yield free


def failure(copy: Path, tests: tuple[str, ...]) -> str:
    """Why one of these test files fails in a copy; "" where they all pass."""
    command = [sys.executable, "-m", "pytest", "--exitfirst", "--quiet", "-p", "no:cacheprovider"]
    code = {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            [*command, *(f"tests/{name}" for name in tests)],
            cwd=copy,
            env=os.environ | code,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no end within {LIMIT} seconds"
    return done.stdout[-2000:] if done.returncode else ""


def unchanged(tests: tuple[str, ...], free: SimpleQueue[Path]) -> str:
    """Why one of these test files fails without any change; "" where they all pass."""
    copy = free.get()
    try:
        return failure(copy, tests)
    finally:
        free.put(copy)


def survives(mutant: Mutant, free: SimpleQueue[Path]) -> bool:
    """Whether the tests pass with the change."""
    copy = free.get()
    file = copy / mutant.file
    text = file.read_text()
    try:
        file.write_text(mutant.applied(text))
        return not failure(copy, mutant.tests)
    finally:
        file.write_text(text)
        free.put(copy)


def main() -> None:
    """Make the changes, and print those that survive."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("path", nargs="*", help="only changes of this file or folder")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    wanted = tuple(Path(path) for path in arguments.path)
    mutants = [
        mutant
        for mutant in read_table()
        if not wanted or any(Path(mutant.file).is_relative_to(path) for path in wanted)
    ]
    if not mutants:
        sys.exit(f"error: {TABLE.name} has no change of {', '.join(arguments.path)}")
    with copies(arguments.jobs) as free, ThreadPoolExecutor(arguments.jobs) as pool:
        sets = sorted({mutant.tests for mutant in mutants})
        for tests, why in zip(
            sets, pool.map(lambda tests: unchanged(tests, free), sets), strict=True
        ):
            if why:
                sys.exit(f"error: {', '.join(tests)} fail without any change:\n{why}")
        outcomes = pool.map(lambda mutant: survives(mutant, free), mutants)
        survived = 0
        done = zip(mutants, outcomes, strict=True)
        for mutant, alive in tqdm(done, total=len(mutants), disable=None):
            if alive:
                survived += 1
                tqdm.write(f"{mutant.file}: {mutant.wrong}\n  {mutant.old!r}\n  {mutant.new!r}")
                sys.stdout.flush()
    print(f"{survived} of {len(mutants)} survived")
    sys.exit(survived > ALLOWED * len(mutants))


if __name__ == "__main__":
    main()
