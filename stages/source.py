"""Refuse a raw dataset that is not here or not plain files, and say how to get it, or which file.

`prepare` cannot do so: DVC hashes what a stage reads before the stage runs, and ends with "No such
file or directory", or with words on a link or a name that name no file. So this stage, which
`prepare` waits for, declares no raw data. It runs when another dataset is chosen, and in a clone
without outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grocery.core.files import write_bytes
from grocery.core.params import DataParams
from grocery.core.stage import Report, writes
from grocery.data.sources import open_source

RAW = Path("data/raw")


@dataclass(frozen=True)
class Paths:
    """What the stage writes: the name of the dataset."""

    chosen: Path = writes("data/source.txt")


def run(params: DataParams, paths: Paths, report: Report) -> dict[str, Any]:
    """Write the name of the raw dataset, if its files can be listed."""
    open_source(RAW / params.source).images()
    write_bytes(paths.chosen, f"{params.source}\n".encode())
    return {"source": params.source}
