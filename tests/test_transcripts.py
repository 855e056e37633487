"""Pages as their readers follow them: commands work, and print what is shown."""

import re
import shlex
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest

from conftest import ROOT, Project, checkout, once
from grocery.contents import read_content
from grocery.shards import read_columns
from running import wait_for
from samples import put
from test_documents import BLOCK
from test_machines import running
from test_onnx import POOL, network
from test_remote_s3 import BUCKET, endpoint
from wandb_server import WandbServer

# Lines that are not run here: they set up, reach for another host, or measure for a long time; and
# what a page says of a file or a folder that the reader is to bring.
LEFT_OUT = re.compile(
    r"make |source |dvc get |python benchmarks|export |wandb |aws |.*my.yaml"
    r"|.*grocery-store|.*photographs|.*example\.org|.*BUCKET"
)
GOES_ON = re.compile(r"python -m distributed|grocery worker")  # until it is interrupted
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
    project.run("git", "init", "--quiet", "--bare", "--initial-branch=main", "../grocery.git")
    project.run("git", "remote", "add", "origin", "../grocery.git")
    project.run("git", "push", "--quiet", "--set-upstream", "origin", "main")
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
    project.run("git", "clone", "--quiet", "../grocery.git", "../other")
    return project


def follow(page: str, project: Project, env: dict[str, str]) -> None:
    """Type each command of a page: it works, and prints what is shown where something is."""
    waiting = {"Queued", "Running"}
    for block in BLOCK.findall(page):
        # Who begins with a clone is in no project.
        here = Project(project.path.parent) if block.startswith("$ git clone") else project
        with ExitStack() as background:
            for each in re.split(r"^\$ ", block.replace("\\\n", " "), flags=re.MULTILINE)[1:]:
                line, *shown = each.splitlines()
                command = line.partition("#")[0].strip()
                if LEFT_OUT.match(command):
                    continue
                if GOES_ON.match(command):
                    background.enter_context(running(*shlex.split(command), folder=here.path))
                    continue
                if "# in another clone" in line:
                    here = Project(project.path.parent / "other")
                typed = f"{{ {line}\n}} 2>&1"
                done = here.run("bash", "-euo", "pipefail", "-c", typed, check=False, env=env)
                expected = ENDS_WITH_ANOTHER_CODE.get(command, "\0")
                assert expected in done.stdout or not done.returncode, f"{line}\n{done.stdout}"
                assert lacking(shown, done.stdout.splitlines()) == [], f"{line}\n{done.stdout}"
                if moved := re.search(r"&& cd (\S+)$", command):
                    here = Project(here.path / moved[1])
                if "queue start" in line:
                    wait_for(lambda: not waiting & {*project.dvc("queue status")[0].split()}, 900)


def page(name: str) -> str:
    return (ROOT / f"{name}.md").read_text()


FOLLOWED = ["adapt", "experiments", "monitoring", "questions", "sweeps", "team"]


@pytest.mark.long
@pytest.mark.parametrize("name", ["README", *(f"docs/{name}" for name in FOLLOWED)])
def test_a_page_is_followed(name: str, here: Project) -> None:
    follow(page(name), here, {"COLUMNS": "100"})
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
        follow(page("docs/wandb"), here, online)


def in_production(project: Project, env: dict[str, str]) -> None:
    """The model becomes version 1.0.0, and is in production."""
    project.run("grocery", "registry", "register", "--push", env=env)
    project.run("grocery", "registry", "promote", "v1.0.0", "--stage", "production", env=env)


@pytest.mark.long
def test_the_pages_about_a_model_in_production_are_followed(here: Project) -> None:
    in_production(here, {})
    here.run("grocery", "data", "samples", "shelf/")
    text = page("docs/registry").partition("## The life of")[0]  # whose story has a test of its own
    text += page("docs/commands") if shutil.which("jq") else ""
    follow(text.replace("https://example.org/team", str(here.path.parent)), here, {})


@pytest.mark.long
def test_the_page_about_the_remote_is_followed(here: Project, tmp_path: Path) -> None:
    """What its reader has: a bucket and a key, and once it is used, a version in production."""
    with endpoint(tmp_path) as (url, keys):
        text = page("docs/remote").replace("https://example.org/team", str(here.path.parent))
        text = text.replace("https://s3.example.org", url)
        text = text.replace("BUCKET/PATH", f"{BUCKET}/storage")
        setting_up, using = re.split("(?=^## Use)", text, flags=re.MULTILINE)
        follow(setting_up, here, keys)
        in_production(here, keys)
        (here.path.parent / "grocery-storage").rename(tmp_path / "no more")
        follow(using, here, keys)
    fetched = read_content(here.path / "model"), read_content(here.path / "latest")
    assert [each.md5 for each in fetched] == [here.hashes()["models/release"]] * 2


@pytest.mark.long
def test_the_page_about_networks_is_followed(here: Project, tmp_path: Path) -> None:
    """What its reader has: a network in the home folder."""
    (tmp_path / "resnet18.onnx").write_bytes(network(POOL))
    follow(page("docs/onnx"), here, {"HOME": str(tmp_path)})
    assert (here.path / "models/release/backbone.onnx").read_bytes() == network(POOL)


@pytest.mark.long
def test_the_page_about_machines_is_followed(here: Project) -> None:
    """With nothing remembered, as it tells; and the bytes are those of one machine."""
    text = page("docs/machines").replace("$ dvc exp run", "$ GROCERY_REUSE=no dvc exp run --force")
    follow(text, here, {})
    assert here.run("git", "status", "--porcelain").stdout == " M params.yaml\n"
