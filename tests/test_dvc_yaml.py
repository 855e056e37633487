"""dvc.yaml tells the whole truth about what each stage reads and writes, and no more."""

import importlib
import shutil
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import grimp
import pytest
import yaml

from conftest import ROOT, Project
from grocery.contents import read_content
from grocery.core.stage import read_by, written_by
from grocery.runner import STAGES
from grocery.settings import Params

PIPELINE: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())
GRAPH = grimp.build_graph("grocery", "stages", include_external_packages=True)
# What computes: the names of its modules and packages.
NUMERIC = {name: name for name in ("numpy", "scipy", "pyarrow", "onnxruntime")} | {
    "sklearn": "scikit-learn",
    "PIL": "pillow",
    "pillow_heif": "pillow-heif",
    "faiss": "faiss-cpu",
}


def is_code(path: str) -> bool:
    return path.startswith(("grocery/", "stages/"))


def declared(stage: str, kind: str) -> list[str]:
    """Paths of the deps or of all outputs, without their options."""
    kinds = ("deps",) if kind == "deps" else ("outs", "metrics", "plots")
    items = [item for k in kinds for item in PIPELINE["stages"][stage].get(k, [])]
    return [item if isinstance(item, str) else next(iter(item)) for item in items]


def imports(stage: str) -> set[str]:
    """All modules that running a stage imports, and other packages of which it imports some."""
    modules = {f"stages.{stage}"}
    while True:
        found = {up for module in modules for up in GRAPH.find_upstream_modules(module)} | modules
        ours = {m for m in found if m.startswith("grocery")}
        parents = {m.rsplit(".", n)[0] for m in ours for n in range(m.count(".") + 1)}
        if found | parents == modules:
            return modules
        modules = found | parents


def file_of(module: str) -> str:
    path = PurePosixPath(*module.split("."))
    package = path / "__init__.py"
    return str(package if (ROOT / package).exists() else path.with_suffix(".py"))


def test_it_is_short_and_has_the_stages_in_the_order_they_run() -> None:
    assert len((ROOT / "dvc.yaml").read_text().splitlines()) <= 220
    assert tuple(PIPELINE["stages"]) == STAGES
    assert all(stage["desc"] for stage in PIPELINE["stages"].values())


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_says_the_paths_that_dvc_yaml_declares(stage: str) -> None:
    paths = importlib.import_module(f"stages.{stage}").Paths()
    read = [path for path in declared(stage, "deps") if not is_code(path)]
    assert sorted(path.as_posix() for path in read_by(paths).values()) == sorted(read)
    written = [path.as_posix() for path in written_by(paths).values()]
    assert sorted(written) == sorted(declared(stage, "outs"))


# `source` declares neither code nor libraries: it gives the name of the dataset, or fails.
COMPUTING = STAGES[1:]


@pytest.mark.parametrize("stage", COMPUTING)
def test_code_is_declared_by_the_rooms_that_are_imported(stage: str) -> None:
    rooms = [path for path in declared(stage, "deps") if is_code(path)]
    ours = {m for m in imports(stage) if m.startswith(("grocery", "stages."))}
    files = [PurePosixPath(file_of(module)) for module in ours]
    used = {str(f): next((r for r in rooms if f.is_relative_to(r)), "") for f in files}
    assert [file for file, room in used.items() if not room] == [], "not declared"
    assert set(rooms) - set(used.values()) == set(), "declared, but not used"


@pytest.mark.parametrize("stage", COMPUTING)
def test_a_stage_depends_on_its_own_parameters_and_on_what_computes_with_it(stage: str) -> None:
    params = PIPELINE["stages"][stage]["params"]
    assert [name for name in params if isinstance(name, str)] == [stage]
    (libraries,) = [item["libraries.yaml"] for item in params if isinstance(item, dict)]
    packages = {module.split(".")[0] for module in imports(stage)}
    used = {NUMERIC[package] for package in packages & NUMERIC.keys()}
    used |= {"scipy"} if "scikit-learn" in used else set()  # which computes with it
    assert sorted(libraries) == sorted(used)


def test_every_knob_is_some_stages_param() -> None:
    """A knob that no stage declares would change an output without a rebuild, or do nothing."""
    every = [name for stage in PIPELINE["stages"].values() for name in stage["params"]]
    known = {name for name in every if isinstance(name, str)}
    sections = {field.alias or name for name, field in Params.model_fields.items()}
    assert sections - known == {"compute", "registry", "tracking"}


ALONE = """
import importlib, json, sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
import grocery
from grocery.core.pin import pin
pin()
import yaml
from grocery.core import params
from grocery.core.stage import written_by

stage = sys.argv[1]
module = importlib.import_module(f"stages.{stage}")
section = yaml.safe_load(Path("section.yaml").read_text())
paths = module.Paths(**{name: Path(p) for name, p in json.loads(sys.argv[2]).items()})
for path in written_by(paths).values():
    (path.parent if path.suffix else path).mkdir(parents=True, exist_ok=True)
shares = Path("grocery/parallel.py").exists()
with importlib.import_module("grocery.parallel").sharing(2) if shares else nullcontext():
    report = SimpleNamespace(step=str, warn=str)
    module.run(getattr(params, f"{stage.capitalize()}Params")(**section), paths, report)
outside = [name for name in sys.modules if name.split(".")[0] in ("wandb", "distributed")]
assert not outside, outside
"""


@pytest.mark.parametrize("stage", COMPUTING)
def test_only_what_is_declared_decides_outputs(stage: str, built: Project, tmp_path: Path) -> None:
    """In a folder that holds its deps and its section, and nothing else, it gives the same bytes.

    Neither workers nor the folder nor the clock matter, and nothing is remembered there.
    """
    elsewhere = tmp_path / "another name"
    params = yaml.safe_load((built.path / "params.yaml").read_text())
    onnx = params["featurize"]["onnx"]["path"]
    for path in declared(stage, "deps"):
        name = path.replace("${data.source}", "synthetic").replace("${featurize.onnx.path}", onnx)
        source, target = built.path / name, elsewhere / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    (elsewhere / "section.yaml").write_text(yaml.safe_dump(params[stage]))
    filled = {"prepare": '{"raw": "data/raw/synthetic"}', "featurize": f'{{"backbone": "{onnx}"}}'}
    env = {"TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7", "LC_ALL": "C", "HOME": str(tmp_path)}
    command = (sys.executable, "-c", ALONE, stage, filled.get(stage, "{}"))
    Project(elsewhere).run(*command, env=env)
    for path in declared(stage, "outs"):
        assert read_content(elsewhere / path).md5 == read_content(built.path / path).md5, path


def test_outputs_survive_a_failing_stage() -> None:
    """DVC removes outputs before a stage runs unless they persist; stages replace them whole."""
    for stage in PIPELINE["stages"].values():
        for out in (out for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])):
            (options,) = out.values()
            assert options["persist"] is True, out
