"""The objects that a DVC repository keeps in its cache and in its remote.

A hash that git holds is all that is trusted. What the cache or the remote gives is hashed, and
refused when it is something else; the names in a folder's list may not lead out of the folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from grocery.core.errors import RegistryError, printable, public
from grocery.core.files import leads_out
from grocery.parallel import progress

_HASH = re.compile(r"[0-9a-f]{32}(\.dir)?")


class Missing(RegistryError):
    """An object is neither in the cache nor in the remote."""


class Objects:
    """Cache and default remote of a DVC repository; open it with `open_objects`.

    Parameters
    ----------
    repo
        DVC's repository.
    """

    def __init__(self, repo: Any) -> None:
        self.repo = repo

    @cached_property
    def _remote(self) -> Any:
        with dvc_errors("the DVC remote cannot be used"):
            return self.repo.cloud.get_remote_odb()

    @property
    def address(self) -> str:
        """Where the remote is, without a user name or a password."""
        where = self._remote.fs.unstrip_protocol(self._remote.path)
        return public(where).removesuffix("/files/md5")

    def folder(self, md5: str) -> dict[str, str]:
        """MD5 of every file of a folder, by its relative POSIX path.

        Parameters
        ----------
        md5
            Hash of the folder, which ends in ``.dir``.

        Raises
        ------
        Missing
            When its list is in neither place.
        RegistryError
            When the list is not what the hash says, or holds a name that leads out of the folder.
        """
        data = self._read(md5)
        try:
            rows = json.loads(data)
            files = {row["relpath"]: row["md5"] for row in rows}
        except (ValueError, TypeError, KeyError, RecursionError):
            raise RegistryError(f"object {md5} is no list of a folder's files") from None
        for name, file in files.items():
            check_name(name, f"the folder {md5}")
            check_hash(file)
        folders = {str(above) for name in files for above in PurePosixPath(name).parents}
        if len(files) < len(rows) or not folders.isdisjoint(files):
            raise RegistryError(f"the folder {md5} holds one name twice; refused")
        return files

    def file(self, md5: str, name: str) -> bytes:
        """Content of one file of a folder.

        Raises
        ------
        RegistryError
            When it is not there, or not what the hash says.
        """
        files = self.folder(md5)
        if name not in files:
            raise RegistryError(f"the folder {md5} holds no {name}")
        return self._read(files[name])

    def needed(self, md5s: Collection[str]) -> tuple[set[str], list[str]]:
        """All objects that these hashes stand for, and the folders whose list is nowhere."""
        found, unknown = set(md5s), []
        for md5 in sorted(md5s):
            if md5.endswith(".dir"):
                try:
                    found |= set(self.folder(md5).values())
                except Missing:
                    unknown.append(md5)
        return found, unknown

    def not_in_remote(self, md5s: Collection[str]) -> set[str]:
        """Those of the hashes whose objects the remote lacks, wholly or in part."""
        found, unknown = self.needed(md5s)
        with dvc_errors("the DVC remote cannot be asked"), _quiet():
            there = set(self._remote.oids_exist(sorted(found)))
        lacking = found - there
        folders = (md5 for md5 in md5s if md5.endswith(".dir") and md5 not in unknown)
        parts = {md5 for md5 in folders if not lacking.isdisjoint(self.folder(md5).values())}
        return parts | (set(md5s) & lacking) | set(unknown)

    def push(self, md5s: Collection[str]) -> None:
        """Send objects from the cache to the remote, with DVC's own transfer.

        A folder's list goes last, since DVC takes a list that is there for the whole folder. For
        the same reason DVC's memory of what the remote holds is not asked.

        Raises
        ------
        RegistryError
            When the cache does not hold them all, or the remote does not take them.
        """
        from dvc_data.hashfile.hash_info import HashInfo
        from dvc_data.hashfile.transfer import transfer

        found, unknown = self.needed(md5s)
        if unknown:
            raise self._nowhere(unknown[0])
        lists = {md5 for md5 in found if md5.endswith(".dir")}
        cache = self.repo.cache.local
        for group in (found - lists, lists):
            wanted = {HashInfo("md5", md5) for md5 in group}
            with dvc_errors("the objects cannot be pushed"), _quiet():
                result = transfer(cache, self._remote, wanted)
            if result.failed:
                failed = len(result.failed)
                raise RegistryError(f"{failed} objects could not be pushed to {self.address}")

    def get(self, md5: str, target: Path) -> None:
        """Write the file or the folder of a hash to `target`, which must not be there yet.

        Raises
        ------
        Missing
            When an object is in neither place.
        RegistryError
            When what is found is not what the hash says.
        """
        check_hash(md5)
        if not md5.endswith(".dir"):
            self._copy(md5, target)
            return
        files = self.folder(md5)
        target.mkdir(parents=True, exist_ok=True)
        for name, file in progress(sorted(files.items()), title="fetch", total=len(files)):
            place = target / name
            place.parent.mkdir(parents=True, exist_ok=True)
            self._copy(file, place)

    def _read(self, md5: str) -> bytes:
        check_hash(md5)
        for place in self._places(md5):
            data = place.read()
            if hashlib.md5(data, usedforsecurity=False).hexdigest() == md5.removesuffix(".dir"):
                return data
        raise self._nowhere(md5)

    def _copy(self, md5: str, target: Path) -> None:
        for place in self._places(md5):
            place.copy(target)
            with target.open("rb") as stream:
                found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False))
            if found.hexdigest() == md5:
                return
            target.unlink()
        raise self._nowhere(md5)

    def _places(self, md5: str) -> Iterator[_Place]:
        """Where an object lies, the cache first; what is damaged there is passed over."""
        cache = Path(self.repo.cache.local.oid_to_path(md5))
        if cache.is_file():
            yield _Place(None, str(cache))
        with dvc_errors("the DVC remote cannot be read"):
            path = self._remote.oid_to_path(md5)
            there = self._remote.fs.exists(path)
        if there:
            yield _Place(self._remote.fs, path)
            raise RegistryError(
                f"object {md5} in {self.address} is damaged: its content has another hash; "
                "push it again from where it was made, with: dvc push"
            )

    def _nowhere(self, md5: str) -> Missing:
        return Missing(
            f"object {md5} is neither in the cache nor in the remote {self.address}; "
            "push it from where it was made, with: dvc push"
        )


class _Place:
    """A file in the cache (no file system), or in the remote."""

    def __init__(self, fs: Any, path: str) -> None:
        self._fs, self._path = fs, path

    def read(self) -> bytes:
        if self._fs is None:
            return Path(self._path).read_bytes()
        with dvc_errors("the DVC remote cannot be read"):
            data: bytes = self._fs.cat_file(self._path)
            return data

    def copy(self, target: Path) -> None:
        if self._fs is None:
            shutil.copyfile(self._path, target)
            return
        with dvc_errors("the DVC remote cannot be read"):
            self._fs.get_file(self._path, str(target))


@contextmanager
def open_objects(where: str | Path) -> Iterator[Objects]:
    """Open the DVC repository of a folder, or of a git address, which is cloned for the while.

    Raises
    ------
    RegistryError
        When there is none.
    """
    from dvc.repo import Repo
    from dvc.repo.open_repo import clean_repos

    with _quiet(), _scratch():
        with dvc_errors(f"{where} cannot be opened as a DVC repository"), _without_prompt():
            repo = Repo.open(str(where))
        try:
            yield Objects(repo)
        finally:
            repo.close()
            clean_repos()


@contextmanager
def _scratch() -> Iterator[None]:
    """Put temporary files into a folder that goes: DVC leaves a clone behind in its own."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="grocery-", ignore_cleanup_errors=True) as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before


