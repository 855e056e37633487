"""Which of two models is better: against likelihoods that are maximised by force, and anew."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binom

from conftest import Project, refusal
from grocery.comparison.anew import MIN_IMAGES, Source, evaluate_anew, seen_images
from grocery.comparison.difference import (
    PREDICTIONS,
    Difference,
    compare,
    data_digest,
    read_predictions,
    score_interval,
)
from grocery.core.errors import DataError, RegistryError
from grocery.images.preprocessing import Preprocessing
from grocery.parallel import sharing
from grocery.release.model import Model
from grocery.shards import read_columns, read_table, shard_paths, write_table


def table(labels: list[str], predicted: list[str]) -> pa.Table:
    n = len(labels)
    columns = {
        "image_id": [f"{row:064x}" for row in range(n)],
        "path": [f"{row}.jpg" for row in range(n)],
        "label": labels,
        "predicted": predicted,
        "confidence": [0.5] * n,
    }
    return pa.table(columns, schema=PREDICTIONS)


def of_counts(only_old: int, only_new: int, both: int = 10, neither: int = 5) -> Difference:
    """The comparison of two models that are right on so many images."""
    n = only_old + only_new + both + neither
    old = ["a"] * (only_old + both) + ["b"] * (only_new + neither)
    new = ["b"] * only_old + ["a"] * (both + only_new) + ["b"] * neither
    return compare(table(["a"] * n, old), table(["a"] * n, new))


def test_the_images_that_one_gets_right() -> None:
    found = of_counts(12, 31, both=50, neither=7)
    assert (found.images, found.only_old, found.only_new) == (100, 12, 31)
    assert (found.old, found.new, found.difference) == (0.62, 0.81, 0.19)
    assert found.more_than_chance
    assert not of_counts(20, 31).more_than_chance


@pytest.mark.parametrize(
    ("only_old", "only_new", "right", "verdict"),
    [
        (12, 31, "31 images", "better, by more than chance"),
        (31, 1, "1 image", "worse, by more than chance"),
        (3, 8, "8 images", "this may be chance"),
    ],
)
def test_the_sentence(only_old: int, only_new: int, right: str, verdict: str) -> None:
    said = f"v2 is right on {right} that v1 gets wrong, and wrong on {only_old} that it gets right"
    assert of_counts(only_old, only_new).sentence("v1", "v2") == f"{said}: {verdict}"
    assert of_counts(0, 0).sentence("v1", "v2") == "v2 is right on the same images as v1"


def score_by_force(difference: float, only_old: int, only_new: int, images: int) -> float:
    """Tango's statistic, from the most likely shares, which are searched for."""
    low, high = max(0.0, -difference), (1 - difference) / 2

    def unlikely(share: float) -> float:
        shares = np.array([share, share + difference, 1 - 2 * share - difference])
        counts = np.array([only_old, only_new, images - only_old - only_new])
        return -float((counts * np.log(np.maximum(shares, 1e-300))).sum())

    best = minimize_scalar(unlikely, bounds=(low, high), method="bounded", options={"xatol": 1e-12})
    variance = images * (2 * best.x + difference * (1 - difference))
    return float((only_new - only_old - images * difference) / variance**0.5)


@pytest.mark.parametrize(
    ("only_old", "only_new", "images"),
    [(9, 12, 50), (31, 45, 2485), (5, 32, 371), (1, 6, 40), (60, 20, 100)],
)
def test_the_interval_is_that_of_the_score_test(only_old: int, only_new: int, images: int) -> None:
    low, high = score_interval(only_old, only_new, images)
    for end, score in ((low, 1.959964), (high, -1.959964)):
        assert score_by_force(end, only_old, only_new, images) == pytest.approx(score, abs=1e-3)


def test_models_that_are_right_on_the_same_images_may_differ_all_the_same() -> None:
    """Nothing was seen of their difference: no more than a score test of n misses excludes."""
    square = 1.959964**2
    for images in (20, 371):
        end = square / (images + square)
        assert score_interval(0, 0, images) == pytest.approx((-end, end), abs=1e-6)
    low, high = score_interval(0, 30, 30)
    assert (0 < low < 1, high) == (True, 1)
    assert [*score_interval(30, 0, 30)] == [-high, pytest.approx(-low)]


@pytest.mark.parametrize("images", [25, 371])
def test_at_most_one_in_twenty_of_equal_models_is_better(images: int) -> None:
    """Exact, over all counts that can come of it, where the models differ on few or many images."""
    for share in (0.02, 0.1, 0.3):
        chance, least = 0.0, 0
        for count in range(int(binom.ppf(1 - 1e-6, images, share)) + 1):
            # the fewest of them that must be the new model's; never fewer than of a lower count
            while least <= count and score_interval(count - least, least, images)[0] <= 0:
                least += 1
            chance += binom.pmf(count, images, share) * binom.sf(least - 1, count, 0.5)
        assert 0 < chance < 0.05


