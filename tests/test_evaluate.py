"""What evaluate and register write, and what a candidate is judged by.

On the model card nothing in a name becomes markup.
"""

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from PIL import Image
from sklearn.metrics import precision_recall_fscore_support

from conftest import ROOT, Project
from grocery.classifier.dataset import Split
from grocery.classifier.head import KIND
from grocery.core.arrays import load_arrays
from grocery.core.errors import DataError
from grocery.core.params import RegisterParams
from grocery.evaluation.metrics import (
    ClassScore,
    calibration_error,
    class_scores,
    reliability,
    summary,
)
from grocery.features.encoder import KIND as ENCODER_KIND
from grocery.reference.reference import Reference
from grocery.release.card import model_card
from grocery.release.model import Model
from grocery.release.verdict import decide
from grocery.settings import load
from grocery.shards import images_of, write_table
from samples import image_row, shard_files
from stages import evaluate

BROKEN = [
    ({}, "b", None),
    ({"min_accuracy": 0.81}, "b", "test accuracy"),
    ({"min_macro_f1": 0.71}, "b", "test macro F1"),
    ({"max_calibration_error": 0.04}, "b", "expected calibration error"),
    ({"min_class_recall": 0.51}, "b", "recall of the worst class (b)"),
    ({"leaks": 1}, "b", "near duplicates across splits"),
    # The worst class is judged however few images there are.
    ({"images": (20, 20, 10)}, "c", "recall of the worst class (c)"),
    ({"images": (9, 5, 2)}, "c", "recall of the worst class (c)"),
    ({"images": (9, 5, 2), "recalls": (0.9, 0.5, 0.5)}, "b", None),
    ({"images": (9, 5, 0)}, "b", None),
]


@pytest.mark.parametrize(("change", "worst", "failed"), BROKEN)
def test_a_candidate_is_rejected_for_the_limit_that_it_breaks(
    change: dict[str, Any], worst: str, failed: str | None, tmp_path: Path
) -> None:
    case: dict[str, Any] = {"images": (20, 20, 2), "recalls": (0.9, 0.5, 0.0), "leaks": 0}
    case |= {"min_accuracy": 0.8, "min_macro_f1": 0.7, "max_calibration_error": 0.05}
    case |= {"min_class_recall": 0.05, "min_class_images": 10} | change
    rows = zip("abc", case.pop("recalls"), case.pop("images"), strict=True)
    table = tmp_path / "per_class.csv"
    table.write_text("name,recall,images\n" + "".join(f"{n},{r},{i}\n" for n, r, i in rows))
    dataset = {"near_duplicates": {"across_splits": case.pop("leaks")}}
    measured = {"accuracy": 0.8, "macro_f1": 0.7, "calibration_error": 0.05}
    found = decide(RegisterParams.model_validate(case), measured, dataset, table)
    assert [c["name"] for c in found["checks"] if not c["passed"]] == [failed] * bool(failed)
    assert found["accepted"] is (failed is None)
    assert found["checks"][-1]["name"] == f"recall of the worst class ({worst})"


