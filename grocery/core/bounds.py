"""Least and greatest values of the settings that travel inside a model.

`grocery.core.params` holds params.yaml to them, and whoever loads a model holds its description to
them again: it could ask for any memory and any time.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Bounds(NamedTuple):
    """The least and the greatest value that is allowed; whole numbers only where both are."""

    least: float
    most: float

    def check(self, name: str, value: Any) -> None:
        """Refuse a value that is no number, or out of bounds.

        The ValueError names the setting, its value and what is allowed.
        """
        whole = isinstance(self.least, int) and isinstance(self.most, int)
        kinds = int if whole else (int, float)
        number = isinstance(value, kinds) and not isinstance(value, bool)
        if not (number and self.least <= value <= self.most):
            kind = "a whole number from " if whole else ""
            raise ValueError(
                f"{name} is {value!r:.80}, but it should be {kind}{self.least} to {self.most}"
            )


IMAGE_SIZE = Bounds(32, 1024)
JPEG_QUALITY = Bounds(50, 100)
MAX_PIXELS = Bounds(10_000, 1_000_000_000)
MAX_FILE_BYTES = Bounds(10_000, 10_000_000_000)
FILE_BYTES = 100_000_000  # of a file, where nobody says how many are allowed

DIMENSIONS = Bounds(2, 4096)
WEIGHT = Bounds(0.01, 1.0)

CELL = Bounds(2, 32)
SCALE = Bounds(0.1, 1.0)
MOST_SCALES = 8
CHROMA = Bounds(0.1, 10.0)
DESCRIPTOR_DIMENSIONS = Bounds(4, 102)
COMPONENTS = Bounds(2, 1024)

INPUT_SIZE = Bounds(16, 1024)
MEAN = Bounds(0.0, 1.0)
STD = Bounds(0.001, 10.0)

TEMPERATURE = Bounds(0.05, 20.0)
SMOOTHING = Bounds(0.0, 0.9)
CLASSES = Bounds(1, 32_767)  # so that a rank among them is 16 bits
