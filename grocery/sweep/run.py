"""A sweep on this machine: trials side by side, each a DVC experiment, steered step by step."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from threading import Lock
from typing import Any

from grocery.core.errors import GroceryError, RegistryError
from grocery.registry.git import Git
from grocery.registry.records import json_at
from grocery.registry.revisions import experiments
from grocery.sweep.journal import Journal, Trial
from grocery.sweep.process import Experiment
from grocery.sweep.search import Search
from grocery.sweep.steering import ADDRESS, TRIAL, listening


@dataclass
class Sweep:
    """A search for good parameters.

    `seed` is of the search. `trials` are those of an interrupted sweep; one that was running is
    begun again.
    """

    search: Search
    root: Path
    journal: Journal
    seed: int
    trials: list[Trial]

    def __post_init__(self) -> None:
        self._again = [trial for trial in self.trials if trial.state == "running"]
        self._lock = Lock()
        self._processes: dict[str, Experiment] = {}
        self._stopped: set[str] = set()
        self._over = False

    def run(self, count: int, *, jobs: int) -> Iterator[Trial]:
        """Run trials until there are `count`, `jobs` at a time; yields each as it ends.

        When the iteration is ended early, as by an interrupt, no process is left behind, and the
        journal holds what has been found.
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
                trial = self._again.pop(0)
                trial.steps, trial.summary = [], {}
                return trial
            if len(self.trials) >= count:
                return None
            number = len(self.trials) + 1
            assignments = self.search.next(self._results_so_far(), self.seed + number)
            if assignments is None:  # a grid has come to its end
                return None
            trial = Trial(number, f"{self.search.name}-{number:03d}", assignments)
            self.trials.append(trial)
            self.journal.write(trial)
            return trial

    def _results_so_far(self) -> list[Any]:
        """The trials with one value each, as the search looks at them.

        A step's value is that of the graph, the final one is that of the model. The engine would
        take the better of them, and learn nothing of what makes the model. So a finished trial
        counts by the model alone, and one that was stopped, since others were better, by its last
        step, but by no more than the middle of those that finished.
        """
        name, sign = self.search.metric, self.search.sign
        finals = [sign * t.summary[name] for t in self.trials if name in t.summary]
        most = [median(finals)] if finals else []
        found = []
        for t in self.trials:
            summary = t.summary
            if t.state == "stopped" and t.steps and name in t.steps[-1]:
                summary = {name: sign * min([sign * t.steps[-1][name], *most])}
            found.append(self.search.run(t.name, t.assignments, t.state, [], summary))
        return found

    def _try(self, trial: Trial, address: str) -> Trial:
        begun = time.monotonic()
        if (done := self._results(trial.name)) is not None:  # killed before it was noted
            trial.state, trial.summary = "finished", done
        else:
            self._experiment(trial, address)
        trial.seconds = round(time.monotonic() - begun, 3)
        with self._lock:
            if not self._over:
                self.journal.write(trial)
        return trial

    def _experiment(self, trial: Trial, address: str) -> None:
        own = {ADDRESS: address, TRIAL: trial.name, "WANDB_RUN_GROUP": self.search.name}
        process = Experiment(self.root, trial.name, trial.assignments, os.environ | own)
        with self._lock:
            if self._over:
                process.terminate()
            self._processes[trial.name] = process
        code = process.wait()
        with self._lock:
            del self._processes[trial.name]
        if trial.name in self._stopped:
            trial.state = "stopped"
        elif code:
            trial.state, trial.reason = "failed", process.reason
        else:
            trial.state, trial.summary = "finished", self._results(trial.name) or {}

    def _on_step(self, name: str, values: dict[str, float]) -> bool:
        """Note a step of a trial, and say whether it is to stop."""
        with self._lock:
            for trial in (t for t in self.trials if t.name == name):
                trial.steps.append(values)
            run = self.search.run
            runs = [run(t.name, t.assignments, t.state, t.steps, t.summary) for t in self.trials]
            stop = name in self.search.to_stop(runs)
            if stop:
                self._stopped.add(name)
            return stop

    def _results(self, name: str) -> dict[str, Any] | None:
        """Metrics of an experiment; None when there is no such experiment."""
        git = Git(self.root)
        found = next((known for known in experiments(git) if known.name == name), None)
        if found is None:
            return None
        try:
            return _summary(lambda path: json_at(git, found.commit, path))
        except RegistryError as error:
            raise GroceryError(f"experiment {name} cannot be read: {error}") from None


def best(trials: Sequence[Trial], search: Search) -> Trial | None:
    """The finished trial with the best metric; of equal ones the first."""
    finished = [t for t in trials if t.state == "finished" and search.metric in t.summary]
    return max(finished, key=lambda t: search.sign * t.summary[search.metric], default=None)


def saved_seconds(trials: Sequence[Trial]) -> float:
    """Estimate of the time that stopping early has saved: a stopped trial would have taken as long
    as the finished ones did on average."""
    finished = [t.seconds for t in trials if t.state == "finished"]
    usual = mean(finished) if finished else 0.0
    return sum(max(0.0, usual - t.seconds) for t in trials if t.state == "stopped")


def workspace_summary(root: Path) -> dict[str, float]:
    """Metrics of what is in the workspace, as in `Trial.summary`; empty before a first run."""
    try:
        return _summary(lambda path: json.loads((root / path).read_bytes()))
    except (OSError, ValueError):
        return {}


def _summary(read: Callable[[str], Mapping[str, Any]]) -> dict[str, float]:
    return {
        f"{start}{name}": value
        for stage, start in (("train", ""), ("evaluate", "test_"))
        for name, value in read(f"metrics/{stage}.json").items()
        if isinstance(value, int | float)
    }
