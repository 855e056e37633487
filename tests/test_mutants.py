"""The changes of benchmarks/mutants.yaml can be made in the code as it stands."""

from __future__ import annotations

import ast
import sys

import pytest

from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

from mutants import Mutant, read_table


@pytest.mark.parametrize("mutant", read_table(), ids=lambda mutant: mutant.wrong)
def test_a_change_can_be_made(mutant: Mutant) -> None:
    text = (ROOT / mutant.file).read_text()
    assert ast.dump(ast.parse(mutant.applied(text))) != ast.dump(ast.parse(text))
    for name in mutant.tests:
        assert (ROOT / "tests" / name).is_file()
