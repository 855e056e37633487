"""What becomes of your own files: which are read, why others are not, their time and memory.

    python benchmarks/corpus.py FOLDER           # any folder: an archive of photographs, odd files
    python benchmarks/corpus.py FOLDER --list    # also a line per file that is not read, or noted

Each file is prepared as the pipeline prepares it, in a process of its own, so that time and memory
are its own, and a decoder that crashes or hangs is a line of the table. The limits are those of
params.yaml. Nothing is written.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from grocery.core.errors import GroceryError, printable
from grocery.data.build import preprocessing_of
from grocery.images.finding import walk
from grocery.images.preprocessing import Preprocessing, prepare
from grocery.images.raw import RawImage
from grocery.settings import load

SECONDS = 120  # of processor time that a file may take


class Found(NamedTuple):
    """What became of a file."""

    path: str
    said: str
    seconds: float
    mebibytes: float


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--list", action="store_true", help="name the files, too")
    arguments = parser.parse_args()
    how = preprocessing_of(load().prepare)
    found = [
        examined(arguments.folder, path, how) if left_out is None else Found(path, left_out, 0, 0)
        for path, left_out in walk(arguments.folder)
    ]
    groups: dict[str, list[Found]] = defaultdict(list)
    for each in found:
        groups[each.said.partition(":")[0]].append(each)
        if arguments.list and each.said != "read":
            print(printable(f"{each.path}: {each.said}"))
    print(f"{'files':>7}  {'seconds':>8}  {'slowest':>8}  {'most MiB':>8}  what became of them")
    for said, members in sorted(groups.items(), key=lambda group: -len(group[1])):
        seconds = [each.seconds for each in members]
        most = max(each.mebibytes for each in members)
        numbers = f"{len(members):7}  {sum(seconds):8.2f}  {max(seconds):8.2f}  {most:8.0f}"
        print(printable(f"{numbers}  {said}"))


def examined(folder: Path, path: str, how: Preprocessing) -> Found:
    """Prepare a file in a child process."""
    reader, writer = os.pipe()
    start = time.perf_counter()
    child = os.fork()
    if not child:
        os.close(reader)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        os.write(writer, _said(RawImage(path, file=folder / path), how).encode()[:4096])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        said = stream.read().decode(errors="replace")
    _, status, used = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    return Found(path, said or f"ended by signal {-code}", seconds, used.ru_maxrss / 1024)


def _said(image: RawImage, how: Preprocessing) -> str:
    try:
        done = prepare(image, how)
    except (GroceryError, MemoryError, OSError) as error:
        return str(error) or type(error).__name__
    except Exception as error:  # a defect of ours, to be seen in the table
        return f"DEFECT, {type(error).__name__}: {error}"
    noted = f"read, with a note: {'; '.join(done.notes)}" if done.notes else "read"
    return done.reason or noted


if __name__ == "__main__":
    main()
