"""The kernels behind a model's numbers, in fresh processes: the pipeline's, and somebody else's."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT, Project
from grocery.core.pin import KERNELS
from samples import picture
from test_model import small_model

# Loads a model, and predicts in threads with an encoder that is one large product.
PREDICT = """
import ctypes, dataclasses, hashlib, json, os, sys, warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import grocery
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    model = grocery.load_model(sys.argv[1])
    grocery.load_model(sys.argv[1])
import numpy as np
square = np.random.default_rng(0).standard_normal((501, 501), dtype=np.float32)
model = dataclasses.replace(model, encoder=lambda images: square @ square)
jpegs = [Path(sys.argv[1], "0.jpg").read_bytes()]
blas = ctypes.CDLL(np._core._multiarray_umath.__file__)
before = blas.scipy_openblas_get_num_threads64_()
with ThreadPoolExecutor(3) as pool:
    found = {f.tobytes() for f in pool.map(model.features, [jpegs] * int(sys.argv[2]))}
print(json.dumps({
    "features": sorted(hashlib.sha256(f).hexdigest() for f in found),
    "said": [str(warning.message) for warning in said],
    "threads": [before, blas.scipy_openblas_get_num_threads64_()],
    "environment": {name: os.environ.get(name) for name in %r},
}))
""" % (tuple(KERNELS),)  # noqa: UP031

PIN = "from grocery.core.pin import pin; pin()"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    small_model().save(folder)
    picture().save(folder / "0.jpg")
    return folder


def python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process where nothing has been pinned."""
    command = (sys.executable, "-c", code, *arguments)
    return Project(ROOT).run(*command, check=False, env=environment)


def predict(folder: Path, first: str = "", calls: str = "1", **environment: str) -> dict[str, Any]:
    """What a program sees that does `first` and then predicts, `calls` times at once."""
    done = python(f"{first}\n{PREDICT}", str(folder), calls, **environment)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> list[str]:
    """Digest of the features that the pipeline's own processes compute, whatever was set."""
    others = {"OMP_NUM_THREADS": "2", "OPENBLAS_CORETYPE": "Nehalem"}
    seen = predict(folder, "import grocery.runner", **others)
    assert seen["environment"] == KERNELS
    assert seen["threads"] == [1, 1]
    assert len(seen["features"]) == 1
    return list(seen["features"])


class TestSomebodyElsesProgram:
    def test_has_our_numbers_and_its_own_threads(self, folder: Path, pipeline: list[str]) -> None:
        seen = predict(folder, calls="6")
        assert seen["features"] == pipeline
        assert seen["said"] == []
        assert seen["environment"]["OPENBLAS_CORETYPE"] == "Haswell"
        kept = {name: seen["environment"][name] for name in KERNELS if name.endswith("THREADS")}
        assert kept == dict.fromkeys(kept)
        cores = len(os.sched_getaffinity(0))
        assert seen["threads"] == [cores] * 2
        if cores > 1:  # which would be noticed
            chosen = {name: KERNELS[name] for name in KERNELS if not name.endswith("THREADS")}
            several = predict(folder, **chosen, GROCERY_KERNELS="native")
            assert several["features"] != pipeline

    def test_keeps_what_it_has_set(self, folder: Path, pipeline: list[str]) -> None:
        own = {"OMP_NUM_THREADS": "2", "OPENBLAS_CORETYPE": "Nehalem"}
        seen = predict(folder, **own)
        assert own.items() <= seen["environment"].items()
        assert seen["features"] != pipeline

    def test_loads_numpy_first_and_is_told(self, folder: Path, pipeline: list[str]) -> None:
        """On any processor: as one that has no AVX2 would choose."""
        late = "import os, numpy; del os.environ['OPENBLAS_CORETYPE']"
        seen = predict(folder, late, OPENBLAS_CORETYPE="Nehalem")
        assert seen["features"] != pipeline
        (sentence,) = seen["said"]
        assert sentence.startswith("numpy computes with the kernels Nehalem instead of Haswell, so")
        assert "import grocery before numpy" in sentence

    def test_accepts_what_there_is(self, folder: Path) -> None:
        chosen = {"OPENBLAS_CORETYPE": "Nehalem", "GROCERY_KERNELS": "native"}
        seen = predict(folder, **chosen)
        assert seen["said"] == []
        assert seen["environment"] == dict.fromkeys(KERNELS) | {"OPENBLAS_CORETYPE": "Nehalem"}


class TestThePipelinesProcesses:
    @pytest.mark.parametrize("way", ["import grocery.runner", "import grocery.sweep", PIN])
    def test_refuse_a_numpy_that_was_there_first(self, way: str) -> None:
        done = python(f"import numpy\n{way}")
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == (
            "grocery.core.errors.GroceryError: numpy was loaded before its kernels could be "
            "chosen, so the outputs would be other bytes; import grocery.runner first, or set "
            "GROCERY_KERNELS=native to accept that"
        )
        for chosen in ({"GROCERY_KERNELS": "native"}, KERNELS):  # by the caller, or by a parent
            assert python(f"import numpy\n{way}", **chosen).returncode == 0

    def test_the_command_says_so_in_one_sentence(self) -> None:
        call = "from grocery.cli import main; main(['predict', 'none.png', '--model', 'none'])"
        done = python(f"import numpy\n{call}")
        assert done.returncode == 1
        assert done.stderr.startswith("error: predict: numpy was loaded before its kernels could")
        assert done.stderr.count("\n") == 1