def test_the_pipelines_model_against_its_baseline(built: Project) -> None:
    """Read from a path or from bytes, in any order of the rows."""
    file = built.path / "metrics/evaluation/predictions.parquet"
    new, stored = read_predictions(file, "the model"), pq.read_table(file)
    assert new.schema == PREDICTIONS
    assert new == stored.drop_columns("baseline")
    assert read_predictions(file.read_bytes(), "the model") == new
    old = new.set_column(new.column_names.index("predicted"), "predicted", stored["baseline"])
    found = compare(old, new)
    assert compare(old.take(np.random.default_rng(0).permutation(len(old))), new) == found
    metrics = json.loads((built.path / "metrics/evaluate.json").read_bytes())
    baseline = metrics["baseline"]["macro_f1"]
    for value, measured in (
        (found.images, metrics["images"]),
        (found.new, metrics["accuracy"]),
        (found.difference, metrics["gain"]),
        (found.macro_f1_new, metrics["macro_f1"]),
        (found.macro_f1_old, baseline),
        (found.macro_f1_difference, metrics["macro_f1"] - baseline),
    ):
        assert value == pytest.approx(measured, abs=2e-6)
    assert found.macro_f1_difference != 0


@pytest.mark.parametrize("labels", [["a", "turnip"], ["a"]])
def test_other_test_data_are_refused(labels: list[str]) -> None:
    old, new = table(["a", "b"], ["a", "a"]), table(labels, labels)
    assert data_digest(old) != data_digest(new)
    with pytest.raises(RegistryError, match="evaluated on different test data"):
        compare(old, new)


def test_the_digest_is_of_ids_and_labels_only() -> None:
    old, new = table(["a", "b"], ["a", "b"]), table(["a", "b"], ["b", "a"])
    assert data_digest(old) == data_digest(new.select(["label", "image_id"]).take([1, 0]))


@pytest.mark.parametrize("between", ["", " ", ",", "\0", '", "', '"]["'])
def test_no_class_name_passes_for_more_images(between: str) -> None:
    one = pa.table({"image_id": ["1"], "label": [f"a{between}2{between}b"]})
    two = pa.table({"image_id": ["1", "2"], "label": ["a", "b"]})
    assert data_digest(one) != data_digest(two)


def parquet(predictions: pa.Table) -> bytes:
    stream = io.BytesIO()
    pq.write_table(predictions, stream)
    return stream.getvalue()


def with_column(name: str, values: pa.Array) -> bytes:
    predictions = table(["a"] * 3, ["b"] * 3)
    return parquet(predictions.set_column(predictions.column_names.index(name), name, values))


GAP = pa.array(["a", None, "a"])
OFFSETS = pa.py_buffer(np.arange(4, dtype=np.int32))
NOT_UTF8 = pa.Array.from_buffers(pa.string(), 3, [None, OFFSETS, pa.py_buffer(b"\xff" * 3)])


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"PAR1 and nothing else", "cannot be read: "),
        (parquet(table(["a"] * 9, ["a"] * 9))[:-20], "cannot be read: "),
        (Path("missing.parquet"), "cannot be read: No such file or directory"),
        (with_column("label", NOT_UTF8), "cannot be read: "),
        (with_column("confidence", pa.array(["high"] * 3)), "cannot be read: "),
        (parquet(table([], [])), "hold no image"),
        (parquet(table(["a"], ["a"]).drop_columns("label")), "lack the column 'label'"),
        (with_column("predicted", GAP), "have an empty value in the column 'predicted'"),
        (with_column("image_id", pa.array(["7", "3", "7"])), "hold the image 7 more than once"),
    ],
)
def test_predictions_that_cannot_be_used(data: bytes | Path, sentence: str) -> None:
    said = refusal(RegistryError, read_predictions, data, "v1.0.0")
    assert said.startswith(f"the test predictions of v1.0.0 {sentence}")


@pytest.fixture
def shards(built: Project) -> Path:
    return built.path / "data/prepared/shards"


@pytest.fixture
def model(built: Project) -> Model:
    return Model.load(built.path / "models/release")


@pytest.fixture
def recorded(built: Project) -> pa.Table:
    """What the pipeline itself predicted."""
    return read_predictions(built.path / "metrics/evaluation/predictions.parquet", "the model")


