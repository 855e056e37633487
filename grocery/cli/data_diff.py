"""`grocery data diff`: what changed between two revisions of the dataset."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from grocery.cli.command import argument, command
from grocery.cli.terminal import in_project, print_json
from grocery.core.errors import printable

if TYPE_CHECKING:
    from grocery.dataset_diff import Change, DatasetDiff

_MOST_LINES = 20


@command(
    "data diff",
    "what changed between two revisions of the dataset",
    argument(
        "old",
        nargs="?",
        default="HEAD",
        metavar="REV",
        help="anything that git knows: a tag, a branch, a commit (default: HEAD)",
    ),
    argument(
        "new", nargs="?", metavar="REV", help="what to compare it with (default: the workspace)"
    ),
    argument("--json", action="store_true", help="print all changes as JSON"),
)
def diff(arguments: argparse.Namespace) -> None:
    """Say which images were added, removed, relabelled, regrouped (other coarse class),
    moved (other split) or renamed between two revisions of the prepared dataset.
    Only the light columns are read; no image is.

    A revision's data must lie in the DVC cache or in the default remote.

    examples:
      grocery data diff                  HEAD and the workspace
      grocery data diff v1.0.0           a tag and the workspace
      grocery data diff v1.0.0 v1.1.0    two tags
      grocery data diff main --json      all changes, for a program
    """
    from grocery.dataset_diff import SHARDS, diff_rows, rows_at

    shards = SHARDS if arguments.new else in_project(SHARDS)
    diff = diff_rows(rows_at(arguments.old), rows_at(arguments.new, shards))
    if arguments.json:
        print_json(diff.document())
    else:
        print(_text(diff, arguments.old, arguments.new or "workspace"))


def _text(diff: DatasetDiff, old: str, new: str) -> str:
    """Counts, then the first changes of each kind."""
    lines = [f"{old} -> {new}: {diff.old_images:,} -> {diff.new_images:,} images"]
    if not any(diff.counts().values()):
        return lines[0] + ", no changes"
    lines += [f"  {name:<10} {count:>9,}" for name, count in diff.counts().items() if count]
    for name, changes in diff.changes.items():
        if changes:
            lines += ["", f"{name}:"]
            lines += [f"  {_change_text(name, change)}" for change in changes[:_MOST_LINES]]
        if len(changes) > _MOST_LINES:
            lines.append(f"  ... and {len(changes) - _MOST_LINES:,} more (all with --json)")
    return "\n".join(lines)


def _change_text(kind: str, change: Change) -> str:
    old, new = change.old or "no label", change.new or "no label"
    what = {"added": new, "removed": old}.get(kind, f"{old} -> {new}")
    return printable(what if kind == "renamed" else f"{change.path}  ({what})")
