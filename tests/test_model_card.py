"""The model card says what it is given, and nothing in a name becomes markup."""

from __future__ import annotations

import re

from conftest import ROOT
from grocery.release.card import model_card
from grocery.settings import load


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
    text = card("Café & Co")
    assert "Classes: Apple_Red, Café &amp; Co." in text
    assert "| recall of the worst class (Café &amp; Co) | 0.500 | at least 0.1 | passed |" in text
    assert f"network Café &amp; Co; licence MIT; ONNX `{'a' * 64}`\n" in text
    assert "- Pretrained network of unknown origin; licence not said; ONNX `bbb" in text
    assert "| accuracy | 0.500 | 0.400 |" in text


def test_a_hostile_name_stays_text() -> None:
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
