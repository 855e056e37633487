"""Training curves that DVC shows (`dvc plots`, `dvc exp show`, the VS Code extension)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dvclive.live import Live


class Curves:
    """A folder of curves, written by DVCLive one step at a time; see `curves_in`."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def step(self, values: Mapping[str, float]) -> None:
        """Add one point to each curve and go on to the next step."""
        for name, value in values.items():
            self._live.log_metric(name, float(value))
        self._live.next_step()  # type: ignore[no-untyped-call]


@contextmanager
def curves_in(folder: Path) -> Iterator[Curves]:
    """Open a folder's curves; they are whole at the end of the block.

    It holds ``plots/metrics/NAME.tsv``, with a column ``step`` (from 0) and one of values, for
    every name, and ``metrics.json`` with the last values. Equal values give equal bytes.
    """
    with _recorder(folder) as live:
        yield Curves(live)


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
