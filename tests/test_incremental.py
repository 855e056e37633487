"""What has not changed is kept, and the bytes are those of a build from scratch."""

import hashlib
import json
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from workspace import restored, set_parameters

from conftest import ROOT, Project, call_stage, environment
from grocery.contents import read_content
from grocery.core.files import digest
from grocery.data import build
from grocery.images.preprocessing import Preprocessing
from grocery.reference import trials
from grocery.runner import run
from grocery.settings import load
from grocery.shards import read_table, shard_name, shard_of
from running import SCRATCH, in_one_process
from samples import dataset, jpeg, picture, put
from stages import featurize
from test_prepare import PARAMS

SHARDS = 8
CACHED = ("data/prepared/shards", "data/prepared/incoming", "models/encoder", "data/features")
FEATURIZE = load(ROOT / "params.yaml").featurize
EIGHT = FEATURIZE.colour.model_copy(update={"dimensions": 8})
FEATURIZE = FEATURIZE.model_copy(update={"encoder": "colour", "colour": EIGHT, "fit_images": 20})


class World:
    """A dataset, and the outputs of both stages, which remember or do not."""

    def __init__(self, folder: Path) -> None:
        self.raw, self.folder = dataset(folder / "raw", images=20), folder / "kept"
        self.memory = folder / "memory"

    def build(self, folder: Path, memory: Path | None, **changes: Any) -> dict[str, str]:
        """The outputs; of prepare `changes` are parameters, and `featurize` has its own."""
        params = changes.pop("featurize", FEATURIZE)
        changed = PARAMS.model_copy(update={"shards": SHARDS} | changes)
        call_stage("prepare", changed, root=folder, memory=memory, raw=self.raw)
        call_stage("featurize", params, root=folder, memory=memory)
        return dict(read_content(folder).files)

    def from_scratch(self, **changes: Any) -> dict[str, str]:
        with TemporaryDirectory(dir=self.folder.parent) as folder:
            return self.build(Path(folder), None, **changes)

    def rebuilt(self, **changes: Any) -> dict[str, str]:
        return self.build(self.folder, self.memory, **changes)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(build, "SETTLED", 0)  # files need not be seconds old
    return World(tmp_path)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many files were hashed, images decoded, shards encoded, encoders fitted, and so on."""
    done = Counter[str]()

    def count(owner: Any, name: str, title: str, amount: Callable[..., int] = lambda *_: 1) -> None:
        function = getattr(owner, name)

        @wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            done[title] += amount(*arguments)
            return function(*arguments, **options)

        monkeypatch.setattr(owner, name, call)

    count(build, "hash_files", "hashed", lambda task: len(task[0]))
    count(Preprocessing, "prepare", "decoded", lambda _, raw, *__: isinstance(raw, bytes))
    count(featurize, "encode_shard", "encoded")
    count(featurize, "fit_encoder", "fitted")
    count(trials, "see", "seen")
    return done


def inodes(world: World) -> dict[str, int]:
    found = [path for name in CACHED[::3] for path in (world.folder / name).iterdir()]
    return {f"{path.parent.name}/{path.name}": path.stat().st_ino for path in found}


def change(raw: Path, random: Random, number: int) -> None:
    """Add an image, or remove, relabel, replace, damage or copy one."""
    chosen, folder = random.choice(sorted(raw.rglob("*.jpg"))), raw / random.choice("abc")
    data = jpeg(picture(random.randrange(10**6)))
    deeds: list[Callable[[], object]] = [
        lambda: put(folder, f"new{number}.jpg", data),
        chosen.unlink,
        lambda: chosen.rename(folder / f"moved{number}.jpg"),
        lambda: chosen.write_bytes(data),
        lambda: chosen.write_bytes(chosen.read_bytes()[:40]),
        lambda: shutil.copy(chosen, folder / f"copy{number}.jpg"),
    ]
    random.choice(deeds)()


@pytest.mark.parametrize("seed", [1, *(pytest.param(n, marks=pytest.mark.long) for n in (2, 3))])
def test_random_changes_give_what_a_build_from_scratch_gives(seed: int, world: World) -> None:
    random = Random(seed)
    assert world.rebuilt() == world.from_scratch()
    for number in range(6):
        for _ in range(random.randint(1, 4)):
            change(world.raw, random, 10 * number + random.randrange(10))
        assert world.rebuilt() == world.from_scratch()


def test_a_new_image_costs_a_shard_and_rarely_the_encoder(world: World, work: Counter[str]) -> None:
    """A shard that stays is the same file: DVC, which knows inodes, need not read it either.

    The encoder changes as often as an image gets into its sample: 20 of about 36 training images,
    then of more. A relabelled image leaves the features alone.
    """
    world.rebuilt()
    fitted = 0
    for number in range(8):
        were = inodes(world)
        work.clear()
        put(world.raw, f"a/new{number}.jpg", jpeg(picture(10**7 + number)))
        image_id = hashlib.sha256((world.raw / f"a/new{number}.jpg").read_bytes()).hexdigest()
        world.rebuilt()
        own = world.folder / CACHED[0] / shard_name(shard_of(image_id, SHARDS), SHARDS)
        encoded = SHARDS if work["fitted"] else 1
        once = {"hashed": 61 + number, "decoded": len(read_table(own)), "encoded": encoded}
        assert work == Counter(once | {"fitted": work["fitted"]})
        now = inodes(world)
        changed = [name for name in were if now[name] != were[name] and "shards" in name]
        assert changed == [f"shards/{own.name}"]
        fitted += work["fitted"]
    assert 1 <= fitted <= 6
    work.clear()
    (world.raw / "a/03.jpg").rename(world.raw / "b/was-a.jpg")
    found = world.rebuilt()
    assert work["decoded"] <= 20  # its shard
    assert work["encoded"] in (0, SHARDS)  # all when it has left the sample
    assert found == world.from_scratch()


def test_what_is_or_was_there_costs_nothing(world: World, work: Counter[str]) -> None:
    """Nor an image that is left out: one that cannot be read, a copy, and a near duplicate."""
    put(world.raw, "a/bad.jpg", b"no image")
    shutil.copy(world.raw / "a/01.jpg", world.raw / "a/copy.jpg")
    for number in range(20):
        put(world.raw, f"unlabeled/{number}.jpg", jpeg(picture(number), 60))
    first = world.rebuilt()
    report = json.loads((world.folder / "data/prepared/report.json").read_bytes())
    assert report["counts"]["leaked"] > 0
    were = inodes(world)
    work.clear()
    assert world.rebuilt() == first
    assert not work
    assert inodes(world) == were
    (world.raw / "a/03.jpg").rename(world.raw.parent / "away.jpg")
    world.rebuilt()
    (world.raw.parent / "away.jpg").rename(world.raw / "a/03.jpg")
    work.clear()
    assert world.rebuilt() == first
    assert set(work) <= {"hashed"}


def test_other_parameters_give_outputs_of_their_own(world: World, work: Counter[str]) -> None:
    """Of featurize; and of prepare other shares of the splits, which leave the decoded images."""
    world.rebuilt()
    seven = FEATURIZE.model_copy(update={"colour": EIGHT.model_copy(update={"dimensions": 7})})
    for changes in ({"featurize": seven}, {"val_ratio": 0.3}):
        work.clear()
        found = world.rebuilt(**changes)
        assert not work["decoded"]
        assert found == world.from_scratch(**changes)


KILLED = """
import functools, os, signal, sys
from grocery import runner, settings
stage, name = sys.argv[1:]
module = __import__(f"stages.{stage}", fromlist=[name])
whole, calls = getattr(module, name), []
@functools.wraps(whole)
def until(*arguments, **options):
    calls.append(name)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(*arguments, **options)
