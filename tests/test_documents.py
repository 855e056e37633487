"""What workflows, documents and benchmarks tell is there, and takes what it is given."""

import ast
import json
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.cli import DvcParserError
from dvc.cli.parser import get_main_parser
from dvc.utils.flatten import flatten
from mutants import Mutant, read_table

from conftest import ROOT, Project
from grocery.cli import build_parser

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
ACTIONS = sorted((ROOT / ".github/actions").glob("*/action.yml"))
PROGRAMS = {"dvc", "grocery", "make"}
BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
NAMES = re.compile("[a-z]+")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize(("schema", "files"), [("workflows", WORKFLOWS), ("actions", ACTIONS)])
def test_workflows_are_what_github_takes(schema: str, files: list[Path]) -> None:
    assert files
    check = ("-m", "check_jsonschema", "--builtin-schema", f"vendor.github-{schema}")
    Project(ROOT).run(sys.executable, *check, *map(str, files))


def run_lines(node: object) -> Iterator[str]:
    """The lines of all `run` of a workflow."""
    if isinstance(node, dict):
        yield from str(node.get("run", "")).splitlines()
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from run_lines(item)


def typed(page: Path) -> Iterator[str]:
    """What a page tells to type: lines after a prompt, and code in its text and tables."""
    for block in BLOCK.findall(page.read_text()):
        yield from re.findall(r"^\$ (.*)", block.replace("\\\n", " "), re.MULTILINE)
    yield from re.findall(r"`((?:dvc|grocery|make) [^`]+)`", BLOCK.sub("", page.read_text()))


def commands(lines: Iterator[str]) -> Iterator[list[str]]:
    """Simple commands of `dvc`, `grocery` and `make`, without what a shell does around them."""
    for line in lines:
        plain = re.sub(r"\$\(cat [^)]*\)", "", line)
        lexer = shlex.shlex(plain, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        for ends, group in groupby(lexer, lambda word: set(word) <= set("();<>|&")):
            words = [] if ends else list(group)
            while words and words[0] not in PROGRAMS:
                words = words[1:]
            if words and "…" not in line:
                yield words


TOLD = {page.name: list(commands(typed(page))) for page in PAGES}
for path in WORKFLOWS:
    TOLD[path.name] = list(commands(run_lines(yaml.safe_load(path.read_text()))))


@pytest.mark.parametrize("name", TOLD)
def test_commands_are_there(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    parsers = {"grocery": build_parser(), "dvc": get_main_parser()}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    refused = []
    for program, *words in TOLD[name]:
        if program == "make":
            refused += [words] * (not {word for word in words if "=" not in word} <= targets)
            continue
        try:  # a command that a text only names has no arguments: then it is there if it has help
            parsers[program].parse_args(words + ["--help"] * all(map(NAMES.fullmatch, words)))
        except (SystemExit, DvcParserError) as ended:
            refused += [[program, *words]] * (getattr(ended, "code", 2) != 0)
    assert refused == [], capsys.readouterr().err


def test_enough_commands_were_found() -> None:
    found = {(words[0], words[1]) for words in chain.from_iterable(TOLD.values()) if words[1:]}
    assert {("dvc", "repro"), ("grocery", "report"), ("make", "repro")} <= found
    assert len(found) > 20


VALUES = flatten(yaml.safe_load((ROOT / "params.yaml").read_text()))
# Sections and parameters, such as `featurize.fisher` and `featurize.fisher.whitening`.
PARAMETERS = {".".join(name.split(".")[:n]) for name in VALUES for n in range(1, 4)}
SECTIONS = "|".join(name for name in PARAMETERS if "." not in name)
PARAMETER = re.compile(rf"(?<![\w/.-])(?:{SECTIONS})(?:\.(?!md|json|py|sh)\w+)+")


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page in a link to one."""
    headings = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_is_there(page: Path) -> None:
    """Links and their anchors; parameters and files in code."""
    missing = []
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        there = target.exists() and (not anchor or anchor in anchors(target))
        missing += [link] * (not there)
    for code in re.findall(r"`([^`\n]+)`", BLOCK.sub("", page.read_text())):
        missing += set(PARAMETER.findall(code)) - PARAMETERS
        paths = re.findall(r"\b(?:grocery|stages|params|tests|benchmarks|docs)/[\w/.*-]+", code)
        missing += [path for path in paths if not any(ROOT.glob(path))]
    assert missing == []


def test_hashes_of_the_page_about_wandb_are_those_of_the_committed_build() -> None:
    lock = (ROOT / "dvc.lock").read_text()
    shown = re.findall(r"[0-9a-f]{32}\.dir", (ROOT / "docs/wandb.md").read_text())
    assert shown
    assert [each for each in shown if each not in lock] == []


@pytest.mark.long
@pytest.mark.parametrize("file", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda p: p.stem)
def test_a_benchmark_starts(file: Path) -> None:
    Project(ROOT).run(sys.executable, str(file), "--help")


@pytest.mark.parametrize("mutant", read_table(), ids=lambda mutant: mutant.wrong)
def test_a_change_of_mutants_yaml_can_be_made(mutant: Mutant) -> None:
    text = (ROOT / mutant.file).read_text()
    assert ast.dump(ast.parse(mutant.applied(text))) != ast.dump(ast.parse(text))
    for name in mutant.tests:
        assert (ROOT / "tests" / name).is_file()


def test_the_notebook_finds_what_is_there(
    built: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(built.path / "docs")
    cells = json.loads((ROOT / "docs/look.ipynb").read_text("utf-8"))["cells"]
    found: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), found)
    said = capsys.readouterr().out
    assert "of the edges between labelled images join two of one class" in said
    recorded = json.loads((built.path / "metrics/monitor.json").read_text())["batches"]
    for name, batch in recorded.items():
        (line,) = [line for line in said.splitlines() if line.startswith(f"{name} ")]
        assert batch["verdict"] in line.split()
    assert found["fall"].max() > 0


def test_the_house_is_told_as_it_is() -> None:
    """README's rooms are those of the library, each on its side of the border."""
    house = re.search("^    grocery/\n(.*?)^    tests/", PAGES[0].read_text(), re.M | re.S)
    assert house
    told = re.findall(r"^      (.+?) +(inside|outside): ", house[1], re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    border = project["tool"]["importlinter"]["contracts"][0]
    rooms = {path.stem for path in (ROOT / "grocery").glob("[a-z]*") if path.suffix in ("", ".py")}
    for side, modules in (("inside", "source_modules"), ("outside", "forbidden_modules")):
        named = {name for names, where in told if where == side for name in names.split()}
        assert named == {name.removeprefix("grocery.") for name in border[modules]} - {"stages"}
        rooms -= named
    assert rooms == set()
