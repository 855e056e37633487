"""DVC's commands as its own documentation teaches them: plain, in a clone, without a network."""

import json
import subprocess
from contextlib import suppress

import pytest
import yaml

from conftest import ROOT, Project
from grocery.registry.tags import ARTIFACT

# Each leaves a clone as it is, those that may write and those that only look.
WRITING = [
    *("pull", "fetch", "push", "checkout", "commit", "repro", "repro -P", "repro --pull"),
    *("exp run", "gc -w -f", f"artifacts get . {ARTIFACT} --out ../served"),
]
LOOKING = [
    *("status", "status -c", "diff", "data status", "repro --dry", "exp show", "exp diff"),
    *("metrics diff", "params diff", "plots diff", "dag", "list . -R"),
]
PUT_BACK = "git checkout HEAD . && dvc checkout"  # as README and docs/experiments.md say
NOWHERE = '[url "file:///nowhere/"]\n\tinsteadOf = https://\n\tinsteadOf = ssh://\n'


def without_network() -> list[str]:
    """What to put before a command: a network namespace of its own, where the kernel allows it."""
    for prefix in (["unshare", "--net"], ["unshare", "--map-root-user", "--net"]):
        with suppress(OSError):
            if not subprocess.run([*prefix, "true"], check=False).returncode:
                return prefix
    return []


class Clone(Project):
    """A clone whose commands reach no network. `home` holds a git configuration that sees to it."""

    def run(
        self, *command: str, check: bool = True, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        home = self.path.parent / "home"
        home.mkdir(exist_ok=True)
        (home / ".gitconfig").write_text(NOWHERE)
        env = {**(env or {}), "HOME": str(home)}
        return super().run(*without_network(), *command, check=check, env=env)

    def clean(self, *commands: str) -> list[str]:
        """Run commands of DVC's that leave nothing stale; what they said."""
        said = self.dvc(*commands)
        assert self.stale() == set()
        return said

    def changed(self, *options: str) -> set[str]:
        """Files that differ, as `git diff` sees it."""
        return set(self.run("git", "diff", "--name-only", *options).stdout.split())


@pytest.fixture(scope="module")
def clone(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone with its outputs, beside the project and the DVC remote. Leave it as it is."""
    folder = tmp_path_factory.mktemp("team")
    project = built.copy(folder / "project")
    project.run("dvc", "push")
    project.run("git", "tag", "--annotate", f"{ARTIFACT}@v1.0.0", "-m", "A version")
    project.run("git", "clone", "--quiet", str(project.path), str(folder / "clone"))
    clone = Clone(folder / "clone")
    clone.clean("pull")
    return clone


def test_they_leave_a_clone_as_it_is(clone: Clone) -> None:
    said = clone.dvc(*(part for command in WRITING for part in (command, "status --json")))
    stale = dict(zip(WRITING, map(json.loads, said[1::2]), strict=True))
    assert stale == {command: {} for command in WRITING}
    said += clone.clean(*LOOKING)
    assert "Running stage" not in "".join(said)
    assert clone.run("git", "status", "--porcelain").stdout == ""


def test_a_clone_of_git_for_windows(clone: Clone) -> None:
    """It changes line endings by default, and DVC hashes bytes."""
    windows = Clone(clone.path.parent / "windows")
    options = ("-c", "core.autocrlf=true", str(clone.path), str(windows.path))
    clone.run("git", "clone", "--quiet", *options)
    assert "Running stage" not in "".join(windows.clean("repro --pull"))
    assert windows.run("git", "status", "--porcelain").stdout == ""


def test_a_rebuild_stages_nothing_and_can_be_put_back(clone: Clone) -> None:
    """`git diff` shows all that a stage writes into git, since nobody has staged a part of it."""
    lab = Clone(clone.copy(clone.path.parent / "rebuilt").path)
    lab.edit_params({"register": {"max_calibration_error": 0.0}})
    lab.run("dvc", "repro", "register")
    metrics = {"metrics/register.json", "metrics/headline/register.json"}
    assert lab.changed() == {"dvc.lock", "params.yaml"} | metrics
    assert lab.changed("--cached") == set()
    lab.run("git", "add", "dvc.lock")  # as a person's own `core.autostage` would
    (image := lab.path / "data/raw/mine/1.jpg").parent.mkdir()
    image.write_bytes(b"one")
    lab.run("bash", "-c", f"dvc add data/raw/mine && git add data/raw/mine.dvc && {PUT_BACK}")
    assert (lab.changed("HEAD"), lab.stale()) == ({"data/raw/mine.dvc"}, set())
    assert image.read_bytes() == b"one"  # what is not committed is not lost
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        assert "git reset" not in page.read_text(), page
        assert page.stem not in ("README", "experiments") or f"`{PUT_BACK}`" in page.read_text()


def test_where_the_photographs_come_from() -> None:
    """dvc.yaml, its lock and the README's line name one address and one revision."""
    (entry,) = yaml.safe_load((ROOT / "dvc.yaml").read_text())["datasets"]
    (locked,) = yaml.safe_load((ROOT / "dvc.lock").read_text())["datasets"]
    assert locked == entry | {"rev_lock": entry["rev"]}
    line = "dvc get {url} {path} --rev {rev} -o data/raw/{name} && dvc add data/raw/{name}"
    assert f"$ {line.format(**entry)}\n" in (ROOT / "README.md").read_text()


def test_photographs_do_not_get_into_a_commit() -> None:
    """Whoever adds all to git adds none of them; of a dataset under DVC its hash is added."""
    photographs = ["data/raw/mine/apple/1.jpg", "data/raw/synthetic/apple/2.jpg"]
    others = ["data/raw/mine.dvc", "data/raw/synthetic/recipe.yaml"]
    ignored = Project(ROOT).run("git", "check-ignore", "--no-index", *photographs, *others)
    assert ignored.stdout.split() == photographs
