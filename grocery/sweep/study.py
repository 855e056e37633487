"""The trials of a sweep, in a file of Optuna's, and which one comes next."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import RandomSampler, TPESampler
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import TrialState, create_trial

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

    @property
    def begun(self) -> bool:
        """Whether there is a file."""
        return self._file.is_file()

    def begin(self, *, resume: bool) -> None:
        """Make the file, or check that it is of this very sweep.

        Raises
        ------
        DataError
            When the sweep was begun before, and is not to go on or was another one.
        """
        name = self._search.name
        if self.begun and not (data := self._file.read_bytes()).endswith(b"\n"):
            write_bytes(self._file, data[: data.rfind(b"\n") + 1])  # a kill has cut off a line
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
        elif not resume:
            raise DataError(
                f"the sweep {name} was begun before; go on with --resume, or give another --name"
            )
        elif known != about:
            raise DataError(
                f"the sweep {name} was begun with another file or seed; give another --name"
            )

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
        number = len(study.trials) + 1
        domains = {name: _domain(space) for name, space in search.parameters.items()}
        params: dict[str, Any] = {}
        if search.method == "grid":
            assignments = search.cell(number - 1)
        else:
            kind = TPESampler if search.method == "bayes" else RandomSampler
            sampler = kind(seed=(self._seed + number) % 2**32)
            fresh = optuna.create_study(sampler=sampler, direction=search.metric.goal)
            fresh.add_trials(study.trials)
            params = fresh.ask(domains).params
            assignments = {name: _value(search.parameters[name], params[name]) for name in params}
        if assignments is None:
            return None
        trial = Trial(number, f"{search.name}-{number:03d}", assignments)
        running = create_trial(
            state=TrialState.RUNNING,
            params=params,
            distributions={name: domains[name] for name in params},
            user_attrs={"name": trial.name, "assignments": assignments},
        )
        study.add_trial(running)
        return trial

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


def _domain(space: Space) -> BaseDistribution:
    """Where Optuna draws: numbers of values, whole numbers, or shares of W&B's distribution."""
    if space.kind in ("categorical", "constant"):
        return CategoricalDistribution(range(len(space.grid)))
    if space.kind == "int_uniform":
        return IntDistribution(int(space.min), int(space.max))
    return FloatDistribution(0, 1)


def _value(space: Space, drawn: Any) -> Any:
    if space.kind == "int_uniform":
        return drawn
    return space.grid[drawn] if space.kind in ("categorical", "constant") else space.at(drawn)
