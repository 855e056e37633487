"""W&B fails, in every way and at every point: the stages do not notice, and nothing is lost.

After `grocery sync` the server holds exactly what it would have held without the outage.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from grocery.contents import read_content
from wandb_log import of_kind, records
from wandb_pipeline import pipeline, silent, synchronize
from wandb_server import WandbServer

TIMEOUT = 2.0
OFFLINE = "; the run is kept offline, for `grocery sync`"
LATER = "(the run that made it is kept offline); `grocery sync` will do it"

# What goes wrong, with which requests, and after how many that go well.
FAULTS: dict[str, tuple[str, dict[str, Any]]] = {
    "refused": ("refuse", {}),
    "hangs": ("hang", {}),
    "500": ("500", {}),
    "401": ("401", {}),
    "401 later": ("401", {"only": "graphql", "after": 10}),
    "500 later": ("500", {"only": "graphql", "after": 20}),
    "hangs later": ("hang", {"only": "graphql", "after": 15}),
    "refused in an upload": ("refuse", {"only": "upload", "after": 1}),
    "cut in an upload": ("drop", {"only": "upload", "after": 2}),
    "500 at uploads": ("500", {"only": "upload", "after": 3}),
    "uploads hang": ("hang", {"only": "upload", "after": 4}),
    "history hangs": ("hang", {"only": "file_stream"}),
    "500 at history": ("500", {"only": "file_stream", "after": 1}),
    "artifacts refused": ("500", {"only": "CreateArtifact", "after": 1}),
    "cut after the effect": ("drop", {"only": "CommitArtifact", "after": 1}),
    "inputs refused": ("500", {"only": "UseArtifact"}),
    "questions hang": ("hang", {"only": "GetDefaultEntity"}),
    "links hang": ("hang", {"only": "LinkArtifact"}),
}

# One hiccup that W&B's own tries get over: nothing is said and nothing is kept offline.
HICCUPS: dict[str, tuple[str, dict[str, Any]]] = {
    "one 500": ("500", {"only": "CreateArtifact", "times": 1}),
    "one cut upload": ("drop", {"only": "upload", "times": 1}),
}


@dataclass
class Outcome:
    """What was seen in an outage and after it."""

    folder: Path
    returncode: int
    out: str
    warnings: list[str]
    kept: list[Path]  # runs that were kept offline, before the synchronisation
    during: dict[str, Any]
    sync: tuple[int, str, str]
    after: dict[str, Any]


def suffer(folder: Path, mode: str, how: dict[str, Any], timeout: float) -> Outcome:
    """Run the stages while the server fails, heal it, and synchronise."""
    with WandbServer() as server:
        server.fail(mode, **how)
        done = pipeline(folder, server, timeout=timeout)
        kept = sorted((folder / "wandb").glob("offline-run-*"))
        server.heal()
        during = server.state()
        sync = synchronize(folder, server)
        return Outcome(
            folder,
            done.returncode,
            done.stdout,
            done.stderr.splitlines(),
            kept,
            during,
            (sync.returncode, sync.stdout, sync.stderr),
            server.state(),
        )


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Outcome]]]:
    """All outages, some at a time, since most of each is waiting."""
    base = tmp_path_factory.mktemp("outages")
    with ThreadPoolExecutor(4) as pool:
        yield {
            name: pool.submit(suffer, base / name.replace(" ", "-"), mode, how, timeout)
            for faults, timeout in ((FAULTS, TIMEOUT), (HICCUPS, 30.0))
            for name, (mode, how) in faults.items()
        }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The state of a server that never failed."""
    with WandbServer() as server:
        silent(pipeline(tmp_path_factory.mktemp("undisturbed"), server))
        return server.state()


@pytest.mark.parametrize("name", FAULTS)
def test_the_stages_do_not_notice(name: str, outcomes: dict[str, Future[Outcome]]) -> None:
    outcome = outcomes[name].result()
    assert (outcome.returncode, outcome.out) == (0, "")
    assert (outcome.folder / "release/weights").read_text() == "red"

    assert len(outcome.warnings) <= 3, "one warning a stage at most"
    kept = [line for line in outcome.warnings if line.endswith(OFFLINE)]
    linked_later = [line for line in outcome.warnings if line.endswith(LATER)]
    assert len(kept) == len(outcome.kept) >= 1
    assert sorted(kept + linked_later) == sorted(outcome.warnings)
    for line in outcome.warnings:
        assert line.startswith("warning: W&B: ")
        assert "no message" not in line


@pytest.mark.parametrize("name", FAULTS)
def test_after_sync_the_server_holds_what_it_would_have_held(
    name: str, outcomes: dict[str, Future[Outcome]], undisturbed: dict[str, Any]
) -> None:
    outcome = outcomes[name].result()
    code, out, err = outcome.sync
    assert (code, err) == (0, "")
    assert " sent\n" in out
    assert outcome.during != undisturbed, "the outage did no harm, so nothing is proved"
    assert outcome.after == undisturbed


@pytest.mark.parametrize("name", HICCUPS)
def test_a_hiccup_is_got_over(
    name: str, outcomes: dict[str, Future[Outcome]], undisturbed: dict[str, Any]
) -> None:
    outcome = outcomes[name].result()
    assert (outcome.warnings, outcome.kept) == ([], [])
    assert outcome.sync[1] == "nothing waits to be sent\n"
    assert outcome.during == undisturbed


def test_what_is_kept_offline_is_whole(outcomes: dict[str, Future[Outcome]]) -> None:
    outcome = outcomes["cut in an upload"].result()
    (train,) = (
        found
        for found in map(records, outcome.kept)
        if of_kind(found, "run")[0].job_type == "train"
    )
    assert len(of_kind(train, "history")) == 4
    logged = {artifact.name: set(artifact.aliases) for artifact in of_kind(train, "artifact")}
    md5 = read_content(outcome.folder / "classifier").md5
    assert logged["classifier"] == {"latest", f"md5-{md5}"}
    assert [end.exit_code for end in of_kind(train, "exit")] == [0]
