"""dvc.yaml tells the whole truth about what each stage reads."""

from __future__ import annotations

import ast
from pathlib import PurePosixPath
from typing import Any

import grimp
import pytest
import yaml

from conftest import ROOT
from grocery.release import card as model_card
from grocery.settings import Params

STAGES = ["prepare", "version", "featurize", "train", "evaluate", "register", "monitor"]
PIPELINE: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())
GRAPH = grimp.build_graph("grocery", "stages", include_external_packages=False)


def module_file(module: str) -> str:
    path = PurePosixPath(*module.split("."))
    package = path / "__init__.py"
    return str(package if (ROOT / package).exists() else path.with_suffix(".py"))


def import_closure(stage: str) -> list[str]:
    """Files of all modules that running a stage imports, packages' own modules included."""
    modules = {f"stages.{stage}"}
    while True:
        found = {up for module in modules for up in GRAPH.find_upstream_modules(module)} | modules
        parents = {m.rsplit(".", n)[0] for m in found for n in range(m.count(".") + 1)}
        if found | parents == modules:
            return sorted(module_file(module) for module in modules)
        modules = found | parents


def test_the_stages_stand_in_the_order_they_run() -> None:
    assert list(PIPELINE["stages"]) == STAGES


@pytest.mark.parametrize("stage", STAGES)
def test_code_deps_are_the_import_closure(stage: str) -> None:
    code = [dep for dep in PIPELINE["stages"][stage]["deps"] if dep.endswith(".py")]
    assert code == import_closure(stage), "write this list into dvc.yaml:\n" + "\n".join(
        f"      - {file}" for file in import_closure(stage)
    )


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_is_described(stage: str) -> None:
    assert PIPELINE["stages"][stage]["desc"]


def test_every_knob_is_some_stages_param() -> None:
    """A knob that no stage declares would change an output without a rebuild, or do nothing."""
    declared = {name.split(".")[0] for s in PIPELINE["stages"].values() for name in s["params"]}
    sections = {field.alias or name for name, field in Params.model_fields.items()}
    assert sections - declared == {"compute", "registry", "tracking"}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_reads_only_sections_that_it_declares(stage: str) -> None:
    """`compute` and `tracking` change no output, and `data.source` is every run's tag."""
    tree = ast.parse((ROOT / f"stages/{stage}.py").read_text())
    used = {
        node.attr.rstrip("_")
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "params"
    } & {field.alias or name for name, field in Params.model_fields.items()}
    if stage == "register":
        used |= set(model_card._SECTIONS)
    declared = {name.split(".")[0] for name in PIPELINE["stages"][stage]["params"]}
    assert used - {"compute", "tracking", "data"} <= declared


def test_outputs_survive_a_failing_stage() -> None:
    """DVC removes outputs before a stage runs unless they persist; stages replace them whole."""
    for stage in PIPELINE["stages"].values():
        for kind in ("outs", "metrics", "plots"):
            for out in stage.get(kind, []):
                assert isinstance(out, dict), out
                (options,) = out.values()
                assert options["persist"] is True, out
