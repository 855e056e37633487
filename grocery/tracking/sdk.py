"""W&B's SDK as this project uses it: its settings, and how a run begins."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grocery.core.errors import printable
from grocery.tracking.outbox import Outbox

if TYPE_CHECKING:
    import wandb

# Nothing is captured, measured or sent that a stage did not ask for.
SETTINGS: dict[str, Any] = {
    "silent": True,
    "console": "off",
    "disable_code": True,
    "save_code": False,
    "label_disable": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
    "finish_timeout_raises": True,
}


def supported(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Those settings that the installed SDK has: without the others it does all the same."""
    import wandb

    return {name: value for name, value in wanted.items() if name in wandb.Settings.model_fields}


def set_up(**settings: Any) -> wandb.Settings:
    """Give W&B its settings; gives what is set now."""
    import wandb

    return wandb.setup(wandb.Settings(**supported({**SETTINGS, **settings}))).settings


def begin(outbox: Outbox, opening: Mapping[str, Any], mode: Any) -> wandb.Run:
    """Open the run, and note where W&B keeps it."""
    import wandb

    inputs = {name: outbox.hashed(name, Path(path)) for name, path in opening["inputs"].items()}
    known = {name: md5 for name, md5 in inputs.items() if md5}
    root = outbox.wandb.parent
    run = wandb.init(
        **{key: opening[key] for key in ("id", "project", "entity", "name", "group", "tags")},
        mode=mode,
        dir=str(root),
        job_type=opening["stage"],
        config={**opening["config"], "inputs": known, "git": opening["git"]},
    )
    folder = Path(run.dir).parent
    if os.environ["WANDB_DATA_DIR"] == str(outbox.wandb):  # copies of files lie with the run
        os.environ["WANDB_DATA_DIR"] = str(folder)
    where = {"folder": folder.name, "entity": run.entity, "project": run.project, "mode": mode}
    outbox.notes.add({"made": "run", **where})
    return run


def one_line(error: Exception) -> str:
    """What an error says, in one line of at most 200 characters."""
    text = printable((str(error).strip() or type(error).__name__).splitlines()[0])
    return text if len(text) <= 200 else text[:199] + "…"
