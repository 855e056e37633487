"""A small registry in real git and DVC, and a program that does to it what the commands do."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from conftest import ROOT, Project
from grocery.contents import read_content
from wandb_pipeline import variables
from wandb_server import WandbServer

WORDS = ("red", "blue", "green")

# Steps such as "register:v1.0.0:red", "assign:production:v1.0.0" or "repair". At "pause" it waits
# until somebody removes the file ``paused``.
PROGRAM = """
import sys, time
from pathlib import Path
from grocery.core.errors import GroceryError
from grocery.settings import load
from grocery.registry.git import Git
from grocery.registry.mirror import Mirror
from grocery.registry.state import read_state
from grocery.registry.tags import ARTIFACT, message
from grocery.tracking.provenance import project_root

timeout, registry, upload, *steps = sys.argv[1:]
params = load(Path("params.yaml"))
tracking = {"timeout": float(timeout), "registry": registry, "upload": upload}
params = params.model_copy(update={"tracking": params.tracking.model_copy(update=tracking)})
git = Git(Path.cwd())
mirror = Mirror.of(project_root(), git, params)


def tag(name, commit):
    latest = max((tag.time for tag in read_state(git).events), default=0)
    latest = max([latest, *(v.tag.time for v in read_state(git).versions.values())])
    made = git.create_tag(name, commit, message(name, {}), not_before=latest + 1)
    git.publish_tag(name, made, remote=mirror.remote)


for step in steps:
    try:
        match step.split(":"):
            case ["register", version, word]:
                mirror.remember(f"register {version}")
                tag(f"{ARTIFACT}@{version}", git.commit_of(word))
                print(mirror.mirror_now())
            case ["withdraw", version]:
                mirror.remember(f"withdraw {version}")
                tag(f"{ARTIFACT}@{version}!", read_state(git).versions[version].commit)
                print(mirror.mirror_now())
            case ["assign" | "unassign" as verb, stage, version]:
                mirror.remember(f"{verb} {stage} {version}")
                state = read_state(git)
                mark = "!" if verb == "unassign" else ""
                number = len(state.history(stage)) + 1
                tag(f"{ARTIFACT}#{stage}{mark}#{number}", state.versions[version].commit)
                print(mirror.mirror_now())
            case ["pause"]:
                Path("paused").touch()
                while Path("paused").exists():
                    time.sleep(0.01)
            case ["now"]:
                print(mirror.mirror_now())
            case ["repair"]:
                print("\\n".join(mirror.repair()))
            case ["status"]:
                print("\\n".join(mirror.disagreements()))
            case ["modules"]:
                print("wandb" in sys.modules)
    except GroceryError as error:
        print("error:", error)
"""


def make_repository(folder: Path) -> Path:
    """A repository whose commits `red`, `blue` and `green` each hold another release, in DVC."""
    folder.mkdir()
    project = Project(folder)
    project.run("git", "init", "--quiet", "--initial-branch=main")
    project.run("dvc", "init", "--quiet")
    shutil.copy2(ROOT / "params.yaml", folder / "params.yaml")
    (folder / ".gitignore").write_text("/release\n/wandb\n/shards\n/classifier\n/*.html\n")
    for word in WORDS:
        release = folder / "made" / word
        release.mkdir(parents=True)
        (release / "weights").write_text(word)  # as the stages of wandb_pipeline make it
        (release / "card").write_text(f"# {word}")
    project.run("dvc", "add", "--quiet", *(f"made/{word}" for word in WORDS))
    for word in WORDS:
        md5 = read_content(folder / "made" / word).md5
        (folder / "dvc.lock").write_text(
            "schema: '2.0'\n"
            "stages:\n"
            "  register:\n"
            "    cmd: python -m grocery.runner register\n"
            "    outs:\n"
            "    - path: models/release\n"
            "      hash: md5\n"
            f"      md5: {md5}\n"
        )
        project.commit(word)
        project.run("git", "branch", word)
    return folder


def start(
    folder: Path,
    server: WandbServer | None,
    *steps: str,
    timeout: float = 30,
    registry: str = "wandb-registry-model/grocery-classifier",
    upload: str = "metadata",
    **changes: str,
) -> subprocess.Popen[str]:
    """Begin to do steps to the registry of a repository."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(timeout), registry, upload, *steps],
        cwd=folder,
        env=variables(folder, server, **changes),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def do(folder: Path, server: WandbServer | None, *steps: str, **options: object) -> Sequence[str]:
    """Do steps to the registry of a repository; what they said, a line each."""
    process = start(folder, server, *steps, **options)  # type: ignore[arg-type]
    out, err = process.communicate(timeout=180)
    assert (process.returncode, err) == (0, "")
    return [line for line in out.splitlines() if line]
