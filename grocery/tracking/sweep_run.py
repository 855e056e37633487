"""The run that W&B's agent has handed out, and which stage joins it.

`wandb agent` says through its environment which run of the sweep a process is. A trial is a whole
experiment, though, and only the stage that the sweep judges is that run: `STAGE`. All other stages
are runs of their own. W&B itself would take every one of them for the sweep's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STAGE = "train"

_SWEEP, _RUN, _PARAMETERS = "WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"


@dataclass(frozen=True)
class SweepRun:
    """A run of a sweep.

    Attributes
    ----------
    sweep
        Id of the sweep.
    id
        Id of the run.
    parameters
        File with the parameters that the sweep has chosen, which join the run's config; or None.
    """

    sweep: str
    id: str
    parameters: str | None

    def settings(self) -> dict[str, Any]:
        """W&B's settings of a process that is this run."""
        wanted = {"sweep_id": self.sweep, "run_id": self.id, "sweep_param_path": self.parameters}
        return {name: value for name, value in wanted.items() if value is not None}


def handed_out() -> SweepRun | None:
    """The run that W&B's agent has started this process for."""
    sweep, run = os.environ.get(_SWEEP), os.environ.get(_RUN)
    if not sweep or not run:
        return None
    file = os.environ.get(_PARAMETERS, "")
    return SweepRun(sweep, run, file if Path(file).is_file() else None)


@contextmanager
def on_our_own() -> Iterator[None]:
    """Keep W&B from joining the sweep's run by itself."""
    hidden = {
        name: os.environ.pop(name) for name in {_SWEEP, _RUN, _PARAMETERS} & os.environ.keys()
    }
    try:
        yield
    finally:
        os.environ.update(hidden)
