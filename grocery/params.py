"""params.yaml as typed, validated sections; each carries its bounds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from grocery.documents import Section, Seed, read_document
from grocery.errors import ParamsError

PARAMS_FILE = Path("params.yaml")

Ratio = Annotated[float, Field(ge=0, le=1)]


class DataParams(Section):
    """Which raw dataset is used."""

    source: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")


class PrepareParams(Section):
    """Raw images to clean, de-duplicated, split shards."""

    image_size: int = Field(ge=32, le=1024)
    jpeg_quality: int = Field(ge=50, le=100)
    shards: int = Field(ge=1, le=65536)
    val_ratio: float = Field(ge=0.02, le=0.5)
    test_ratio: float = Field(ge=0.02, le=0.5)
    near_duplicate_bits: int = Field(ge=0, le=16)
    max_bad_ratio: Ratio
    max_pixels: int = Field(ge=10_000, le=1_000_000_000)

    @field_validator("shards")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if value & (value - 1):
            raise ValueError("must be a power of two")
        return value


class VersionParams(Section):
    """The dataset card."""

    suspect_neighbors: int = Field(ge=3, le=50)
    suspect_agreement: float = Field(ge=0.5, le=1)
    contact_sheet_images: int = Field(ge=1, le=50)


class FisherParams(Section):
    """The Fisher-vector encoder."""

    cell: int = Field(ge=2, le=32)
    scales: list[Annotated[float, Field(gt=0.1, le=1)]] = Field(min_length=1, max_length=8)
    chroma: float = Field(ge=0.1, le=10)
    align: bool
    descriptor_dimensions: int = Field(ge=4, le=102)
    components: int = Field(ge=2, le=1024)


class OnnxParams(Section):
    """The encoder of an ONNX backbone."""

    path: str = Field(pattern=r"\.onnx$")
    input_size: int = Field(ge=16, le=1024)
    mean: list[Annotated[float, Field(ge=0, le=1)]] = Field(min_length=3, max_length=3)
    std: list[Annotated[float, Field(ge=0.001, le=10)]] = Field(min_length=3, max_length=3)
    output: str


class FeaturizeParams(Section):
    """Images to feature vectors."""

    encoder: Literal["fisher", "colour", "onnx"]
    dimensions: int = Field(ge=2, le=4096)
    whitening: Ratio
    fit_images: int = Field(ge=50, le=100_000)
    seed: Seed
    fisher: FisherParams
    onnx: OnnxParams


class TrainParams(Section):
    """Few labels and all features to a classifier."""

    algorithm: Literal["supervised", "label_propagation", "label_spreading", "self_training"]
    labeled_ratio: float = Field(gt=0, le=1)
    label_seed: Seed
    n_neighbors: int = Field(ge=1, le=1000)
    neighbor_search: Literal["auto", "exact", "approximate"]
    affinity: Literal["cosine", "rbf", "uniform"]
    weight_power: float = Field(gt=0, le=20)
    gamma: float = Field(ge=0, le=1000)
    alpha: float = Field(gt=0, lt=1)
    class_balance: bool
    threshold: float = Field(ge=0, lt=1)
    max_iter: int = Field(ge=1, le=10_000)
    tol: Ratio
    C: float = Field(gt=0, le=10_000)
    calibration_level: float = Field(ge=0.5, lt=1)


class EvaluateParams(Section):
    """The classifier on test."""

    calibration_bins: int = Field(ge=2, le=100)
    worst_images: int = Field(ge=1, le=200)


class RegisterParams(Section):
    """What a release candidate must keep."""

    min_accuracy: Ratio
    min_macro_f1: Ratio
    max_calibration_error: Ratio
    min_class_recall: Ratio
    min_class_images: int = Field(ge=1, le=1000)


class MonitorParams(Section):
    """When a batch of incoming images is said to have drifted."""

    significance: float = Field(ge=0.001, le=0.2)
    min_confidence_shift: Ratio
    min_class_shift: Ratio
    min_feature_shift: Ratio
    min_image_shift: Ratio
    min_accuracy_drop: Ratio
    min_label_shift: Ratio
    min_slowdown: Ratio
    max_unreadable: Ratio
    min_batch: int = Field(ge=5, le=100_000)
    sample_images: int = Field(ge=0, le=100)


# What an address of each backend looks like. None may hold a user or a password.
_HOST = r"(?:[^\s/@:\[\]]+|\[[0-9A-Fa-f:.]+\]):[0-9]+"
ADDRESSES = {
    "local": (r"", "empty"),
    "dask": (rf"(?:tcp|tls)://{_HOST}", "like tcp://10.0.0.1:8786"),
    "ray": (rf"auto|{_HOST}", "auto or like 10.0.0.1:6379"),
}


class ComputeParams(Section):
    """How the work is shared out; changes no output."""

    workers: int = Field(ge=0, le=1024)
    backend: Literal["local", "dask", "ray"]
    address: str

    @model_validator(mode="after")
    def _fit(self) -> Self:
        allowed, example = ADDRESSES[self.backend]
        if not re.fullmatch(allowed, self.address):
            raise ValueError(f"with backend {self.backend} the address should be {example}")
        return self


class RegistryParams(Section):
    """What production asks of a version; changes no output."""

    margin: Ratio
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

    @model_validator(mode="after")
    def _leave_training_images(self) -> Self:
        if self.prepare.val_ratio + self.prepare.test_ratio > 0.8:
            raise ValueError(
                "prepare.val_ratio + prepare.test_ratio must be at most 0.8, "
                "so that images are left to train on"
            )
        return self


def load(path: Path = PARAMS_FILE) -> Params:
    """Read and check a params file.

    Raises
    ------
    ParamsError
        One sentence that names the file, the key, its value and what is allowed.
    """
    return read_document(path, Params, ParamsError)
