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
from grocery.cli import drill as command
from grocery.drill import drill
from grocery.drill import report as drill_report
from grocery.drill.drawing import CLEAN, Condition, Stage
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
    from grocery.release.model import Model

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


def test_no_image_is_in_batch_and_reference(stage: Stage) -> None:
    stage.images.groups[:] = np.arange(150) // 3  # as if always three were near duplicates
    for seed in range(20):
        before, pool = stage._divided(np.random.default_rng(seed), 30, 100, "")
        assert not set(before) & set(pool)
        assert not set(before // 3) & set(pool // 3)
        assert len(pool) >= 50
        assert (pool < 100).all()
    stage.images.groups[:] = np.arange(150)


def test_a_large_batch_takes_what_it_needs(stage: Stage) -> None:
    before, pool = stage._divided(np.random.default_rng(0), 110, 150, "")
    assert (len(before), len(pool)) == (40, 110)


def drawn(stage: Stage, shift: str, strength: float, left_out: str = "") -> list[str]:
    generator = np.random.default_rng(0)
    pool = np.arange(120)
    rows = stage._drawn(generator, pool, Condition(shift, strength, 40), left_out)
    assert rows is not None
    assert len(set(rows.tolist())) == len(rows)
    return [stage.images.labels[row] for row in rows]


def test_what_batches_hold(stage: Stage) -> None:
    assert len(set(drawn(stage, "missing class", 0.1))) == 2
    assert drawn(stage, "unknown product", 0.4, "red").count("red") == 16
    names = drawn(stage, "class imbalance", 64.0)
    assert max(names.count(name) for name in CLASSES) >= 22
    assert len(drawn(stage, CLEAN, 0.0)) == 40


def test_too_few_strange_images(stage: Stage) -> None:
    assert stage.draw(Condition("unknown product", 0.9, 110), 0) is None


def test_a_head_that_never_saw_a_class(stage: Stage) -> None:
    head = stage.heads["red"]
    assert len(head.intercept) == 2
    rows = np.flatnonzero(stage.labels != "red")
    assert stage._right("red", stage.logits("red", None)[rows], rows).mean() > 0.7


def outcome(stage: Stage, shift: str, strength: float, number: int = 0) -> Outcome:
    drawn = stage.draw(Condition(shift, strength, 50), number)
    assert drawn is not None
    return drill.outcome(drawn, PARAMS)


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
    assert drill_report.clopper_pearson(k, n) == pytest.approx(tuple(expected))


def test_the_table_says_what_was_found() -> None:
    alert = Outcome("alert", ("images",), 0.7, 0.6, (0.5, 0.65), 0.1, {"mean confidence": 0.9})
    fine = Outcome("ok", (), 0.7, 0.72, (0.6, 0.8), 0.1, {"mean confidence": 0.7})
    results = {Condition("blur", 2.0, 100): [alert, fine, fine, fine]}
    (row,) = rows = drill_report.summary(results)
    assert (row["alerts"], row["signals"], row["coverage"]) == (0.25, {"images": 0.25}, 0.75)
    assert row["error"] == pytest.approx({"estimated": 0.04, "mean confidence": 0.05})
    assert drill_report.markdown(rows).startswith("| shift | strength | accuracy lost | alerts at")
    line = drill_report.markdown(rows).splitlines()[-1]
    assert line == "| blur | 2 px | 10.0 | 25 % (1 to 81) | 4.0 | 75 % (19 to 99) |"
    assert "| stronger | 4.0 | 5.0 | 75 % |" in drill_report.estimates(rows)


def ran(capsys: pytest.CaptureFixture[str], folder: Path, *more: str) -> str:
    paths = ["--release", str(folder / "release"), "--shards", str(folder / "shards")]
    paths += ["--params", str(ROOT / "params.yaml"), "--batches", "1", "--images", "30"]
    command.main([*paths, "--sizes", "25", *more], "drill")
    return capsys.readouterr().out


def test_the_command(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    rows: list[dict[str, Any]] = json.loads(ran(capsys, folder, "--json", "--workers", "1"))
    assert rows[0]["shift"] == "none"
    assert rows[0]["batches"] == 2
    assert {row["shift"] for row in rows} >= {*SHIFTS, "unknown product", "relabelling"}
    only = ("--json", "--workers", "1", "--only", "relabelling", "--only", "blur")
    some: list[dict[str, Any]] = json.loads(ran(capsys, folder, *only))
    assert some == [row for row in rows if row["shift"] in ("relabelling", "blur")]
    assert some


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--sizes", "5", "fewer than 20 images"),
        ("--sizes", "140", "a batch takes three quarters of them at most"),
        (
            "--only",
            "fog",
            "--only has 'fog'; there are 'none', 'none, labels checked', 'dim light'",
        ),
    ],
)
def test_what_cannot_be(
    capsys: pytest.CaptureFixture[str], folder: Path, option: str, value: str, sentence: str
) -> None:
    with pytest.raises(SystemExit) as error:
        ran(capsys, folder, option, value)
    assert error.value.code == 1
    assert sentence in capsys.readouterr().err
