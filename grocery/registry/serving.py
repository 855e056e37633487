"""A registered release on this machine: found by name, fetched once, verified on every use.

Releases are kept in the user's cache folder, each under its own hash, so nothing that is there has
to be trusted: what is another content than its name says is fetched again.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from grocery.contents import read_content
from grocery.core.errors import GroceryError, ModelError, RegistryError, meant
from grocery.release.model import Model

if TYPE_CHECKING:
    from grocery.registry.git import Git
    from grocery.registry.state import Version
    from grocery.registry.store import Store

# A release holds arrays, JSON, the model card, and the backbone where there is one. Never code.
SUFFIXES = frozenset({".safetensors", ".json", ".md", ".onnx"})


@dataclass(frozen=True)
class Fetched:
    """A release on this machine: its version, DVC's hash of it, and its folder, to read only."""

    version: str
    md5: str
    folder: Path


def load_model(name: str | os.PathLike[str], repo: str | os.PathLike[str] | None = None) -> Model:
    """Load a model from the registry by name, or from its folder.

    Parameters
    ----------
    name
        ``production``, ``staging`` or a version such as ``v1.2.0``; anything else is a folder
        (write ``./production`` for a folder of such a name).
    repo
        Whose registry: a clone of the project, or its git address. By default the clone that the
        working directory is in. Its tags are taken as they are: ``git fetch --tags`` brings a
        clone up to date.

    Raises
    ------
    RegistryError
        When there is no such version, or its objects cannot be had or are not what git says.
    ModelError
        When the folder holds no model, a damaged one, or parts of different models.
    """
    return Model.load(find(os.fspath(name), repo)[0])


def find(name: str, repo: str | os.PathLike[str] | None = None) -> tuple[Path, str | None]:
    """The folder of a model, and its version where it is a registered one; see `load_model`."""
    from grocery.registry.state import is_registry_name
    from grocery.registry.tags import STAGES

    if is_registry_name(name):
        fetched = fetch(name, repo)
        return fetched.folder, fetched.version
    if not os.path.lexists(name) and os.sep not in name:
        wanted = "a version is such as v1.0.0, and the stages are " + ", ".join(STAGES)
        found = f"{name} is neither a folder nor a name in the registry{meant(name, STAGES)}"
        raise ModelError(f"{found}; {wanted}")
    return Path(name), None


def fetch(name: str, repo: str | os.PathLike[str] | None = None) -> Fetched:
    """Fetch the release of a version or a stage, unless it is here, and verify it.

    See `load_model`.
    """
    from grocery.registry.state import read_state
    from grocery.registry.store import open_store
    from grocery.tracking.provenance import dvc_root

    where = os.fspath(repo) if repo is not None else str(dvc_root())
    if where.startswith("file://"):
        where = unquote(where.removeprefix("file://"))
    if repo is None and not (Path(where) / ".dvc").is_dir():
        raise RegistryError(
            f"{Path(where).absolute()} is in no clone of the project, so the registry is unknown; "
            "run this in one, or name the address of its repository (--from, or repo in Python)"
        )
    with open_store(where) as store:
        return verified(store, read_state(store.git).find(name))


def verified(store: Store, version: Version) -> Fetched:
    """The release of a version, from this machine or else from the store.

    Raises
    ------
    RegistryError
        When it cannot be had, or is not what git says.
    """
    md5 = release_of(store.git, version)
    folder = kept(md5) or keep(md5, partial(store.get, md5), version.said("model", "digest"))
    return Fetched(version.name, md5, folder)


def release_of(git: Git, version: Version) -> str:
    """DVC's hash of a version's release.

    Raises
    ------
    RegistryError
        When its commit has none, or another one than its tag says.
    """
    from grocery.registry.records import RELEASE, recorded_hashes

    md5 = recorded_hashes(git, version.commit).get(RELEASE)
    if md5 is None:
        raise RegistryError(
            f"{version.name} stands at {version.commit[:7]}, which has no {RELEASE}"
        )
    said = version.said("model", "release")
    if said not in (None, md5):
        raise RegistryError(
            f"{version.name}: its tag says that the release is {said}, and dvc.lock of its commit "
            f"says {md5}; the tag was moved or made by hand"
        )
    return md5