@pytest.mark.parametrize("workers", [1, 2])
def test_anew_is_as_evaluated(workers: int, shards: Path, model: Model, recorded: pa.Table) -> None:
    """And each model's answers are its own: the other one has a head of other numbers."""
    noise = np.random.default_rng(0).normal(scale=3, size=model.head.coefficients.shape)
    coefficients = model.head.coefficients + noise.astype(np.float32)
    other = replace(model, head=replace(model.head, coefficients=coefficients))
    with sharing(workers):
        anew = evaluate_anew([model, other], [Source(shards)], [seen_images(shards)] * 2)
    assert anew.left_out == 0
    ours, theirs = anew.tables
    assert ours.equals(recorded)  # confidences to the bit
    assert compare(ours, theirs).only_old > 0


def test_seen_images_are_left_out(shards: Path, model: Model, recorded: pa.Table) -> None:
    ids = recorded.column("image_id").to_pylist()
    learned = seen_images(shards)
    spare = len(ids) - MIN_IMAGES
    assert spare > 4
    seen = [learned | set(ids[:3]), learned | set(ids[2:spare])]
    anew = evaluate_anew([model, model], [Source(shards)], seen)
    assert anew.left_out == spare
    assert [found.equals(recorded.slice(spare)) for found in anew.tables] == [True, True]

    with pytest.raises(ValueError, match="2 models, but the seen images of 1"):
        evaluate_anew([model, model], [Source(shards)], seen[:1])
    seen[0].add(ids[-1])
    said = refusal(RegistryError, evaluate_anew, [model, model], [Source(shards)], seen)
    assert said == (
        f"of the {len(ids)} test images in {shards}, {MIN_IMAGES - 1} are new to all models; "
        f"at least {MIN_IMAGES} are needed to compare them"
    )


def test_the_images_that_were_learned_from(built: Project, shards: Path) -> None:
    rows = read_columns(shards, ["image_id", "label", "split"]).to_pylist()
    seen = {row["image_id"] for row in rows if row["split"] in ("train", "val")}
    assert seen_images(shards) == seen
    unlabelled = {row["image_id"] for row in rows if row["label"] is None}
    card = json.loads((built.path / "data/card/card.json").read_bytes())
    assert len(unlabelled) == card["unlabeled"] > 0
    assert unlabelled < seen


def test_the_test_images_of_a_forgotten_class_count_against_a_model(
    shards: Path, model: Model, recorded: pa.Table, tmp_path: Path
) -> None:
    """The newest data have no milk, whose test images come from the older data."""
    for path in shard_paths(shards):
        rows = read_table(path)
        write_table(tmp_path / path.name, rows.filter(pc.not_equal(rows["label"], "Milk")))
    narrow = replace(model, classes=["Oat-Drink" if c == "Milk" else c for c in model.classes])
    sources = [Source(tmp_path), Source(shards, without=frozenset(narrow.classes))]
    anew = evaluate_anew([model, narrow], sources, [set(), set()])
    milk = recorded.column("label").to_pylist().count("Milk")
    assert anew.images == [len(recorded) - milk, milk]
    assert data_digest(anew.tables[0]) == data_digest(recorded)
    found = compare(*anew.tables)
    assert found.old == compare(recorded, recorded).old
    assert found.new <= 1 - milk / len(recorded)


def test_images_are_prepared_for_each_model(shards: Path, model: Model, recorded: pa.Table) -> None:
    small = replace(model, preprocessing=Preprocessing(32, 80, model.preprocessing.max_pixels))
    strict = replace(model, preprocessing=replace(model.preprocessing, max_pixels=10_000))
    anew = evaluate_anew([small, strict], [Source(shards)], [set()] * 2)
    rows = read_columns(shards, ["image_id", "image", "split"]).sort_by("image_id").to_pylist()
    expected = small.predict([row["image"] for row in rows if row["split"] == "test"])
    confidences = [prediction.confidence for prediction in expected]
    assert anew.tables[0].column("predicted").to_pylist() == [p.label for p in expected]
    assert anew.tables[0].column("confidence").to_pylist() == confidences
    assert confidences != recorded.column("confidence").to_pylist()
    assert anew.tables[1].equals(recorded)  # which images are refused changes none of the others


def test_a_damaged_image_is_named(shards: Path, model: Model, tmp_path: Path) -> None:
    damaged = []
    for path in shard_paths(shards):
        images = read_table(path)
        tests = pc.equal(images.column("split"), "test")
        damaged += [tmp_path / path.name] if pc.any(tests).as_py() else []
        cut = pc.if_else(tests, pc.binary_slice(images.column("image"), 0, 40), images["image"])
        column = images.column_names.index("image")
        write_table(tmp_path / path.name, images.set_column(column, "image", cut))
    small = replace(model, preprocessing=replace(model.preprocessing, image_size=32))
    for asked, expected in ((model, ""), (small, ".*jpg cannot be read as an image")):
        with pytest.raises(DataError, match=f"^{damaged[0]}{expected}"):
            evaluate_anew([asked], [Source(tmp_path)], [set()])
