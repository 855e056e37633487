"""docs/registry.sh, the life of three models: it runs, and W&B's mirror is right at its end."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from conftest import ROOT, checkout, environment
from test_documents import BLOCK
from test_transcripts import stable
from wandb_server import WandbServer

SCRIPT = ROOT / "docs/registry.sh"
ADA = {f"GIT_{who}_NAME": "Ada" for who in ("AUTHOR", "COMMITTER")} | {
    f"GIT_{who}_EMAIL": "ada@example.org" for who in ("AUTHOR", "COMMITTER")
}


@pytest.mark.long
def test_the_story(tmp_path: Path) -> None:
    """Tags, objects and W&B agree after every step: the script asks `grocery registry status`.

    What docs/registry.md shows is what it prints, but for the lines about W&B.
    """
    project = checkout(tmp_path / "project")
    with WandbServer() as server:
        variables = environment(**server.environment(), WANDB_MODE="online")
        done = subprocess.run(
            [SCRIPT, project.path],
            cwd=tmp_path,
            env=variables | {"TMPDIR": str(tmp_path), "HOME": str(tmp_path)} | ADA,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        aliases = server.state()["links"]
    (shown,) = BLOCK.findall((ROOT / "docs/registry.md").read_text().partition("three models\n")[2])
    printed = [line for line in done.stdout.splitlines() if not line.startswith("W&B: ")]
    assert stable(printed) == stable(shown.splitlines())
    assert "production" in str(aliases)
    assert list(tmp_path.glob("tmp.*")) == []


def test_the_docs_tell_what_the_script_does() -> None:
    """The commands of docs/registry.md are the script's, in its order."""
    told = re.findall(r"^\$ (.*)$", (ROOT / "docs/registry.md").read_text(), re.MULTILINE)
    done = [
        re.sub(r"^(run|quietly|refused) ", "", line.strip())
        for line in SCRIPT.read_text().splitlines()
        if line.startswith(("run ", "quietly ", "refused "))
    ]
    shown = [line for line in done if "$" not in line]
    assert len(shown) > 15
    rest = iter(told)
    assert [line for line in shown if line.replace('"', "'") not in rest] == []
