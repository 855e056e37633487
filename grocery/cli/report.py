"""`grocery report`: what the pipeline has found, and what to do now."""

from __future__ import annotations

import argparse
from typing import Any


def add_parser(parsers: Any) -> None:
    """Add the command."""
    parser = parsers.add_parser(
        "report",
        help="what the pipeline has found, and what to do now",
        description=(
            "Say how good the model in the workspace is, whether it is accepted, what to do about\n"
            "poor numbers, and which pages to look at. `dvc repro` ends with the same."
        ),
    )
    parser.set_defaults(run=_run, command="report")


def _run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from grocery import said
    from grocery.tracking.provenance import dvc_root

    print(said.summary(dvc_root()))
