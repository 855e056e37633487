"""What a change did to the model, as Markdown: the comment on a pull request."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

from grocery import said
from grocery.core.errors import DataError
from grocery.dataset_diff import SHARDS, diff_rows, rows_at

RELIABILITY = Path("metrics/evaluation/reliability.csv")


def comment(root: Path, revision: str) -> str:
    """Verdict, advice, metrics, parameters, data and calibration of the workspace, in Markdown.

    Parameters
    ----------
    root
        The project.
    revision
        What metrics, parameters and data are compared with: anything that git knows.

    Raises
    ------
    DataError
        When the pipeline has not been built, or git knows no such revision.
    """
    accuracy, verdict, advice = said.found(root)
    lines = [f"### {verdict}", "", accuracy, *(f"- {sentence}" for sentence in advice)]
    metrics = _table(root, "metrics", "diff", "--md", "--no-path", "--precision", "3", revision)
    # Whatever follows --targets is one.
    params = _table(root, "params", "diff", "--md", revision, "--targets", "params.yaml")
    for title, body in (
        ("Metrics", metrics),
        ("Parameters", params),
        ("Images", _images(root, revision)),
        ("Calibration", _calibration(root / RELIABILITY)),
    ):
        lines += ["", f"#### {title}", "", body]
    return "\n".join(lines)


def outdated(root: Path) -> str:
    """A sentence when the workspace is not what was built last; else empty."""
    changed = ", ".join(json.loads(_dvc(root, "status", "--json")))
    return (
        f"These are the numbers of the last build. Changed since then: {changed} (dvc status tells "
        "more). Run: dvc repro"
        if changed
        else ""
    )


def _table(root: Path, *arguments: str) -> str:
    """The table that a command of DVC's prints, its rows in order."""
    head, rows = (lines := _dvc(root, *arguments).splitlines())[:2], sorted(lines[2:])
    return "\n".join([*head, *rows]) if rows else "No change."


def _dvc(root: Path, *arguments: str) -> str:
    """What a command of DVC's prints; its public form is the command line."""
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=root,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise DataError(done.stderr.strip().removeprefix("ERROR: "))
    return done.stdout.strip()


def _images(root: Path, revision: str) -> str:
    diff = diff_rows(rows_at(revision), rows_at(None, root / SHARDS))
    changed = [f"{count:,} {kind}" for kind, count in diff.counts().items() if count]
    return f"{diff.old_images:,} → {diff.new_images:,} images: {', '.join(changed) or 'no change'}."


def _calibration(file: Path) -> str:
    """How often the model is right at each confidence, as a chart of Mermaid's."""
    with file.open(newline="") as stream:
        bins = [
            (float(row["confidence"]), float(row["accuracy"]))
            for row in csv.DictReader(stream)
            if float(row["images"])
        ]
    confidences = ", ".join(f"{confidence:.2f}" for confidence, _ in bins)
    accuracies = ", ".join(f"{accuracy:.2f}" for _, accuracy in bins)
    return f"""```mermaid
xychart-beta
  title "Share that is right (bars), and the confidence that it should equal (line)"
  x-axis "confidence" [{confidences}]
  y-axis "share right" 0 --> 1
  bar [{accuracies}]
  line [{confidences}]
```"""
