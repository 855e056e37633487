"""What a Dask worker does first when `grocery worker` starts it."""

from __future__ import annotations

from typing import Any

from grocery.cluster.sameness import traits


def dask_setup(worker: Any) -> None:
    """Note which code there is now; what is imported later is compared with it."""
    traits()
