"""Training curves that DVC shows (`dvc plots`, `dvc exp show`, the VS Code extension)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from grocery.core.files import replacing

if TYPE_CHECKING:
    from dvclive.live import Live


class Curves:
    """A folder of curves, written by DVCLive one step at a time.

    A context manager; the folder appears whole at the end of the block. It holds
    ``plots/metrics/NAME.tsv``, with a column ``step`` (from 0) and one of values, for every name,
    and ``metrics.json`` with the last values. Equal values give equal bytes.

    Parameters
    ----------
    folder
        The folder to replace.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._live: Live

    def __enter__(self) -> Self:
        self._live = _recorder(self._stack.enter_context(replacing(self._folder)))
        self._stack.enter_context(self._live)
        return self

    def step(self, values: Mapping[str, float]) -> None:
        """Add one point to each curve and go on to the next step."""
        for name, value in values.items():
            self._live.log_metric(name, float(value))
        self._live.next_step()  # type: ignore[no-untyped-call]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)


def _recorder(folder: Path) -> Live:
    """DVCLive without its look at the repository.

    `Live` looks for the DVC repository that surrounds it: it makes one where there is none, fails
    before the first commit, and posts to DVC Studio. The experiment is `dvc exp run`'s business;
    the curves are an output and must depend on nothing but the values.
    """
    from dvclive.live import Live

    class Recorder(Live):
        def _init_dvc(self) -> None:
            pass

        def _init_studio(self) -> None:
            self._studio_events_to_skip.update(("start", "data", "done"))

    return Recorder(dir=str(folder), save_dvc_exp=False, dvcyaml=None)
