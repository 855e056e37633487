"""A small registry in real git and DVC, and steps that do to it what the commands do."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from conftest import ROOT, Project
from grocery.contents import read_content
from grocery.core.errors import GroceryError
from grocery.registry.git import Git
from grocery.registry.mirror import Mirror
from grocery.registry.state import read_state
from grocery.registry.tags import ARTIFACT, message
from grocery.settings import load
from grocery.tracking.provenance import project_root
from wandb_pipeline import begin, inside
from wandb_server import WandbServer

WORDS = ("red", "blue", "green")
REGISTRY = "wandb-registry-model/grocery-classifier"


def act(timeout: str, registry: str, upload: str, *steps: str) -> None:
    """Do steps in the working directory, and print what is said.

    Steps are such as "register:v1.0.0:red", "assign:production:v1.0.0" or "repair".
    """
    params = load(Path("params.yaml"))
    tracking = {"timeout": float(timeout), "registry": registry, "upload": upload}
    params = params.model_copy(update={"tracking": params.tracking.model_copy(update=tracking)})
    git = Git(Path.cwd())
    mirror = Mirror.of(project_root(), git, params)

    def tag(name: str, commit: str) -> None:
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
                case ["assign" | "unassign" as verb, stage, version]:
                    mirror.remember(f"{verb} {stage} {version}")
                    state = read_state(git)
                    mark = "!" if verb == "unassign" else ""
                    number = len(state.history(stage)) + 1
                    tag(f"{ARTIFACT}#{stage}{mark}#{number}", state.versions[version].commit)
                    print(mirror.mirror_now())
                case ["now"]:
                    print(mirror.mirror_now())
                case ["repair"]:
                    print("\n".join(mirror.repair()))
                case ["status"]:
                    print("\n".join(found.says for found in mirror.disagreements()))
                case ["modules"]:
                    print("wandb" in sys.modules)
        except GroceryError as error:
            print("error:", error)


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


def do(
    folder: Path,
    server: WandbServer | None,
    *steps: str,
    timeout: float = 30,
    registry: str = REGISTRY,
    upload: str = "metadata",
    **changes: str,
) -> Sequence[str]:
    """Do steps to the registry of a repository; what they said, a line each."""
    out, err = io.StringIO(), io.StringIO()
    with inside(folder, server, **changes), redirect_stdout(out), redirect_stderr(err):
        act(str(timeout), registry, upload, *steps)
    assert err.getvalue() == ""
    return [line for line in out.getvalue().splitlines() if line]


def start(
    folder: Path, server: WandbServer | None, *steps: str, timeout: float = 30, **changes: str
) -> subprocess.Popen[str]:
    """Begin to do steps in a process of its own."""
    code = "import sys; from wandb_mirror import act; act(*sys.argv[1:])"
    options = (str(timeout), REGISTRY, "metadata")
    return begin(folder, server, "-c", code, *options, *steps, env=changes)
