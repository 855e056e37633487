"""A pipeline as a commit holds it, from DVC's index."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from graphlib import TopologicalSorter
from typing import Any

from grocery.registry.git import Git


@dataclass(frozen=True)
class Pipeline:
    """The pipeline of a commit: what each stage read and made, and whether the record is right.

    `dvc.lock` says what was built. It says nothing about the files that lie beside it in the same
    commit, so each hash is compared with them: a commit whose parameters or code were changed after
    the last ``dvc repro`` did not make its model.
    """

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


def read_pipeline(index: Any, git: Git, commit: str) -> Pipeline:
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
