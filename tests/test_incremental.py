"""What has not changed is kept, and the bytes are those of a build from scratch."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from random import Random
from typing import Any

import pytest

from conftest import ROOT, Project, call_stage
from grocery.contents import read_content
from grocery.core.errors import DataError
from grocery.core.files import digest
from grocery.core.params import FeaturizeParams
from grocery.data import build
from grocery.images.preprocessing import Preprocessing
from grocery.runner import STAGES, run
from grocery.settings import load
from grocery.shards import read_table, shard_name, shard_of
from running import SCRATCH, in_one_process
from samples import dataset, jpeg, picture, put
from stages import featurize, prepare
from test_prepare import PARAMS

SHARDS = 8
FEATURIZE = load(ROOT / "params.yaml").featurize
EIGHT = FEATURIZE.colour.model_copy(update={"dimensions": 8})
FEATURIZE = FEATURIZE.model_copy(update={"encoder": "colour", "colour": EIGHT, "fit_images": 20})


class World:
    """A dataset, and the outputs of both stages, which remember or do not."""

    def __init__(self, folder: Path) -> None:
        self.raw, self.folder = dataset(folder / "raw", images=20), folder / "kept"
        self.memory = folder / "memory"
        self.count = 0

    def build(
        self,
        folder: Path,
        *,
        remember: bool,
        params: FeaturizeParams = FEATURIZE,
        prepare: dict[str, Any] = {"shards": SHARDS},  # noqa: B006
    ) -> None:
        memory = self.memory if remember else None
        call_stage(
            "prepare",
            PARAMS.model_copy(update=prepare),
            memory=memory,
            raw=self.raw,
            shards=folder / "shards",
            incoming=folder / "incoming",
            report=folder / "report.json",
        )
        call_stage(
            "featurize",
            params,
            memory=memory,
            shards=folder / "shards",
            encoder=folder / "encoder",
            features=folder / "features",
        )

    def outputs(self, folder: Path) -> dict[str, str]:
        return dict(read_content(folder).files)

    def from_scratch(self) -> dict[str, str]:
        self.count += 1
        folder = self.folder.parent / f"scratch{self.count}"
        self.build(folder, remember=False)
        found = self.outputs(folder)
        shutil.rmtree(folder)
        return found

    def rebuilt(self) -> dict[str, str]:
        self.build(self.folder, remember=True)
        return self.outputs(self.folder)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(build, "SETTLED", 0)  # files need not be seconds old
    return World(tmp_path)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many files were hashed, images decoded, shards encoded, and encoders fitted."""
    done = {"hashed": 0, "decoded": 0, "encoded": 0, "fitted": 0}

    def counted(name: str, function: Callable[..., object]) -> Callable[..., object]:
        @wraps(function)
        def call(*arguments: Any, **options: object) -> object:
            match name:
                case "hashed":
                    done[name] += len(arguments[0])
                case "decoded":
                    done[name] += isinstance(arguments[1], bytes)  # not a picture that was drawn
                case _:
                    done[name] += 1
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(build, "hash_files", counted("hashed", build.hash_files))
    monkeypatch.setattr(Preprocessing, "prepare", counted("decoded", Preprocessing.prepare))
    monkeypatch.setattr(featurize, "encode_shard", counted("encoded", featurize.encode_shard))
    monkeypatch.setattr(featurize, "fit_encoder", counted("fitted", featurize.fit_encoder))
    return done


