"""What decides the bytes that a process computes, beside its inputs: libraries, kernels and code.

Two processes whose traits are equal compute the same bytes, as far as is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from grocery.action_cache import digest_of_texts, machine
from grocery.core.files import digest

CODE = "this project's code"


@cache
def traits() -> Mapping[str, str]:
    """What decides this process's bytes, by a name that people understand.

    The code is that of the first call: a worker that has been up since before a change of the code
    has old modules in memory, and says so.
    """
    import scipy.linalg  # noqa: F401  (loads scipy's own BLAS)

    return machine() | {CODE: digest_of_code(Path(__file__).parents[2])}


def dask_setup(_: Any) -> None:
    """Note which code there is when `grocery worker` starts; a hook of Dask's preloads."""
    traits()


def differences(here: Mapping[str, str], there: Mapping[str, str]) -> list[str]:
    """What differs, in words; a library that is not used here may be there."""
    return [
        f"{name} is {there.get(name) or 'missing'} there and {value} here"
        for name, value in here.items()
        if value and there.get(name) != value
    ]


def digest_of_code(source: Path) -> str:
    """The first digits of the SHA-256 of the modules that tasks may come from."""
    files = sorted(f for room in ("grocery", "stages") for f in (source / room).rglob("*.py"))
    parts = ((file.relative_to(source).as_posix(), digest(file)) for file in files)
    return digest_of_texts(chain(*parts))[:12]
