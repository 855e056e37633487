import re
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import ROOT, refusal
from grocery.core.errors import ParamsError
from grocery.settings import load


def changed(tmp_path: Path, **changes: Any) -> Path:
    document = yaml.safe_load((ROOT / "params.yaml").read_text())
    for key, value in changes.items():
        *sections, last = key.split("__")
        reduce(getitem, sections, document)[last] = value
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"train__labeled_ratio": 1.5}, "train.labeled_ratio is 1.5, but it should be less than"),
        ({"train__labeled_ratio": "0.2"}, "train.labeled_ratio is '0.2', but it should be a valid"),
        ({"train__labeled_ratio": float("nan")}, "train.labeled_ratio is nan"),
        ({"train__algorithm": "svm"}, "train.algorithm is 'svm', but it should be 'supervised'"),
        ({"train__max_iter": True}, "train.max_iter is True"),
        ({"train__alhpa": 1}, "train.alhpa is not a known key (did you mean alpha?)"),
        ({"monitr": {}}, "monitr is not a known key (did you mean monitor?)"),
        ({"prepare__shards": 12}, "prepare.shards is 12, but must be a power of two"),
        ({"prepare__val_ratio": 0.5, "prepare__test_ratio": 0.5}, "must be at most 0.8"),
        ({"data__source": "../secrets"}, "data.source is '../secrets'"),
        *(
            ({"featurize__encoder": encoder}, "one of fisher, colour, onnx, or several in a list")
            for encoder in list[Any](["vit", [], ["colour", "colour"], 3, [[]]])
        ),
        ({"featurize__fisher__scales": []}, "featurize.fisher.scales"),
        ({"featurize__onnx__mean": [124, 116, 104]}, "mean.0 is 124, but it should be less than"),
        ({"monitor__significance": 0.0005}, "significance is 0.0005, but it should be greater"),
        ({"train": None}, "train should be a mapping"),
        ({"train": {}}, "train.alpha is missing"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    assert sentence in refusal(ParamsError, load, changed(tmp_path, **changes))


@pytest.mark.parametrize("text", [None, "", "- 1", "a: [", "\0"])
def test_what_is_not_a_params_file(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "params.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ParamsError, match="is missing" if text is None else str(file)):
        load(file)


def test_yaml_is_read_as_dvc_reads_it(tmp_path: Path) -> None:
    text, file = (ROOT / "params.yaml").read_text(), tmp_path / "params.yaml"
    file.write_text(text.replace("label_seed: 0", "label_seed: 010"))
    assert load(file).train.label_seed == 10
    file.write_text(text + "\ndata:\n  source: twice\n")
    with pytest.raises(ParamsError, match="duplicate key"):
        load(file)


def test_every_knob_is_commented() -> None:
    """By the lines above it, or by some above several knobs that say "each"."""
    text = (ROOT / "params.yaml").read_text()
    found = re.findall(r"((?: *#.*\n)+)((?: +\w+: .*\n)+)", text)
    assert [k for comment, k in found if k.count("\n") > 1 and "each" not in comment.lower()] == []
    knobs = re.findall(r"^ +\w+: .*\n", text, re.MULTILINE)
    assert "".join(commented for _, commented in found) == "".join(knobs)
