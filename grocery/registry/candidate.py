"""A release candidate as a commit holds it, and the evidence that a version's tag carries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grocery.core.errors import RegistryError
from grocery.registry.comparison import data_digest, read_predictions
from grocery.registry.git import Git
from grocery.registry.objects import Objects
from grocery.registry.pipeline import Pipeline, read_pipeline
from grocery.registry.records import RELEASE, json_at, params_at

EVALUATION = "metrics/evaluation"
SHARDS = "data/prepared/shards"
PREDICTIONS = "predictions.parquet"
VERDICT = "verdict.json"

# The sections of params.yaml that a model depends on.
SECTIONS = ("data", "prepare", "version", "featurize", "train", "evaluate", "register")


@dataclass(frozen=True)
class Candidate:
    """What a commit's pipeline made.

    Attributes
    ----------
    commit
        Its full id.
    pipeline
        Hashes of what was read and made, and what is wrong with the record.
    metrics, judged
        Contents of ``metrics/evaluate.json`` and ``metrics/register.json``.
    params
        The sections of params.yaml that a model depends on.
    """

    commit: str
    pipeline: Pipeline
    metrics: Mapping[str, Any]
    judged: Mapping[str, Any]
    params: Mapping[str, Any]

    def hash_of(self, path: str) -> str:
        """DVC's hash of an output."""
        md5 = self.pipeline.outputs.get(path)
        if md5 is None:
            raise RegistryError(f"commit {self.commit[:7]} has no {path}; run dvc repro and commit")
        return md5


def read_candidate(objects: Objects, git: Git, commit: str) -> Candidate:
    """Read the release candidate of a commit.

    Raises
    ------
    RegistryError
        When there is none, or its record cannot be read.
    """
    pipeline = read_pipeline(objects, git, commit)
    params = params_at(git, commit)
    return Candidate(
        commit,
        pipeline,
        json_at(git, commit, "metrics/evaluate.json"),
        json_at(git, commit, "metrics/register.json"),
        {name: params[name] for name in SECTIONS if name in params},
    )


def evidence(candidate: Candidate, objects: Objects, git: Git) -> dict[str, Any]:
    """What the tag of a version says of it: all that a person or a program would ask first.

    Raises
    ------
    RegistryError
        When the candidate lacks something of it.
    """
    data = json_at(git, candidate.commit, "metrics/data.json")
    predictions = objects.file(candidate.hash_of(EVALUATION), PREDICTIONS)
    table = read_predictions(predictions, f"{EVALUATION}/{PREDICTIONS} of {candidate.commit[:7]}")
    judged = candidate.judged
    section = candidate.params.get("data")
    source = section.get("source") if isinstance(section, dict) else None
    return {
        "metrics": dict(candidate.metrics),
        "accepted": judged.get("accepted"),
        "dataset": {
            "digest": judged.get("dataset_digest"),
            "source": source,
            "images": data.get("images"),
        },
        "model": {"digest": judged.get("model_digest"), "release": candidate.hash_of(RELEASE)},
        "test": {"digest": data_digest(table), "images": len(table)},
        "params": dict(candidate.params),
    }


def failed_checks(candidate: Candidate, objects: Objects) -> list[str]:
    """The checks of the verdict that a rejected candidate failed, a phrase each."""
    try:
        verdict = json.loads(objects.file(candidate.hash_of(RELEASE), VERDICT))
        return [
            f"{check['name']} is {check['value']:.3f}, but should be {check['side']} "
            f"{check['limit']:g}"
            for check in verdict["checks"]
            if not check["passed"]
        ]
    except (ValueError, TypeError, KeyError, RecursionError):
        return [f"its {VERDICT} is damaged"]
