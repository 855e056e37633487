"""Which of two models is better: against likelihoods that are maximised by force, and anew."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binom

from conftest import Project
from grocery.comparison import difference as comparison
from grocery.comparison.anew import MIN_IMAGES, Source, evaluate_anew, seen_images
from grocery.comparison.difference import (
    PREDICTIONS,
    Difference,
    compare,
    read_predictions,
    score_interval,
)
from grocery.core.errors import DataError, RegistryError
from grocery.images.preprocessing import Preprocessing
from grocery.parallel import sharing
from grocery.release.model import Model
from grocery.shards import read_columns, read_table, shard_paths, write_table

CLASSES = ["apple", "beet", "chard", "date", "endive", "fig"]


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


def pair(
    seed: int, n: int = 200, *, old: float = 0.7, new: float = 0.7
) -> tuple[list[str], list[str], list[str]]:
    """Labels, rare classes among them, and the predictions of two models that err alike.

    On half of the images the old model's answer is the new one's too; of the rest each gets its
    share right.
    """
    rng = np.random.default_rng(seed)
    shares = np.array([0.4, 0.3, 0.15, 0.1, 0.04, 0.01])
    labels = rng.choice(CLASSES, n, p=shares)
    # One class is predicted that no test image is of.
    guesses = rng.choice([*CLASSES, "grape"], (2, n))
    by_old = np.where(rng.random(n) < old, labels, guesses[0])
    by_new = np.where(rng.random(n) < new, labels, guesses[1])
    by_new = np.where(rng.random(n) < 0.5, by_old, by_new)
    return labels.tolist(), by_old.tolist(), by_new.tolist()


def tables(seed: int, n: int = 200, *, old: float = 0.7, new: float = 0.7) -> list[pa.Table]:
    labels, by_old, by_new = pair(seed, n, old=old, new=new)
    return [table(labels, by_old), table(labels, by_new)]


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


# The interval


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
def test_the_interval_is_what_the_score_test_does_not_reject(
    only_old: int, only_new: int, images: int
) -> None:
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


# Macro F1


def test_the_pipelines_model_against_its_baseline(built: Project) -> None:
    folder = built.path / "metrics/evaluation"
    new = read_predictions(folder / "predictions.parquet", "the model")
    names = pq.read_table(folder / "predictions.parquet").column("baseline")
    old = new.set_column(new.column_names.index("predicted"), "predicted", names)
    found = compare(old, new)
    metrics = json.loads((built.path / "metrics/evaluate.json").read_bytes())
    for key, value in {
        "images": found.images,
        "accuracy": found.new,
        "macro_f1": found.macro_f1_new,
        "gain": found.difference,
    }.items():
        assert metrics[key] == pytest.approx(value, abs=1e-6)
    assert metrics["baseline"]["macro_f1"] == pytest.approx(found.macro_f1_old, abs=1e-6)


# Symmetry


@pytest.mark.parametrize("seed", range(3))
def test_exchanging_the_models_mirrors_everything(seed: int) -> None:
    old, new = tables(seed, new=0.5 + 0.2 * seed)
    there, back = compare(old, new), compare(new, old)
    mirrored = replace(
        back,
        old=back.new,
        new=back.old,
        difference=-back.difference,
        interval=(-back.interval[1], -back.interval[0]),
        only_old=back.only_new,
        only_new=back.only_old,
        macro_f1_old=back.macro_f1_new,
        macro_f1_new=back.macro_f1_old,
        macro_f1_difference=-back.macro_f1_difference,
    )
    for ours, theirs in zip(astuple(there), astuple(mirrored), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-8)


def test_the_order_of_the_rows_plays_no_part() -> None:
    old, new = tables(4)
    shuffled = new.take(np.random.default_rng(0).permutation(len(new)))
    assert compare(old, shuffled) == compare(old, new)
    assert comparison.data_digest(shuffled) == comparison.data_digest(new)


def test_a_model_is_as_good_as_itself() -> None:
    model, _ = tables(5)
    found = compare(model, model)
    assert (found.difference, found.only_old, found.only_new) == (0, 0, 0)
    assert found.macro_f1_difference == 0
    assert not found.more_than_chance
    assert found.sentence("v1", "v2") == "v2 is right on the same images as v1"


# The same test data


def relabelled(predictions: pa.Table, rows: int) -> pa.Table:
    labels = predictions.column("label").to_pylist()
    labels[:rows] = ["turnip"] * rows
    return predictions.set_column(2, "label", pa.array(labels))


@pytest.mark.parametrize("change", [lambda t: relabelled(t, 1), lambda t: t.slice(1)])
def test_other_test_data_are_refused(change: Callable[[pa.Table], pa.Table]) -> None:
    old, new = tables(6)
    assert comparison.data_digest(old) != comparison.data_digest(change(new))
    with pytest.raises(RegistryError, match="evaluated on different test data"):
        compare(old, change(new))


def test_the_digest_is_of_ids_and_labels_only() -> None:
    old, new = tables(7)
    assert old.column("predicted") != new.column("predicted")
    assert comparison.data_digest(old) == comparison.data_digest(new.select(["label", "image_id"]))


@pytest.mark.parametrize("between", ["", " ", ",", "\0", '", "', '"]["'])
def test_no_class_name_passes_for_more_images(between: str) -> None:
    one = pa.table({"image_id": ["1"], "label": [f"a{between}2{between}b"]})
    two = pa.table({"image_id": ["1", "2"], "label": ["a", "b"]})
    assert comparison.data_digest(one) != comparison.data_digest(two)


# In words


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        (
            (12, 31),
            "v2 is right on 31 images that v1 gets wrong, and wrong on 12 that it gets right: "
            "better, by more than chance",
        ),
        (
            (31, 1),
            "v2 is right on 1 image that v1 gets wrong, and wrong on 31 that it gets right: "
            "worse, by more than chance",
        ),
        (
            (3, 8),
            "v2 is right on 8 images that v1 gets wrong, and wrong on 3 that it gets right: "
            "this may be chance",
        ),
    ],
)
def test_the_sentence(counts: tuple[int, int], sentence: str) -> None:
    assert of_counts(*counts).sentence("v1", "v2") == sentence


# Reading predictions


def parquet(predictions: pa.Table) -> bytes:
    stream = io.BytesIO()
    pq.write_table(predictions, stream)
    return stream.getvalue()


def test_predictions_of_a_path_and_of_bytes(built: Project) -> None:
    file = built.path / "metrics/evaluation/predictions.parquet"
    found = read_predictions(file, "v1")
    assert found.schema == PREDICTIONS
    assert found == pq.read_table(file).drop_columns("baseline")
    assert read_predictions(file.read_bytes(), "v1") == found


def with_column(name: str, values: pa.Array) -> pa.Table:
    predictions = table(["a"] * 3, ["b"] * 3)
    return predictions.set_column(predictions.column_names.index(name), name, values)


OFFSETS = pa.py_buffer(np.arange(4, dtype=np.int32))
NOT_UTF8 = pa.Array.from_buffers(pa.string(), 3, [None, OFFSETS, pa.py_buffer(b"\xff" * 3)])


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "cannot be read: "),
        (b"PAR1 and nothing else", "cannot be read: "),
        (parquet(table(["a"] * 9, ["a"] * 9))[:-20], "cannot be read: "),
        (Path("missing.parquet"), "cannot be read: No such file or directory"),
        (parquet(with_column("label", pa.array([["a"]] * 3))), "cannot be read: "),
        (parquet(with_column("label", NOT_UTF8)), "cannot be read: "),
        (parquet(with_column("confidence", pa.array(["high"] * 3))), "cannot be read: "),
        (parquet(table([], [])), "hold no image"),
        (parquet(table(["a"], ["a"]).drop_columns("label")), "lack the column 'label'"),
        (
            parquet(with_column("predicted", pa.array(["a", None, "a"]))),
            "have an empty value in the column 'predicted'",
        ),
        (
            parquet(with_column("image_id", pa.array(["7", "3", "7"]))),
            "hold the image 7 more than once",
        ),
    ],
)
def test_predictions_that_cannot_be_used(data: bytes | Path, sentence: str) -> None:
    with pytest.raises(RegistryError) as caught:
        read_predictions(data, "v1.0.0")
    message = str(caught.value)
    assert message.startswith(f"the test predictions of v1.0.0 {sentence}")
    assert "\n" not in message


# Evaluated anew


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


def stored(shards: Path) -> tuple[list[str], list[bytes]]:
    """Ids and images of the test images, sorted by id."""
    rows = read_columns(shards, ["image_id", "image", "split"]).to_pylist()
    pairs = sorted((row["image_id"], row["image"]) for row in rows if row["split"] == "test")
    return [image_id for image_id, _ in pairs], [jpeg for _, jpeg in pairs]


def worse(model: Model) -> Model:
    """The same model with a head of other numbers, which makes mistakes."""
    rng = np.random.default_rng(0)
    noise = rng.normal(scale=3, size=model.head.coefficients.shape).astype(np.float32)
    head = replace(model.head, coefficients=model.head.coefficients + noise)
    return replace(model, head=head)


@pytest.mark.parametrize("workers", [1, 2])
def test_anew_is_as_the_pipeline_evaluated(
    workers: int, shards: Path, model: Model, recorded: pa.Table
) -> None:
    other = worse(model)
    with sharing(workers):
        anew = evaluate_anew([model, other], [Source(shards)], [seen_images(shards)] * 2)
    assert anew.left_out == 0
    ours, theirs = anew.tables
    assert ours.equals(recorded)  # confidences to the bit
    found = compare(ours, theirs)
    assert found.only_old > 0
    assert not compare(recorded, ours).only_old


def test_images_that_any_model_has_seen_are_left_out(
    shards: Path, model: Model, recorded: pa.Table
) -> None:
    ids = recorded.column("image_id").to_pylist()
    learned = seen_images(shards)
    spare = len(ids) - MIN_IMAGES
    assert spare > 4
    seen = [learned | set(ids[:3]), learned | set(ids[2:spare])]
    anew = evaluate_anew([model, worse(model)], [Source(shards)], seen)
    assert anew.left_out == spare
    ours, theirs = anew.tables
    assert ours.equals(recorded.slice(spare))
    assert theirs.column("image_id") == ours.column("image_id")

    with pytest.raises(ValueError, match="2 models, but the seen images of 1"):
        evaluate_anew([model, worse(model)], [Source(shards)], seen[:1])

    seen[0].add(ids[-1])
    with pytest.raises(RegistryError) as caught:
        evaluate_anew([model, worse(model)], [Source(shards)], seen)
    assert str(caught.value) == (
        f"of the {len(ids)} test images in {shards}, {MIN_IMAGES - 1} are new to all models; "
        f"at least {MIN_IMAGES} are needed to compare them"
    )


def test_the_images_that_were_learned_from(built: Project, shards: Path) -> None:
    seen = seen_images(shards)
    rows = read_columns(shards, ["image_id", "label", "split"]).to_pylist()
    report = json.loads((built.path / "data/card/card.json").read_bytes())
    test = {row["image_id"] for row in rows if row["split"] == "test"}
    unlabelled = {row["image_id"] for row in rows if row["label"] is None}
    assert len(unlabelled) == report["unlabeled"] > 0
    assert unlabelled < seen
    assert {row["split"] for row in rows if row["image_id"] in seen} == {"train", "val"}
    assert seen | test == {row["image_id"] for row in rows}
    assert not seen & test


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
    assert comparison.data_digest(anew.tables[0]) == comparison.data_digest(recorded)
    found, everything = compare(*anew.tables), compare(recorded, recorded)
    assert found.old == everything.old
    assert found.new <= 1 - milk / len(recorded)


def test_images_are_prepared_again_as_a_model_wants_them(
    shards: Path, model: Model, recorded: pa.Table
) -> None:
    small = replace(model, preprocessing=Preprocessing(32, 80, model.preprocessing.max_pixels))
    strict = replace(model, preprocessing=replace(model.preprocessing, max_pixels=10_000))
    anew = evaluate_anew([small, strict, model], [Source(shards)], [set()] * 3)
    expected = small.predict(stored(shards)[1])
    confidences = [prediction.confidence for prediction in expected]
    assert anew.tables[0].column("predicted").to_pylist() == [p.label for p in expected]
    assert anew.tables[0].column("confidence").to_pylist() == confidences
    assert confidences != recorded.column("confidence").to_pylist()
    # Which images are refused does not change those that are not.
    assert anew.tables[1].equals(recorded)
    assert anew.tables[2].equals(recorded)


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
