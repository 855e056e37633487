"""`grocery monitor`: have incoming images drifted away from what a model knows?"""

from __future__ import annotations

import argparse
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from grocery.cli.terminal import in_project

SETTLED = 30.0  # seconds, for the batches of an inbox

_DESCRIPTION = """\
Judge batches of incoming images with a released model: do its confidences, the
classes that it predicts, the images' features, brightness, sharpness and the like,
and the share of unreadable files still look like those of the held-out images that
were recorded with it? Where labels are known: are as many of them right?

verdicts:
  ok        chance alone explains what is found
  watch     the images are others than before, and nothing says that the model is worse
  alert     accuracy has fallen by what counts, or images are like none before
  too few   there are too few readable images to judge predictions by

The estimated accuracy needs no label; its interval is meant to hold nine times in
ten. Where it cannot be estimated, no number is printed but the reason, and which
images to label. Of near duplicates one image is judged.
"""

_EPILOG = """\
history:
  With --history FILE, batches that were judged before are skipped, by what their files
  hold, whatever they are called and whichever model it was. Each new one adds a line to
  FILE, and is also judged together with those before it: slightly odd batches in a row
  become an alert. One that comes again with labels adds its accuracy. When nothing is
  new, that is said on a terminal only. An alert of a run that was killed before all had
  heard of it is announced by the next one.

exit code (`grocery --help` lists all):
  0   no batch is an alert, or nothing is new
  1   something is wrong; it is said on standard error
  2   the command line is wrong
  3   at least one batch, or a sequence of them, is an alert

A file that cannot be read is named on standard error and counted; it is no error.
One whose damage costs no pixel is read, and named too. A damaged batch is an error,
and does not keep the others from being judged.

With --json every batch is one line with a JSON object (JSON Lines): batch (its
name), incoming (its path), what metrics/monitor.json has of a batch, and signals,
the list of the tests that were made; with --history also what the history keeps.

examples:
  grocery monitor shelf/
  grocery monitor monday/ tuesday/ --model production --report drift.html
  grocery monitor checked/ --labelled      also the accuracy that was realised
  grocery monitor data/prepared/incoming   the pipeline's own batches
  grocery monitor shelf/ --json | jq 'select(.verdict == "alert")'

from cron, one line for an inbox in which every folder is a batch:
  */10 * * * * cd /home/me/groceries && .venv/bin/grocery monitor inbox/ --each \\
               --model production --fetch --history monitor/ --quiet
"""


def add_parser(parsers: Any) -> None:
    """Add the command."""
    parser = parsers.add_parser(
        "monitor",
        help="say whether incoming images have drifted",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument(
        "incoming",
        nargs="+",
        metavar="INCOMING",
        help="a folder of images: one batch, all files below it (hidden ones are left out, and "
        "named); or a Parquet batch as the stage prepare writes it; or a folder of such batches",
    )
    parser.add_argument(
        "--each",
        action="store_true",
        help="INCOMING is an inbox: every folder and every Parquet file in it is a batch",
    )
    parser.add_argument(
        "--settled",
        type=_seconds,
        metavar="SECONDS",
        help=(
            "leave a batch for the next time when it changed less than so long ago, since it may "
            f"be still on its way (default: {SETTLED:g} with --each, else 0)"
        ),
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="a folder, or a name in the registry: production, staging or a version "
        "(default: models/release of the project)",
    )
    parser.add_argument(
        "--fetch",
        action="store_true",
        help="first fetch the tags of the git remote, so that production is what it is now for "
        "all; where that fails a warning says so, and the tags that are here count",
    )
    parser.add_argument(
        "--labelled",
        action="store_true",
        help="the folders in a folder of images are named after the true classes, for the "
        "accuracy that was realised (a Parquet batch brings its labels); with --each a batch "
        "without folders has no labels yet",
    )
    parser.add_argument(
        "--history",
        metavar="FILE",
        help="remember what was judged in this file, or in history.jsonl of this folder; see below",
    )
    parser.add_argument(
        "--time",
        type=_moment,
        metavar="TIME",
        help="with --history, when the one batch was taken, such as 2026-11-23T18:00:00Z; UTC "
        "unless it says otherwise (default: when its newest file was written)",
    )
    parser.add_argument(
        "--quiet", action="store_true", help="with --history, print nothing but alerts"
    )
    parser.add_argument(
        "--track",
        action="store_true",
        help="with --history, tell W&B of new batches; see `tracking` in the params",
    )
    parser.add_argument(
        "--notify",
        metavar="URL",
        help="with --history, send each alert as JSON to this address (POST); one that is not "
        "taken is announced again by the next run",
    )
    parser.add_argument(
        "--params",
        type=Path,
        metavar="FILE",
        help="YAML file whose section `monitor` holds the thresholds (default: the project's)",
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help="also write a page for people: one HTML file, which needs nothing else; with "
        "--history also how things went over time",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line, for programs")
    parser.set_defaults(run=_run, command="monitor", parser=parser)


def _run(arguments: argparse.Namespace) -> None:
    for option in ("time", "quiet", "track", "notify"):
        if getattr(arguments, option) and arguments.history is None:
            arguments.parser.error(f"--{option} goes with --history")
    if arguments.notify is not None:
        from grocery.inbox.announcing import Receiver

        try:
            arguments.notify = Receiver(arguments.notify)
        except ValueError:  # it may hold a secret, and is not repeated
            arguments.parser.error(
                "--notify should be an address that begins with http:// or https://"
            )
    arguments.model = arguments.model or str(in_project("models/release", or_name="--model"))
    arguments.params = arguments.params or in_project("params.yaml", or_name="--params")
    if arguments.settled is None:
        arguments.settled = SETTLED if arguments.each else 0.0
    from grocery.cli.monitor.run import once, watch

    (once if arguments.history is None else watch)(arguments)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} should be a number of seconds, 0 or more")
    return value


def _moment(text: str) -> float:
    """Seconds since the epoch."""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp()
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text} should be a time such as 2026-11-23 or 2026-11-23T18:00:00Z"
        ) from None
