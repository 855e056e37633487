"""This checkout with other parameters, for a while."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import yaml

PARAMS, LOCK = Path("params.yaml"), Path("dvc.lock")


@contextmanager
def restored() -> Iterator[None]:
    """Put parameters, metrics and outputs back at the end; W&B's runs are in a folder of their own.

    Outputs come back from DVC's cache, so the pipeline was built before.
    """
    listed = subprocess.run(
        ["git", "ls-files", "metrics"], capture_output=True, text=True, check=True
    )
    files = [PARAMS, LOCK, *map(Path, listed.stdout.split())]
    before = {path: path.read_bytes() for path in files if path.exists()}
    with tempfile.TemporaryDirectory() as runs, patch.dict(os.environ, WANDB_DIR=runs):
        try:
            yield
        finally:
            for path, content in before.items():
                path.write_bytes(content)
            subprocess.run(["dvc", "checkout", "--quiet", "--force", "dvc.yaml"], check=False)


def set_parameters(changes: Sequence[str]) -> None:
    """Set parameters in params.yaml, each as ``section.key=value``."""
    document = yaml.safe_load(PARAMS.read_text())
    for change in changes:
        key, value = change.split("=", 1)
        *sections, last = key.split(".")
        place = document
        for section in sections:
            place = place[section]
        place[last] = yaml.safe_load(value)
    PARAMS.write_text(yaml.safe_dump(document))
