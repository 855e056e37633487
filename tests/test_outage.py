"""W&B fails, in every way and at every point: the stages do not notice, and nothing is lost.

After `grocery sync` the server holds exactly what it would have held without the outage.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from grocery.contents import read_content
from wandb_log import of_kind, records
from wandb_pipeline import STAGES, pipeline, silent, synchronize
from wandb_server import WandbServer

OFFLINE = "; the run is kept offline, for `grocery sync`"
LATER = "(the run that made it is kept offline); `grocery sync` will do it"

# What goes wrong, with which requests, after how many that go well, and from which stage on.
FAULTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "refused": ("refuse", {}, "prepare"),
    "hangs later": ("hang", {"only": "graphql", "after": 8}, "train"),
    "history is refused": ("404", {"only": "file_stream"}, "train"),
    "media are refused": ("403", {"only": "/storage/run"}, "train"),
    "cut in an upload": ("drop", {"only": "upload", "after": 2}, "train"),
    "history hangs": ("hang", {"only": "file_stream"}, "train"),
    "artifacts refused": ("500", {"only": "CreateArtifact", "after": 1}, "train"),
    "storage refuses": ("403", {"only": "/storage/artifact"}, "train"),
    "hangs": ("hang", {}, "prepare"),
    "500": ("500", {}, "prepare"),
    "401": ("401", {}, "prepare"),
    "401 later": ("401", {"only": "graphql", "after": 5}, "train"),
    "500 later": ("500", {"only": "graphql", "after": 10}, "train"),
    "refused in an upload": ("refuse", {"only": "upload", "after": 1}, "train"),
    "500 at uploads": ("500", {"only": "upload", "after": 3}, "train"),
    "uploads hang": ("hang", {"only": "upload", "after": 4}, "train"),
    "500 at history": ("500", {"only": "file_stream", "after": 1}, "train"),
    "cut after the effect": ("drop", {"only": "CommitArtifact", "after": 1}, "train"),
    "inputs refused": ("500", {"only": "UseArtifact"}, "train"),
    "questions hang": ("hang", {"only": "GetDefaultEntity"}, "train"),
    "links hang": ("hang", {"only": "LinkArtifact"}, "register"),
}
FAST = list(FAULTS)[:4]

# One hiccup that W&B's own tries get over: nothing is said and nothing is kept offline.
HICCUPS: dict[str, dict[str, Any]] = {"500": {"only": "CreateArtifact"}, "drop": {"only": "upload"}}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The state of a server that never failed, after each stage."""
    folder, states = tmp_path_factory.mktemp("undisturbed"), {}
    with WandbServer() as server:
        for stage in STAGES:
            silent(pipeline(folder, server, stage))
            states[stage] = server.state()
    return states


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in FAST else [pytest.mark.long]) for name in FAULTS],
)
def test_the_stages_do_not_notice_and_nothing_is_lost(
    name: str, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    mode, how, first = FAULTS[name]
    before = STAGES[: STAGES.index(first)]
    stages = STAGES if first == "prepare" else [first]
    with WandbServer() as server:
        if before:
            silent(pipeline(tmp_path, server, *before))
        server.fail(mode, **how)
        done = pipeline(tmp_path, server, *stages, timeout=2)
        assert done.stdout == ""
        assert (tmp_path / "classifier/weights").read_text() == "red"

        warnings = done.stderr.splitlines()
        assert 1 <= len(warnings) <= len(stages), "one warning a stage at most"
        assert all(line.startswith("warning: W&B: ") for line in warnings)
        assert all(line.endswith((OFFLINE, LATER)) for line in warnings)
        if name == "hangs later":
            assert warnings == [f"warning: W&B: no answer within 2 s{OFFLINE}"]
        kept = sorted((tmp_path / "wandb").glob("offline-run-*"))
        assert len(kept) == sum(line.endswith(OFFLINE) for line in warnings) >= 1
        if first == "train":
            whole(kept[0], tmp_path)

        server.heal()
        assert server.state() != undisturbed[stages[-1]], "the outage did no harm"
        sync = synchronize(tmp_path, server)
        assert (sync.returncode, sync.stderr) == (0, "")
        assert " sent\n" in sync.stdout
        assert server.state() == undisturbed[stages[-1]]


def whole(kept: Path, folder: Path) -> None:
    """Require that the run of the stage train lies on the disk with all that it was told."""
    found = records(kept)
    assert len(of_kind(found, "history")) == 4
    logged = {artifact.name: set(artifact.aliases) for artifact in of_kind(found, "artifact")}
    md5 = read_content(folder / "classifier").md5
    assert logged["classifier"] == {"latest", f"md5-{md5}"}
    assert [end.exit_code for end in of_kind(found, "exit")] == [0]


@pytest.mark.parametrize("mode", HICCUPS)
def test_a_hiccup_is_got_over(mode: str, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    with WandbServer() as server:
        silent(pipeline(tmp_path, server, "prepare"))
        server.fail(mode, times=1, **HICCUPS[mode])
        silent(pipeline(tmp_path, server, "train"))
        assert [str(request.status) for request in server.requests].count(mode) == 1
        assert synchronize(tmp_path, server).stdout == "nothing waits to be sent\n"
        assert server.state() == undisturbed["train"]