@contextmanager
def dvc_errors(what: str) -> Iterator[None]:
    """Give the errors of DVC, of git and of a storage as one sentence."""
    try:
        yield
    except RegistryError:
        raise
    except Exception as error:  # each kind of storage has errors of its own
        cause = error.__cause__ if str(error) in ("", "SCM error") else None
        said = " ".join(str(cause or error).split()) or type(error).__name__
        raise RegistryError(public(printable(f"{what}: {said}"))) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep DVC's log from the terminal: what matters becomes a sentence."""
    logger = logging.getLogger("dvc")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _without_prompt() -> Iterator[None]:
    """Let DVC's git ask nobody for a password: a service would wait for ever."""
    before = os.environ.get("GIT_TERMINAL_PROMPT")
    os.environ["GIT_TERMINAL_PROMPT"] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ["GIT_TERMINAL_PROMPT"]
        else:
            os.environ["GIT_TERMINAL_PROMPT"] = before


def check_hash(md5: Any) -> None:
    """Refuse what is no DVC hash: it becomes a path.

    Raises
    ------
    RegistryError
        One sentence.
    """
    if not (isinstance(md5, str) and _HASH.fullmatch(md5)):
        shown = f"{md5!r:.80}" if isinstance(md5, str) else f"a value of type {type(md5).__name__}"
        raise RegistryError(f"{shown} is no MD5 of DVC's; the record that holds it is damaged")


def check_name(name: Any, where: str) -> None:
    """Refuse a file name that leads out of its folder, on any system.

    Raises
    ------
    RegistryError
        One sentence with `where`.
    """
    if leads_out(name) or not _writable(name):
        shown = f"{name!r:.80}" if isinstance(name, str) else f"of type {type(name).__name__}"
        raise RegistryError(f"{where} holds the file name {shown}, which leads out of it; refused")


def _writable(name: str) -> bool:
    try:
        return all(len(part) < 256 for part in os.fsencode(name).split(b"/"))
    except UnicodeEncodeError:  # half of a character
        return False
