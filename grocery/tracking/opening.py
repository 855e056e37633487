"""The line that opens a run: what it is called, where it belongs, and what it is about."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from secrets import token_hex
from time import time_ns
from typing import Any

from grocery.settings import TrackingParams
from grocery.tracking.provenance import git_state, pipeline_run
from grocery.tracking.sweep_run import STAGE, handed_out

TAG = 64  # characters of a tag that W&B takes
NAME = 128  # of the names of projects, groups and runs


def opening_of(
    stage: str,
    settings: TrackingParams,
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, Path],
    tags: Iterable[str],
) -> tuple[dict[str, Any], list[str]]:
    """The line for a run that begins now, before the stage writes files that git tracks.

    What W&B does not take is shortened, and said in the sentences: a tag costs no tracking.
    """
    warnings: list[str] = []

    def fit(what: str, value: str, length: int, pattern: str = r"[^\s\S]") -> str:
        short = re.sub(pattern, "-", value)[:length]
        if short != value:
            warnings.append(f"the {what} {value[:80]!r} is {short[:80]!r} in W&B")
        return short

    run = handed_out()
    git = git_state()
    group = pipeline_run(git, run)
    project = os.environ.get("WANDB_PROJECT") or settings.project
    named = [tag.strip() for tag in os.environ.get("WANDB_TAGS", "").split(",")]
    joined = sorted({fit("tag", tag, TAG) for tag in (*tags, *named) if tag})
    own = run if stage == STAGE else None
    return (
        {
            "do": "open",
            "begun": time_ns(),
            "id": own.id if own else token_hex(4),
            "stage": stage,
            "name": fit("name", _name(stage, group), NAME),
            "group": fit("group", group, NAME) if group else None,
            "project": fit("project", project, NAME, r"[/\\#?%:]"),
            "entity": os.environ.get("WANDB_ENTITY") or settings.entity or None,
            "tags": joined,
            "config": config,
            "git": git,
            "inputs": {name: path.as_posix() for name, path in inputs.items()},
            "sweep": own.settings() if own else None,
            "timeout": settings.timeout,
            "upload": settings.upload,
            "registry": settings.registry,
        },
        warnings,
    )


def _name(stage: str, group: str | None) -> str:
    """The stage; among runs of other experiments, its experiment too."""
    experiment = os.environ.get("DVC_EXP_NAME")
    return f"{stage} {experiment}" if experiment and experiment != group else stage
