"""Parameters of this checkout, set for a while."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

PARAMS, LOCK = Path("params.yaml"), Path("dvc.lock")


@contextmanager
def restored() -> Iterator[None]:
    """Put params.yaml and dvc.lock back at the end."""
    files = [path for path in (PARAMS, LOCK) if path.exists()]
    before = [path.read_bytes() for path in files]
    try:
        yield
    finally:
        for path, content in zip(files, before, strict=True):
            path.write_bytes(content)


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
