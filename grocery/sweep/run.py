"""A sweep on this machine: trials side by side, each a DVC experiment, steered step by step."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from statistics import median
from threading import Event, Lock
from typing import Any

from grocery.core.errors import GroceryError, RegistryError
from grocery.registry.git import Git
from grocery.registry.records import json_at
from grocery.registry.revisions import experiments
from grocery.sweep.journal import Journal, Trial
from grocery.sweep.process import Experiment
from grocery.sweep.search import Search
from grocery.sweep.steer import listening
from grocery.sweep.steering import ADDRESS, TRIAL

# How the search engine calls our states.
_ENGINE_STATES = {
    "running": "running",
    "finished": "finished",
    "stopped": "finished",
    "failed": "failed",
}


class Sweep:
    """A search for good parameters.

    Parameters
    ----------
    search
        What is searched, and how.
    root
        The project.
    journal
        Where trials are noted.
    seed
        Of the search.
    trials
        Those of an interrupted sweep; one that was running is begun anew.
    """

    def __init__(
        self,
        search: Search,
        root: Path,
        journal: Journal,
        *,
        seed: int,
        trials: list[Trial] | None = None,
    ) -> None:
        self.search, self.root, self.journal, self.seed = search, root, journal, seed
        self.trials: list[Trial] = list(trials or [])
        self._again = [trial for trial in self.trials if trial.state == "running"]
        self._lock = Lock()
        self._processes: dict[str, Experiment] = {}
        self._stopped: set[str] = set()
        self._over = Event()

    def run(self, count: int, *, jobs: int) -> Iterator[Trial]:
        """Run trials until there are `count`, `jobs` at a time; yields each as it ends.

        When the iteration is ended early, as by an interrupt, no process is left behind, and the
        journal holds what has been found.
        """
        ended: SimpleQueue[Trial | BaseException | None] = SimpleQueue()

        def work(address: str) -> None:
            try:
                while not self._over.is_set() and (trial := self._next(count)):
                    self._try(trial, address)
                    if not self._over.is_set():
                        ended.put(trial)
            except BaseException as error:
                ended.put(error)
            finally:
                ended.put(None)

        with listening(self._on_step) as address, ThreadPoolExecutor(jobs) as pool:
            try:
                for _ in range(jobs):
                    pool.submit(work, address)
                working = jobs
                while working:
                    found = ended.get()
                    if found is None:
                        working -= 1
                    elif isinstance(found, BaseException):
                        raise found
                    else:
                        yield found
            finally:
                self._end()

    def _end(self) -> None:
        """Begin nothing more, and end what runs."""
        self._over.set()
        with self._lock:
            running = list(self._processes.values())
        for process in running:
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

    def _runs(self) -> list[Any]:
        """The trials with all their steps, as early termination looks at them."""
        return [
            self.search.run(t.name, t.assignments, _ENGINE_STATES[t.state], t.steps, t.summary)
            for t in self.trials
        ]

    def _results_so_far(self) -> list[Any]:
        """The trials with one value each, as the search looks at them.

        A step's value is that of the graph, the final one is that of the model. The engine would
        take the better of them, and learn nothing of what makes the model. So a finished trial
        counts by the model alone, and one that was stopped, since others were better, by its last
        step, but by no more than the middle of those that finished.
        """
        name, sign = self.search.metric, self.search.sign
        finals = [sign * t.summary[name] for t in self.trials if name in t.summary]
        found = []
        for t in self.trials:
            summary = t.summary
            if t.state == "stopped" and t.steps and name in t.steps[-1]:
                value = min([sign * t.steps[-1][name], *([median(finals)] if finals else [])])
                summary = {name: sign * value}
            state = _ENGINE_STATES[t.state]
            found.append(self.search.run(t.name, t.assignments, state, [], summary))
        return found

    def _try(self, trial: Trial, address: str) -> None:
        begun = time.monotonic()
        if (done := self._results(trial.name)) is not None:  # killed before it was noted
            trial.state, trial.summary = "finished", done
        else:
            self._experiment(trial, address)
        trial.seconds = round(time.monotonic() - begun, 3)
        with self._lock:
            if not self._over.is_set():
                self.journal.write(trial)

    def _experiment(self, trial: Trial, address: str) -> None:
        environment = {
            **os.environ,
            ADDRESS: address,
            TRIAL: trial.name,
            "WANDB_RUN_GROUP": self.search.name,
        }
        process = Experiment(self.root, trial.name, trial.assignments, environment)
        with self._lock:
            if self._over.is_set():
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
            trial = next((t for t in self.trials if t.name == name), None)
            if trial is None:
                return False
            trial.steps.append(values)
            stop = name in self.search.to_stop(self._runs())
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
            trained = json_at(git, found.commit, "metrics/train.json")
            measured = json_at(git, found.commit, "metrics/evaluate.json")
        except RegistryError as error:
            raise GroceryError(f"experiment {name} cannot be read: {error}") from None
        return _summary(trained, measured)


def best(trials: list[Trial], search: Search) -> Trial | None:
    """The finished trial with the best metric; of equal ones the first."""
    finished = [t for t in trials if t.state == "finished" and search.metric in t.summary]
    if not finished:
        return None
    return max(finished, key=lambda t: (search.sign * t.summary[search.metric], -t.number))


def saved_seconds(trials: list[Trial]) -> float:
    """Estimate of the time that stopping early has saved: a stopped trial would have taken as long
    as the finished ones did on average."""
    finished = [t.seconds for t in trials if t.state == "finished"]
    if not finished:
        return 0.0
    usual = sum(finished) / len(finished)
    return sum(max(0.0, usual - t.seconds) for t in trials if t.state == "stopped")


def workspace_summary(root: Path) -> dict[str, float]:
    """Metrics of what is in the workspace, as in `Trial.summary`; empty before a first run."""
    try:
        trained, measured = (
            json.loads((root / "metrics" / name).read_bytes())
            for name in ("train.json", "evaluate.json")
        )
    except (OSError, ValueError):
        return {}
    return _summary(trained, measured)


def _summary(trained: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, float]:
    return _numbers(trained) | {f"test_{k}": v for k, v in _numbers(measured).items()}


def _numbers(document: Mapping[str, Any]) -> dict[str, float]:
    return {k: v for k, v in document.items() if isinstance(v, int | float)}
