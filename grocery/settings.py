"""params.yaml as a whole: what the stages read, and what changes no output."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from grocery.core.documents import Section, read_document
from grocery.core.errors import ParamsError, meant
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

# Sections whose values change a trial's model.
SEARCHED = ("data", "prepare", "featurize", "train")


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


def with_values(params: Params, assignments: Mapping[str, Any]) -> Params:
    """Parameters with some values changed, by dotted name, and checked.

    Raises
    ------
    ParamsError
        When a name is unknown, belongs to nothing that makes a model, or a value is not allowed.
    """
    document = params.model_dump(by_alias=True)
    for name, value in assignments.items():
        *sections, key = name.split(".")
        place: Any = document
        for section in sections:
            place = place.get(section) if isinstance(place, dict) else None
        known = place if isinstance(place, dict) else {}
        if not sections or sections[0] not in SEARCHED or key not in known:
            near = meant(key, known) or meant(name.partition(".")[0], SEARCHED)
            raise ParamsError(
                f"{name} is no parameter that makes a model{near}; see the sections "
                f"{', '.join(SEARCHED)} of params.yaml"
            )
        place[key] = value
    try:
        return Params.model_validate(document)
    except ValidationError as error:
        detail = error.errors()[0]
        key = ".".join(str(part) for part in detail["loc"]) or "params.yaml"
        reason = detail["msg"].removeprefix("Value error, ").replace("Input should", "it should")
        raise ParamsError(f"{key} may be {detail['input']!r:.80}, but {reason}") from None
