"""``recipe.yaml`` of a synthetic dataset as a typed, validated document."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from grocery.core.documents import Section, Seed, read_document
from grocery.core.errors import DataError, meant
from grocery.synthetic.drawing import PACKAGES

Hex = Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
Count = Annotated[int, Field(ge=0, le=100_000)]


def _rising(pair: list[float]) -> list[float]:
    if pair[0] > pair[1]:
        raise ValueError("should be the least and the most, in this order")
    return pair


Pair = (Field(min_length=2, max_length=2), AfterValidator(_rising))
Range = Annotated[list[Annotated[float, Field(ge=0, le=100)]], *Pair]
Zoom = Annotated[list[Annotated[float, Field(ge=0.2, le=5)]], *Pair]
CountRange = Annotated[list[Annotated[int, Field(ge=0, le=50)]], *Pair]


class Variety(Section):
    """The colours of one variety."""

    body: Hex
    accent: Hex


class Kind(Section):
    """One class of groceries."""

    coarse: Name
    shape: Literal["apple", "tomato", "orange", "lemon", "carrot", "cucumber", "carton", "cup"]
    print: Literal["waves", "fruit", "slice", "drops"] | None = None
    images: Count
    varieties: list[Variety] = Field(min_length=1)

    @model_validator(mode="after")
    def _printed(self) -> Self:
        if (self.shape in PACKAGES) != (self.print is not None):
            raise ValueError("cartons and cups have a print, and other shapes have none")
        return self


class Scenes(Section):
    """What a photograph is taken of."""

    per_class: int = Field(ge=1, le=100_000)
    items: CountRange
    clutter: CountRange
    stir: float = Field(ge=0, le=1)
    backgrounds: dict[
        Literal["shelf", "crate", "tray", "fridge"], Annotated[list[Hex], Field(min_length=1)]
    ] = Field(min_length=1)


class Camera(Section):
    """How a photograph is taken."""

    zoom: Zoom
    shift: float = Field(ge=0, le=1)
    turn: float = Field(ge=0, le=180)
    light: Range
    cast: float = Field(ge=0, le=1)
    blur: Range
    noise: Range


class Planted(Section):
    """What is wrong with the dataset, on purpose."""

    corrupt: dict[Literal["truncated", "empty", "text", "noise", "header", "bomb"], Count] = Field(
        default_factory=dict
    )
    duplicates: Count = 0
    conflicting_duplicates: Count = 0
    near_duplicates: Count = 0
    wrong_labels: Count = 0


class Batch(Section):
    """Images that come in after a release."""

    images: Count
    light: float = Field(default=1.0, gt=0, le=10)
    shares: dict[str, Annotated[float, Field(ge=0, le=1000)]] = Field(default_factory=dict)
    unreadable: Count = 0

    @property
    def told(self) -> str:
        """What is unusual about it, in words."""
        parts = {
            "photographs are darker": self.light < 1,
            "photographs are brighter": self.light > 1,
            "some classes come in more often, others less": bool(self.shares),
            f"{self.unreadable} files are damaged": self.unreadable > 0,
        }
        return ", ".join(part for part, there in parts.items() if there) or "nothing was changed"


class Recipe(Section):
    """All of recipe.yaml."""

    seed: Seed
    size: int = Field(ge=32, le=256)
    jpeg_quality: int = Field(ge=50, le=100)
    unlabelled: Count
    classes: dict[Name, Kind] = Field(min_length=1)
    scenes: Scenes
    camera: Camera
    planted: Planted = Planted()
    incoming: dict[Name, Batch] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        images = sum(kind.images for kind in self.classes.values())
        planted = self.planted
        other_class = planted.wrong_labels + planted.conflicting_duplicates
        copies = planted.duplicates + planted.near_duplicates
        needed = sum(planted.corrupt.values()) + copies + other_class
        if needed > images:
            raise ValueError(f"planted needs {needed} images, but there are {images}")
        if "unlabelled" in self.classes:
            raise ValueError("a class cannot be called unlabelled")
        if len(self.classes) < 2 and other_class:
            raise ValueError("wrong labels need at least two classes")
        for name, batch in self.incoming.items():
            unknown = sorted(set(batch.shares) - set(self.classes))
            if unknown:
                near = meant(unknown[0], self.classes)
                raise ValueError(
                    f"incoming.{name}.shares names {unknown[0]!r}, which is no class{near}"
                )
            if not any(batch.shares.get(label, 1.0) for label in self.classes):
                raise ValueError(f"incoming.{name}.shares leaves no class")
        return self


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe; what is wrong with it is one sentence, a `DataError`."""
    return read_document(path, Recipe, DataError)
