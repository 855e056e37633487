"""What a commit records of its outputs, read from git alone, and what of it is believed.

What is damaged, or not there where it must be, is a `RegistryError` that names file and commit.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

import yaml

from grocery.core.documents import parse_yaml
from grocery.core.errors import RegistryError
from grocery.core.files import leads_out
from grocery.registry.git import Git

RELEASE = "models/release"

_HASH = re.compile(r"[0-9a-f]{32}(\.dir)?")

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DEEPEST = 50  # levels; dvc.lock has eight
_LARGEST = 1_000_000  # nodes, with each alias as what it stands for


def params_at(git: Git, commit: str) -> dict[str, Any]:
    """All of a commit's params.yaml, as it stands there; empty without one."""
    text, name = git.read(commit, "params.yaml") or b"{}", f"params.yaml of commit {commit[:7]}"
    check_yaml(text, name)
    params = parse_yaml(text, name, RegistryError)
    return params if isinstance(params, dict) else {}


def recorded_hashes(git: Git, commit: str) -> dict[str, str]:
    """DVC's hash of every output in a commit's dvc.lock, by path; none without a dvc.lock."""
    data = git.read(commit, "dvc.lock")
    return {} if data is None else hashes_of(data, f"dvc.lock of commit {commit[:7]}")


def hashes_of(data: bytes, name: str) -> dict[str, str]:
    """DVC's hash of every output in a dvc.lock, which errors call by its `name`, by path."""
    check_yaml(data, name)
    try:
        lock = yaml.load(data, Loader=_LOADER)
        outs = [out for stage in lock["stages"].values() for out in stage.get("outs", ())]
        found = {out["path"]: out["md5"] for out in outs if "md5" in out}
    except (yaml.YAMLError, TypeError, KeyError, AttributeError, ValueError):
        raise RegistryError(f"{name} is damaged") from None
    for md5 in found.values():
        check_hash(md5)
    return found


def check_yaml(data: bytes, name: str) -> None:
    """Refuse YAML that would take a reader to the end of its stack or of the memory.

    Deep nesting crashes the quick loader, and a few aliases of aliases stand for billions of nodes.
    """
    try:
        _check_size(data)
    except (yaml.YAMLError, ValueError):
        raise RegistryError(f"{name} is damaged") from None


def _check_size(data: bytes) -> None:
    sizes: dict[str, int] = {}
    # anchor and number of nodes of each collection that is open
    parents: list[tuple[str | None, int]] = [(None, 0)]
    for event in yaml.parse(data, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            parents.append((event.anchor, 1))
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size = parents.pop()
        elif isinstance(event, yaml.AliasEvent):
            anchor, size = None, sizes.get(event.anchor or "", _LARGEST)  # of itself: without end
        else:
            anchor, size = getattr(event, "anchor", None), 1
        if anchor:
            sizes[anchor] = size
        above, nodes = parents[-1]
        parents[-1] = above, nodes + size
        if len(parents) > _DEEPEST or nodes + size >= _LARGEST:
            raise ValueError("too deep or too large")


def json_at(git: Git, commit: str, path: str) -> dict[str, Any]:
    """A JSON object that git keeps in a commit."""
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


def check_hash(md5: Any) -> None:
    """Refuse, with a `RegistryError`, what is no DVC hash: it becomes a path."""
    if not (isinstance(md5, str) and _HASH.fullmatch(md5)):
        shown = f"{md5!r:.80}" if isinstance(md5, str) else f"a value of type {type(md5).__name__}"
        raise RegistryError(f"{shown} is no MD5 of DVC's; the record that holds it is damaged")


def check_name(name: Any, where: str) -> None:
    """Refuse a file name that leads out of its folder, on any system."""
    if leads_out(name) or not _writable(name):
        shown = f"{name!r:.80}" if isinstance(name, str) else f"of type {type(name).__name__}"
        raise RegistryError(f"{where} holds the file name {shown}, which leads out of it; refused")


def _writable(name: str) -> bool:
    try:
        return all(len(part) < 256 for part in os.fsencode(name).split(b"/"))
    except UnicodeEncodeError:  # half of a character
        return False
