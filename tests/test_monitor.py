"""The monitor stage on real batches, with a real model."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coloured import CLASSES, pictures
from conftest import Heard, call_stage, refusal
from grocery.core.errors import DataError, ModelError
from grocery.inbox import timeline
from grocery.inbox.history import History
from grocery.inbox.judging import open_judge
from grocery.inbox.watch import Watch
from grocery.monitoring.drift import WORLD
from grocery.reference.reference import Reference
from grocery.shards import BATCH_SCHEMA, write_table
from samples import put
from thresholds import thresholds

PARAMS = thresholds(sample_images=4)


def write_batch(
    path: Path,
    jpegs: Sequence[bytes | None],
    labels: Sequence[str | None] | None = None,
    preprocessing: dict[str, int] | None = None,
) -> None:
    ids = [hashlib.sha256(jpeg or str(row).encode()).hexdigest() for row, jpeg in enumerate(jpegs)]
    paths = [f"{path.stem}/{row}.jpg" for row in range(len(jpegs))]
    columns = [ids, paths, labels or [None] * len(jpegs), list(jpegs)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(path, pa.table(columns, schema=BATCH_SCHEMA), preprocessing)


@pytest.fixture(scope="module")
def incoming(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("incoming")
    jpegs, truth = pictures(2, 100)
    write_batch(folder / "clean.parquet", jpegs, [CLASSES[one] for one in truth])
    write_batch(folder / "shares.parquet", pictures(3, 100, shares=(0.8, 0.1, 0.1))[0])
    write_batch(folder / "others.parquet", pictures(5, 100, shares=(0.1, 0.1, 0.8))[0])
    write_batch(folder / "camera.parquet", [*pictures(4, 70)[0], *[None] * 30])
    return folder


def monitor(release: Path, incoming: Path, to: Path, heard: Heard | None = None) -> dict[str, Any]:
    paths = {"monitor": to / "monitor", "metrics": to / "monitor.json"}
    return call_stage("monitor", PARAMS, heard=heard, release=release, incoming=incoming, **paths)


def test_every_batch_gets_its_verdict(release: Path, incoming: Path, tmp_path: Path) -> None:
    """It is told, and written: the metrics, the signals for plots, and the page."""
    heard = Heard()
    result = monitor(release, incoming, tmp_path, heard)
    batches = result["batches"]
    verdicts = {name: batch["verdict"] for name, batch in batches.items()}
    assert verdicts == {"camera": "alert", "clean": "ok", "others": "watch", "shares": "watch"}
    assert (batches["camera"]["images"], batches["camera"]["unreadable"]) == (70, 30)
    clean = batches["clean"]
    assert clean["accuracy"] > 0.6
    assert clean["estimated_accuracy"] is batches["shares"]["accuracy"] is None
    assert clean["refusal"] == "the release was not tried out under shifts"

    told = {step["batch"]: step for step in heard.steps}
    assert set(told) == set(batches)
    for name, step in told.items():
        timing = step["timing"]
        assert 0 < timing["latency_ms"] <= timing["slowest_ms"] <= 1000 * timing["seconds"]
        assert sum(step["confidences"]) == batches[name]["images"]
        assert len(step["samples"]) == PARAMS.sample_images
    assert told["clean"]["curves"]["accuracy/realised"] == clean["accuracy"]
    # In shares the world has changed, the model has not.
    assert told["clean"]["alert"] is told["shares"]["alert"] is None
    assert "files cannot be read" in told["camera"]["alert"]

    assert json.loads((tmp_path / "monitor.json").read_text())["alerts"] == 1
    points = json.loads((tmp_path / "monitor/batches.json").read_text())
    assert {"effect", "p_value", "verdict", "sentence"} <= set(points[0])
    names = {name: [p["signal"] for p in points if p["batch"] == name] for name in batches}
    assert names["camera"] == [*WORLD, "unknown", "unreadable"]
    assert names["clean"][-3:] == ["accuracy", "labels", "unreadable"]  # it has labels
    page = (tmp_path / "monitor/index.html").read_text()
    assert "Its accuracy cannot be estimated: the release was not" in page
    assert page.count("<img") == len(batches) * PARAMS.sample_images


def test_copies_are_judged_once(release: Path, tmp_path: Path) -> None:
    """Five files each of 30 pictures, which tests would take for 150 images."""
    jpegs, folder = pictures(2, 30)[0], tmp_path / "in"
    write_batch(folder / "one.parquet", jpegs)
    write_batch(folder / "five.parquet", [jpeg + bytes(n) for jpeg in jpegs for n in range(5)])
    batches = monitor(release, folder, tmp_path)["batches"]
    one, five = batches["one"], batches["five"]
    assert five["copies"] == one["copies"] + 120
    assert five["images"] == one["images"]
    assert five["verdict"] == one["verdict"] == "ok"


def test_pictures_of_the_latest_batches_alone_are_held(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a run over many batches would need more and more memory."""
    monkeypatch.setattr(timeline, "DETAILED", 2)
    files = [tmp_path / f"{number}.parquet" for number in range(4)]
    for number, file in enumerate(files):
        write_batch(file, pictures(number, 5)[0])
    open_release = partial(open_judge, str(release), PARAMS)
    run = Watch(History(tmp_path / "history.jsonl"), open_release, PARAMS, alone=True)
    run.look_at(files, settled=0, labelled=False, flat=True)
    assert [len(one.report.samples) for one in run.new] == [0, 0, 4, 4]


