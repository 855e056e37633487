"""The thresholds of monitoring as params.yaml has them."""

from typing import Any

from conftest import ROOT
from grocery.core.params import MonitorParams
from grocery.settings import load


def thresholds(**changes: Any) -> MonitorParams:
    """The section `monitor` of params.yaml, with some values changed."""
    return load(ROOT / "params.yaml").monitor.model_copy(update=changes)
