"""The model card says what it is given, and nothing in a name becomes markup."""

from __future__ import annotations

import re

from conftest import ROOT
from grocery.release.card import model_card
from grocery.settings import load

HOSTILE = "<script>alert(1)</script> | `x` ![y](http://z)\n# Heading"


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


def test_a_name_is_shown_as_it_is() -> None:
    assert "Classes: Apple_Red, Café &amp; Co." in card("Café & Co")
    assert "| recall of the worst class (Pear) | 0.500 | at least 0.1 | passed |" in card("Pear")
    assert f"- Pretrained network Pear; licence MIT; ONNX `{'a' * 64}`\n" in card("Pear")
    assert "- Pretrained network of unknown origin; licence not said; ONNX `bbb" in card("Pear")
    assert "| accuracy | 0.500 | 0.400 |" in card("Pear")


def test_a_hostile_name_stays_text() -> None:
    text = card(HOSTILE)
    assert "<script" not in text
    assert "\n# Heading" not in text
    (row,) = [line for line in text.splitlines() if line.startswith("| recall")]
    assert len(re.findall(r"(?<!\\)\|", row)) == 5
    network = next(line for line in text.splitlines() if line.startswith("- Pretrained"))
    (line,) = [line for line in text.splitlines() if line.startswith("Classes:")]
    for shown in (row, network.partition("; ONNX")[0], line):
        assert not re.search(r"(?<!\\)[`\[\]]", shown)
    assert len(text.splitlines()) == len(card("Pear").splitlines())