def kept(md5: str) -> Path | None:
    """The release of this hash in the cache folder; None when it is not there, or damaged."""
    folder = _place(md5)
    if folder.is_symlink() or folder.is_file():  # neither is ours
        folder.unlink()
    if not folder.is_dir():
        return None
    if read_content(folder).md5 == md5:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    return None


def keep(md5: str, write: Callable[[Path], None], model: str | None = None) -> Path:
    """Put a release into the cache folder: all of it, and verified, or nothing.

    Parameters
    ----------
    write
        Writes it to a folder that does not exist yet.
    model
        Digest of its model, as the version's tag says it; None where nothing is said.

    Raises
    ------
    RegistryError
        When what was written has another hash, holds a file that no release has, or is no model.
    """
    folder = _place(md5)
    with _scratch(folder.parent) as scratch:
        fresh = scratch / "release"
        write(fresh)
        _check(fresh, md5, model)
        try:
            fresh.rename(folder)
        except OSError:  # somebody else was first
            if kept(md5) is None:
                raise
    return folder


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """A folder to write in; those that a kill left behind are removed.

    Whoever writes in one holds a lock on it, which the system lets go of when the process ends.
    """
    parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as mine:
        with _lock(parent, fcntl.LOCK_EX):
            for left in parent.glob(".fetch-*"):
                with suppress(OSError), _lock(left, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    shutil.rmtree(left, ignore_errors=True)
            scratch = Path(tempfile.mkdtemp(dir=parent, prefix=".fetch-"))
            mine.enter_context(_lock(scratch, fcntl.LOCK_SH))
            mine.callback(shutil.rmtree, scratch, ignore_errors=True)
        yield scratch


@contextmanager
def _lock(folder: Path, how: int) -> Iterator[None]:
    number = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(number, how)
        yield
    finally:
        os.close(number)


def _check(folder: Path, md5: str, model: str | None) -> None:
    content = read_content(folder)
    if content.md5 != md5:
        raise RegistryError(f"the release is not what its hash {md5} says; refused")
    for name in content.files:
        if Path(name).suffix not in SUFFIXES:
            raise RegistryError(
                f"the release holds the file {name!r}; a release holds only "
                f"{', '.join(sorted(SUFFIXES))} files, none of which is code; refused"
            )
    try:
        digest = Model.load(folder).digest
    except GroceryError as error:
        raise RegistryError(f"the release cannot be used: {error}") from None
    if model is not None and model != digest:
        raise RegistryError(
            f"the release holds the model {digest}, but its version's tag says {model}; refused"
        )


def _place(md5: str) -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "grocery" / "releases" / md5.removesuffix(".dir")


def fetch_from_wandb(name: str) -> Fetched:
    """Fetch the release that the W&B registry has under a version's or a stage's name.

    In a clone that knows the name, what W&B gives must be what git says.

    Raises
    ------
    TrackingError
        When W&B cannot be reached, or does not have it, or gives something else than it says.
    RegistryError
        When it is another release than git's, or no release at all.
    """
    from grocery.registry.download import download_release
    from grocery.registry.git import Git
    from grocery.registry.state import read_state
    from grocery.settings import load
    from grocery.tracking.provenance import dvc_root

    root = dvc_root()
    settings = load(root / "params.yaml").tracking
    git = Git(root)
    state = read_state(git)
    version = state.find(name) if name in (*state.versions, *state.stages()) else None
    with tempfile.TemporaryDirectory(prefix="grocery-wandb-") as scratch:
        fresh = Path(scratch) / "release"
        md5 = download_release(settings, name, fresh, settings.timeout)
        if version and release_of(git, version) != md5:
            raise RegistryError(
                f"W&B has the release {md5} as {name}, and git has another one as {version.name}; "
                "git is right: grocery registry status --repair"
            )
        said = version.said("model", "digest") if version else None
        folder = kept(md5) or keep(md5, partial(shutil.copytree, fresh), said)
    return Fetched(version.name if version else name, md5, folder)
