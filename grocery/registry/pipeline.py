"""A pipeline as a commit holds it: what each stage read and made, and whether the record is right.

`dvc.lock` says what was built. It says nothing about the files that lie beside it in the same
commit, so each hash is compared with them: a commit whose parameters or code were changed after the
last ``dvc repro`` did not make its model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grocery.core.errors import RegistryError
from grocery.registry.git import Git
from grocery.registry.objects import Objects, dvc_errors
from grocery.registry.records import check_yaml


@dataclass(frozen=True)
class StageRecord:
    """What a stage made.

    Attributes
    ----------
    name
        The stage.
    outputs
        DVC's hash of each output, by path.
    deps
        DVC's hash of each dependency, by path.
    """

    name: str
    outputs: Mapping[str, str]
    deps: Mapping[str, str]


@dataclass(frozen=True)
class Pipeline:
    """The pipeline of a commit.

    Attributes
    ----------
    stages
        In the order they run.
    stored
        Hashes that the DVC remote must hold so that everything can be pulled and built again, with
        the paths: outputs, and inputs that DVC tracks. What git holds, and what `dvc import` gets
        from elsewhere, is not among them.
    inputs
        The ``.dvc`` files of inputs that DVC tracks or imports.
    problems
        What `dvc.lock` says and the commit does not hold, a phrase each.
    """

    stages: tuple[StageRecord, ...]
    stored: Mapping[str, str]
    inputs: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def outputs(self) -> dict[str, str]:
        """DVC's hash of every output, by path."""
        return {path: md5 for stage in self.stages for path, md5 in stage.outputs.items()}


def read_pipeline(objects: Objects, git: Git, commit: str) -> Pipeline:
    """Read dvc.yaml, dvc.lock and what they speak of from a commit.

    Raises
    ------
    RegistryError
        When the commit holds no pipeline that DVC can read.
    """
    short = commit[:7]
    if git.read(commit, "dvc.lock") is None:
        raise RegistryError(f"commit {short} holds no dvc.lock: no model was built in it")
    for name in ("dvc.lock", "dvc.yaml", "params.yaml"):
        check_yaml(git.read(commit, name) or b"", f"{name} of commit {short}")
    with dvc_errors(f"DVC cannot read the pipeline of commit {short}"), objects.repo.switch(commit):
        return _Reader(git, commit).read(objects.repo.index)


class _Reader:
    """Walks over DVC's index of one commit."""

    def __init__(self, git: Git, commit: str) -> None:
        self.git, self.commit = git, commit
        self.problems: list[str] = []
        self._md5s: dict[str, str | None] = {}

    def read(self, index: Any) -> Pipeline:
        stages = [stage for stage in index.stages if hasattr(stage, "name")]
        tracked = [stage for stage in index.stages if not hasattr(stage, "name")]
        outs = {out.fs_path: out for stage in index.stages for out in stage.outs}
        records = []
        for stage in stages:
            for dep in stage.deps:
                self._check(stage, dep, outs)
            if stage.cmd_changed:
                self.problems.append(f"the command of {stage.name} is another one in dvc.yaml")
            records.append(self._record(stage))
        needed = {dep.fs_path for stage in stages for dep in stage.deps}
        used = [
            out
            for stage in tracked
            for out in stage.outs
            if any(_overlap(out.fs_path, path) for path in needed)
        ]
        made = [out for stage in stages for out in stage.outs]
        kept = [*made, *(out for out in used if not out.stage.is_import)]
        stored = {o.hash_info.value: o.def_path for o in kept if o.use_cache and o.hash_info}
        inputs = {out.stage.path_in_repo for out in used}
        return Pipeline(
            tuple(_in_order(records)), stored, tuple(sorted(inputs)), tuple(self.problems)
        )

    def _record(self, stage: Any) -> StageRecord:
        hashes: list[dict[str, str]] = [{}, {}]
        for found, items in zip(hashes, (stage.outs, stage.deps), strict=True):
            for item in items:
                if isinstance(getattr(item.hash_info, "value", None), str):
                    found[item.def_path] = item.hash_info.value
        outputs, deps = hashes
        for out in stage.outs:
            path = out.def_path
            if path not in outputs:
                self.problems.append(f"{path} was never built")
            elif not out.use_cache and self.git.md5(self.commit, path) != outputs[path]:
                self.problems.append(f"{path} is not what {stage.name} wrote")
        return StageRecord(stage.name, outputs, deps)

    def _check(self, stage: Any, dep: Any, outs: Mapping[str, Any]) -> None:
        """Compare what a stage read with what the commit holds."""
        from dvc.dependency import ParamsDependency

        if isinstance(dep, ParamsDependency):
            changed = sorted(name for kinds in dep.status().values() for name in _names(kinds))
            if changed:
                self.problems.append(f"{', '.join(changed)} changed after {stage.name} had run")
            return
        read, path = dep.hash_info.value, dep.def_path
        if dep.fs_path in outs:
            there = outs[dep.fs_path].hash_info.value
        else:
            if path not in self._md5s:
                self._md5s[path] = self.git.md5(self.commit, path)
            there = self._md5s[path]
        if there is None:
            self.problems.append(f"{path}, which {stage.name} reads, is in neither git nor DVC")
        elif there != read:
            self.problems.append(f"{path} changed after {stage.name} had run")


def _names(kinds: Any) -> list[str]:
    """Names of changed parameters; DVC nests them as {"params.yaml": {"a.b": "modified"}}."""
    return list(kinds) if isinstance(kinds, dict) else [str(kinds)]


def _overlap(one: str, other: str) -> bool:
    return one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/")


def _in_order(records: list[StageRecord]) -> list[StageRecord]:
    """Each stage after those whose outputs it reads."""
    maker = {path: record.name for record in records for path in record.outputs}
    by_name = {record.name: record for record in records}
    ordered: dict[str, StageRecord] = {}

    def visit(record: StageRecord) -> None:
        if record.name not in ordered:
            for path in record.deps:
                if path in maker and maker[path] != record.name:
                    visit(by_name[maker[path]])
            ordered[record.name] = record

    for record in records:
        visit(record)
    return list(ordered.values())
