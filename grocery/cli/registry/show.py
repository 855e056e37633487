"""`grocery registry list` and `show`: versions, and all that is known of one."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from grocery.cli.registry.common import (
    add,
    answer,
    digest,
    facts,
    metric,
    number,
    open_registry,
)
from grocery.cli.terminal import table

if TYPE_CHECKING:
    from grocery.registry.state import State, Version

_METRICS = ("accuracy", "macro_f1", "calibration_error", "top5_accuracy", "coarse_accuracy")


def add_parser_of_list(parsers: Any) -> None:
    """Add the command that lists all."""
    add(
        parsers,
        "list",
        _run_list,
        help="all versions and the stages they are in",
        description=(
            "List the versions that the tags of this clone tell of, the newest first.\n"
            "`git fetch --tags` brings those of others."
        ),
        epilog=(
            "examples:\n"
            "  grocery registry list\n"
            "  grocery registry list --json | jq -r '.[0].version'\n"
        ),
    )


def add_parser(parsers: Any) -> None:
    """Add the command that shows one."""
    parser = add(
        parsers,
        "show",
        _run,
        help="all that is known of a version",
        description=(
            "Show a version: the stages it is in, metrics, data, digests, parameters, who\n"
            "registered it and when, and every promotion and rollback with its reason."
        ),
        epilog=(
            "examples:\n"
            "  grocery registry show production\n"
            "  grocery registry show v1.0.0 --json | jq .evidence.params\n"
        ),
    )
    parser.add_argument("name", metavar="VERSION", help="a version or a stage")


def _run_list(arguments: argparse.Namespace) -> None:
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
            digest(version, "dataset"),
            version.commit[:7],
            version.tag.when,
            version.tag.who,
        )
        for version in versions
    ]
    nothing = ["no version is registered yet: grocery registry register"]
    answer(arguments, [facts(state, v) for v in versions], table(rows) if versions else nothing)


def _run(arguments: argparse.Namespace) -> None:
    state = open_registry().state()
    version = state.find(arguments.name)
    document = facts(state, version) | {"history": _history(state, version)}
    answer(arguments, document, _lines(state, version))


def _history(state: State, version: Version) -> list[dict[str, Any]]:
    return [
        {
            "tag": tag.name,
            "action": tag.action,
            "stage": tag.stage,
            "when": tag.when,
            "who": tag.who,
            "evidence": tag.evidence,
        }
        for tag in state.events
        if tag.commit == version.commit
    ]


def _lines(state: State, version: Version) -> list[str]:
    tag = version.tag
    source = version.said("dataset", "source") or "-"
    rows = [
        ("version", version.name),
        ("stages", ", ".join(state.stages_of(version)) or "none"),
        ("commit", version.commit),
        ("registered", f"{tag.when} UTC by {tag.who} <{tag.email}>"),
        ("experiment", str(version.evidence.get("experiment") or "-")),
        ("dataset", f"{source}, {number(version, 'dataset', 'images')} images"),
        ("dataset digest", version.said("dataset", "digest") or "-"),
        ("model digest", version.said("model", "digest") or "-"),
        ("release", version.said("model", "release") or "-"),
        ("test images", number(version, "test", "images")),
        *((name.replace("_", " "), metric(version, name)) for name in _METRICS),
    ]
    lines = table(rows)
    if not version.evidence:
        lines.append("The tag was not made by `grocery registry`: it carries no evidence.")
    for event in _history(state, version):
        lines.append(f"{event['when']}  {_event(event)}, by {event['who']}")
    return lines


def _event(event: dict[str, Any]) -> str:
    said, stage = event["evidence"], event["stage"]
    if event["action"] == "unassign":
        return f"taken out of {stage}"
    rollback = said.get("rollback")
    if isinstance(rollback, dict):
        text = f"{stage} rolled back to it from {rollback.get('from')}"
    else:
        text = f"promoted to {stage}"
    if said.get("forced"):
        text += " by force"
    return text + (f": {said['reason']}" if said.get("reason") else "")
