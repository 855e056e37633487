"""The drill on a real model: what it draws, and that it draws the same twice."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import drill
import numpy as np
import pytest
from drill_shifts import copied
from scipy import stats

from coloured import write_shards
from conftest import ROOT
from grocery.core.intervals import clopper_pearson
from grocery.images.decoding import canonical, decode
from grocery.monitoring.batches import of_their_own
from grocery.reference.reference import Reference
from grocery.release.model import Model
from grocery.settings import load
from grocery.synthetic.source import SyntheticSource


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drill")
    write_shards(folder, {"train": 30, "val": 10, "test": 200})
    return folder


@pytest.fixture(scope="module")
def stage(release: Path, shards: Path) -> Any:
    tried = Reference.load(release / "reference")
    stage = drill.Stage(Model.load(release), shards, tried, images=60)
    stage.leave_out(3)
    return stage


def test_no_image_is_in_batch_and_reference(stage: Any) -> None:
    """Nor a near duplicate: here as if always three were."""
    groups, total = stage.groups.copy(), len(stage.ids)
    assert total == 120  # the release may have been tried out on 80
    stage.groups[:] = np.arange(total) // 3 * 3
    batches = set()
    for number in range(20):
        before, batch = stage.divided(np.random.default_rng(number), 30, total)
        assert len(set(batch)) == len(batch) >= 30
        assert len(before) + len(batch) == total
        assert not {row // 3 for row in batch} & {row // 3 for row in before}
        batches.add(tuple(batch[:30]))
    assert len(batches) == 20
    stage.groups[:] = groups


def test_what_batches_hold(stage: Any) -> None:
    strange = stage.draw("unknown", 0.4, 30, 0)
    assert strange.loss == 0
    assert strange.accuracy < 0.65
    lied, truth = stage.draw("wrong labels", 0.5, 30, 0), stage.draw("labels", 0.0, 30, 0)
    assert None not in lied.labels + truth.labels
    found = drill.judged(lied, load(ROOT / "params.yaml").monitor).signals
    assert "alert" in {one.verdict for one in found if one.name in ("accuracy", "labels")}
    shelf = stage.draw("copies", 0.0, 20, 0)
    assert 20 <= len(shelf.logits) < 100  # of 100 pictures near duplicates are left out
    assert stage.draw("clean", 0.0, 500, 0) is None
    dark, again, other = (stage.draw("gamma", 2.0, 30, number) for number in (0, 0, 1))
    assert (dark.seen.statistics[:, 0] < truth.seen.statistics[:, 0].mean()).mean() > 0.5
    assert (dark.logits == again.logits).all()  # a function of its number
    assert (dark.logits != other.logits).any()


def test_several_pictures_of_one_thing_are_one(embedded: SyntheticSource) -> None:
    """Or the tests take copies for so many independent images."""
    images = embedded.images()
    things = [decode(image.read(), max_pixels=10**6) for image in images[:200:20]]
    shelf = [
        canonical(copied(thing, place, number), size=224, quality=92)
        for number, thing in enumerate(things)
        for place in range(5)
    ]
    assert of_their_own(shelf) == list(range(0, 50, 5))


@pytest.mark.parametrize(("k", "n"), [(0, 20), (3, 20), (20, 20)])
def test_clopper_pearson(k: int, n: int) -> None:
    expected = stats.binomtest(k, n).proportion_ci(0.95, method="exact")
    assert clopper_pearson(k, n) == pytest.approx(tuple(expected))


def test_the_table_says_what_was_found() -> None:
    fine = {"verdict": "watch", "alerts": [], "accuracy": 0.7, "loss": 0.1}
    said = fine | {"estimate": 0.72, "interval": (0.6, 0.8)}
    wrong = fine | {"verdict": "alert", "estimate": 0.6, "interval": (0.5, 0.65)}
    none = fine | {"verdict": "alert", "estimate": None, "interval": None}
    (line,) = drill.by_harm({"gamma 2": [said, said, wrong, none], "clean 50": [said]})
    assert line == (
        "| **shifts that cost 5 and more** | 4 | 10.0 | 50 % (7 to 93) | 50 % | 75 % "
        "| 4.7 | 67 % | 67 % | 0.20 |"
    )


@pytest.mark.parametrize("all_shifts", [False, pytest.param(True, marks=pytest.mark.long)])
def test_the_command(
    release: Path, shards: Path, all_shifts: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    how = {"params": ROOT / "params.yaml", "batches": 1, "images": 30, "size": 20, "json": None}
    how |= {"only": None, "left_out": 3}
    with pytest.MonkeyPatch.context() as patch:
        if not all_shifts:
            few = [("clean", 0.0, 50), ("gamma", 2.0, 20), ("coarse", 40, 20)]
            patch.setattr(drill, "conditions", lambda sizes, size: few)
        drill.run(Namespace(release=release, shards=shards, **how))
    out = capsys.readouterr().out
    assert "| clean 50 | 4 | 0.0 |" in out
    assert "shifts that cost" in out
