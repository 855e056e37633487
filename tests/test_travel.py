"""Data travels: of what has changed the changed shards, and all of it back in time."""

import json
import shutil
from pathlib import Path

from conftest import Project
from grocery import runner
from grocery.contents import read_content
from grocery.data.sources import open_source
from grocery.shards import read_columns
from running import in_one_process
from samples import jpeg, picture, put

RAW = "data/raw/mine"
SHARDS = ("data/prepared/shards", "data/features")


def photographs(project: Project) -> None:
    """The drawn images as files, with the splits that they have, so that each keeps its own."""
    source, target = open_source(project.path / "data/raw/synthetic"), project.path / RAW
    drawn = {image.path: image for image in source.images()}
    table = read_columns(project.path / SHARDS[0], ["path", "split", "label"])
    for row in table.to_pylist():
        if row["label"]:
            put(target, f"{row['split']}/{row['path']}", drawn[row["path"]].read())
    for number, image in enumerate(source.incoming()["clean"]):
        put(target, f"incoming/monday/{number}.jpg", image.read())


def build(project: Project, *stages: str) -> set[str]:
    """Put the photographs under DVC, run the stages, record what they have made, and push it.

    Gives the hashes of the shards of both stages, as DVC's own lists in its cache have them.
    """
    project.run(*in_one_process(*stages))
    project.dvc(f"add {RAW}", f"commit --force {' '.join(stages)}", "push")
    lists = [project.hashes()[path] for path in SHARDS]
    files = [project.path / ".dvc/cache/files/md5" / md5[:2] / md5[2:] for md5 in lists]
    return {entry["md5"] for file in files for entry in json.loads(file.read_bytes())}


def pushed(project: Project) -> set[Path]:
    """The objects in the DVC remote."""
    return {path for path in project.path.parent.glob("grocery-storage/**/*") if path.is_file()}


def test_back_in_time_with_photographs_of_ones_own(project: Project) -> None:
    """A tag and the remote are enough: model, predictions and photographs, byte for byte."""
    photographs(project)
    project.edit_params({"data": {"source": "mine"}})
    first = build(project, *runner.STAGES)
    project.commit("Version 2")
    project.run("git", "tag", "v2")
    kept = [RAW, "models/release", "metrics/evaluation"]
    before, stored = [read_content(project.path / path).md5 for path in kept], pushed(project)

    # Another test image, so that the encoder stays: otherwise all features would change.
    min((project.path / RAW / "test").rglob("*.jpg")).write_bytes(jpeg(picture(1)))
    changed = build(project, "source", "prepare", "featurize") - first
    # The image that has gone and the one that came, in the images and in the features.
    assert 2 <= len(changed) <= 4
    # Beside the shards the image itself is sent, and the lists of three folders.
    sent = {"".join(path.parts[-2:]) for path in pushed(project) - stored}
    assert sent > changed
    assert len(sent - changed) == 4

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
