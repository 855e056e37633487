"""docs/registry.sh, the life of three models: it runs, and W&B's mirror is right at its end."""

import re
from pathlib import Path

import pytest

from conftest import ROOT, checkout
from test_documents import BLOCK
from test_transcripts import stable
from wandb_server import WandbServer

SCRIPT = ROOT / "docs/registry.sh"
PAGE = (ROOT / "docs/registry.md").read_text()


@pytest.mark.long
def test_the_story(tmp_path: Path) -> None:
    """Tags, objects and W&B agree after every step: the script asks `grocery registry status`.

    What docs/registry.md shows is what it prints, but for the lines about W&B.
    """
    project, others = checkout(tmp_path / "project"), tmp_path / "objects of others"
    project.dvc(f"remote add --force --default storage '{others}'")
    project.commit("A remote that others use")
    place = {"TMPDIR": str(tmp_path), "HOME": str(tmp_path), "WANDB_MODE": "online"}
    for who in ("AUTHOR", "COMMITTER"):
        place |= {f"GIT_{who}_NAME": "Ada", f"GIT_{who}_EMAIL": "ada@example.org"}
    with WandbServer() as server:
        done = project.run(str(SCRIPT), str(project.path), env=server.environment() | place)
        aliases = server.state()["links"]
    (shown,) = BLOCK.findall(PAGE.partition("three models\n")[2])
    printed = [line for line in done.stdout.splitlines() if not line.startswith("W&B: ")]
    assert stable(printed) == stable(shown.splitlines())
    assert "production" in str(aliases)
    assert list(tmp_path.glob("tmp.*")) == []
    assert not others.exists()


def test_the_docs_tell_what_the_script_does() -> None:
    """The commands of docs/registry.md are the script's, in its order."""
    told = iter(re.findall(r"^\$ (.*)$", PAGE, re.MULTILINE))
    done = re.findall(r"^(?:run|quietly|refused) +(.*)$", SCRIPT.read_text(), re.MULTILINE)
    shown = [line for line in done if "$" not in line]
    assert len(shown) > 15
    assert [line for line in shown if line.replace('"', "'") not in told] == []