def test_no_batch_and_an_empty_one(release: Path, tmp_path: Path) -> None:
    folder = tmp_path / "incoming"
    folder.mkdir()
    assert monitor(release, folder, tmp_path)["batches"] == {}
    assert "No incoming batches" in (tmp_path / "monitor/index.html").read_text()
    write_batch(folder / "empty.parquet", [])
    assert monitor(release, folder, tmp_path)["batches"]["empty"]["verdict"] == "too few"


def refused(release: Path, incoming: Path, to: Path) -> str:
    """What the stage says; earlier outputs must be left as they were."""
    (to / "monitor").mkdir(exist_ok=True)
    (to / "monitor/earlier").touch()
    said = refusal((DataError, ModelError), monitor, release, incoming, to)
    assert [file.name for file in (to / "monitor").iterdir()] == ["earlier"]
    assert not (to / "monitor.json").exists()
    return said


def test_what_is_no_batch(release: Path, tmp_path: Path) -> None:
    incoming = tmp_path / "incoming"
    assert "is missing" in refused(release, incoming, tmp_path)
    file = incoming / "clean.parquet"
    put(incoming, file.name, b"PAR1 and no more")
    assert str(file) in refused(release, incoming, tmp_path)
    pq.write_table(pa.table({"image_id": ["a"]}), file)
    assert str(file) in refused(release, incoming, tmp_path)
    columns = {"image_id": [1], "path": ["p"], "label": ["x"], "image": [3.0]}
    pq.write_table(pa.table(columns), file)
    assert "not an incoming batch" in refused(release, incoming, tmp_path)


def test_a_batch_that_was_prepared_otherwise(release: Path, tmp_path: Path) -> None:
    """As the release wants it but for the number of pixels that is refused, it is judged."""
    jpegs, file = pictures(2, 5)[0], tmp_path / "in/clean.parquet"
    how = {"image_size": 32, "jpeg_quality": 90, "max_pixels": 10_000}
    write_batch(file, jpegs, preprocessing=how)
    assert monitor(release, file.parent, tmp_path / "fine")["batches"]["clean"]["images"] == 5
    for other, said in (
        ({"image_size": 64}, "prepared with image_size 64 and jpeg_quality 90, but"),
        ({"jpeg_quality": 91}, "prepared with image_size 32 and jpeg_quality 91, but"),
        ({"jpeg_quality": 0}, "clean.parquet does not say how its images were prepared"),
    ):
        write_batch(file, jpegs, preprocessing=how | other)
        assert said in refused(release, file.parent, tmp_path)


def test_a_reference_of_another_model(release: Path, incoming: Path, tmp_path: Path) -> None:
    other = tmp_path / "release"
    shutil.copytree(release, other, ignore=shutil.ignore_patterns("reference"))
    assert "holds no grocery-reference" in refused(other, incoming, tmp_path)
    probabilities = np.full((30, 3), 1 / 3, np.float32)
    Reference.from_predictions(probabilities, None, CLASSES, "0" * 64).save(other / "reference")
    assert "the reference is of model 000000000000" in refused(other, incoming, tmp_path)
