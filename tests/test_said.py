"""What the pipeline tells a person: a line per stage, the summary, advice about poor numbers."""

import csv
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conftest import ROOT, Project
from grocery import runner, said
from grocery.comment import outdated
from grocery.core.errors import DataError, ModelError
from grocery.core.files import write_json
from grocery.release.advice import advice, on_monitoring
from grocery.release.verdict import CALIBRATION
from grocery.settings import load
from registry_project import grocery, inside
from thresholds import thresholds

TRAINED: dict[str, Any] = {
    "labeled": 72,
    "unlabeled": 300,
    "converged": True,
    "iterations": 47,
    "validation": 100,
    "labels_per_class": {"apple": 30, "leek": 2, "pear": 40},
}
MEASURED: dict[str, Any] = {
    "accuracy": 0.9,
    "accuracy_interval": [0.86, 0.93],
    "gain": 0.02,
    "images": 300,
}
RECALLS = {"apple": 0.9, "leek": 0.8, "pear": 0.95}
POOR = RECALLS | {"leek": 0.5}
GUESSES = {"accuracy": 0.4, "accuracy_interval": [0.32, 0.5]}


def advised(
    folder: Path,
    *,
    recalls: dict[str, float] = RECALLS,
    confused: int = 0,
    suspects: int = 0,
    kept_of: int = 72,
    failed: str = "",
    **changes: Any,
) -> list[str]:
    """Advice where all is well but for this; `confused` of 20 apples are taken for pears."""
    with (folder / "per_class.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["name", "recall", "images"])
        rows.writerows([name, recall, 20] for name, recall in recalls.items())
    pairs = ["apple,pear"] * confused + ["apple,apple"] * (20 - confused) + ["pear,apple"] * 2
    (folder / "confusion.csv").write_text("\n".join(["actual,predicted", *pairs]))
    trained = TRAINED | {k: v for k, v in changes.items() if k in TRAINED}
    measured = MEASURED | {k: v for k, v in changes.items() if k in MEASURED}
    dataset = {"splits": {"train": {"labeled": kept_of}}, "suspected_labels": [{}] * suspects}
    checks = [{"name": name, "passed": name != failed} for name in ("test accuracy", CALIBRATION)]
    return advice(trained, measured, dataset, folder, checks)


def test_there_is_nothing_to_say_when_all_is_well(tmp_path: Path) -> None:
    """Nor of a poor class with many labels, which needs no more of them."""
    for changes in ({}, {"confused": 2}, {"recalls": RECALLS | {"apple": 0.4}}):
        assert advised(tmp_path, **changes) == []


@pytest.mark.parametrize(
    ("changes", "start", "end"),
    [
        (
            {"accuracy": 0.5, "images": 4, "accuracy_interval": [0.35, 0.85]},
            "Too few test images to judge: 0.500 of 4 images may be anything from 0.35 to 0.85.",
            "or raise prepare.test_ratio where the dataset has no splits of its own.",
        ),
        ({"converged": False}, "Training stopped after 47 iterations", "Raise train.max_iter."),
        ({"validation": 8}, "Only 8 validation images", "no splits of its own."),
        ({"gain": -0.01}, "The unlabelled images cost 0.010 of accuracy.", "leaves them out."),
        (
            {"gain": -0.01, "unlabeled": 0},
            "With no unlabelled image the algorithm costs 0.010",
            "to supervised.",
        ),
        ({"recalls": POOR, "kept_of": 400}, "Few labels, and often not", "(train.labeled_ratio)."),
        ({"recalls": POOR}, "Few labels, and often not recognised: leek (2).", "more of these."),
        (
            {"recalls": {f"c{number}": 0.1 for number in range(8)}},
            "Few labels, and often not recognised: c0 (0), c1 (0), c2 (0), c3 (0), c4 (0) and",
            " and 3 more. Label more of these.",
        ),
        ({"confused": 3}, "Taken for another: apple for pear (3 of its 20 images).", "merge them."),
        ({"suspects": 7}, "7 labels look wrong", "data/card/index.html."),
        (GUESSES, "This may be no better than guessing one of 3 classes.", ""),
    ],
)
def test_what_is_poor_is_said_with_what_to_do(
    tmp_path: Path, changes: dict[str, Any], start: str, end: str
) -> None:
    (sentence,) = advised(tmp_path, **changes)
    assert sentence.startswith(start)
    assert sentence.endswith(end)


def test_a_rejection_says_what_to_do(tmp_path: Path) -> None:
    limits = "What a release must reach is set by the section register of params.yaml."
    assert advised(tmp_path, failed="test accuracy") == [limits]
    calibrated, last = advised(tmp_path, failed=CALIBRATION)
    assert "calibrated on the 100 validation images. Add labelled images, or raise" in calibrated
    assert last == limits
    few, last = advised(tmp_path, failed=CALIBRATION, validation=8)  # the same advice, once
    assert few.startswith("Only 8 validation images")
    assert last == limits


def test_few_images_are_not_told_to_be_shared_out_otherwise(tmp_path: Path) -> None:
    """A larger test split would make validation smaller; and of chance nothing more is said."""
    few = dict[str, Any](accuracy=0.5, images=4, accuracy_interval=[0.07, 0.93], gain=-0.25)
    test, validation = advised(tmp_path, **few, validation=3)
    assert test.startswith("Too few test images to judge")
    assert validation.startswith("Only 3 validation images")
    assert test.endswith(" Add labelled images.")
    assert validation.endswith(" Add labelled images.")
    assert ", or raise prepare.test_ratio" in advised(tmp_path, **few)[0]


def test_what_the_monitor_is_told(tmp_path: Path) -> None:
    (tmp_path / "verdict.json").write_text('{"accepted": true, "advice": ["Label more."]}')
    assert on_monitoring(tmp_path, 118, thresholds()) == ["Label more."]
    _, few = on_monitoring(tmp_path, 117, thresholds())
    assert few.startswith("Batches are compared with 117 test images. With fewer than 118, a shift")
    assert on_monitoring(tmp_path / "bare", 1, thresholds(min_confidence_shift=0.0)) == []
    (tmp_path / "verdict.json").write_text('{"advice": 3}')
    with pytest.raises(ModelError, match=r"verdict\.json: advice is 3, but it should be a"):
        on_monitoring(tmp_path, 118, thresholds())


def test_every_stage_says_a_line_and_the_last_one_says_it_all(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.edit_params({"register": {"min_accuracy": 0.999}})
    with inside(project.path):
        for stage in ("evaluate", "register", "monitor"):
            runner.run(stage, load())
    said_by_stages = capsys.readouterr().out
    lines = {line.partition(":")[0]: line for line in said_by_stages.splitlines()}
    assert lines["evaluate"].startswith("evaluate: test accuracy 0.")
    assert lines["register"].startswith("register: the release is REJECTED: test accuracy 0.")
    drills = "monitor: of 2 drills, made to show that it works: clean "
    assert lines["monitor"].startswith(drills)
    assert "The release is REJECTED: test accuracy 0." in said_by_stages
    older, _, summary = grocery(project, "report").out.partition("\n\n")
    assert "the last build. Changed since then: register, monitor " in older, "by dvc.lock"
    assert summary.strip() in said_by_stages
    card = (project.path / "models/release/README.md").read_text()
    verdict = json.loads((project.path / "models/release/verdict.json").read_bytes())
    for sentence in verdict["advice"]:
        assert f"  {sentence}" in summary
        assert f"- {sentence}".replace("[", "\\[") in card
    for page in said.PAGES:
        assert page in summary
        assert (project.path / page).is_file()


def test_the_readme_shows_what_is_said_today(built: Project, here: Path) -> None:
    """Of the recorded pipeline, but for confusions: what these are made from is not in git."""
    shown = (ROOT / "README.md").read_text().partition("```\n…\n")[2].partition("\n```")[0]
    found = {
        name: json.loads((ROOT / f"metrics/{name}.json").read_bytes())
        for name in ("data", "evaluate", "register", "monitor")
    }
    assert found["register"]["accepted"]
    advice = shown.partition("To do:\n")[2].partition("\n\n")[0].split("\n")
    assert advice[-1].startswith(f"  {found['data']['suspected_labels']} labels look wrong: see")
    verdict = json.loads((built.path / "models/release/verdict.json").read_bytes())
    for check in verdict["checks"]:
        check["passed"] = True
    verdict["advice"] = [sentence.strip() for sentence in advice]

    paths = SimpleNamespace(release=here / "models/release", monitor="metrics/monitor")
    write_json(paths.release / "verdict.json", verdict)
    write_json(here / "metrics/evaluate.json", found["evaluate"])
    params = (ROOT / "params.yaml").read_text()
    (here / "params.yaml").write_text(params)
    assert shown.endswith(f"\n\n{said.summary()}")
    for stage in ("evaluate", "register", "monitor"):
        assert said.line(stage, paths, found[stage]) in shown.splitlines()
    assert said.ALL_LABELS in shown
    every = re.sub("labeled_ratio: .*", "labeled_ratio: 1.0", params)
    (here / "params.yaml").write_text(every)
    assert said.ALL_LABELS not in said.summary(), "it is done"


def test_what_prepare_left_out_is_said_by_reason(built: Project) -> None:
    paths = SimpleNamespace(report=built.path / "data/prepared/report.json")
    found = json.loads(paths.report.read_bytes())
    counts = found["counts"]
    sentence = said.line("prepare", paths, counts)
    assert f"{counts['images']} images of {counts['classes']} classes" in sentence
    assert f"exact copies: {counts['duplicates']}" in sentence
    for entry in found["quarantined"]:
        assert entry["reason"].partition(":")[0] in sentence


def test_fewer_dimensions_than_are_asked_for_are_explained(built: Project) -> None:
    paths = SimpleNamespace(encoder=built.path / "models/encoder")
    assert said.line("featurize", paths, {"dimensions": 32}) == "featurize: 32 numbers per image"
    fewer = said.line("featurize", paths, {"dimensions": 12})
    assert "12 numbers per image; `dimensions` of featurize allows 32, but there are" in fewer


def test_a_fresh_build_is_not_called_an_old_one(built: Project) -> None:
    assert outdated(built.path) == ""


def test_a_pipeline_that_was_not_built(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not there yet; run: dvc repro"):
        said.summary(tmp_path)


def test_a_comment_says_what_a_change_did(project: Project) -> None:
    """`grocery report --markdown`, in a folder of the project."""
    project.edit_params({"train": {"labeled_ratio": 0.123}})
    headline = project.path / "metrics/headline/evaluate.json"
    headline.write_text(json.dumps(json.loads(headline.read_bytes()) | {"macro_f1": 0.9876}))
    (project.path / "metrics/evaluation/reliability.csv").write_text(
        "lower,upper,images,confidence,accuracy\n0.2,0.4,0,0.0,0.0\n0.4,0.6,8,0.5123,0.75\n"
    )
    docs = Project(project.path / "docs")
    text = grocery(docs, "report", "--markdown").out
    older, text = text.split("\n\n", 1)
    assert "Changed since then: train, evaluate, register (dvc status tells more)" in older
    assert text.startswith("### The release is accepted: ")
    assert " 0.988 " in rows(text, "Metrics")["macro_f1"]
    assert "accuracy" not in rows(text, "Metrics"), "it did not change"
    assert "0.3" in rows(text, "Parameters")["params.yaml"]
    assert "0.123" in rows(text, "Parameters")["params.yaml"]
    assert "images: no change." in text
    assert "[0.51]\n" in text, "the one bin with images"
    assert "bar [0.75]" in text
    project.commit("As on a pull request")
    text = grocery(docs, "report", "--markdown", "--against", "HEAD~1").out
    assert "0.123" in rows(text, "Parameters")["params.yaml"]
    unknown = grocery(docs, "report", "--markdown", "--against", "v7")
    assert (unknown.code, unknown.sentence) == (1, "error: report: unknown Git revision 'v7'")


def rows(text: str, title: str) -> dict[str, str]:
    """Lines of the table below a title, by their first cell."""
    section = text.partition(f"#### {title}\n")[2].partition("####")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return {line.split("|")[1].strip(): line for line in lines}
