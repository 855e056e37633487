"""What a commit records of its outputs, read from git alone."""

from __future__ import annotations

import json
from typing import Any

import yaml

from grocery.documents import parse_yaml
from grocery.errors import RegistryError
from grocery.registry.git import Git
from grocery.registry.objects import check_hash

RELEASE = "models/release"


def release_hash(git: Git, commit: str) -> str | None:
    """DVC's hash of the release that a commit's dvc.lock records; quick, and needs no DVC.

    Raises
    ------
    RegistryError
        When dvc.lock cannot be read.
    """
    return recorded_hashes(git, commit).get(RELEASE)


def params_at(git: Git, commit: str) -> dict[str, Any]:
    """All of a commit's params.yaml, as it stands there; empty without one.

    Raises
    ------
    RegistryError
        When it is not valid YAML.
    """
    text = git.read(commit, "params.yaml") or b"{}"
    params = parse_yaml(text, f"params.yaml of commit {commit[:7]}", RegistryError)
    return params if isinstance(params, dict) else {}


def recorded_hashes(git: Git, commit: str) -> dict[str, str]:
    """DVC's hash of every output in a commit's dvc.lock, by path; none without a dvc.lock."""
    data = git.read(commit, "dvc.lock")
    return {} if data is None else hashes_of(data, f"dvc.lock of commit {commit[:7]}")


def hashes_of(data: bytes, name: str) -> dict[str, str]:
    """DVC's hash of every output in a dvc.lock, by path.

    Raises
    ------
    RegistryError
        When it is no dvc.lock; the sentence calls it by its `name`.
    """
    try:
        lock = yaml.load(data, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        outs = [out for stage in lock["stages"].values() for out in stage.get("outs", ())]
        found = {out["path"]: out["md5"] for out in outs if "md5" in out}
    except (yaml.YAMLError, TypeError, KeyError, AttributeError):
        raise RegistryError(f"{name} is damaged") from None
    for md5 in found.values():
        check_hash(md5)
    return found


def json_at(git: Git, commit: str, path: str) -> dict[str, Any]:
    """A JSON object that git keeps in a commit.

    Raises
    ------
    RegistryError
        When it is not there, or is none.
    """
    data = git.read(commit, path)
    if data is None:
        raise RegistryError(f"commit {commit[:7]} has no {path}; run dvc repro and commit")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise RegistryError(f"{path} of commit {commit[:7]} is damaged: it holds no JSON object")
    return value
