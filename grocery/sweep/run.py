"""A sweep on this machine: trials side by side, each a DVC experiment, steered step by step."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Lock

from grocery.core.errors import DataError, GroceryError
from grocery.experiment.process import Experiment
from grocery.experiment.results import recorded
from grocery.experiment.steering import ADDRESS, TRIAL, listening
from grocery.sweep.search import Search
from grocery.sweep.study import Study, Trial


class Sweep:
    """A search for good parameters. What was begun goes on, and running trials begin again."""

    def __init__(self, search: Search, root: Path, study: Study) -> None:
        self._search, self._root, self._study = search, root, study
        self.trials = study.trials()
        self._again = [trial for trial in self.trials if trial.state == "running"]
        self._lock = Lock()
        self._processes: list[Experiment] = []
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
                    for process in self._processes:
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
        named = (self._root, trial.name, trial.assignments)
        try:
            # It is there already if a kill came between the experiment's end and the note of it.
            if not recorded(*named):
                self._experiment(trial, address)
            if trial.state != "stopped":
                trial.summary = recorded(*named)
                if not math.isfinite(trial.summary.get(metric, math.nan)):
                    raise DataError(f"it has no finite {metric}")
                trial.state = "finished"
        except GroceryError as error:
            trial.state, trial.reason = "failed", str(error)
        trial.seconds = round(time.monotonic() - begun, 3)
        with self._lock:
            if not self._over:
                self._study.end(trial)
        return trial

    def _experiment(self, trial: Trial, address: str) -> None:
        own = {ADDRESS: address, TRIAL: trial.name, "WANDB_RUN_GROUP": self._search.name}
        process = Experiment(self._root, trial.name, trial.assignments, os.environ | own)
        with self._lock:
            if self._over:
                process.terminate()
            self._processes.append(process)
        if process.wait() and trial.state != "stopped":
            raise GroceryError(process.reason)

    def _on_step(self, name: str, values: dict[str, float]) -> bool:
        """Note a step of a trial, and say whether it is to stop."""
        rule, value = self._search.early_terminate, values.get(self._search.metric.name, math.nan)
        with self._lock:
            trial = next((trial for trial in self.trials if trial.name == name), None)
            if trial is None or not math.isfinite(value):
                return False
            trial.steps.append(value)
            costs = {t.name: [-self._search.sign * step for step in t.steps] for t in self.trials}
            if rule and rule.stops(costs[name], costs.values()):
                trial.state = "stopped"
            return trial.state == "stopped"
