"""Where a run comes from: the commit, the pipeline run it belongs to, the content it read."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from grocery.tracking.sweep_run import SweepRun


def project_root() -> Path:
    """Folder that W&B's own folder lies in, unless WANDB_DIR says another.

    `dvc exp run --queue` and `--temp` run a stage in a temporary copy of the project that is
    removed afterwards, and would take the runs with it; DVC_ROOT is the project itself.
    """
    return Path(os.environ.get("WANDB_DIR") or dvc_root()).absolute()


def dvc_root() -> Path:
    """Root of the DVC repository that we are in; the working directory where there is none."""
    if named := os.environ.get("DVC_ROOT"):
        return Path(named)
    here = Path.cwd()
    return next((path for path in (here, *here.parents) if (path / ".dvc").is_dir()), here)


def git_state() -> dict[str, Any]:
    """Commit of the working directory, and whether tracked files differ from it.

    Empty without git, outside of a repository, or before the first commit.
    """
    commit = git("rev-parse", "HEAD")
    if not commit:
        return {}
    return {"commit": commit, "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}


def pipeline_run(git: dict[str, Any], run: SweepRun | None) -> str | None:
    """Name that runs share: the sweep, else DVC's experiment, else the short commit."""
    named = os.environ.get("WANDB_RUN_GROUP") or (run.sweep if run else "")
    return named or os.environ.get("DVC_EXP_NAME") or git.get("commit", "")[:7] or None


def git(*arguments: str) -> str:
    """What a git command says, or nothing where there is no git, no repository or no such thing."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},  # DVC may be at work beside us
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
