"""The trials of a sweep, in a file of Optuna's, and which one comes next."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import optuna
from optuna import distributions
from optuna.samplers import RandomSampler, TPESampler
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import FrozenTrial, TrialState

from grocery.core.errors import DataError
from grocery.core.files import write_bytes
from grocery.sweep.search import Search, Space

optuna.logging.set_verbosity(optuna.logging.WARNING)

State = Literal["running", "finished", "stopped", "failed"]

_STATES: dict[State, TrialState] = {
    "running": TrialState.RUNNING,
    "finished": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}

# Between the first draws of two seeds: 2**32 by the golden ratio spreads multiples evenly
# (Knuth, The Art of Computer Programming 3, 6.4), so that seed 1 does not draw what seed 0 did.
_APART = 2654435769


@dataclass
class Trial:
    """One set of parameters, and what came of it."""

    number: int  # in the sweep, from 1
    name: str  # of the DVC experiment
    assignments: dict[str, Any]  # of the parameters that are searched, by dotted name
    state: State = "running"  # stopped: early, by the sweep; failed: by an error
    steps: list[float] = field(default_factory=list)  # the metric at each step of training
    summary: dict[str, Any] = field(default_factory=dict)  # metrics; of evaluate with test_ before
    seconds: float = 0.0  # wall time
    reason: str = ""  # why it failed


class Study:
    """The memory of a sweep in Optuna's journal, which outlives a kill at any moment.

    The file is read again at each question, so that what is drawn depends on what it holds, on the
    search and on the seed alone.
    """

    def __init__(self, file: Path, search: Search, seed: int) -> None:
        self._file, self._search, self._seed = file, search, seed

    def begin(self, *, resume: bool = False, taken: Iterable[str] = ()) -> None:
        """Make the file, or check that it is of this very sweep.

        Raises
        ------
        DataError
            When the sweep was begun before, and is not to go on or was another one; or when it was
            not, and is to go on, or some of its trials' names are `taken` by experiments.
        """
        name = self._search.name
        if self._file.is_file():
            if not (data := self._file.read_bytes()).endswith(b"\n"):  # cut off by a kill
                write_bytes(self._file, data[: data.rfind(b"\n") + 1])
        elif resume:
            raise DataError(f"there is no sweep {name} to go on with; begin it without --resume")
        elif older := [each for each in taken if re.fullmatch(rf"{name}-\d+", each)]:
            raise DataError(
                f"{older[0]} is an experiment of an earlier sweep; give another --name, or remove "
                f"it with: dvc exp remove {older[0]}"
            )
        self._file.parent.mkdir(parents=True, exist_ok=True)
        try:
            if name not in optuna.get_all_study_names(self._storage()):
                goal = self._search.metric.goal
                optuna.create_study(study_name=name, storage=self._storage(), direction=goal)
            known = self._open().user_attrs.get("sweep")
        except (ValueError, LookupError, TypeError, AttributeError):
            raise DataError(f"{self._file} is not the journal of a sweep") from None
        about = {"search": self._search.model_dump(mode="json"), "seed": self._seed}
        if known is None:
            self._open().set_user_attr("sweep", about)
        elif not resume or known != about:
            how = "with another file or seed;" if resume else "before; go on with --resume, or"
            raise DataError(f"the sweep {name} was begun {how} give another --name")

    def trials(self) -> list[Trial]:
        """All trials in order. One that a kill has ended is still running."""
        study, names = self._open(), {state: name for name, state in _STATES.items()}
        found = []
        for each in study.trials:
            trial = Trial(each.number + 1, **each.user_attrs, state=names[each.state])
            if each.state.is_finished():
                trial = replace(trial, **study.user_attrs[trial.name])
            found.append(trial)
        return found

    def draw(self) -> Trial | None:
        """Choose the next trial, and note it as running; None when a grid has come to its end."""
        study, search = self._open(), self._search
        kind = TPESampler if search.method == "bayes" else RandomSampler
        sampler = kind(seed=(self._seed * _APART + len(study.trials) + 1) % 2**32)
        fresh = optuna.create_study(sampler=sampler, direction=search.metric.goal)
        fresh.add_trials(self._judged(study))
        spaces = search.parameters if search.method != "grid" else {}
        asked = fresh.ask({name: _domain(space) for name, space in spaces.items()})
        found = {name: space.value_of(asked.params[name]) for name, space in spaces.items()}
        if (assignments := found or search.cell(asked.number)) is None:
            return None
        trial = Trial(asked.number + 1, f"{search.name}-{asked.number + 1:03d}", assignments)
        asked.set_user_attr("name", trial.name)
        asked.set_user_attr("assignments", assignments)
        study.add_trial(fresh.trials[-1])  # one line of the file: a kill leaves all of it or none
        return trial

    def _judged(self, study: optuna.Study) -> list[FrozenTrial]:
        """The trials as the search looks at them.

        Optuna takes one that was stopped for worse than all that finished, however poor; so those
        that have one step, and are never stopped, would win. It counts by its last step instead,
        which is the graph's and not the model's, and so by no more than the middle of the finished.
        """
        trials, sign = study.trials, self._search.sign
        finals = [sign * each.value for each in trials if each.value is not None]
        for each in trials:
            steps = study.user_attrs.get(each.user_attrs["name"], {}).get("steps")
            if each.state is TrialState.PRUNED and steps:
                reached = min([sign * steps[-1], *([median(finals)] if finals else [])])
                each.state, each.value = TrialState.COMPLETE, sign * reached
        return trials

    def end(self, trial: Trial) -> None:
        """Note what has come of a trial."""
        study, kept = self._open(), ("steps", "summary", "seconds", "reason")
        study.set_user_attr(trial.name, {name: getattr(trial, name) for name in kept})
        value = trial.summary.get(self._search.metric.name) if trial.state == "finished" else None
        study.tell(trial.number - 1, value, _STATES[trial.state])

    def _open(self) -> optuna.Study:
        return optuna.load_study(study_name=self._search.name, storage=self._storage())

    def _storage(self) -> JournalStorage:
        return JournalStorage(JournalFileBackend(str(self._file)))


def _domain(space: Space) -> distributions.BaseDistribution:
    """Where Optuna draws: places in a list, whole numbers, or shares of W&B's distribution."""
    if space.listed:
        return distributions.CategoricalDistribution(range(len(space.listed)))
    if space.kind == "int_uniform":
        return distributions.IntDistribution(int(space.min), int(space.max))
    return distributions.FloatDistribution(0, 1)
