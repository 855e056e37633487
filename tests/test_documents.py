"""The commands that workflows and documents tell: they are there, and take what they are given."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain, groupby
from pathlib import Path

import pytest
import yaml
from dvc.cli import DvcParserError
from dvc.cli.parser import get_main_parser

from conftest import ROOT
from grocery.cli import build_parser

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
ACTIONS = sorted((ROOT / ".github/actions").glob("*/action.yml"))
PROGRAMS = {"dvc", "grocery", "make"}
NAMES = re.compile("[a-z]+")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize(("schema", "files"), [("workflows", WORKFLOWS), ("actions", ACTIONS)])
def test_workflows_are_what_github_takes(schema: str, files: list[Path]) -> None:
    assert files
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema"]
    done = subprocess.run(
        [*check, f"vendor.github-{schema}", *map(str, files)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


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
    text = page.read_text()
    blocks = r"^```console\n(.*?)^```"
    for block in re.findall(blocks, text, re.MULTILINE | re.DOTALL):
        yield from re.findall(r"^\$ (.*)", block.replace("\\\n", " "), re.MULTILINE)
    yield from re.findall(
        r"`((?:dvc|grocery|make) [^`]+)`", re.sub(blocks, "", text, flags=re.M | re.S)
    )


def commands(lines: Iterator[str]) -> Iterator[list[str]]:
    """Simple commands of `dvc`, `grocery` and `make`, without what a shell does around them."""
    for line in lines:
        lexer = shlex.shlex(
            re.sub(r"\$\(cat [^)]*\)", "", line), posix=True, punctuation_chars=True
        )
        lexer.whitespace_split = True
        for ends, group in groupby(lexer, lambda word: set(word) <= set("();<>|&")):
            words = [] if ends else list(group)
            while words and words[0] not in PROGRAMS:
                words = words[1:]
            if words and "…" not in line:
                yield words


TOLD = {
    **{
        path.name: list(commands(run_lines(yaml.safe_load(path.read_text())))) for path in WORKFLOWS
    },
    **{path.name: list(commands(typed(path))) for path in PAGES},
}


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
