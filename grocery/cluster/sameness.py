"""What decides the bytes that a process computes, beside its inputs: libraries, kernels and code.

Two processes whose traits are equal compute the same bytes, as far as is known. The kernels are
asked of the libraries themselves: the environment says what somebody wished for, and a library that
was loaded before the wish was made does not know of it.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from grocery.core.libraries import installed

CODE = "this project's code"


@cache
def traits() -> Mapping[str, str]:
    """What decides this process's bytes, by a name that people understand.

    The code is that of the first call: a worker that has been up since before a change of the code
    has old modules in memory, and says so.
    """
    import numpy as np
    import pyarrow as pa
    import scipy.linalg  # noqa: F401  (loads scipy's own BLAS)
    from PIL import features
    from threadpoolctl import threadpool_info

    simd = np.show_config(mode="dicts")["SIMD Extensions"]  # those in use, not those at its build
    # numpy's and scipy's; FAISS brings one too, which no work that is shared out uses.
    blas = {
        f"{pool['architecture']} in {pool['num_threads']} thread(s)"
        for pool in threadpool_info()
        if pool["user_api"] == "blas" and "faiss" not in pool["filepath"]
    }
    return {
        "Python": platform.python_version(),
        **installed(),
        "numpy's kernels": " ".join(simd["baseline"] + simd.get("found", [])),
        "the BLAS": ", ".join(sorted(blas)),
        "Arrow's kernels": pa.runtime_info().simd_level,
        "the C library": " ".join(platform.libc_ver()),
        "Pillow's JPEG library": features.version("libjpeg_turbo") or features.version("jpg") or "",
        CODE: digest_of_code(Path(__file__).parents[2]),
    }


def differences(here: Mapping[str, str], there: Mapping[str, str]) -> list[str]:
    """What differs, in words; a library that is not used here may be there."""
    return [
        f"{name} is {there.get(name) or 'missing'} there and {value} here"
        for name, value in here.items()
        if value and there.get(name) != value
    ]


def digest_of_code(source: Path) -> str:
    """The first digits of the SHA-256 of the modules that tasks may come from."""
    total = hashlib.sha256()
    for file in sorted(
        file for room in ("grocery", "stages") for file in (source / room).rglob("*.py")
    ):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        total.update(f"{file.relative_to(source).as_posix()}\0{content}\n".encode())
    return total.hexdigest()[:12]
