"""The locks and the libraries whose versions decide bytes."""

import re
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from conftest import ROOT, Project, refusal
from grocery.core import libraries
from grocery.core.errors import GroceryError
from grocery.core.libraries import NUMERIC, check_installed, installed

LOCKS = sorted(file.name for file in ROOT.glob("requirements*.lock"))
VERSIONS: dict[str, str] = yaml.safe_load((ROOT / "libraries.yaml").read_text())


def pins(lock: str) -> list[tuple[str, str]]:
    """Name and version of every package in a lock."""
    return re.findall(r"^([\w.-]+)(?:\[[^]]*\])?==(\S+)", (ROOT / lock).read_text(), re.MULTILINE)


def test_one_version_of_each_package_in_all_locks_and_for_all_pythons() -> None:
    found: dict[str, set[str]] = {}
    for lock in LOCKS:
        for name, number in pins(lock):
            found.setdefault(name, set()).add(number)
    assert {name: numbers for name, numbers in found.items() if len(numbers) > 1} == {}
    assert {"safetensors", "joblib", "threadpoolctl"} <= found.keys()
    assert {name: {number} for name, number in VERSIONS.items()} == {n: found[n] for n in VERSIONS}


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_hashes_and_no_index(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert not re.search("://|--index|--find-links", text)
    assert len(re.findall(r"==\S+.*\\\n    --hash=sha256:", text)) == len(pins(lock))


def test_what_the_lock_says_is_installed() -> None:
    assert tuple(VERSIONS) == NUMERIC
    check_installed(ROOT / "libraries.yaml")


@pytest.mark.parametrize("name", installed())
def test_another_version_is_refused(name: str, tmp_path: Path) -> None:
    file = tmp_path / "libraries.yaml"
    file.write_text(yaml.safe_dump(VERSIONS | {name: "1.0.0"}))
    assert refusal(GroceryError, check_installed, file) == (
        f"{name} {version(name)} is installed, but {file} says 1.0.0, and another version "
        "may give other bytes; `make repro` installs the lock's versions, "
        f"`make lock UPGRADE={name}` moves the lock to the newest one"
    )


def test_what_has_no_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the file, which is refused; or here, where it is not installed."""
    file = tmp_path / "libraries.yaml"
    for text in ("", "numpy: 2.4", "[]", "scipy: '1'"):
        file.write_text(text)
        with pytest.raises(GroceryError, match=r"has no version of .*; `make lock` writes"):
            check_installed(file)
    file.write_text(yaml.safe_dump(VERSIONS | {"no-such-library": "1.0"}))
    monkeypatch.setattr(libraries, "NUMERIC", (*NUMERIC, "no-such-library"))
    check_installed(file)


def test_a_stage_does_not_run_with_another_version(project: Project) -> None:
    file = project.path / "libraries.yaml"
    file.write_text(file.read_text().replace(VERSIONS["scipy"], "1.0.0"))
    stages = yaml.safe_load((project.path / "dvc.yaml").read_text())["stages"]
    computing = {name for name, stage in stages.items() if "scipy" in str(stage["params"])}
    assert project.stale() == computing >= {"prepare", "train", "monitor"}
    done = project.run("python", "-m", "grocery.runner", "prepare", check=False)
    assert done.returncode
    said = f"error: prepare: scipy {VERSIONS['scipy']} is installed, but"
    assert done.stderr.startswith(said)


@pytest.mark.parametrize("where", ["/somewhere/else", ".venv"])
def test_make_takes_an_environment_anywhere(where: str) -> None:
    """The stages' `python` is the environment's, since it comes first on PATH."""
    command = ("make", "--silent", "--eval", "path: ; @echo $$PATH", f"VENV={where}", "path")
    assert Project(ROOT).run(*command).stdout.split(":")[0] == str(ROOT / where / "bin")
