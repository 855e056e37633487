"""`grocery report`: what the pipeline has found, and what to do now."""

from __future__ import annotations

import argparse

from grocery.cli.command import argument, command
from grocery.cli.terminal import in_project


@command(
    "report",
    "what the pipeline has found, and what to do now",
    argument("--markdown", action="store_true", help="as a comment on a pull request"),
    argument(
        "--against",
        metavar="REV",
        help="what --markdown compares with: a tag, a branch, a commit (default: HEAD)",
    ),
)
def report(arguments: argparse.Namespace) -> None:
    """Say how good the model in the workspace is, whether it is accepted, what to do about
    poor numbers, and which pages to look at. `dvc repro` ends with the same. What has changed
    since the last build is named first.

    With --markdown: verdict, advice, changed metrics, parameters and images, and calibration.

    examples:
      grocery report
      grocery report --markdown --against origin/main > comment.md
    """
    from grocery import said
    from grocery.comment import comment, outdated

    against = arguments.against
    if against is None:
        against = "HEAD"
    elif not arguments.markdown:
        arguments.parser.error("--against goes with --markdown")
    root = in_project("dvc.yaml").parent
    report = comment(root, against) if arguments.markdown else said.summary(root)
    print("\n\n".join(filter(None, [outdated(root), report])))
