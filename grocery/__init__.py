"""The library that the pipeline's stages are written with.

Importing it before numpy makes numpy compute as the pipeline does (see :mod:`grocery.core.pin`), so
that a model gives the same probabilities on every x86-64 processor with AVX2. Everything heavy is
imported on first use: ``import grocery`` alone loads neither numpy nor scikit-learn, DVC or W&B.
"""

from __future__ import annotations

import importlib
from typing import Any

from grocery.core.pin import prefer

prefer()

__version__ = "0.1.0"

# Looked up by name, not imported: a stage that imports the package does not thereby depend on
# every module that serves a name here.
_LAZY = {"load_model": "grocery.registry.serving"}

__all__ = ["__version__", "load_model"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'grocery' has no attribute '{name}'")
