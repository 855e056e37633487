"""Stage `source`: the raw dataset that is chosen. One that is missing is refused here.

`prepare` cannot say how to get it: DVC hashes what a stage reads before the stage runs, and ends
with "No such file or directory". So this stage, which `prepare` waits for, declares no raw data. It
runs when another dataset is chosen, and in a clone without outputs.
"""

from __future__ import annotations

from pathlib import Path

from grocery.core.errors import one_sentence
from grocery.core.files import write_bytes
from grocery.data.sources import open_source
from grocery.settings import load

RAW, CHOSEN = Path("data/raw"), Path("data/source.txt")


def main() -> None:
    """Run the stage on the dataset that params.yaml names."""
    with one_sentence("source"):
        name = load().data.source
        open_source(RAW / name)
        write_bytes(CHOSEN, f"{name}\n".encode())


if __name__ == "__main__":
    main()
