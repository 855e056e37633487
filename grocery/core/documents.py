"""YAML documents that people write, as typed, validated models.

A model carries its bounds; what is not allowed is said in one sentence. Values are never converted
from another type, so ``"0.2"`` is not a ratio.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from grocery.core.errors import GroceryError, meant

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]


class Section(BaseModel):
    """Base of all sections: unknown keys and wrong types are errors, values cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


Document = TypeVar("Document", bound=Section)


def read_document(path: Path, model: type[Document], error: type[GroceryError]) -> Document:
    """Read a YAML file and check all of it.

    `error` is raised with one sentence that names the file, the key, its value and what is allowed.
    """
    try:
        return model.model_validate(parse_yaml(path.read_bytes(), str(path), error))
    except FileNotFoundError:
        raise error(f"{path} is missing") from None
    except ValidationError as reason:
        sentences = [_sentence(detail, model) for detail in reason.errors()]
        raise error(f"{path}: " + "; ".join(sentences)) from None


def parse_yaml(data: bytes, name: str, error: type[GroceryError]) -> Any:
    """Read YAML 1.2, as DVC does: in 1.1, 010 would be 8 and 1e-3 a string.

    `error` is raised with `name` when it cannot be read.
    """
    try:
        return YAML(typ="safe", pure=True).load(data.decode())
    except (YAMLError, ValueError, RecursionError) as reason:  # 2001-99-99 is a ValueError
        raise error(f"{name} is not valid YAML: {reason}") from reason


def _sentence(detail: Any, model: type[BaseModel]) -> str:
    """Say in words what pydantic found."""
    location = detail["loc"]
    key = ".".join(str(part) for part in location)
    # pydantic writes "Input should be less than or equal to 1".
    reason = detail["msg"].removeprefix("Value error, ").replace("Input should", "it should")
    if detail["type"] == "model_type":
        return f"{key or 'the file'} should be a mapping of keys to values"
    if detail["type"] == "extra_forbidden":
        siblings = _keys(model, location[:-1])
        hint = meant(str(location[-1]), siblings) or f" (known are {', '.join(siblings)})"
        return f"{key} is not a known key{hint}"
    if detail["type"] == "missing":
        return f"{key} is missing"
    if not key:
        return str(reason)
    if isinstance(detail["input"], dict):
        return f"{key}: {reason}"
    return f"{key} is {detail['input']!r:.80}, but {reason}"


def _keys(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """The known keys of the section at `location`; sections may lie in mappings by name."""
    for part in location:
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        if part in fields:
            annotation = fields[part].annotation
            for candidate in (annotation, *get_args(annotation)):
                if isinstance(candidate, type) and issubclass(candidate, Section):
                    model = candidate
    return [field.alias or name for name, field in model.model_fields.items()]
