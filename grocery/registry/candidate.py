"""A pipeline as a commit holds it: what each stage read and made, whether the record is right, and
the release candidate, with the evidence that a version's tag carries.

`dvc.lock` says what was built. It says nothing about the files that lie beside it in the same
commit, so each hash is compared with them: a commit whose parameters or code were changed after the
last ``dvc repro`` did not make its model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from graphlib import TopologicalSorter
from typing import Any

from grocery.core.errors import RegistryError
from grocery.registry.comparison import data_digest, read_predictions
from grocery.registry.git import Git
from grocery.registry.records import RELEASE, check_yaml, json_at, params_at
from grocery.registry.store import Store, dvc_errors

EVALUATION = "metrics/evaluation"
SHARDS = "data/prepared/shards"
PREDICTIONS_FILE = "predictions.parquet"
VERDICT = "verdict.json"

# The sections of params.yaml that a model depends on.
SECTIONS = ("data", "prepare", "version", "featurize", "train", "evaluate", "register")


@dataclass(frozen=True)
class Pipeline:
    """The pipeline of a commit."""

    # DVC's hash of each output by path, by the name of the stage, in the order they run.
    stages: Mapping[str, Mapping[str, str]]
    # Paths by the hashes that the DVC remote must hold so that everything can be pulled and built
    # again: outputs, and inputs that DVC tracks. What git holds, and what `dvc import` gets from
    # elsewhere, is not among them.
    stored: Mapping[str, str]
    # The ``.dvc`` files of inputs that DVC tracks or imports.
    inputs: list[str]
    # What `dvc.lock` says and the commit does not hold, a phrase each.
    problems: list[str]

    @property
    def outputs(self) -> dict[str, str]:
        """DVC's hash of every output, by path."""
        return {path: md5 for made in self.stages.values() for path, md5 in made.items()}


class Candidate:
    """What a commit's pipeline made.

    Raises
    ------
    RegistryError
        When it made nothing, its record cannot be read, or something is asked that it lacks.
    """

    def __init__(self, store: Store, commit: str) -> None:
        self._store, self._commit = store, commit
        self.pipeline = read_pipeline(store, commit)
        params = params_at(store.git, commit)
        self._params = {name: params[name] for name in SECTIONS if name in params}
        self._metrics = json_at(store.git, commit, "metrics/evaluate.json")
        self._verdict = json_at(store.git, commit, "metrics/register.json")

    @property
    def accepted(self) -> bool:
        """Whether it passed the checks of `register`."""
        return self._verdict.get("accepted") is True

    def evidence(self) -> dict[str, Any]:
        """What the tag of a version says: all that a person or a program would ask first."""
        data = json_at(self._store.git, self._commit, "metrics/data.json")
        predictions = self._store.file(self._hash_of(EVALUATION), PREDICTIONS_FILE)
        table = read_predictions(
            predictions, f"{EVALUATION}/{PREDICTIONS_FILE} of {self._commit[:7]}"
        )
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
                "release": self._hash_of(RELEASE),
            },
            "test": {"digest": data_digest(table), "images": len(table)},
            "params": self._params,
        }

    def failed_checks(self) -> list[str]:
        """The checks that a rejected candidate failed, a phrase each."""
        try:
            verdict = json.loads(self._store.file(self._hash_of(RELEASE), VERDICT))
            return [
                f"{check['name']} is {check['value']:.3f}, but should be {check['side']} "
                f"{check['limit']:g}"
                for check in verdict["checks"]
                if not check["passed"]
            ]
        except (ValueError, TypeError, KeyError, RecursionError):
            return [f"its {VERDICT} is damaged"]

    def _hash_of(self, path: str) -> str:
        md5 = self.pipeline.outputs.get(path)
        if md5 is None:
            short = self._commit[:7]
            raise RegistryError(f"commit {short} has no {path}; run dvc repro and commit")
        return md5


def read_pipeline(store: Store, commit: str) -> Pipeline:
    """Read dvc.yaml, dvc.lock and what they speak of from a commit.

    Raises
    ------
    RegistryError
        When the commit holds no pipeline that DVC can read.
    """
    short = commit[:7]
    if store.git.read(commit, "dvc.lock") is None:
        raise RegistryError(f"commit {short} holds no dvc.lock: no model was built in it")
    for name in ("dvc.lock", "dvc.yaml", "params.yaml"):
        check_yaml(store.git.read(commit, name) or b"", f"{name} of commit {short}")
    with dvc_errors(f"DVC cannot read the pipeline of commit {short}"), store.repo.switch(commit):
        return _read(store.repo.index, store.git, commit)


def _read(index: Any, git: Git, commit: str) -> Pipeline:
    """Walk over DVC's index of one commit."""
    stages = [stage for stage in index.stages if hasattr(stage, "name")]
    tracked = [out for s in index.stages if not hasattr(s, "name") for out in s.outs]
    made = [out for stage in stages for out in stage.outs]
    needed = {dep.fs_path for stage in stages for dep in stage.deps}
    used = [out for out in tracked if any(_overlap(out.fs_path, path) for path in needed)]
    kept = [*made, *(out for out in used if not out.stage.is_import)]
    outs = {out.fs_path: out for out in (*tracked, *made)}
    md5_in_git = cache(partial(git.md5, commit))
    ordered = TopologicalSorter(index.graph.adj).static_order()
    return Pipeline(
        {stage.name: _hashes(stage) for stage in ordered if hasattr(stage, "name")},
        {out.hash_info.value: out.def_path for out in kept if out.use_cache and out.hash_info},
        sorted({out.stage.path_in_repo for out in used}),
        [problem for stage in stages for problem in _problems(stage, outs, md5_in_git)],
    )


def _hashes(stage: Any) -> dict[str, str]:
    hashes = {out.def_path: getattr(out.hash_info, "value", None) for out in stage.outs}
    return {path: md5 for path, md5 in hashes.items() if isinstance(md5, str)}


def _problems(
    stage: Any, outs: Mapping[str, Any], md5_in_git: Callable[[str], str | None]
) -> Iterator[str]:
    """Compare what a stage read and made with what the commit holds."""
    from dvc.dependency import ParamsDependency

    for dep in stage.deps:
        path = dep.def_path
        if isinstance(dep, ParamsDependency):
            # {"params.yaml": {"a.b": "modified"}}, or a word for the whole file
            kinds = dep.status().values()
            changed = sorted(n for k in kinds for n in (k if isinstance(k, dict) else [str(k)]))
            if changed:
                yield f"{', '.join(changed)} changed after {stage.name} had run"
            continue
        made = outs.get(dep.fs_path)
        there = made.hash_info.value if made else md5_in_git(path)
        if there is None:
            yield f"{path}, which {stage.name} reads, is in neither git nor DVC"
        elif there != dep.hash_info.value:
            yield f"{path} changed after {stage.name} had run"
    if stage.cmd_changed:
        yield f"the command of {stage.name} is another one in dvc.yaml"
    hashes = _hashes(stage)
    for out in stage.outs:
        path = out.def_path
        if path not in hashes:
            yield f"{path} was never built"
        elif not out.use_cache and md5_in_git(path) != hashes[path]:
            yield f"{path} is not what {stage.name} wrote"


def _overlap(one: str, other: str) -> bool:
    return one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/")
