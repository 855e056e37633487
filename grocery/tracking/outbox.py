"""What W&B cannot be told yet, kept beside the run that has to tell it.

`run.use_artifact` needs the server. Offline, each such call becomes one JSON line of
``outbox.jsonl`` in the run's own folder, in the order of the calls, to be delivered when the run
itself has been sent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wandb import Run

FILE = "outbox.jsonl"


def append(run: Run, entry: Mapping[str, str]) -> None:
    """Add one entry, with what identifies the run on the server."""
    whole = {**entry, "run": run.id, "project": run.project, "entity": run.entity}
    with (Path(run.dir).parent / FILE).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(whole, sort_keys=True) + "\n")
