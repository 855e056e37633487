"""The one place that says which numeric kernels compute the pipeline's bytes.

OpenBLAS, numpy and Arrow choose kernels by the processor they meet, and kernels differ in the last
bits of a floating-point result; OpenBLAS also sums in another order with another number of threads.
Both choices are made when a library loads, from the environment, so this runs before numpy does.
AVX2 is the widest set that every x86-64 server of the last ten years has.
"""

from __future__ import annotations

import os

KERNELS = {
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    "ARROW_USER_SIMD_LEVEL": "AVX2",
    # One thread a worker; the pipeline is parallel over shards instead.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


def pin() -> None:
    """Set the kernels for this process and its children.

    ``GROCERY_KERNELS=native`` leaves the choice to the environment and the processor. Outputs made
    that way may differ in their last bits from the recorded ones; the purity tests use it to show
    that they would notice.
    """
    if os.environ.get("GROCERY_KERNELS") != "native":
        os.environ.update(KERNELS)
