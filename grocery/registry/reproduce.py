"""Build a past version again, from nothing but its commit and its inputs, and compare the bytes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from grocery.contents import read_content
from grocery.core.errors import RegistryError, printable, public
from grocery.parallel import progress
from grocery.registry.git import Git
from grocery.registry.records import hashes_of
from grocery.registry.state import Version
from grocery.registry.store import Missing, Pipeline, Store, some


@dataclass(frozen=True)
class Reproduction:
    """What came of building a version again."""

    version: str
    # Number of outputs that were compared.
    outputs: int
    identical: bool
    # The first stage that gave other bytes, if one did, and what it gave: a phrase an output.
    stage: str | None = None
    differences: Sequence[str] = ()
    # Installed packages of another version than the commit's requirements.lock asks for: (here,
    # there).
    packages: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def reproduce(store: Store, version: Version) -> Reproduction:
    """Run a version's pipeline by force in a temporary clone, with a cache of its own.

    Raises
    ------
    RegistryError
        When its inputs cannot be pulled or its pipeline does not run through.
    """
    pipeline = store.pipeline(version.commit)
    if not pipeline.outputs:
        raise RegistryError(f"dvc.lock of {version.name} records no output to compare with")
    with tempfile.TemporaryDirectory(prefix="grocery-reproduce-") as scratch:
        clone = Path(scratch) / "project"
        _clone(store, version.commit, clone)
        if pipeline.inputs:
            list(_dvc(clone, "pull", *pipeline.inputs))
        lines = _dvc(clone, "repro", "--force")
        begun = (line for line in lines if re.match(r"Running stage '.+':", line))
        for _ in progress(begun, title=f"reproduce {version.name}", total=len(pipeline.stages)):
            pass
        return _compare(store, pipeline, version, clone)


def _clone(store: Store, commit: str, clone: Path) -> None:
    """Check a commit out, with the DVC remote as this checkout reaches it: its own settings."""
    # of the repository's own top, which may lie above the project
    top = store.git.ask("rev-parse", "--show-toplevel")
    store.git.ask("clone", "--quiet", "--no-checkout", top, str(clone))
    Git(clone).ask("checkout", "--quiet", "--detach", commit)
    settings = store.git.folder / ".dvc" / "config.local"
    if settings.is_file():
        shutil.copyfile(settings, clone / ".dvc" / "config.local")
    if store.remote:  # its address may be relative
        name, url = store.remote
        list(_dvc(clone, "remote", "modify", "--local", name, "url", url))


def _environment() -> dict[str, str]:
    """Of a command in the clone: this interpreter first, nothing tracked, no outer DVC."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "PYTHONPATH"))}
    path = os.pathsep.join([str(Path(sys.executable).parent), own.get("PATH", os.defpath)])
    return own | {"PATH": path, "WANDB_MODE": "disabled"}


def _dvc(clone: Path, *arguments: str) -> Iterator[str]:
    """What a DVC command prints, line by line; a `RegistryError` says why when it fails."""
    said = []
    with subprocess.Popen(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=clone,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        try:
            for line in process.stdout or ():
                said.append(line.rstrip())
                yield said[-1]
            code = process.wait()
        finally:
            process.kill()
    if code:
        reasons = [line for line in said if line.lower().startswith("error")] or said[-1:]
        why = public(printable(reasons[0])) if reasons else f"exit code {code}"
        raise RegistryError(f"dvc {arguments[0]} failed in the clone: {why}")


def _compare(store: Store, pipeline: Pipeline, version: Version, clone: Path) -> Reproduction:
    built = hashes_of((clone / "dvc.lock").read_bytes(), "dvc.lock of the clone")
    packages = other_packages(Git(clone).read("HEAD", "requirements.lock") or b"")
    count = len(pipeline.outputs)
    for stage, outputs in pipeline.stages.items():
        different = {path: md5 for path, md5 in outputs.items() if built.get(path) != md5}
        if different:
            accounts = [_account(store, clone, path, md5) for path, md5 in different.items()]
            return Reproduction(version.name, count, False, stage, accounts, packages)
    return Reproduction(version.name, count, True, packages=packages)


def _account(store: Store, clone: Path, path: str, recorded: str) -> str:
    """How an output differs from the recorded one."""
    place = clone / path
    if not place.exists():
        return f"{path} was not made"
    if place.suffix == ".json" and place.is_file():
        data = Git(clone).read("HEAD", path)
        if data is not None:
            found = list(_changed(json.loads(data), json.loads(place.read_bytes()), ""))
            return f"{path}: {some(found)}"
    if not recorded.endswith(".dir"):
        return f"{path} has another content"
    try:
        before = store.folder(recorded)
    except Missing:
        return f"{path} has another content; what it held is in neither cache nor remote"
    now = read_content(place).files
    found = [f"{name} is new" for name in now if name not in before]
    found += [f"{name} is missing" for name in before if name not in now]
    found += [f"{name} differs" for name in now if before.get(name, now[name]) != now[name]]
    return f"{path}: {some(found)}"


def _changed(before: Any, now: Any, name: str) -> Iterator[str]:
    """The values of two JSON documents that differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            yield from _changed(before.get(key), now.get(key), f"{name}.{key}".lstrip("."))
    elif before != now:
        yield f"{name} is {now}, was {before}"


def other_packages(lock: bytes) -> dict[str, tuple[str, str]]:
    """Packages of which a requirements.lock does not ask for the version that is installed.

    The two, (installed, asked for), by name; a package that is not installed is left out.
    """
    wanted: dict[str, list[str]] = {}  # one name may stand there for several versions of Python
    for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", lock.decode(), re.MULTILINE):
        wanted.setdefault(name, []).append(version)
    found = {}
    for name, versions in wanted.items():
        with suppress(metadata.PackageNotFoundError):
            if (installed := metadata.version(name)) not in versions:
                found[name] = (installed, " or ".join(versions))
    return found
