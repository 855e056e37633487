"""Pages as their readers follow them: commands work, and print what is shown."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from conftest import ROOT, Project, checkout, once
from grocery.shards import read_columns
from running import wait_for
from samples import put
from test_documents import BLOCK
from wandb_server import WandbServer

# Lines that are not run here: they set up, reach for another host, or measure for a long time; and
# what a page says of a file or a folder that the reader is to bring.
LEFT_OUT = re.compile(
    r"make |source |dvc get |python |export |wandb |cp |.*my.yaml"
    r"|.*grocery-store|.*photographs|.*example\.org|.*BUCKET"
)
ENDS_WITH_ANOTHER_CODE = {
    "grocery registry rollback --stage production": "had no version before",
    "grocery monitor data/prepared/incoming/ --each --settled 0 --report drift.html": "alert",
}
# What differs each time: ids, the time of day, how far a queue is, seconds (of a sweep's trial they
# stand before its algorithm); and how wide a table is drawn.
CHANGES = re.compile(
    r"\b[0-9a-f]{7,64}\b|\b\d\d:\d\d [AP]M|\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d\+00:00)?"
    r"|\b(Queued|Running|Success)\b|\d+ (active|idle)"
    r"|\b\d+ s\b|\b\d+\.\d +(?=label_|self_|superv)"
)
DRAWN = re.compile(r"[\s─═]+")


def build(folder: Path) -> None:
    """The project as a reader has it: built, committed, with a git remote, and other images."""
    project = checkout(folder / "project")
    project.run("dvc", "repro")
    project.commit("Built")
    project.run("git", "init", "--quiet", "--bare", "--initial-branch=main", "../origin.git")
    project.run("git", "remote", "add", "origin", "../origin.git")
    project.run("git", "push", "--quiet", "origin", "main")
    project.run("dvc", "push", "--quiet")
    columns = ["label", "image_id", "image"]
    for row in read_columns(project.path / "data/prepared/shards", columns).to_pylist():
        name = f"{row['label'] or 'unlabeled'}/{row['image_id'][:16]}.jpg"
        put(project.path / "data/raw/mine", name, row["image"])


def stable(lines: list[str]) -> list[str]:
    """Lines without what changes; none that is empty then."""
    return [line for each in lines if (line := DRAWN.sub(" ", CHANGES.sub("*", each)).strip(" *"))]


def lacking(shown: list[str], printed: list[str]) -> list[str]:
    """Lines that are shown and not printed, in any order; all must be shown, unless … stands."""
    expected, found = stable(shown), stable(printed)
    if shown and "…" not in expected and len(found) != len(expected):
        return [f"{len(found)} lines, not {len(expected)}"]
    return [line for line in expected if line != "…" and line not in found]


@pytest.fixture
def here(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Project:
    """The reader's project, and beside it another clone, free to change."""
    Project(once(tmp_path_factory, "embedded", build)).copy(tmp_path / "here")
    project = Project(tmp_path / "here/project")
    project.run("git", "clone", "--quiet", "../origin.git", "../other")
    return project


def follow(name: str, project: Project, variables: Mapping[str, str]) -> None:
    """Type each command of a page: it works, and prints what is shown where something is."""
    waiting = {"Queued", "Running"}
    for block in BLOCK.findall((ROOT / name).read_text()):
        here = project
        for each in re.split(r"^\$ ", block.replace("\\\n", " "), flags=re.MULTILINE)[1:]:
            line, *shown = each.splitlines()
            if LEFT_OUT.match(line.partition("#")[0]):
                continue
            if "# in another clone" in line:
                here = Project(project.path.parent / "other")
            typed = f"{{ {line}\n}} 2>&1"
            done = here.run("bash", "-euo", "pipefail", "-c", typed, check=False, env=variables)
            expected = ENDS_WITH_ANOTHER_CODE.get(line.partition("#")[0].strip(), "\0")
            assert expected in done.stdout or not done.returncode, f"{line}\n{done.stdout}"
            assert lacking(shown, done.stdout.splitlines()) == [], f"{line}\n{done.stdout}"
            if "queue start" in line:
                wait_for(lambda: not waiting & {*project.dvc("queue status")[0].split()}, 900)


FOLLOWED = ["adapt", "experiments", "monitoring", "sweeps", "team"]


@pytest.mark.long
@pytest.mark.parametrize("name", ["README.md", *(f"docs/{name}.md" for name in FOLLOWED)])
def test_a_page_is_followed(name: str, here: Project) -> None:
    follow(name, here, {"COLUMNS": "100"})
    assert not Path("/grocery-storage").exists(), "DVC took the remote's ../ from the root"


@pytest.mark.long
def test_the_page_about_wandb_is_followed(here: Project) -> None:
    """What its reader has: a server, two runs and a promotion that are kept offline."""
    with WandbServer() as server:
        online = server.environment() | {"WANDB_MODE": "online"}
        here.run("grocery", "registry", "register", "--push", env=online)
        offline = online | {"WANDB_MODE": "offline"}
        here.dvc("repro --force --single-item train monitor", env=offline)
        here.run("grocery", "registry", "promote", "v1.0.0", "--stage", "production", env=offline)
        follow("docs/wandb.md", here, online)
