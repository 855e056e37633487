"""W&B fails, in every way and at every point: the stages do not notice, and nothing is lost.

After `grocery sync` the server holds exactly what it would have held without the outage.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from wandb_pipeline import STAGES, World, pipeline, silent, synchronize
from wandb_server import WandbServer

OFFLINE = "; the run is kept offline, for `grocery sync`"
LATER = "(the run that made it is kept offline); `grocery sync` will do it"

# What goes wrong, with which requests, after how many that go well, and from which stage on.
FAULTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "hangs later": ("hang", {"only": "graphql", "after": 8}, "train"),
    "history is refused": ("404", {"only": "file_stream"}, "train"),
    "media are refused": ("403", {"only": "/storage/run"}, "train"),
    "cut in an upload": ("drop", {"only": "upload", "after": 2}, "train"),
    "history hangs": ("hang", {"only": "file_stream"}, "train"),
    "artifacts refused": ("500", {"only": "CreateArtifact", "after": 1}, "train"),
    "storage refuses": ("403", {"only": "/storage/artifact"}, "train"),
    "refused": ("refuse", {}, "prepare"),
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
FAST = list(FAULTS)[:3]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, World]:
    """The folder and the server of stages that nothing disturbed: at first, and after each."""
    worlds = {"": World(tmp_path_factory.mktemp("undisturbed"), WandbServer())}
    for before, stage in pairwise(["", *STAGES]):
        with worlds[before].copy(tmp_path_factory.mktemp(stage) / "after") as world:
            silent(pipeline(world.folder, world.server, stage))
        worlds[stage] = world
    return worlds


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in FAST else [pytest.mark.long]) for name in FAULTS],
)
def test_the_stages_do_not_notice_and_nothing_is_lost(
    name: str, tmp_path: Path, undisturbed: dict[str, World]
) -> None:
    mode, how, first = FAULTS[name]
    before = ["", *STAGES][STAGES.index(first)]
    stages = STAGES if first == "prepare" else [first]
    expected = undisturbed[stages[-1]].server.state()
    with undisturbed[before].copy(tmp_path / "folder") as world:
        folder, server = world.folder, world.server
        server.fail(mode, **how)
        done = pipeline(folder, server, *stages, timeout=2)
        assert done.stdout == ""
        assert (folder / "classifier/weights").read_text() == "red"

        warnings = done.stderr.splitlines()
        assert 1 <= len(warnings) <= len(stages), "one warning a stage at most"
        assert all(line.startswith("warning: W&B: ") for line in warnings)
        assert all(line.endswith((OFFLINE, LATER)) for line in warnings)
        if name == "hangs later":
            assert warnings == [f"warning: W&B: no answer within 2 s{OFFLINE}"]
        kept = sorted((folder / "wandb").glob("offline-run-*"))
        assert len(kept) == sum(line.endswith(OFFLINE) for line in warnings) >= 1
        online = sorted((folder / "wandb").glob("run-*"))

        server.heal()
        assert server.state() != expected, "the outage did no harm"
        sync = synchronize(folder, server)
        assert (sync.returncode, sync.stderr) == (0, "")
        assert " sent\n" in sync.stdout
        assert server.state() == expected
        again = sorted((folder / "wandb").glob("run-*"))
        assert again == online, "what was kept was not whole, and a run was made again"


@pytest.mark.parametrize(
    ("mode", "only"),
    [("500", "CreateArtifact"), pytest.param("drop", "upload", marks=pytest.mark.long)],
)
def test_a_hiccup_that_wandb_gets_over_is_not_said_and_keeps_nothing_offline(
    mode: str, only: str, tmp_path: Path, undisturbed: dict[str, World]
) -> None:
    with undisturbed["prepare"].copy(tmp_path / "folder") as world:
        world.server.fail(mode, only=only, times=1)
        silent(pipeline(world.folder, world.server, "train"))
        assert [str(request.status) for request in world.server.requests].count(mode) == 1
        assert synchronize(world.folder, world.server).stdout == "nothing waits to be sent\n"
        assert world.server.state() == undisturbed["train"].server.state()
