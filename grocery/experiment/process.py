"""A DVC experiment of its own, with all processes that belong to it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from grocery.core.errors import printable
from grocery.experiment import guard

TARGET = "evaluate"  # the stage that it ends with; those after it judge a release

# What begins waits in a stash, and at an experiment's end DVC goes on with whatever waits there: in
# the stash of all perhaps with one that is just beginning, which would then run twice.
_DVC = """
import sys, uuid
from dvc.cli import main
from dvc.repo import experiments
experiments.WORKSPACE_STASH = f"refs/exps/temp/stash-{uuid.uuid4()}"
sys.exit(main())
"""


class Experiment:
    """A `dvc exp run --temp` that has been started.

    It runs in a temporary folder of DVC's, beside others. It never outlives this process, however
    that ends, and leaves nothing behind when it is ended (see `grocery.experiment.guard`).

    Parameters
    ----------
    name
        It must be new.
    assignments
        Values of parameters, by dotted name: numbers, truth values, strings, None, lists of them.
    show
        Whether what DVC and the stages say is printed as it comes.

    Attributes
    ----------
    reason
        After `wait`: in one sentence why it failed, as far as it has said so.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        assignments: Mapping[str, Any],
        environment: Mapping[str, str] = os.environ,
        *,
        show: bool = False,
    ) -> None:
        self.reason, self._show, self._ended = "", show, False
        lock = root / ".dvc" / "tmp" / "experiments.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        path = [str(Path(sys.executable).parent), environment.get("PATH", os.defpath)]
        # -I and -S: the guard needs nothing that is installed, and starts in no time.
        command = [sys.executable, "-I", "-S", guard.__file__, str(lock), name]
        command += [sys.executable, "-u", "-c", _DVC, "--wait-for-lock", "exp", "run", "--temp"]
        command += [f"--name={name}", TARGET]
        command += [f"--set-param={key}={as_override(value)}" for key, value in assignments.items()]
        self._process = subprocess.Popen(
            command,
            cwd=root,
            env={**environment, "PATH": os.pathsep.join(path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # a terminal's Ctrl-C is ours, and we end it in order
        )

    def wait(self) -> int:
        """Wait for the end; the exit code, which is 0 when the experiment is recorded."""
        said = []
        for line in self._process.stdout or ():
            if self._show and not self._ended:  # DVC says at length that it was interrupted
                print(line, end="", flush=True)
            said.append(line.rstrip())
        code = self._process.wait()
        self.terminate()
        self.reason = _reason(said) or f"dvc exp run exited with {code}" if code else ""
        return code

    def terminate(self) -> None:
        """Begin to end it; `wait` returns when all is gone. May be called from any thread."""
        self._ended = True
        if self._process.stdin:
            with suppress(OSError):
                self._process.stdin.close()


def as_override(value: Any) -> str:
    """A value in the grammar of `dvc exp run --set-param`, which is Hydra's."""
    if isinstance(value, list | tuple):
        return f"[{','.join(as_override(item) for item in value)}]"
    if not isinstance(value, str):
        return json.dumps(value)
    # In quotes only a quote has a meaning of its own, and the backslashes before it.
    text = re.sub(r"(\\+)(?='|$)", r"\1\1", value).replace("'", "\\'")
    return f"'{text}'"


def _reason(said: list[str]) -> str:
    """The stage's own sentence, or else DVC's first."""
    sentences = (line[7:] for start in ("error: ", "ERROR: ") for line in said if line[:7] == start)
    return printable(next(sentences, ""))
