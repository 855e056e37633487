"""W&B's hyperband, which is not Optuna's: which trials are stopped early."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, repeat
from operator import mul, truediv
from typing import Literal, Self

from pydantic import Field, model_validator

from grocery.core.documents import Section


class Hyperband(Section):
    """The section `early_terminate` of a sweep file.

    Trials are compared at bands, which are numbers of steps: min_iter, min_iter·eta ..., or
    max_iter/eta, max_iter/eta² ..., `s` of these.
    """

    type: Literal["hyperband"]
    min_iter: int = Field(0, ge=1)
    max_iter: int = Field(0, ge=1)
    s: int = Field(0, ge=1)
    eta: int | float = Field(3, gt=1)
    strict: bool = True

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if not self.min_iter and not (self.s and self.max_iter >= self.eta):
            raise ValueError("it should have min_iter, or s and a max_iter of at least eta")
        return self

    def stops(self, own: Sequence[float], everyone: Iterable[Sequence[float]]) -> bool:
        """Whether a trial ends at the last of its `own` steps.

        `everyone` are the steps of all trials, its own too, running or ended. They are costs.
        """
        down = bool(self.max_iter and self.s)
        first, times = (self.max_iter, self.s) if down else (self.min_iter, 99)
        bands = accumulate(repeat(self.eta, times), truediv if down else mul, initial=float(first))
        reached = [int(band) for band in [*bands][down:] if 1 <= band < len(own) + 1]
        if not reached:
            return False
        band = max(reached)
        there = sorted(steps[band - 1] for steps in everyone if len(steps) >= band)
        cost = own[band - 1] if self.strict else min(own)
        return cost > there[int(1 / self.eta * len(there))]
