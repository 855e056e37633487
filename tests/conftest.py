"""What the tests share: a small copy of the project, and the commands run in it for real."""

# ruff: noqa: E402

from grocery.core.pin import KERNELS, pin

pin()  # before anything loads numpy

import atexit
import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

from grocery import action_cache, runner
from grocery.contents import read_content
from grocery.parallel import sharing
from grocery.synthetic.source import SyntheticSource

# What a shell starts in the background ignores Ctrl-C, and so would all that is started here.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "benchmarks"))  # whose programs have tests, too
HOME = tempfile.mkdtemp(prefix="grocery-tests-")  # nobody's git configuration reaches the tests
atexit.register(shutil.rmtree, HOME, ignore_errors=True)

# The pipeline as it is, on a dataset and with a vocabulary that take seconds.
SMALL = {"dimensions": 32}
WORDS = {"scales": [1.0, 0.5], "descriptor_dimensions": 16, "components": 8}
TINY_PARAMS: dict[str, dict[str, Any]] = {
    "data": {"source": "synthetic"},
    "prepare": {"shards": 4, "image_size": 64},
    "featurize": {"fit_images": 60, "colour": SMALL, "onnx": SMALL, "fisher": SMALL | WORDS},
    "train": {"labeled_ratio": 0.3, "n_neighbors": 5},
    "register": {"min_accuracy": 0.3, "min_macro_f1": 0.2, "max_calibration_error": 0.5},
    "compute": {"workers": 1},
    "tracking": {"project": "grocery", "registry": "wandb-registry-model/grocery-classifier"},
}


def environment(**changes: str) -> dict[str, str]:
    """The environment of a command: this interpreter first, W&B off, git with a name.

    What the tests themselves are pinned to is not in it: a person's shell has none of that.
    """
    ours = ("WANDB_", "DVC_", "GIT_", *KERNELS)
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith(ours)},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": HOME,
        "WANDB_MODE": "disabled",
        **{f"GIT_{who}_NAME": "Test" for who in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{who}_EMAIL": "test@example.invalid" for who in ("AUTHOR", "COMMITTER")},
        **changes,
    }


