"""What the server says that it holds of a run: nothing else counts as sent.

Neither an exit code nor W&B's own mark is evidence: both say "done" when every upload has failed.
"""

from __future__ import annotations

from typing import Any

from grocery.tracking.artifacts import alias_of
from grocery.tracking.outbox import Outbox

# States of a run whose end the server was told; not so of one that has fallen silent.
ENDED = ("finished", "failed", "killed")


def missing(api: Any, outbox: Outbox) -> list[str]:
    """The server's lacks, in words: what was made of a run and is not there; empty if all is.

    Each artifact and table is asked for by name and digest, each media file by name and size, the
    curves by their last step, the summary by its names, and the run by whether it has ended.
    """
    about, *made = outbox.made()
    where = f"{about['entity'] or api.default_entity}/{about['project']}"
    api.flush()  # it would remember the run as it was
    try:
        run = api.run(f"{where}/{outbox.folder.name}")
    except Exception as error:
        if isinstance(getattr(error, "exc", error), ValueError):  # there is no such run
            return ["the run"]
        raise
    lacks = [] if run.state in ENDED else ["its end"]
    for note in made:
        if note["made"] == "steps":
            lacks += ["its curves"] * (run.lastHistoryStep < note["last"])
            lacks += ["its summary"] * (not {*note.get("summary", ())} <= {*run.summary.keys()})
    sizes = {file.name: file.size for file in run.files()}
    folder = outbox.run_folder / "files"
    for path in sorted(path for path in (folder / "media").rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if sizes.get(name) != path.stat().st_size:
            lacks.append(name)
    if tables := [note for note in made if note["made"] == "table"]:
        known = {one.digest for one in run.logged_artifacts() if one.state == "COMMITTED"}
        lacks += [f"the table {note['name']}" for note in tables if note["digest"] not in known]
    for name, note in outbox.artifacts().items():
        there = f"{where}/{name}:{alias_of(note['md5'])}" if note else ""
        found = api.artifact(there) if there and api.artifact_exists(there) else None
        if found is None or found.digest != note["digest"]:
            lacks.append(f"the artifact {name}")
    return lacks
