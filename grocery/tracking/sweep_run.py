"""The run that W&B's agent has handed out, and which stage joins it.

`wandb agent` says through its environment which run of the sweep a process is. A trial is a whole
experiment, though, and only the stage that the sweep judges is that run: `STAGE`. All other stages
are runs of their own. W&B itself would take every one of them for the sweep's.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

STAGE = "train"

VARIABLES = _SWEEP, _RUN, _PARAMETERS = "WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"


@dataclass(frozen=True)
class SweepRun:
    """A run of a sweep, by their ids."""

    sweep: str
    id: str
    parameters: str | None  # file with what the sweep has chosen, which joins the run's config

    def settings(self) -> dict[str, str]:
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