def test_a_release_is_what_it_was_made_of(built: Project) -> None:
    release, params = built.path / "models/release", load(built.path / "params.yaml")
    names = ["README.md", "model.json", "model.safetensors", "reference", "verdict.json"]
    assert sorted(path.name for path in release.iterdir()) == names
    classifier, described = load_arrays(built.path / "models/classifier", KIND)
    encoder, _ = load_arrays(built.path / "models/encoder", ENCODER_KIND)
    model = Model.load(release)
    for name, array in (model.head.arrays("head_") | model.encoder.arrays()).items():
        assert np.array_equal(array, (classifier | encoder)[name])
    assert (model.classes, model.coarse) == (described["classes"], described["coarse"])

    said, recorded = (
        {name: np.asarray(value).tolist() for name, value in vars(Reference.load(folder)).items()}
        for folder in (release / "reference", built.path / "models/reference")
    )
    assert recorded["model_digest"] == described["sha256"]
    assert said == recorded | {"model_digest": model.digest}
    kept = Reference.load(release / "reference")  # of 32 dimensions, which are kept whole
    np.testing.assert_allclose(np.linalg.norm(kept.features, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(kept.logits, model.head.logits(kept.features), atol=1e-4)

    metrics = built.path / "metrics"
    measured = json.loads((metrics / "evaluate.json").read_text())
    card = json.loads((built.path / "data/card/card.json").read_text())
    verdict = decide(params.register_, measured, card, metrics / "evaluation/per_class.csv")
    assert json.loads((release / "verdict.json").read_text())["accepted"] is verdict["accepted"]
    assert json.loads((metrics / "register.json").read_text()) == {
        "accepted": verdict["accepted"],
        "checks_failed": sum(not check["passed"] for check in verdict["checks"]),
        "model_digest": model.digest,
        "dataset_digest": card["digest"],
    }
    (block,) = re.findall("```yaml\n(.*?)```", (release / "README.md").read_text(), re.DOTALL)
    sections = ("featurize", "train", "register")
    made_with = {section: params.section(section).model_dump() for section in sections}
    said = yaml.safe_load(block)
    assert said == {"prepare": said["prepare"], "data": {"source": "synthetic"}} | made_with
    assert list(said) == ["data", "prepare", *sections]


def test_scores_of_each_class_beside_the_baselines_and_mistakes_as_jpegs(built: Project) -> None:
    folder = built.path / "metrics/evaluation"
    with (folder / "per_class.csv").open(newline="") as stream:
        scores = list(csv.DictReader(stream))
    expected = "name precision recall f1 images baseline_precision baseline_recall baseline_f1"
    assert list(scores[0]) == expected.split()
    measured = json.loads((built.path / "metrics/evaluate.json").read_text())
    images = [int(row["images"]) for row in scores]
    for column, found in (("recall", measured), ("baseline_recall", measured["baseline"])):
        recalls = [float(row[column]) for row in scores]
        assert np.average(recalls, weights=images) == pytest.approx(found["accuracy"], abs=1e-5)
    for name in ("worst.jpg", "worst_classes.jpg"):
        with Image.open(folder / name, formats=["JPEG"]) as sheet:
            sheet.load()
            assert sheet.width > 900  # six images in a row


def test_mistakes_of_the_worst_classes_come_class_by_class() -> None:
    classes = ["apple", "leek", "pear"]
    truth = [0] * 9 + [1, 1] + [2, 2]
    predicted = [1] * 8 + [0] + [0, 1] + [0, 2]  # recall 1/9, 1/2 and 1/2
    confidence = np.linspace(0.5, 0.9, len(truth))
    probabilities = np.zeros((len(truth), 3), np.float32)
    probabilities[np.arange(len(truth)), predicted] = confidence
    names: list[str | None] = [classes[one] for one in truth]
    rows = [str(row) for row in range(len(truth))]
    test = Split(rows, rows, np.zeros((len(truth), 2), np.float32), names, np.array(truth))
    wrong = evaluate.mistakes(test, probabilities)
    assert wrong == [11, 9, 7, 6, 5, 4, 3, 2, 1, 0]
    recalls = {"pear": 0.5, "apple": 1 / 9, "leek": 0.5}
    scores = [ClassScore(name, 0.0, recall, 0.0, 1) for name, recall in recalls.items()]
    assert evaluate.of_worst_classes(wrong, test, scores) == [7, 6, 5, 4, 3, 2, 9, 11]


def test_images_are_found_by_id_and_shards_without_one_stay_unread(tmp_path: Path) -> None:
    ids = [f"{number:02x}{'0' * 62}" for number in range(0, 256, 40)]
    rows = [image_row(each.encode(), "1.jpg", None, image_id=each) for each in ids]
    shards = shard_files(tmp_path / "shards", rows, 2)
    wanted = {ids[5], ids[0], ids[2], "no such image"}
    assert images_of(shards, wanted) == {i: i.encode() for i in sorted(wanted) if i in ids}
    assert images_of(shards, []) == {}
    write_table(shards[1], pa.table({"image_id": ids[4:]}))  # which now lacks its images
    assert list(images_of(shards, ids[:1])) == ids[:1]
    with pytest.raises(DataError, match="shard-00001"):
        images_of(shards, ids[4:])


def test_scores_of_classes_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 60)  # of the six classes, the last is never right
    probabilities = rng.dirichlet(np.ones(6), 60).astype(np.float32)
    probabilities[:, 4] = 0  # never predicted
    predicted, how = probabilities.argmax(axis=1), {"labels": np.arange(6), "zero_division": 0}
    expected = precision_recall_fscore_support(labels, predicted, **how)
    scores = class_scores(probabilities, labels, names="abcdef")
    found = [(s.precision, s.recall, s.f1, s.images) for s in scores]
    np.testing.assert_allclose(np.array(found).T, expected)
    assert [score.name for score in scores] == list("abcdef")


def test_summary_and_calibration_error_by_hand() -> None:
    rows = [[0.9, 0.1, 0], [0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.1, 0.8]]
    probabilities = np.array(rows, np.float32)
    labels = np.array([0, 1, 1, 2])
    found = summary(probabilities, labels, coarse=["x", "x", "y"], bins=10)
    assert (found["accuracy"], found["coarse_accuracy"], found["top5_accuracy"]) == (0.75, 1, 1)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    bins = reliability(probabilities, labels, bins=10)
    assert calibration_error(bins) == pytest.approx((0.1 + 0.6 + 0.5 + 0.2) / 4, abs=1e-6)
    without = summary(probabilities, labels, coarse=["x", None, "y"], bins=10)
    assert "coarse_accuracy" not in without
    fewer = summary(probabilities[:3], labels[:3], coarse=["x", "x", "y"], bins=10)
    assert fewer["macro_f1"] == pytest.approx(2 / 3), "the third class has no images"


def card(name: str) -> str:
    measured = {"images": 10, "accuracy": 0.5, "baseline": {"accuracy": 0.4}}
    measured["accuracy_interval"] = [0.24, 0.76]
    check = {"name": f"recall of the worst class ({name})", "value": 0.5, "side": "at least"}
    verdict = {"accepted": True, "checks": [check | {"limit": 0.1, "passed": True}]}
    verdict["advice"] = [f"Few labels: {name}."]
    dataset = {"source": name, "digest": "d" * 64, "classes": {"Apple_Red": {}, name: {}}}
    params = {"train": load(ROOT / "params.yaml").train.model_dump()}
    networks = [{"sha256": "a" * 64, "origin": name, "licence": "MIT"}, {"sha256": "b" * 64}]
    return model_card(params, dataset, measured, verdict, "e" * 64, networks=networks)


def test_on_the_card_a_name_is_shown_as_it_is() -> None:
    text = card("Café & Co")
    assert "Classes: Apple_Red, Café &amp; Co." in text
    assert "| recall of the worst class (Café &amp; Co) | 0.500 | at least 0.1 | passed |" in text
    assert f"network Café &amp; Co; licence MIT; ONNX `{'a' * 64}`\n" in text
    assert "- Pretrained network of unknown origin; licence not said; ONNX `bbb" in text
    assert "| accuracy | 0.500 | 0.400 |" in text


def test_on_the_card_a_hostile_name_stays_text() -> None:
    text = card("<script>alert(1)</script> | `x` ![y](http://z)\n# Heading")
    assert "<script" not in text
    lines = text.splitlines()
    assert len(lines) == len(card("Pear").splitlines())
    row, network, classes = (
        next(line for line in lines if line.startswith(start))
        for start in ("| recall", "- Pretrained", "Classes:")
    )
    assert len(re.findall(r"(?<!\\)\|", row)) == 5
    for shown in (row, network.partition("; ONNX")[0], classes):
        assert not re.search(r"(?<!\\)[`\[\]]", shown)
