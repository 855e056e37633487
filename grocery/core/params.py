"""The sections of params.yaml that stages read, typed and validated; each carries its bounds.

`grocery.settings` has the whole file, with the sections that change no output.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from grocery.core import bounds
from grocery.core.documents import Section, Seed

Ratio = Annotated[float, Field(ge=0, le=1)]
_THREE = Field(min_length=3, max_length=3)  # colours
ENCODERS = ("fisher", "colour", "onnx")


def between(limits: bounds.Bounds) -> Any:
    """A field that is held to what a model's description is held to as well."""
    return Field(ge=limits.least, le=limits.most)


class DataParams(Section):
    """Which raw dataset is used."""

    source: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")


class PrepareParams(Section):
    """Raw images to clean, de-duplicated, split shards."""

    image_size: int = between(bounds.IMAGE_SIZE)
    jpeg_quality: int = between(bounds.JPEG_QUALITY)
    shards: int = Field(ge=1, le=65536)
    val_ratio: float = Field(ge=0.02, le=0.5)
    test_ratio: float = Field(ge=0.02, le=0.5)
    near_duplicate_bits: int = Field(ge=0, le=16)
    max_bad_ratio: Ratio
    max_pixels: int = between(bounds.MAX_PIXELS)
    max_file_bytes: int = between(bounds.MAX_FILE_BYTES)

    @field_validator("shards")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if value & (value - 1):
            raise ValueError("must be a power of two")
        return value

    @model_validator(mode="after")
    def _leave_training_images(self) -> Self:
        if self.val_ratio + self.test_ratio > 0.8:
            raise ValueError(
                "val_ratio + test_ratio must be at most 0.8, so that images are left to train on"
            )
        return self


class VersionParams(Section):
    """The dataset card."""

    suspect_neighbors: int = Field(ge=3, le=50)
    suspect_agreement: float = Field(ge=0.5, le=1)
    contact_sheet_images: int = Field(ge=1, le=50)


class EncoderParams(Section):
    """What every encoder has; alone, the colour and edge histogram."""

    weight: float = between(bounds.WEIGHT)
    dimensions: int = between(bounds.DIMENSIONS)
    whitening: Ratio


class FisherParams(EncoderParams):
    """The Fisher-vector encoder."""

    cell: int = between(bounds.CELL)
    scales: list[Annotated[float, between(bounds.SCALE)]] = Field(
        min_length=1, max_length=bounds.MOST_SCALES
    )
    chroma: float = between(bounds.CHROMA)
    align: bool
    descriptor_dimensions: int = between(bounds.DESCRIPTOR_DIMENSIONS)
    components: int = between(bounds.COMPONENTS)


class OnnxParams(EncoderParams):
    """The encoder of an ONNX backbone; None is what its file says."""

    path: str
    input_size: Annotated[int, between(bounds.INPUT_SIZE)] | None
    mean: Annotated[list[Annotated[float, between(bounds.MEAN)]], _THREE] | None
    std: Annotated[list[Annotated[float, between(bounds.STD)]], _THREE] | None
    output: str
    square_root: bool


class FeaturizeParams(Section):
    """Images to feature vectors."""

    encoder: str | list[str]
    fit_images: int = Field(ge=50, le=100_000)
    seed: Seed
    fisher: FisherParams
    colour: EncoderParams
    onnx: OnnxParams

    @field_validator("encoder", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        names = value if isinstance(value, list) else [value]
        if not names or any(n not in ENCODERS or names.count(n) > 1 for n in names):
            raise ValueError(f"it should be one of {', '.join(ENCODERS)}, or several in a list")
        return value

    @property
    def encoders(self) -> list[str]:
        """The encoders side by side; most often one."""
        return self.encoder if isinstance(self.encoder, list) else [self.encoder]


class TrainParams(Section):
    """Few labels and all features to a classifier."""

    algorithm: Literal["supervised", "label_propagation", "label_spreading", "self_training"]
    labeled_ratio: float = Field(gt=0, le=1)
    label_draw: Literal["stratified", "random"]
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
    min_unknown_share: Ratio
    min_image_shift: Ratio
    min_accuracy_drop: Ratio
    min_estimated_drop: Ratio
    min_label_shift: Ratio
    min_slowdown: Ratio
    max_unreadable: Ratio
    min_batch: int = Field(ge=5, le=100_000)
    sample_images: int = Field(ge=0, le=100)
