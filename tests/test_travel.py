"""Data travels: back in time, and, of what has changed, the changed shards to S3 and to W&B."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from conftest import TINY_PARAMS, Project, checkout
from grocery import runner
from grocery.contents import read_content
from grocery.data.sources import open_source
from grocery.shards import read_columns
from running import in_one_process
from s3_endpoint import listing, recorded, s3_endpoint
from samples import jpeg, picture, put
from wandb_server import WandbServer

SHARDS = 16
RAW = "data/raw/mine"
OUTPUTS = ("data/prepared/shards", "data/features")
STAGES = ("source", "prepare", "featurize")


def photographs(built: Project, target: Path) -> None:
    """The drawn images as files, with the splits that they have, so that each keeps its own."""
    source = open_source(built.path / "data/raw/synthetic")
    drawn = {image.path: image for image in source.images()}
    table = read_columns(built.path / OUTPUTS[0], ["path", "split", "label"])
    for row in table.to_pylist():
        if row["label"]:
            put(target, f"{row['split']}/{row['path']}", drawn[row["path"]].read())
    for number, image in enumerate(source.incoming()["clean"]):
        put(target, f"incoming/monday/{number}.jpg", image.read())


@pytest.fixture
def mine(built: Project, tmp_path: Path) -> Project:
    """A project with a folder of photographs under DVC."""
    project = checkout(tmp_path / "project")
    photographs(built, project.path / RAW)
    project.edit_params(TINY_PARAMS)
    project.edit_params(
        {
            "data": {"source": "mine"},
            "prepare": {"shards": SHARDS},
            "tracking": {"upload": "files", "entity": "team", "project": "grocery"},
        }
    )
    (project.path / "dvc.lock").unlink()
    return project


def build(project: Project, *stages: str, env: dict[str, str] | None = None) -> None:
    """Put the photographs under DVC, run the stages, record what they have made, and push it."""
    project.run(*in_one_process(*stages), env=env)
    project.dvc(f"add {RAW}", f"commit --force {' '.join(stages)}", "push", env=env)


def shards(project: Project) -> dict[str, dict[str, str]]:
    """Hash by name of the shards of both stages, as DVC has them."""
    return {path: listing(project, project.hashes()[path]) for path in OUTPUTS}


def sent_shards(server: WandbServer, since: int) -> Counter[str]:
    """How often W&B got a file of each shard's name, of whichever stage."""
    uploads = [request for request in server.requests[since:] if request.kind == "upload"]
    names = [Path(request.operation).name for request in uploads]
    return Counter(name for name in names if name.startswith("shard-"))


def raw_objects(project: Project) -> dict[str, int]:
    """What `dvc add` has put into the cache for the folder of photographs."""
    said = (project.path / f"{RAW}.dvc").read_text()
    (md5,) = [word for word in said.split() if word.endswith(".dir")]
    return recorded(project, md5)


@pytest.mark.long
def test_one_changed_image(mine: Project, tmp_path: Path) -> None:
    """The image is a test image, so that the encoder stays: otherwise all features would change."""
    with s3_endpoint(tmp_path / "log") as endpoint, WandbServer() as server:
        endpoint.remote_of(mine)
        online = endpoint.environment() | server.environment() | {"WANDB_MODE": "online"}
        build(mine, *STAGES, env=online)
        first, stored = shards(mine), endpoint.objects()
        assert stored == recorded(mine) | raw_objects(mine)
        names = [name for path in OUTPUTS for name in first[path]]
        assert sent_shards(server, 0) == Counter(names)

        replaced = min((mine.path / RAW / "test").rglob("*.jpg"))
        replaced.write_bytes(jpeg(picture(1)))
        seen = len(server.requests)
        build(mine, *STAGES, env=online)

        second = shards(mine)
        changed = [one for path in OUTPUTS for one in second[path].items() - first[path].items()]
        # The image that has gone and the one that came, in the images and in the features.
        assert 2 <= len(changed) <= 4
        assert sent_shards(server, seen) == Counter(name for name, _ in changed)
        assert server.errors == []

        after, wanted = endpoint.objects(), recorded(mine) | raw_objects(mine)
        assert after == stored | wanted
        new = after.keys() - stored
        # Beside the shards the image itself, and the lists of three folders.
        assert len(new - {md5 for _, md5 in changed}) == 4
        assert sum(after[md5] for md5 in new) < sum(recorded(mine).values()) / 4
        assert set(endpoint.uploads().values()) == {1}


def test_back_in_time_with_photographs_of_ones_own(project: Project) -> None:
    """A tag and the remote are enough: model, predictions and photographs, byte for byte."""
    photographs(project, project.path / RAW)
    project.edit_params({"data": {"source": "mine"}})
    build(project, *runner.STAGES)
    project.commit("Version 2")
    project.run("git", "tag", "v2")
    kept = [RAW, "models/release", "metrics/evaluation"]
    before = [read_content(project.path / path).md5 for path in kept]

    shutil.rmtree(project.path / RAW)
    (project.path / f"{RAW}.dvc").unlink()
    project.commit("What came later")
    shutil.rmtree(project.path / ".dvc/cache")
    for path in ("data/prepared", "data/features", "data/card", "models", "metrics"):
        shutil.rmtree(project.path / path)
    project.run("git", "checkout", "--quiet", "--force", "v2")
    project.run("dvc", "pull")
    assert [read_content(project.path / path).md5 for path in kept] == before
    assert project.stale() == set()
    assert project.run("git", "status", "--porcelain").stdout == ""
