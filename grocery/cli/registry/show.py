"""`grocery registry list` and `show`: versions, and all that is known of one."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from grocery.cli.registry.common import (
    NAME,
    answer,
    command,
    facts,
    metric,
    open_registry,
    said,
)
from grocery.cli.terminal import table

if TYPE_CHECKING:
    from grocery.registry.state import State, Version

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
    nothing = ["no version is registered yet: grocery registry register"]
    answer(arguments, [facts(state, v) for v in versions], table(rows) if versions else nothing)


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
    for event in _history(state, version):
        lines.append(f"{event['when']}  {_event(event)}, by {event['who']}")
    return lines


def _event(event: dict[str, Any]) -> str:
    evidence, stage = event["evidence"], event["stage"]
    if event["action"] == "unassign":
        return f"taken out of {stage}"
    rollback = evidence.get("rollback")
    if isinstance(rollback, dict):
        text = f"{stage} rolled back to it from {rollback.get('from')}"
    else:
        text = f"promoted to {stage}"
    if evidence.get("forced"):
        text += " by force"
    return text + (f": {evidence['reason']}" if evidence.get("reason") else "")
