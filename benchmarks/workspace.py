"""Parameters of this checkout, set for a while."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml


@contextmanager
def parameters(changes: Sequence[str]) -> Iterator[None]:
    """Set parameters (``section.key=value``); params.yaml and dvc.lock are put back at the end."""
    files = [path for path in (Path("params.yaml"), Path("dvc.lock")) if path.exists()]
    before = [path.read_bytes() for path in files]
    document = yaml.safe_load(before[0])
    for change in changes:
        key, value = change.split("=", 1)
        *sections, last = key.split(".")
        place = document
        for section in sections:
            place = place[section]
        place[last] = yaml.safe_load(value)
    try:
        files[0].write_text(yaml.safe_dump(document))
        yield
    finally:
        for path, content in zip(files, before, strict=True):
            path.write_bytes(content)
