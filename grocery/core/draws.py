"""Draws by content: what is chosen follows from a hash, so adding one thing moves no other."""

from __future__ import annotations

import hashlib

import numpy as np


def draw(purpose: str, *what: object) -> bytes:
    """A place in a queue (32 bytes, uniform), for one purpose.

    Parameters
    ----------
    purpose
        What is drawn. Each draw has a purpose of its own, so that no two choose alike.
    what
        A seed, an image's hash, or whatever else decides.
    """
    return hashlib.sha256(" ".join(map(str, (purpose, *what))).encode()).digest()


def generator_of(purpose: str, *what: object) -> np.random.Generator:
    """A generator for one purpose; the arguments are those of `draw`."""
    return np.random.default_rng(int.from_bytes(draw(purpose, *what)[:8], "big"))
