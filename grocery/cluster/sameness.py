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
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# As in grocery.reuse, and what runs a backbone. Their versions may change bytes.
_LIBRARIES = ("numpy", "scipy", "pillow", "pyarrow", "onnxruntime")

CODE = "the code of grocery"


@cache
def traits() -> Mapping[str, str]:
    """What decides this process's bytes, by a name that people understand.

    The code is that of the first call: a worker that has been up since before a change of the code
    has old modules in memory, and says so.
    """
    import pyarrow as pa
    import scipy.linalg  # noqa: F401  (loads scipy's own BLAS)
    from numpy._core import _multiarray_umath as core  # type: ignore[attr-defined]
    from PIL import features
    from threadpoolctl import threadpool_info

    chosen = [*core.__cpu_baseline__, *core.__cpu_dispatch__]
    # numpy's and scipy's; FAISS brings one too, which no work that is shared out uses.
    blas = {
        f"{pool['architecture']} in {pool['num_threads']} thread(s)"
        for pool in threadpool_info()
        if pool["user_api"] == "blas" and "faiss" not in pool["filepath"]
    }
    return {
        "Python": platform.python_version(),
        **{name: _version(name) for name in _LIBRARIES},
        "numpy's kernels": " ".join(f for f in chosen if core.__cpu_features__[f]),
        "the BLAS": ", ".join(sorted(blas)),
        "Arrow's kernels": pa.runtime_info().simd_level,
        "the C library": " ".join(platform.libc_ver()),
        "Pillow's JPEG library": features.version("libjpeg_turbo") or features.version("jpg") or "",
        CODE: _digest_of_code(),
    }


def differences(here: Mapping[str, str], there: Mapping[str, str]) -> list[str]:
    """What differs, in words; a library that is not used here may be there."""
    return [
        f"{name} is {there.get(name) or 'missing'} there and {value} here"
        for name, value in here.items()
        if value and there.get(name) != value
    ]


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""


def _digest_of_code() -> str:
    """The first digits of the SHA-256 of this package's modules."""
    package = Path(__file__).parent.parent
    total = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        total.update(f"{file.relative_to(package).as_posix()}\0{content}\n".encode())
    return total.hexdigest()[:12]
