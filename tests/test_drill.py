"""The drill on a real model: what it draws, what it reports, and that it reports the same twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from coloured import CLASSES, write_release, write_shards
from conftest import ROOT
from grocery.cli import main
from grocery.core.intervals import clopper_pearson
from grocery.drill import drill
from grocery.drill import report as drill_report
from grocery.drill.drawing import CHECKED, CLEAN, Condition, Drawn, Stage
from grocery.drill.drill import Outcome
from grocery.drill.held_out import HeldOut, heads_without, held_out
from grocery.drill.shifts import SHIFTS
from grocery.parallel import sharing
from grocery.release.model import Model
from grocery.settings import load

PARAMS = load(ROOT / "params.yaml").monitor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drill")
    write_release(folder / "release")
    write_shards(folder / "shards", {"train": 90, "val": 30, "test": 150})
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return Model.load(folder / "release")


@pytest.fixture(scope="module")
def images(folder: Path, model: Model) -> HeldOut:
    return held_out(model, folder / "shards", images=100)


@pytest.fixture(scope="module")
def stage(folder: Path, model: Model, images: HeldOut) -> Stage:
    without = heads_without(model, folder / "shards", ["red"])
    return Stage(images, {"": model.head} | without, CLASSES)


def test_what_is_held_out(images: HeldOut) -> None:
    assert len(images.labels) == len(images.seen[None].features) == 150
    assert images.image_ids == sorted(images.image_ids)
    assert len(images.seen) == 1 + 3 * len(SHIFTS)
    assert len(images.seen["blur", 2.0].statistics) == 100


def rows(stage: Stage, features: np.ndarray) -> list[int]:
    """Which of the held-out images, as they are, these are."""
    known = {row.tobytes(): index for index, row in enumerate(stage.images.seen[None].features)}
    return [known[row.tobytes()] for row in np.ascontiguousarray(features)]


def drawn(stage: Stage, shift: str, strength: float, number: int = 0, size: int = 40) -> Drawn:
    found = stage.draw(Condition(shift, strength, size), number)
    assert found is not None
    return found


def test_no_image_is_in_batch_and_reference(stage: Stage) -> None:
    """Nor a near duplicate: here as if always three were."""
    groups = stage.images.groups.copy()
    stage.images.groups[:] = np.arange(150) // 3
    batches = set()
    for number in range(20):
        one = drawn(stage, CLEAN, 0.0, number, size=30)
        batch, before = (rows(stage, x) for x in (one.features, one.reference.features))
        assert len(set(batch)) == len(batch) == 30
        assert len(set(before)) == len(before) == one.reference.images >= 70
        assert not {row // 3 for row in batch} & {row // 3 for row in before}
        batches.add(tuple(batch))
    assert len(batches) == 20
    stage.images.groups[:] = groups


def test_a_large_batch_takes_what_it_needs(stage: Stage) -> None:
    one = drawn(stage, CLEAN, 0.0, size=110)
    assert (len(one.features), one.reference.images) == (110, 40)


def test_what_batches_hold(stage: Stage) -> None:
    def names(shift: str, strength: float) -> list[str]:
        one = drawn(stage, shift, strength)
        return [stage.images.labels[row] for row in rows(stage, one.features)]

    assert len(set(names("missing class", 0.1))) == 2
    assert names("unknown product", 0.4).count("red") == 16
    imbalanced = names("class imbalance", 64.0)
    assert max(imbalanced.count(name) for name in CLASSES) >= 22
    for shift, wrong in ((CHECKED, 0), ("relabelling", 16)):
        one = drawn(stage, shift, 0.4)
        truth = [stage.images.labels[row] for row in rows(stage, one.features)]
        assert sum(a != b for a, b in zip(one.labels, truth, strict=True)) == wrong


def test_too_few_strange_images(stage: Stage) -> None:
    assert stage.draw(Condition("unknown product", 0.9, 110), 0) is None


def test_a_head_that_never_saw_a_class(stage: Stage) -> None:
    assert len(stage.heads["red"].intercept) == 2
    labels = np.array(stage.images.labels)
    said = np.array(["blue", "green"])[stage.logits("red", None).argmax(axis=1)]
    assert (said == labels)[labels != "red"].mean() > 0.7


def outcome(stage: Stage, shift: str, strength: float, number: int = 0) -> Outcome:
    return drill.outcome(drawn(stage, shift, strength, number, size=50), PARAMS)


def test_shifts_cost_and_are_seen(stage: Stage) -> None:
    dark = outcome(stage, "dim light", 0.3)
    assert dark.verdict == "alert"
    assert "images" in dark.alerts
    strange = outcome(stage, "unknown product", 0.4)
    assert strange.loss == pytest.approx(0.4, abs=0.12)
    lied = outcome(stage, "relabelling", 0.4)
    assert "accuracy" in lied.alerts
    assert lied.loss > 0.2
    assert outcome(stage, CLEAN, 0.0).verdict in ("ok", "watch")


def test_a_batch_is_a_function_of_its_number(stage: Stage) -> None:
    assert outcome(stage, "blur", 2.0, 3) == outcome(stage, "blur", 2.0, 3)
    assert outcome(stage, "blur", 2.0, 3) != outcome(stage, "blur", 2.0, 4)


def test_workers_change_nothing(stage: Stage) -> None:
    wanted = [Condition("blur", 2.0, 30), Condition("relabelling", 0.2, 30)]
    found = []
    for workers in (1, 2):
        with sharing(workers):
            found.append(
                drill.run_drill(
                    stage.images, stage.heads, CLASSES, wanted, batches=3, params=PARAMS
                )
            )
    one, two = found
    assert one == two
    assert [len(outcomes) for outcomes in one.values()] == [3, 3]


@pytest.mark.parametrize(("k", "n"), [(0, 20), (3, 20), (20, 20)])
def test_clopper_pearson(k: int, n: int) -> None:
    expected = stats.binomtest(k, n).proportion_ci(0.95, method="exact")
    assert clopper_pearson(k, n) == pytest.approx(tuple(expected))


def test_the_table_says_what_was_found() -> None:
    alert = Outcome("alert", ("images",), 0.7, 0.6, (0.5, 0.65), 0.1, {"mean confidence": 0.9})
    fine = Outcome("ok", (), 0.7, 0.72, (0.6, 0.8), 0.1, {"mean confidence": 0.7})
    results = {Condition("blur", 2.0, 100): [alert, fine, fine, fine]}
    (row,) = table = drill_report.summary(results)
    assert (row["alerts"], row["signals"], row["coverage"]) == (0.25, {"images": 0.25}, 0.75)
    assert row["error"] == pytest.approx({"estimated": 0.04, "mean confidence": 0.05})
    assert drill_report.markdown(table).startswith("| shift | strength | accuracy lost | alerts at")
    line = drill_report.markdown(table).splitlines()[-1]
    assert line == "| blur | 2 px | 10.0 | 25 % (1 to 81) | 4.0 | 75 % (19 to 99) |"
    assert "| stronger | 4.0 | 5.0 | 75 % |" in drill_report.estimates(table)


def ran(capsys: pytest.CaptureFixture[str], folder: Path, *more: str) -> str:
    paths = ["--release", str(folder / "release"), "--shards", str(folder / "shards")]
    paths += ["--params", str(ROOT / "params.yaml"), "--batches", "1", "--images", "30"]
    main(["monitor", "drill", *paths, "--sizes", "25", *more])
    return capsys.readouterr().out


def test_the_command(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    every: list[dict[str, Any]] = json.loads(ran(capsys, folder, "--json", "--workers", "1"))
    assert (every[0]["shift"], every[0]["batches"]) == ("none", 2)
    assert {row["shift"] for row in every} >= {*SHIFTS, "unknown product", "relabelling"}
    only = ("--json", "--workers", "1", "--only", "relabelling", "--only", "blur")
    some: list[dict[str, Any]] = json.loads(ran(capsys, folder, *only))
    assert some == [row for row in every if row["shift"] in ("relabelling", "blur")]
    assert some


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--sizes", "5", "fewer than 20 images"),
        ("--sizes", "140", "a batch takes three quarters of them at most"),
        ("--only", "fog", "--only has 'fog'; there are 'none', 'none, labels checked', 'dim"),
    ],
)
def test_what_cannot_be(
    capsys: pytest.CaptureFixture[str], folder: Path, option: str, value: str, sentence: str
) -> None:
    with pytest.raises(SystemExit) as error:
        ran(capsys, folder, option, value)
    assert error.value.code == 1
    assert sentence in capsys.readouterr().err
