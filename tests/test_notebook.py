"""docs/look.ipynb runs from top to bottom on a built pipeline, and finds what is there."""

from __future__ import annotations

import json

import pytest

from conftest import ROOT, Project


def test_the_notebook_runs(
    built: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(built.path / "docs")
    cells = json.loads((ROOT / "docs/look.ipynb").read_text("utf-8"))["cells"]
    found: dict[str, object] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), found)
    said = capsys.readouterr().out
    assert "of the edges between labelled images join two of one class" in said
    recorded = json.loads((built.path / "metrics/monitor.json").read_text())["batches"]
    for name, batch in recorded.items():
        (line,) = [line for line in said.splitlines() if line.startswith(f"{name} ")]
        assert batch["verdict"] in line.split()
    assert found["fall"].max() > 0  # type: ignore[attr-defined]
