"""`grocery registry list`, `show` and `compare`: versions, and all that is known of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from grocery.cli.command import argument
from grocery.cli.registry.common import (
    NAME,
    answer,
    command,
    metric,
    open_registry,
    said,
)
from grocery.cli.terminal import table

if TYPE_CHECKING:
    from grocery.comparison.difference import Difference
    from grocery.registry.registry import Registry
    from grocery.registry.state import State, Version
    from grocery.registry.tags import Tag

# Of the evidence: title, section, name, and how much of it is shown.
_DATA = (
    ("dataset", "dataset", "source", None),
    ("dataset digest", "dataset", "digest", 12),
    ("images", "dataset", "images", None),
    ("test digest", "test", "digest", 12),
    ("test images", "test", "images", None),
)
_METRICS = ("accuracy", "macro_f1", "calibration_error", "top5_accuracy", "coarse_accuracy")


@command("list", "all versions and the stages they are in")
def list_all(arguments: argparse.Namespace) -> None:
    """List the versions that the tags of this clone tell of, the newest first.
    `git fetch --tags` brings those of others.

    examples:
      grocery registry list
      grocery registry list --json | jq -r '.[0].version'
    """
    registry = open_registry()
    state = registry.state()
    versions = list(reversed(state.versions.values()))
    rows = [("version", "stages", "accuracy", "macro F1", "dataset", "commit", "when", "who")]
    rows += [
        (
            version.name,
            ", ".join(state.stages_of(version)) or "-",
            metric(version, "accuracy"),
            metric(version, "macro_f1"),
            said(version, "dataset", "digest")[:12],
            version.commit[:7],
            version.tag.when,
            version.tag.who,
        )
        for version in versions
    ]
    withdrawn = ", ".join(state.withdrawn)
    nothing = [
        f"no version is left; withdrawn: {withdrawn}"
        if withdrawn
        else "no version is registered yet: grocery registry register"
    ]
    answer(arguments, [_document(state, v) for v in versions], table(rows) if versions else nothing)


@command("show", "all that is known of a version", NAME)
def show(arguments: argparse.Namespace) -> None:
    """Show a version: the stages it is in, metrics, data, digests, parameters, who
    registered it and when, and every promotion and rollback with its reason.

    examples:
      grocery registry show production
      grocery registry show v1.0.0 --json | jq .evidence.params
    """
    state = open_registry().state()
    version = state.find(arguments.name)
    events = [tag for tag in state.events if tag.commit == version.commit]
    history = [_facts(tag) | {"action": tag.action, "stage": tag.stage} for tag in events]
    document = _document(state, version) | {"history": history}
    answer(arguments, document, _page(state, version, events))


def _document(state: State, version: Version) -> dict[str, Any]:
    return {
        "version": version.name,
        "stages": state.stages_of(version),
        "commit": version.commit,
        **_facts(version.tag),
    }


def _facts(tag: Tag) -> dict[str, Any]:
    return {"tag": tag.name, "when": tag.when, "who": tag.who, "evidence": tag.evidence}


def _page(state: State, version: Version, events: list[Tag]) -> list[str]:
    tag = version.tag
    rows = [
        ("version", version.name),
        ("stages", ", ".join(state.stages_of(version)) or "none"),
        ("commit", version.commit),
        ("registered", f"{tag.when} UTC by {tag.who} <{tag.email}>"),
        ("experiment", str(version.evidence.get("experiment") or "-")),
        (
            "dataset",
            f"{said(version, 'dataset', 'source')}, {said(version, 'dataset', 'images')} images",
        ),
        ("dataset digest", said(version, "dataset", "digest")),
        ("model digest", said(version, "model", "digest")),
        ("release", said(version, "model", "release")),
        ("test images", said(version, "test", "images")),
        *((name.replace("_", " "), metric(version, name)) for name in _METRICS),
    ]
    lines = table(rows)
    if not version.evidence:
        lines.append("The tag was not made by `grocery registry`: it carries no evidence.")
    return lines + [f"{event.when}  {_event(event)}, by {event.who}" for event in events]


def _event(tag: Tag) -> str:
    evidence, stage = tag.evidence, tag.stage
    if tag.action == "unassign":
        return f"taken out of {stage}"
    rollback = evidence.get("rollback")
    if isinstance(rollback, dict):
        text = f"{stage} rolled back to it from {rollback.get('from')}"
    else:
        text = f"promoted to {stage}"
    if evidence.get("forced"):
        text += " by force"
    return text + (f": {evidence['reason']}" if evidence.get("reason") else "")


@command(
    "compare",
    "versions side by side: metrics, parameters, data",
    NAME,
    argument("others", nargs="+", metavar="VERSION", help="versions or stages"),
    argument("--anew", action="store_true", help="evaluate anew where the test data differ"),
)
def compare(arguments: argparse.Namespace) -> None:
    """Compare versions with the first one: metrics, the classes and the parameters that
    differ, and the data. From their answers to the same test images: on how many only one
    is right, and the difference of their accuracies with a 95 % interval.

    Versions that were evaluated on different test data have no difference: that is
    said, and the exit code is 1. --anew evaluates all on the test images of the newest,
    and on those of classes that it does not know, but for those that any learned from.

    examples:
      grocery registry compare production staging
      grocery registry compare v1.0.0 v1.1.0 v1.2.0 --anew
    """
    from grocery.core.errors import RegistryError
    from grocery.registry.judge import listed

    registry = open_registry()
    found = registry.compare([arguments.name, *arguments.others], anew=arguments.anew)
    first, *others = [version.name for version in found.versions]
    params = _params(registry, found.versions)
    document = {
        "versions": [{**v.evidence, "version": v.name} for v in found.versions],
        "comparable": bool(found.differences),
        "note": found.note,
        "differences": _of_each(first, others, found.differences),
        "classes": _of_each(first, others, found.classes),
        "params": params,
    }
    rows = [
        ["parameter", first, *others],
        *([name, *map(str, row)] for name, row in params.items()),
    ]
    lines = [*_side_by_side(found.versions), ""]
    lines += table(rows) if params else ["all parameters are the same"]
    for name, classes in zip(others, found.classes, strict=True):
        for word, names in (("gains", classes.gained), ("loses", classes.lost)):
            if names:
                lines += ["", f"{name} {word} {listed(names)}, against {first}"]
    if found.differences:
        lines += ["", f"Against {first}" + (f", {found.note}:" if found.note else ":")]
    for name, difference in zip(others, found.differences, strict=False):
        lines += _against(first, name, difference)
    answer(arguments, document, lines)
    if not found.differences:
        raise RegistryError(
            f"{first} and the others were evaluated on different test data, so their "
            "metrics are not alike; --anew evaluates them on the same images"
        )


def _of_each(first: str, others: Sequence[str], found: Sequence[Any]) -> list[dict[str, Any]]:
    """What was found of each of the others against the first one."""
    pairs = zip(others, found, strict=False)
    return [{"version": name, "against": first, **asdict(each)} for name, each in pairs]


def _side_by_side(versions: Sequence[Version]) -> list[str]:
    rows = [["", *(version.name for version in versions)]]
    for title, section, name, width in _DATA:
        rows.append([title, *(said(version, section, name)[:width] for version in versions)])
    metrics = [pair for version in versions for pair in version.section("metrics").items()]
    for name in sorted({name for name, value in metrics if isinstance(value, float)}):
        rows.append([name.replace("_", " "), *(metric(version, name) for version in versions)])
    return table(rows)


def _against(old: str, new: str, found: Difference) -> list[str]:
    low, high = found.interval
    return [
        f"  {new}: accuracy {found.difference:+.4f} [{low:+.4f}, {high:+.4f}], macro F1 "
        f"{found.macro_f1_difference:+.4f}, {found.images} images",
        f"  {found.sentence(old, new)}",
    ]


def _params(registry: Registry, versions: Sequence[Version]) -> dict[str, list[Any]]:
    """The parameters that are not the same in all versions, by their dotted names."""
    from grocery.registry.candidate import SECTIONS
    from grocery.registry.records import params_at

    flat = []
    for version in versions:
        params = params_at(registry.git, version.commit)
        flat.append(dict(_flat({name: params.get(name) for name in SECTIONS})))
    names = sorted({name for params in flat for name in params})
    rows = {name: [params.get(name) for params in flat] for name in names}
    return {name: values for name, values in rows.items() if any(v != values[0] for v in values)}


def _flat(value: Any, name: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [
            pair for key, item in value.items() for pair in _flat(item, f"{name}.{key}".lstrip("."))
        ]
    return [(name, value)]
