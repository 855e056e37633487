"""params.yaml as a whole: what the stages read, and what changes no output."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from grocery.core.documents import Section, read_document
from grocery.core.errors import ParamsError
from grocery.core.params import (
    DataParams,
    EvaluateParams,
    FeaturizeParams,
    MonitorParams,
    PrepareParams,
    Ratio,
    RegisterParams,
    TrainParams,
    VersionParams,
)

# What an address of each backend looks like. None may hold a user or a password.
_HOST = r"(?:[^\s/@:\[\]]+|\[[0-9A-Fa-f:.]+\]):[0-9]+"
ADDRESSES = {
    "local": (r"", "empty"),
    "dask": (rf"(?:tcp|tls)://{_HOST}", "like tcp://10.0.0.1:8786"),
}


class ComputeParams(Section):
    """How the work is shared out; changes no output."""

    workers: int = Field(ge=0, le=1024)
    backend: Literal["local", "dask"]
    address: str

    @model_validator(mode="after")
    def _fit(self) -> Self:
        allowed, example = ADDRESSES[self.backend]
        if not re.fullmatch(allowed, self.address):
            raise ValueError(f"with backend {self.backend} the address should be {example}")
        return self


class RegistryParams(Section):
    """What production asks of a version; changes no output."""

    rule: Literal["better", "not worse"]
    tolerance: Ratio
    remote: str = Field(pattern=r"^([A-Za-z0-9_][A-Za-z0-9._/-]*)?$")


class TrackingParams(Section):
    """Where W&B runs go; changes no output."""

    project: str = Field(min_length=1)
    entity: str
    timeout: float = Field(ge=1, le=600)
    upload: Literal["metadata", "files", "reference"]
    registry: str = Field(pattern=r"^(wandb-registry-[A-Za-z0-9._-]+/[A-Za-z0-9._-]+)?$")


class Params(Section):
    """All of params.yaml."""

    data: DataParams
    prepare: PrepareParams
    version: VersionParams
    featurize: FeaturizeParams
    train: TrainParams
    evaluate: EvaluateParams
    register_: RegisterParams = Field(alias="register")
    monitor: MonitorParams
    registry: RegistryParams
    compute: ComputeParams
    tracking: TrackingParams

    def section(self, name: str) -> Section:
        """The section of a stage: the one of its name, but for `source`."""
        found: Section = getattr(self, {"source": "data", "register": "register_"}.get(name, name))
        return found


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check a params file; a ParamsError names the key, its value and what is allowed."""
    return read_document(path, Params, ParamsError)
