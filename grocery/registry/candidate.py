"""The release candidate that a commit made, with the evidence that a version's tag carries."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from grocery.comparison.difference import data_digest, read_predictions
from grocery.core.errors import RegistryError
from grocery.registry.records import RELEASE, json_at, params_at, recorded_hashes
from grocery.registry.revisions import Revision
from grocery.registry.state import State, Version
from grocery.registry.store import Store, first

EVALUATION = "metrics/evaluation"
SHARDS = "data/prepared/shards"
PREDICTIONS_FILE = "predictions.parquet"
VERDICT = "verdict.json"

# The sections of params.yaml that a model depends on.
SECTIONS = ("data", "prepare", "version", "featurize", "train", "evaluate", "register")


class Candidate:
    """What a commit's pipeline made.

    Raises
    ------
    RegistryError
        When it made nothing, its record cannot be read, or something is asked that it lacks.
    """

    def __init__(self, store: Store, commit: str) -> None:
        self._store, self._commit = store, commit
        self.pipeline = store.pipeline(commit)
        params = params_at(store.git, commit)
        self._params = {name: params[name] for name in SECTIONS if name in params}
        self._metrics = json_at(store.git, commit, "metrics/evaluate.json")
        self._verdict = json_at(store.git, commit, "metrics/register.json")

    @property
    def accepted(self) -> bool:
        """Whether it passed the checks of `register`."""
        return self._verdict.get("accepted") is True

    def check_fresh(self, found: Revision) -> None:
        """Refuse what the commit does not hold as it was when its release was made."""
        if problems := self.pipeline.problems:
            apply = f"dvc exp apply {found.experiment} and " if found.experiment else ""
            raise RegistryError(
                f"dvc.lock of {found} is not what the commit holds: {first(problems)}; run "
                f"{apply}dvc repro, and commit"
            )

    def check(self, name: str, *, push: bool) -> Sequence[str]:
        """Refuse what was rejected or cannot be pulled; the paths that were pushed."""
        if not self.accepted:
            reasons = "; ".join(self.failed_checks())
            raise RegistryError(f"the candidate of {name} was rejected: {reasons}")
        stored = self.pipeline.stored
        lacking = self._store.not_in_remote(stored) if push else ()
        if lacking:
            self._store.push(lacking)
        self._store.require(stored, name, advice="--push sends what it lacks")
        return sorted(stored[md5] for md5 in lacking)

    def twin(self, state: State) -> Version | None:
        """The version that has the very same release, built in another commit."""
        release = self.pipeline.outputs.get(RELEASE)
        for known in state.versions.values() if release else ():
            if recorded_hashes(self._store.git, known.commit).get(RELEASE) == release:
                return known
        return None

    def evidence(self) -> dict[str, Any]:
        """What the tag of a version says: all that a person or a program would ask first."""
        data = json_at(self._store.git, self._commit, "metrics/data.json")
        table = predictions_of(self._store, self._commit, f"commit {self._commit[:7]}")
        section = self._params.get("data")
        return {
            "metrics": self._metrics,
            "accepted": self._verdict.get("accepted"),
            "dataset": {
                "digest": self._verdict.get("dataset_digest"),
                "source": section.get("source") if isinstance(section, dict) else None,
                "images": data.get("images"),
            },
            "model": {
                "digest": self._verdict.get("model_digest"),
                "release": self._store.output(self._commit, RELEASE),
            },
            "test": {"digest": data_digest(table), "images": len(table)},
            "params": self._params,
        }

    def failed_checks(self) -> list[str]:
        """The checks that a rejected candidate failed, a phrase each."""
        try:
            release = self._store.output(self._commit, RELEASE)
            verdict = json.loads(self._store.file(release, VERDICT))
            return [
                f"{check['name']} is {check['value']:.3f}, but should be {check['side']} "
                f"{check['limit']:g}"
                for check in verdict["checks"]
                if not check["passed"]
            ]
        except (ValueError, TypeError, KeyError, RecursionError):
            return [f"its {VERDICT} is damaged"]


def predictions_of(store: Store, commit: str, name: str) -> pa.Table:
    """The test predictions that a commit's pipeline stored; errors call it by the `name`."""
    return read_predictions(store.file(store.output(commit, EVALUATION), PREDICTIONS_FILE), name)
