"""Runs a stage of dvc.yaml: ``python -m grocery.runner STAGE``.

This is the outside of a stage. It reads params.yaml, opens the W&B run, the workers and the action
cache, calls the stage, and puts what it has written in place of what was there, all of it together.
What W&B shows of the stage is made here afterwards, from its outputs and from what it reported.
"""

# ruff: noqa: E402

from __future__ import annotations

from grocery.core.pin import pin

pin()  # before numpy is loaded, here and in the workers

import argparse
import importlib
import os
import re
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import reduce
from operator import getitem
from pathlib import Path
from types import ModuleType
from typing import Any

from grocery import action_cache, said
from grocery.cluster import opened
from grocery.core.errors import one_sentence, printable
from grocery.core.files import replacing
from grocery.core.libraries import check_installed
from grocery.core.stage import Report, read_by, written_by
from grocery.experiment.steering import Steering
from grocery.settings import Params, load
from grocery.tracking import shown
from grocery.tracking.artifacts import OUTPUTS
from grocery.tracking.run import StageRun, stage_run

STAGES = ("source", "prepare", "version", "featurize", "train", "evaluate", "register", "monitor")


def main() -> None:
    """Run the stage that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m grocery.runner", description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    stage = parser.parse_args().stage
    with one_sentence(stage):
        check_installed()
        run(stage, load())


def run(stage: str, params: Params) -> dict[str, Any]:
    """Run a stage in the working directory, and give what it found."""
    module = importlib.import_module(f"stages.{stage}")
    section = params.section(stage)
    paths = resolved(module.Paths(), params)
    inputs = {OUTPUTS.get(path.as_posix(), name): path for name, path in read_by(paths).items()}
    with (
        stage_run(
            stage,
            settings=params.tracking,
            config={stage: section.model_dump()},
            inputs=inputs,
            tags=[params.data.source, *([params.train.algorithm] if stage == "train" else [])],
        )
        if stage in shown.SHOWN
        else nullcontext(StageRun(None)) as tracked,
        opened(params.compute),
        action_cache.remembering(_memory()),
    ):
        result = call(module, section, paths, Speaker(stage, tracked, Steering()))
        if stage in shown.SHOWN:
            shown.show(stage, tracked, paths, section, result)
    print(said.line(stage, paths, result))
    if stage == STAGES[-1]:
        print(f"\n{said.summary()}")
    return result


def call(module: ModuleType, section: Any, paths: Any, report: Report) -> dict[str, Any]:
    """Call a stage, and put what it has written in place together, if all went well."""
    written = written_by(paths)
    with replacing(*written.values(), files=[p for p in written.values() if p.suffix]) as partials:
        beside = replace(paths, **dict(zip(written, partials, strict=True)))
        result: dict[str, Any] = module.run(section, beside, report)
    return result


class Speaker:
    """What a stage says, told to W&B, to the sweep and to the person at the terminal."""

    def __init__(self, stage: str, tracked: StageRun, steering: Steering) -> None:
        self._stage, self._tracked, self._steering = stage, tracked, steering
        self._steps = 0

    def step(self, values: Mapping[str, Any]) -> None:
        """See `grocery.core.stage.Report`."""
        shown.step(self._tracked, self._stage, self._steps, values)
        self._steps += 1
        self._steering.step(values)

    def warn(self, sentence: str) -> None:
        """See `grocery.core.stage.Report`."""
        print(f"warning: {self._stage}: {printable(sentence)}", file=sys.stderr)


def resolved(paths: Any, params: Params) -> Any:
    """Fill ``${section.name}`` in paths, as DVC does in dvc.yaml."""
    values: Any = params.model_dump(by_alias=True)

    def value(match: re.Match[str]) -> str:
        return str(reduce(getitem, match[1].split("."), values))

    filled = {
        name: Path(re.sub(r"\$\{([\w.]+)\}", value, path.as_posix()))
        for name, path in vars(paths).items()
    }
    return replace(paths, **filled)


def _memory() -> Path | None:
    """DVC's own folder for what is never shared; an experiment uses that of its project.

    With ``GROCERY_REUSE=no`` in the environment nothing is known, and everything is made.
    """
    if os.environ.get("GROCERY_REUSE") == "no":
        return None
    return Path(os.environ.get("DVC_ROOT") or ".") / ".dvc" / "tmp" / "grocery"


if __name__ == "__main__":
    main()
