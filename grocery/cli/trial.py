"""`grocery trial`: one trial of a W&B sweep, as a DVC experiment."""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grocery.core.errors import GroceryError, ParamsError

if TYPE_CHECKING:
    from grocery.experiment.process import Experiment
    from grocery.settings import Params
    from grocery.tracking.sweep_run import SweepRun

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def add_parser(parsers: Any) -> None:
    """Add the command."""
    parser = parsers.add_parser(
        "trial",
        help="run one trial of a W&B sweep; `wandb agent` calls it",
        description=(
            "Run a DVC experiment with the parameters that a W&B sweep has chosen.\n"
            "`wandb agent` calls it, as sweep.yaml says. The experiment is called SWEEP-RUN, by\n"
            "W&B's ids, and its stage train is the sweep's run. When W&B stops the run, the\n"
            "experiment ends at once, and nothing of it is kept."
        ),
        epilog=(
            "Exit code: 0 when the experiment is recorded or the sweep has stopped it, 1 when it\n"
            "has failed.\n"
            "\n"
            "example:\n"
            "  grocery trial --train.algorithm=self_training --train.alpha=0.9\n"
        ),
        prefix_chars="\0",  # what begins with a dash is a parameter
        add_help=False,
    )
    parser.add_argument(
        "assignments",
        nargs="+",
        metavar="--PARAMETER=VALUE",
        help="a parameter by its dotted name in params.yaml, and its value",
    )
    parser.set_defaults(run=_run, command="trial", show_help=parser.print_help, wrong=parser.error)


def _run(arguments: argparse.Namespace) -> None:
    if {"-h", "--help"} & {*arguments.assignments}:
        arguments.show_help()
        return
    from secrets import token_hex

    from grocery.experiment.process import Experiment
    from grocery.settings import load, with_values
    from grocery.tracking.provenance import dvc_root
    from grocery.tracking.run import STOPPED
    from grocery.tracking.sweep_run import handed_out

    # The agent says where it was started; the runs belong to the project.
    if os.environ.get("WANDB_DIR") == str(Path.cwd()):
        del os.environ["WANDB_DIR"]
    root = dvc_root()
    try:
        assignments = parse_assignments(arguments.assignments)
    except ParamsError as error:
        arguments.wrong(str(error))
    params = with_values(load(root / "params.yaml"), assignments)
    run = handed_out()
    name = f"{run.sweep}-{run.id}" if run else f"trial-{token_hex(4)}"
    experiment = Experiment(root, name, assignments, show=True)
    with _ended_by_signals(experiment):
        code = experiment.wait()
    if code == 0:
        if run:
            _report_if_unchanged(root, name, params, run)
    elif STOPPED in experiment.reason:
        print(f"{name} was {STOPPED}", file=sys.stderr)
    else:
        raise GroceryError(f"{name} failed: {experiment.reason}")


def parse_assignments(words: Sequence[str]) -> dict[str, Any]:
    """Values of parameters by name, as W&B's agent writes them: ``--NAME=VALUE`` with Python's str.

    Numbers, truth values and lists as Python writes them are YAML, too.

    Raises
    ------
    ParamsError
        When a word is no assignment.
    """
    from grocery.core.documents import parse_yaml

    found: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.removeprefix("--").partition("=")
        if not name or not equals:
            raise ParamsError(f"{word!r} is no assignment; write --PARAMETER=VALUE")
        found[name] = None if text == "None" else text
        if text not in ("", "None"):
            with suppress(ParamsError):
                found[name] = parse_yaml(text.encode(), name, ParamsError)
    return found


@contextmanager
def _ended_by_signals(experiment: Experiment) -> Iterator[None]:
    """Let a signal end the experiment in order, and afterwards ourselves as it would have.

    The agent counts an exit code above 0 as a failure of the trial, and an end by its signal not.
    """
    received: list[int] = []

    def end(number: int, _: object) -> None:
        received.append(number)
        experiment.terminate()

    usual = {number: signal.signal(number, end) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
    if received:
        signal.signal(received[0], signal.SIG_DFL)
        os.kill(os.getpid(), received[0])


def _report_if_unchanged(root: Path, name: str, params: Params, run: SweepRun) -> None:
    """Open the sweep's run here if the stage did not: the workspace has these very parameters.

    Then DVC has skipped the stage, and the workspace holds its results.
    """
    from grocery.tracking.provenance import project_root
    from grocery.tracking.run import stage_run
    from grocery.tracking.sweep_run import STAGE

    if any((project_root() / "wandb").glob(f"*run-*-{run.id}")):
        return
    os.environ["DVC_EXP_NAME"] = name  # the group that the other stages are in
    curves: dict[int, dict[str, float]] = {}
    for file in sorted((root / "metrics/curves/plots/metrics").glob("*.tsv")):
        with file.open(newline="") as stream:
            for row in csv.DictReader(stream, delimiter="\t"):
                curves.setdefault(int(row["step"]), {})[file.stem] = float(row[file.stem])
    with stage_run(
        STAGE,
        settings=params.tracking,
        config={STAGE: params.train.model_dump()},
        tags=[params.data.source, params.train.algorithm],
    ) as tracked:
        for step, values in sorted(curves.items()):
            tracked.log(values, step=step)
        tracked.summary(json.loads((root / "metrics/train.json").read_bytes()))
