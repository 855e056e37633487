"""A sweep on this machine: trials side by side, each a DVC experiment, steered step by step."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial, reduce
from pathlib import Path
from threading import Lock
from typing import Any

from grocery.core.errors import DataError, GroceryError
from grocery.core.stage import Stopped
from grocery.registry.git import Git
from grocery.registry.records import json_at, params_at
from grocery.registry.revisions import experiments
from grocery.sweep.process import Experiment
from grocery.sweep.search import Search
from grocery.sweep.steering import ADDRESS, TRIAL, listening
from grocery.sweep.study import Study, Trial


class Sweep:
    """A search for good parameters. What was begun goes on, and running trials begin again.

    Raises
    ------
    DataError
        When the sweep was begun before and is not to go on, or experiments have its name already.
    """

    def __init__(self, search: Search, root: Path, study: Study, *, resume: bool = False) -> None:
        self._search, self._root, self._study = search, root, study
        others = [each.name for each in experiments(Git(root)) if not study.begun]
        for name in others:
            if re.fullmatch(rf"{re.escape(search.name)}-\d+", name):
                raise DataError(
                    f"{name} is an experiment of an earlier sweep; give another --name, or remove "
                    f"it with: dvc exp remove {name}"
                )
        study.begin(resume=resume)
        self.trials = study.trials()
        self._again = [trial for trial in self.trials if trial.state == "running"]
        self._lock = Lock()
        self._processes: dict[str, Experiment] = {}
        self._stopped: set[str] = set()
        self._over = False

    def run(self, count: int, *, jobs: int) -> Iterator[Trial]:
        """Run trials until there are `count`, `jobs` at a time; yields each as it ends.

        When the iteration is ended early, as by an interrupt, no process is left behind, and the
        study holds what has been found.
        """
        with listening(self._on_step) as address, ThreadPoolExecutor(jobs) as pool:
            running: set[Future[Trial]] = set()
            try:
                while True:
                    while len(running) < jobs and (trial := self._next(count)):
                        running.add(pool.submit(self._try, trial, address))
                    if not running:
                        return
                    ended, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in ended)
            finally:
                with self._lock:  # nothing more begins, and what runs is ended
                    self._over = True
                    for process in self._processes.values():
                        process.terminate()

    def _next(self, count: int) -> Trial | None:
        with self._lock:
            if self._again:
                return self._again.pop(0)
            trial = self._study.draw() if len(self.trials) < count else None
            self.trials += [trial] if trial else []
            return trial

    def _try(self, trial: Trial, address: str) -> Trial:
        begun, metric = time.monotonic(), self._search.metric.name
        try:  # the experiment is there if a kill came between its end and the note of it
            trial.summary = self._recorded(trial) or self._experiment(trial, address)
            if not math.isfinite(trial.summary.get(metric, math.nan)):
                raise DataError(f"it has no finite {metric}")
            trial.state = "finished"
        except Stopped:
            trial.state = "stopped"
        except GroceryError as error:
            trial.state, trial.reason = "failed", str(error)
        trial.seconds = round(time.monotonic() - begun, 3)
        with self._lock:
            if not self._over:
                self._study.end(trial)
        return trial

    def _experiment(self, trial: Trial, address: str) -> dict[str, float]:
        own = {ADDRESS: address, TRIAL: trial.name, "WANDB_RUN_GROUP": self._search.name}
        process = Experiment(self._root, trial.name, trial.assignments, os.environ | own)
        with self._lock:
            if self._over:
                process.terminate()
            self._processes[trial.name] = process
        code = process.wait()
        with self._lock:
            del self._processes[trial.name]
        if trial.name in self._stopped:
            raise Stopped(process.reason)
        if code:
            raise GroceryError(process.reason)
        return self._recorded(trial) or {}

    def _on_step(self, name: str, values: dict[str, float]) -> bool:
        """Note a step of a trial, and say whether it is to stop."""
        rule, value = self._search.early_terminate, values.get(self._search.metric.name, math.nan)
        with self._lock:
            trial = next((trial for trial in self.trials if trial.name == name), None)
            if trial is None or not math.isfinite(value):
                return False
            trial.steps.append(value)
            costs = {t.name: [-self._search.sign * step for step in t.steps] for t in self.trials}
            if stop := rule is not None and rule.stops(costs[name], costs.values()):
                self._stopped.add(name)
            return stop

    def _recorded(self, trial: Trial) -> dict[str, float] | None:
        """Metrics of a trial's experiment; None when there is no such experiment.

        Raises
        ------
        DataError
            When an experiment has its name and other parameters.
        """
        git = Git(self._root)
        named = [found.commit for found in experiments(git) if found.name == trial.name]
        for commit in named:
            there = params_at(git, commit)
            if all(_value(there, name) == value for name, value in trial.assignments.items()):
                return _summary(partial(json_at, git, commit))
        if named:
            raise DataError("an experiment of another sweep has its name; give another --name")
        return None


def workspace_summary(root: Path) -> dict[str, float]:
    """Metrics of what is in the workspace, as in `Trial.summary`; empty before a first run."""
    try:
        return _summary(lambda path: json.loads((root / path).read_bytes()))
    except (OSError, ValueError):
        return {}


def _value(params: Any, name: str) -> Any:
    """The value of a dotted name."""
    return reduce(
        lambda at, key: at.get(key) if isinstance(at, dict) else None, name.split("."), params
    )


def _summary(read: Callable[[str], Mapping[str, Any]]) -> dict[str, float]:
    return {
        f"{start}{name}": value
        for stage, start in (("train", ""), ("evaluate", "test_"))
        for name, value in read(f"metrics/{stage}.json").items()
        if isinstance(value, int | float)
    }