@dataclass
class Project:
    """A checkout of this project somewhere else."""

    path: Path

    def run(
        self, *command: str, check: bool = True, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the checkout; when it must succeed and does not, show what it said."""
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            # Files, not pipes: what goes on in the background holds nobody up.
            done = subprocess.run(
                command,
                cwd=self.path,
                env=environment(**(env or {})),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                check=False,
            )
            for stream in (out, err):
                stream.seek(0)
            said = subprocess.CompletedProcess(command, done.returncode, out.read(), err.read())
        if check and said.returncode:
            pytest.fail(f"{' '.join(command)} exited {said.returncode}\n{said.stdout}{said.stderr}")
        return said

    def dvc(self, *commands: str, env: dict[str, str] | None = None) -> list[str]:
        """What each of these commands of DVC's prints; all must succeed.

        They run in one process, by the function that `dvc` calls: its start takes longest.
        """
        run = "if dvc.cli.main(shlex.split(line)): sys.exit(line)"
        code = f"import dvc.cli, shlex, sys\nfor line in sys.argv[1:]:\n {run}\n print(end='\\0')"
        done = self.run(sys.executable, "-c", code, *commands, env=env)
        *said, rest = done.stdout.split("\0")
        assert rest == ""
        return said

    def stale(self) -> set[str]:
        """The stages that have changed, as `dvc status` finds."""
        from dvc.repo import Repo  # not all processes of tests need it

        with Repo(str(self.path)) as repo:
            return {stage.rsplit(":", 1)[-1] for stage in repo.status()}

    def edit_params(self, changes: dict[str, dict[str, Any]]) -> None:
        """Change values in params.yaml."""
        file = self.path / "params.yaml"
        params = yaml.safe_load(file.read_text())
        for section, values in changes.items():
            for name, value in values.items():
                whole = isinstance(value, dict)
                params[section][name] = params[section][name] | value if whole else value
        file.write_text(yaml.safe_dump(params))

    def lock(self) -> dict[str, Any]:
        """What dvc.lock holds."""
        return dict(yaml.safe_load((self.path / "dvc.lock").read_text())["stages"])

    def hashes(self) -> dict[str, str]:
        """Hash of every output, as dvc.lock has it."""
        return {out["path"]: out["md5"] for stage in self.lock().values() for out in stage["outs"]}

    def found(self) -> dict[str, str]:
        """Hash of every output, of the bytes that lie there."""
        return {path: read_content(self.path / path).md5 for path in self.hashes()}

    def commit(self, message: str) -> None:
        """Commit everything."""
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--allow-empty", "-m", message)

    def copy(self, target: Path) -> "Project":
        """The same checkout, with its cache, in another folder."""
        shutil.copytree(self.path, target, symlinks=True)
        return Project(target)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files of fewest tests: they run whole pipelines, and none should come last."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        tests = Counter(item.path for item in items)
        items.sort(key=lambda item: (tests[item.path], item.path))


@pytest.fixture(autouse=True)
def one_worker() -> Iterator[None]:
    """Work in the test's own process is done there, unless the test says otherwise."""
    with sharing(1):
        yield


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which the work is done."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Heard:
    """What a stage says, for tests to look at."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        self.warn = self.warnings.append

    def step(self, values: Mapping[str, Any]) -> None:
        self.steps.append(dict(values))


def call_stage(
    name: str,
    params: Any,
    *,
    root: Path | None = None,
    heard: Heard | None = None,
    memory: Path | None = None,
    **paths: Path,
) -> dict[str, Any]:
    """Call a stage as the runner does: on its own paths below `root`, or on these."""
    module = importlib.import_module(f"stages.{name}")
    here = module.Paths(**paths)
    if root is not None:
        here = replace(here, **{field: root / path for field, path in vars(here).items()})
    with action_cache.remembering(memory):
        return runner.call(module, params, here, heard or Heard())


def refusal(
    error: type[Exception] | tuple[type[Exception], ...],
    ask: Callable[..., object],
    *given: Any,
    **named: Any,
) -> str:
    """The sentence with which what is asked for is refused, on one line."""
    with pytest.raises(error) as caught:
        ask(*given, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def checkout(target: Path) -> Project:
    """The project as it stands, uncommitted changes and all, as a new repository at `target`."""
    listed = ("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    for name in filter(None, Project(ROOT).run(*listed).stdout.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    project = Project(target)
    project.run("git", "init", "--quiet", "--initial-branch=main")
    project.commit("The project")
    return project


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that one of the test processes makes, for all of them. Copy it; do not change it."""
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, complete = shared / name, shared / f"{name}.complete"
    with FileLock(shared / f"{name}.lock"):
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            complete.touch()
    return folder


@pytest.fixture(scope="session")
def embedded() -> SyntheticSource:
    """The embedded dataset as it is."""
    return SyntheticSource(ROOT / "data/raw/synthetic")


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of the world of coloured pictures. Copy it; do not change it."""
    from coloured import write_release  # not all processes of tests need it

    return once(tmp_path_factory, "coloured", write_release)


def build_tiny(folder: Path) -> None:
    """Build the pipeline on the tiny dataset, and commit it."""
    project = checkout(folder)
    recipe = project.path / "data/raw/synthetic/recipe.yaml"
    shutil.copy2(ROOT / "tests/tiny_recipe.yaml", recipe)
    project.edit_params(TINY_PARAMS)
    (project.path / "dvc.lock").unlink(missing_ok=True)
    project.run("dvc", "repro")
    project.commit("A first build")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A tiny pipeline that has been built once and committed. Copy it; do not change it."""
    return Project(once(tmp_path_factory, "built", build_tiny))


@pytest.fixture
def project(built: Project, tmp_path: Path) -> Project:
    """A copy of the built tiny pipeline, free to change."""
    return built.copy(tmp_path / "project")
