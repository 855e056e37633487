"""What runs on this machine, and waiting for it."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Nothing is kept of what is there, but made anew.
SCRATCH = {"GROCERY_REUSE": "no"}


def in_one_process(*stages: str) -> tuple[str, ...]:
    """A command that runs these stages, one after the other."""
    code = "from grocery import runner, settings\nfor s in {}: runner.run(s, settings.load())"
    return sys.executable, "-c", code.format(stages)


def wait_for(what: Callable[[], Any], seconds: float = 90) -> Any:
    """What the function gives as soon as that is something."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.05)
    return found


def processes(folder: Path) -> list[str]:
    """Command lines of processes that work in the folder or below, or were told of it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = os.fsdecode((process / "cmdline").read_bytes()).replace("\0", " ")
            where = str((process / "cwd").readlink())
        except OSError:
            continue
        if f"{where}/".startswith(f"{folder}/") or f"{folder}/" in command:
            found.append(command)
    return found