def since(work: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    return {name: work[name] - before[name] for name in work}


def change(raw: Path, random: Random, number: int) -> None:
    """Add, remove, relabel, replace or damage an image, or copy one."""
    files = sorted(path for path in raw.rglob("*.jpg"))
    chosen = random.choice(files)
    data = jpeg(picture(random.randrange(10**6)))
    match random.choice(["add", "remove", "relabel", "replace", "damage", "copy"]):
        case "add":
            put(raw, f"{random.choice('abc')}/new{number}.jpg", data)
        case "remove":
            chosen.unlink()
        case "relabel":
            target = raw / random.choice("abc") / f"moved{number}.jpg"
            chosen.rename(target)
        case "replace":
            chosen.write_bytes(data)
        case "damage":
            chosen.write_bytes(chosen.read_bytes()[:40])
        case "copy":
            shutil.copy(chosen, raw / random.choice("abc") / f"copy{number}.jpg")


@pytest.mark.parametrize("seed", [1, *(pytest.param(n, marks=pytest.mark.long) for n in (2, 3))])
def test_random_changes_give_what_a_build_from_scratch_gives(seed: int, world: World) -> None:
    random = Random(seed)
    assert world.rebuilt() == world.from_scratch()
    for number in range(6):
        for _ in range(random.randint(1, 4)):
            change(world.raw, random, 10 * number + random.randrange(10))
        assert world.rebuilt() == world.from_scratch()


def test_nothing_to_do_reads_decodes_and_encodes_nothing(
    world: World, work: dict[str, int]
) -> None:
    put(world.raw, "a/bad.jpg", b"no image")
    first = world.rebuilt()
    before = dict(work)
    assert world.rebuilt() == first
    assert since(work, before) == {"hashed": 0, "decoded": 0, "encoded": 0, "fitted": 0}


def test_one_new_image_costs_one_shard(world: World, work: dict[str, int]) -> None:
    world.rebuilt()
    before = dict(work)
    put(world.raw, "a/new.jpg", jpeg(picture(10**7)))
    image_id = hashlib.sha256((world.raw / "a/new.jpg").read_bytes()).hexdigest()
    world.rebuilt()
    fitted = since(work, before)["fitted"]
    own = read_table(world.folder / "shards" / shard_name(shard_of(image_id, SHARDS), SHARDS))
    assert since(work, before) == {
        "hashed": 61,  # a chunk
        "decoded": len(own),
        "encoded": SHARDS if fitted else 1,
        "fitted": fitted,
    }


def test_an_image_that_is_left_out_costs_nothing_more(world: World, work: dict[str, int]) -> None:
    """One that cannot be read, a copy, and a near duplicate of a test image."""
    put(world.raw, "a/bad.jpg", b"no image")
    shutil.copy(world.raw / "a/01.jpg", world.raw / "a/copy.jpg")
    for number in range(20):
        put(world.raw, f"unlabeled/{number}.jpg", jpeg(picture(number), 60))
    world.rebuilt()
    assert json.loads((world.folder / "report.json").read_bytes())["counts"]["leaked"] > 0
    before, were = dict(work), inodes(world)
    world.rebuilt()
    assert since(work, before) == {"hashed": 0, "decoded": 0, "encoded": 0, "fitted": 0}
    assert inodes(world) == were


def test_going_back_costs_nothing(world: World, work: dict[str, int]) -> None:
    first = world.rebuilt()
    (world.raw / "a/03.jpg").rename(world.raw.parent / "away.jpg")
    world.rebuilt()
    (world.raw.parent / "away.jpg").rename(world.raw / "a/03.jpg")
    before = dict(work)
    assert world.rebuilt() == first
    assert since(work, before) | {"hashed": 0} == dict.fromkeys(work, 0)


def test_a_new_image_rarely_changes_the_encoder(world: World, work: dict[str, int]) -> None:
    """As often as it gets into the sample: 20 of about 36 training images, then of more."""
    world.rebuilt()
    before = dict(work)
    for number in range(8):
        put(world.raw, f"a/new{number}.jpg", jpeg(picture(10**7 + number)))
        world.rebuilt()
    assert 1 <= since(work, before)["fitted"] <= 6
    assert world.rebuilt() == world.from_scratch()


def test_a_file_that_changes_in_between_fails_the_stage_and_is_not_remembered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was hashed as one image, and would be decoded as another."""
    file = world.raw / "a/03.jpg"
    before, exact_copies = file.read_bytes(), prepare.exact_copies

    def and_then(*arguments: Any) -> Any:
        file.write_bytes(jpeg(picture(10**7)))
        return exact_copies(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "exact_copies", and_then)
        with pytest.raises(DataError, match=r"a/03\.jpg was changed while it was read; run again"):
            world.rebuilt()
    file.write_bytes(before)
    assert world.rebuilt() == world.from_scratch()


def test_a_relabelled_image_leaves_the_features_alone(world: World, work: dict[str, int]) -> None:
    world.rebuilt()
    before = dict(work)
    (world.raw / "a/03.jpg").rename(world.raw / "b/was-a.jpg")
    world.rebuilt()
    assert since(work, before)["decoded"] <= 20  # its shard
    assert since(work, before)["encoded"] in (0, SHARDS)  # all when it has left the sample


@pytest.mark.parametrize("where", ["shards", "features", "encoder"])
def test_a_damaged_output_is_noticed_and_made_again(
    where: str, world: World, work: dict[str, int]
) -> None:
    """It is the very file that is remembered."""
    first = world.rebuilt()
    file = min((world.folder / where).iterdir())
    for damage in (lambda d: d[:-9], lambda d: b"", lambda d: d[:9] + d[:-9]):
        file.write_bytes(damage(file.read_bytes()))
        assert world.rebuilt() == first


def test_a_shard_that_stays_is_the_same_file(world: World) -> None:
    """So DVC, which knows files by inode and time, need not read it either."""
    world.rebuilt()
    before = inodes(world)
    put(world.raw, "a/new.jpg", jpeg(picture(10**7)))
    world.rebuilt()
    after = inodes(world)
    assert sum(after[name] != before[name] for name in before if name.startswith("shards")) == 1
    assert world.rebuilt() == world.from_scratch()
    assert inodes(world) == after


def inodes(world: World) -> dict[str, int]:
    found = [path for name in ("shards", "features") for path in (world.folder / name).iterdir()]
    return {f"{path.parent.name}/{path.name}": path.stat().st_ino for path in found}


def test_other_parameters_keep_nothing(world: World, work: dict[str, int]) -> None:
    world.rebuilt()
    before = dict(work)
    world.build(world.folder, remember=True, params=FEATURIZE.model_copy(update={"seed": 9}))
    assert since(work, before) == {"hashed": 0, "decoded": 0, "encoded": SHARDS, "fitted": 1}


def test_other_parameters_give_what_they_give_from_scratch(world: World, tmp_path: Path) -> None:
    """Of featurize; and of prepare other shares of the splits, which leave the decoded images."""
    world.rebuilt()
    seven = EIGHT.model_copy(update={"dimensions": 7})
    fewer = FEATURIZE.model_copy(update={"colour": seven})
    resplit = {"shards": SHARDS, "val_ratio": 0.3}
    for number, change in enumerate(({"params": fewer}, {"prepare": resplit})):
        scratch = tmp_path / f"scratch{number}"
        for remember, folder in ((True, world.folder), (False, scratch)):
            world.build(folder, remember=remember, **change)  # type: ignore[arg-type]
        assert world.outputs(world.folder) == world.outputs(scratch)


def test_what_failed_half_way_is_not_taken_for_whole(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.rebuilt()
    put(world.raw, "b/new.jpg", jpeg(picture(10**7)))
    with monkeypatch.context() as patch:

        def fail(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(featurize, "encode_shard", fail)
        with pytest.raises(KeyboardInterrupt):
            world.rebuilt()
    assert world.rebuilt() == world.from_scratch()


# Real processes below: stages, their ends, and `dvc repro`.

CACHED = ("data/prepared/shards", "data/prepared/incoming", "models/encoder", "data/features")
# Where the kills strike: decoding, writing, encoding.
MOMENTS = (
    ("prepare", "decode_shard", 2),
    ("prepare", "finish_shard", 2),
    ("featurize", "encode_shard", 2),
)
KILLED = """
import functools, os, signal, sys
from grocery import runner, settings
stage, name, number = sys.argv[1:]
module = __import__(f"stages.{stage}", fromlist=[name])
whole, calls = getattr(module, name), []
@functools.wraps(whole)
def until(*arguments, **options):
    calls.append(name)
    if len(calls) == int(number):
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
    head, tail = text.rsplit("images: 30", 1)
    text = f"{head}images: 27{tail}".replace("wrong_labels: 1", "wrong_labels: 3")
    recipe.write_text(text.replace("near_duplicates: 1", "near_duplicates: 0"))
    old = {path.name: digest(path) for path in (project.path / CACHED[3]).iterdir()}
    for stage, name, number in MOMENTS:
        if stage == "featurize":
            project.run(*in_one_process("prepare"))
        earlier = project.found()
        kill = (sys.executable, "-c", KILLED, stage, name, str(number))
        assert project.run(*kill, check=False).returncode == -signal.SIGKILL
        assert any((project.path / "data").glob("**/.*.partial")), "killed too late"
        assert project.found() == earlier
    said = project.run("dvc", "repro", "featurize").stdout
    assert [s for s in STAGES if f"Running stage '{s}'" in said] == ["prepare", "featurize"]
    after = project.found()
    # What is half remembered is forgotten when room is wanted.
    left = {path.relative_to(project.path).parts[0] for path in project.path.rglob(".*.partial")}
    assert left <= {".dvc"}
    same = [path for path in CACHED if before[path] == after[path]]
    assert same == ["data/prepared/incoming"]  # the recipe's own batches, with no changes there
    new = {path.name: digest(path) for path in (project.path / CACHED[3]).iterdir()}
    assert [name for name in old if old[name] == new[name]] == [], "of another encoder"
    project.run(*in_one_process("prepare", "featurize"), env=SCRATCH)
    assert project.found() == after


def test_dvc_notices_a_damaged_shard_and_a_missing_one(project: Project) -> None:
    before = project.found()
    damaged, gone = (
        project.path / folder / f"shard-{number:05d}-of-00004.parquet"
        for folder, number in ((CACHED[0], 1), (CACHED[3], 2))
    )
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 0xFF
    damaged.write_bytes(data)
    gone.unlink()
    assert project.found() != before
    # Without the run cache, so that the stages must make them again.
    project.run("dvc", "repro", "--no-run-cache", "featurize")
    assert project.found() == before


def test_an_experiment_remembers_in_its_project(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC runs it in a temporary copy, which is gone afterwards, and says where the project is."""
    monkeypatch.chdir(project.path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    run("featurize", load())
    assert list((tmp_path / ".dvc/tmp/grocery/actions").glob("*/*"))
