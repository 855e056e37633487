"""The one place that says which numeric kernels compute the pipeline's bytes.

OpenBLAS, numpy and Arrow choose kernels by the processor they meet, and kernels differ in the last
bits of a floating-point result; OpenBLAS also sums in another order with another number of threads.
The choice is made when a library loads, from the environment, so it must be set before numpy loads.
AVX2 is the widest set that every x86-64 server of the last ten years has.

The pipeline's own processes `pin` everything. A program that merely predicts is somebody else's:
`prefer` sets no thread variable and overwrites nothing there; a model computes in `one_thread`, and
`warn_of_other_kernels` says when its numbers may differ from the pipeline's. All of this is left
out with ``GROCERY_KERNELS=native`` in the environment.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import Any

_INSTRUCTIONS = {
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
}
KERNELS = _INSTRUCTIONS | {
    "ARROW_USER_SIMD_LEVEL": "AVX2",
    # One thread per worker; the pipeline is parallel over shards instead.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


def pin() -> None:
    """Set the kernels for this process of the pipeline and for its children.

    Raises
    ------
    GroceryError
        When numpy is loaded already, and the environment was another one.
    """
    if _native() or KERNELS.items() <= os.environ.items():
        return
    if "numpy" in sys.modules:
        from grocery.core.errors import GroceryError

        raise GroceryError(
            "numpy was loaded before its kernels could be chosen, so the outputs would be other "
            "bytes; import grocery.runner first, or set GROCERY_KERNELS=native to accept that"
        )
    os.environ.update(KERNELS)


def prefer() -> None:
    """Choose the instructions where nobody has, for a program that may predict with a model."""
    if not _native():
        for name, value in _INSTRUCTIONS.items():
            os.environ.setdefault(name, value)


@cache
def warn_of_other_kernels() -> None:
    """Say, once per process, that predictions may differ from those of the pipeline."""
    blas = _openblas()
    core = blas.scipy_openblas_get_corename64_().decode() if blas else "of another BLAS"
    # Only the BLAS moved predictions: with AVX-512 in numpy, 200 of 200 were the same.
    if core != _INSTRUCTIONS["OPENBLAS_CORETYPE"] and not _native():
        warnings.warn(
            f"numpy computes with the kernels {core} instead of Haswell, so probabilities may "
            "differ from the pipeline's, mostly in the last digits; on a processor with AVX2, "
            "import grocery before numpy (GROCERY_KERNELS=native accepts the difference)",
            stacklevel=4,  # who called grocery.load_model
        )


_LOCK = Lock()
_inside = 0
_before = 1


@contextmanager
def one_thread() -> Iterator[None]:
    """Let numpy's BLAS use one thread while the block runs, whatever the program has set.

    The number belongs to the process: the first block that is entered, by any thread, sets it, and
    the last one that is left restores it.
    """
    global _inside, _before  # noqa: PLW0603 (the number is the process's)
    blas = None if _native() else _openblas()
    if blas is None:
        yield
        return
    with _LOCK:
        if not _inside:
            _before = blas.scipy_openblas_get_num_threads64_()
            blas.scipy_openblas_set_num_threads64_(1)
        _inside += 1
    try:
        yield
    finally:
        with _LOCK:
            _inside -= 1
            if not _inside:
                blas.scipy_openblas_set_num_threads64_(_before)


@cache
def _openblas() -> Any:
    """The OpenBLAS that numpy's wheels bring; None where numpy was built with another BLAS.

    threadpoolctl sets the number for the calling thread alone, and a model computes in several.
    """
    import ctypes

    import numpy  # noqa: F401  (loads it)
    from threadpoolctl import threadpool_info

    for pool in threadpool_info():
        if pool["internal_api"] == "openblas" and "numpy" in pool["filepath"]:
            library = ctypes.CDLL(pool["filepath"])
            if hasattr(library, "scipy_openblas_get_corename64_"):
                library.scipy_openblas_get_corename64_.restype = ctypes.c_char_p
                return library
    return None


def _native() -> bool:
    return os.environ.get("GROCERY_KERNELS") == "native"
