"""`grocery report`: what the pipeline has found, and what to do now."""

from __future__ import annotations

import argparse

from grocery.cli.command import command
from grocery.cli.terminal import in_project


@command("report", "what the pipeline has found, and what to do now")
def report(arguments: argparse.Namespace) -> None:
    """Say how good the model in the workspace is, whether it is accepted, what to do about
    poor numbers, and which pages to look at. `dvc repro` ends with the same.
    """
    from grocery import said

    print(said.summary(in_project(".")))