setattr(module, name, until)
runner.run(stage, settings.load())
"""


def test_a_change_that_is_killed_again_and_again_ends_as_from_scratch(project: Project) -> None:
    """Images are added, removed, relabelled and replaced, and with them the encoder's sample."""
    before = project.found()
    recipe = project.path / "data/raw/synthetic/recipe.yaml"
    text = recipe.read_text().replace("images: 30", "images: 33", 1)
    text = text.replace("near_duplicates: 1", "near_duplicates: 0")
    recipe.write_text(text.replace("wrong_labels: 1", "wrong_labels: 3"))
    for name in ("decode_shard", "finish_shard", "encode_shard"):
        stage = "featurize" if name == "encode_shard" else "prepare"
        if stage == "featurize":
            project.run(*in_one_process("prepare"))
        earlier = project.found()
        kill = (sys.executable, "-c", KILLED, stage, name)
        assert project.run(*kill, check=False).returncode == -signal.SIGKILL
        assert any((project.path / "data").glob("**/.*.partial")), "killed too late"
        assert project.found() == earlier
    project.run(*in_one_process("prepare", "featurize"))
    after = project.found()
    # What is half remembered is forgotten when room is wanted.
    left = {path.relative_to(project.path).parts[0] for path in project.path.rglob(".*.partial")}
    assert left <= {".dvc"}
    same = [path for path in CACHED if before[path] == after[path]]
    assert same == ["data/prepared/incoming"]  # the recipe's own batches, with no changes there
    project.run(*in_one_process("prepare", "featurize"), env=SCRATCH)
    assert project.found() == after


def test_an_experiment_remembers_in_its_project(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC runs it in a temporary copy, which is gone afterwards, and says where the project is."""
    monkeypatch.chdir(project.path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    remembered = tmp_path / ".dvc/tmp/grocery/actions"
    monkeypatch.setenv("GROCERY_REUSE", "no")
    run("featurize", load())
    assert not remembered.exists(), "nothing was to be known"
    monkeypatch.delenv("GROCERY_REUSE")
    run("featurize", load())
    assert list(remembered.glob("*/*"))


def test_another_head_is_tried_out_on_what_the_encoder_has_seen(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Counter[str]
) -> None:
    monkeypatch.chdir(project.path)
    params = load()

    def evaluated(memory: Path | None) -> str:
        work.clear()
        call_stage("evaluate", params.evaluate, memory=memory)
        return digest(Path("models/reference/reference.safetensors"))

    first = evaluated(tmp_path / "memory")
    assert work["seen"]
    call_stage("train", params.train.model_copy(update={"C": 0.01}))
    other = evaluated(tmp_path / "memory")
    assert not work["seen"]
    assert first != other == evaluated(None)
    call_stage("featurize", params.featurize.model_copy(update={"seed": 1}))
    call_stage("train", params.train)
    evaluated(tmp_path / "memory")
    assert work["seen"], "another encoder sees otherwise"


def test_a_benchmark_puts_the_checkout_back(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parameters, metrics and outputs; and no run of it waits to be sent."""
    monkeypatch.chdir(project.path)
    monkeypatch.setenv("PATH", environment()["PATH"])
    monkeypatch.setenv("WANDB_DIR", str(project.path))
    before = project.found()
    with restored():
        assert os.environ["WANDB_DIR"] != str(project.path)
        set_parameters(["train.alpha=0.5"])
        project.dvc("repro train")
        assert project.found() != before
    assert project.found() == before
    assert project.stale() == set()
    assert project.run("git", "status", "--porcelain").stdout == ""
    assert os.environ["WANDB_DIR"] == str(project.path)
