"""The only door to a repository of the project: its git, and the objects that its DVC keeps.

A hash that git holds is all that is trusted. What the cache or the remote gives is hashed, and
refused when it is something else; the names in a folder's list may not lead out of the folder.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from grocery.contents import md5_of_file
from grocery.core.errors import RegistryError, printable, public
from grocery.registry.git import Git
from grocery.registry.records import check_hash, check_name, check_yaml, recorded_hashes
from grocery.registry.store.pipeline import Pipeline, read_pipeline


class Missing(RegistryError):
    """An object is neither in the cache nor in the remote."""


class Store:
    """Git, and cache and default remote of DVC; open it with `open_store`.

    DVC's repository is opened when it is first needed.
    """

    def __init__(self, git: Git, open_repo: Callable[[], Any]) -> None:
        self.git = git
        self._open_repo = open_repo

    @cached_property
    def repo(self) -> Any:
        """DVC's repository."""
        return self._open_repo()

    @cached_property
    def _remote(self) -> Any:
        if not self.remote:
            raise RegistryError(
                "the project has no DVC remote from which others could pull; "
                "dvc remote add --default NAME ADDRESS"
            )
        with dvc_errors("the DVC remote cannot be used"):
            return self.repo.cloud.get_remote_odb()

    @property
    def remote(self) -> tuple[str, str] | None:
        """Name and address of the default remote; None where the project has none."""
        config = self.repo.config
        name = config["core"].get("remote")
        return (name, str(config["remote"][name]["url"])) if name else None

    @property
    def address(self) -> str:
        """Where the remote is, without a user name or a password."""
        where = self._remote.fs.unstrip_protocol(self._remote.path)
        return public(where).removesuffix("/files/md5")

    def pipeline(self, commit: str) -> Pipeline:
        """What dvc.yaml and dvc.lock of a commit say, and whether that is true.

        Raises
        ------
        RegistryError
            When the commit holds no pipeline that DVC can read.
        """
        short = commit[:7]
        if self.git.read(commit, "dvc.lock") is None:
            raise RegistryError(f"commit {short} holds no dvc.lock: no model was built in it")
        for name in ("dvc.lock", "dvc.yaml", "params.yaml"):
            check_yaml(self.git.read(commit, name) or b"", f"{name} of commit {short}")
        what = f"DVC cannot read the pipeline of commit {short}"
        with dvc_errors(what), self.repo.switch(commit):
            return read_pipeline(self.repo.index, self.git, commit)

    def output(self, commit: str, path: str) -> str:
        """DVC's hash of an output, as a commit records it; a `RegistryError` where it has none."""
        md5 = recorded_hashes(self.git, commit).get(path)
        if md5 is None:
            raise RegistryError(f"commit {commit[:7]} has no {path}; run dvc repro and commit")
        return md5

    def folder(self, md5: str) -> dict[str, str]:
        """MD5 of every file of a folder, by its relative POSIX path.

        Raises
        ------
        Missing
            When its list is in neither place.
        RegistryError
            When the list is not what the hash says, or holds a name that leads out of the folder.
        """
        try:
            rows = json.loads(self._read(md5))
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

    def _parts(self, md5: str) -> set[str]:
        """The objects that a hash stands for."""
        return {md5, *self.folder(md5).values()} if md5.endswith(".dir") else {md5}

    def not_in_remote(self, md5s: Collection[str]) -> set[str]:
        """Those of the hashes whose objects the remote lacks, wholly or in part."""
        parts = {}
        for md5 in sorted(md5s):
            try:
                parts[md5] = self._parts(md5)
            except Missing:
                parts[md5] = {md5}
        with dvc_errors("the DVC remote cannot be asked"):
            there = set(self._remote.oids_exist(sorted(set().union(*parts.values()))))
        return {md5 for md5, objects in parts.items() if not objects <= there}

    def require(self, stored: Mapping[str, str], what: str, *, advice: str) -> None:
        """Refuse what the remote does not hold whole: paths by their hashes, of `what`."""
        lacking = sorted(stored[md5] for md5 in self.not_in_remote(stored))
        if lacking:
            raise RegistryError(
                f"the DVC remote {self.address} lacks {first(lacking)} of {what}, so nobody could "
                f"pull it; {advice}"
            )

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

        found = set().union(*map(self._parts, sorted(md5s)))
        lists = {md5 for md5 in found if md5.endswith(".dir")}
        for group in (found - lists, lists):
            wanted = {HashInfo("md5", md5) for md5 in group}
            with dvc_errors("the objects cannot be pushed"):
                result = transfer(self.repo.cache.local, self._remote, wanted)
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
        from grocery.parallel import progress

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
        with tempfile.TemporaryDirectory(prefix="grocery-") as scratch:
            self._copy(md5, Path(scratch) / "object")
            return (Path(scratch) / "object").read_bytes()

    def _copy(self, md5: str, target: Path) -> None:
        """Write an object, from the cache if it is there and whole, else from the remote."""
        check_hash(md5)
        expected = md5.removesuffix(".dir")
        cache = Path(self.repo.cache.local.oid_to_path(md5))
        if cache.is_file():
            shutil.copyfile(cache, target)
            if md5_of_file(target) == expected:
                return
            target.unlink()
        with dvc_errors("the DVC remote cannot be read"):
            path = self._remote.oid_to_path(md5)
            if not self._remote.fs.exists(path):
                beside = "; a folder is found from the clone beside it only (docs/remote.md)"
                raise Missing(
                    f"object {md5} is neither in the cache nor in the remote {self.address}; "
                    "push it from where it was made, with: dvc push"
                    f"{beside if self._remote.fs.protocol == 'local' else ''}"
                )
            self._remote.fs.get_file(path, str(target))
        if md5_of_file(target) != expected:
            target.unlink()
            raise RegistryError(
                f"object {md5} in {self.address} is damaged: its content has another hash; "
                "push it again from where it was made, with: dvc push"
            )


@contextmanager
def open_store(where: str | Path) -> Iterator[Store]:
    """Open a clone of the project, or a git address, which is cloned for the while.

    Raises
    ------
    RegistryError
        When it is neither; of a clone whose DVC cannot be opened, when DVC is first needed.
    """
    with ExitStack() as opened:
        if where and (Path(where) / ".dvc").is_dir():
            clone = Path(where)
            yield Store(Git(clone), lambda: opened.enter_context(_open_dvc(clone)))
        else:
            repo = opened.enter_context(_open_dvc(str(where)))
            yield Store(Git(Path(repo.scm.root_dir)), lambda: repo)


@contextmanager
def _open_dvc(where: str | Path) -> Iterator[Any]:
    from dvc.repo import Repo
    from dvc.repo.open_repo import clean_repos

    with _in_silence():
        with dvc_errors(f"{where} cannot be opened as a DVC repository"):
            # `Repo.open` would make the cache of a clone without a remote a remote.
            repo = Repo(str(where)) if isinstance(where, Path) else Repo.open(where)
        try:
            yield repo
        finally:
            repo.close()
            clean_repos()


@contextmanager
def _in_silence() -> Iterator[None]:
    """Let DVC neither print (what matters becomes a sentence), nor ask, nor leave files behind.

    For a password its git would wait for ever in a service, and a clone stays in its temporary
    folder.
    """
    logger = logging.getLogger("dvc")
    level, folder, prompt = logger.level, tempfile.tempdir, os.environ.get("GIT_TERMINAL_PROMPT")
    with tempfile.TemporaryDirectory(prefix="grocery-", ignore_cleanup_errors=True) as scratch:
        logger.setLevel(logging.CRITICAL)
        tempfile.tempdir = scratch
        os.environ["GIT_TERMINAL_PROMPT"] = "0"
        try:
            yield
        finally:
            logger.setLevel(level)
            tempfile.tempdir = folder
            del os.environ["GIT_TERMINAL_PROMPT"]
            if prompt is not None:
                os.environ["GIT_TERMINAL_PROMPT"] = prompt


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


def first(found: Sequence[str]) -> str:
    """The first of some phrases, and how many more there are."""
    return f"{found[0]}, and {len(found) - 1} more" if len(found) > 1 else found[0]


def some(found: Sequence[str]) -> str:
    """The first five of some phrases, and how many more there are."""
    return ", ".join([*found[:5], *([f"{len(found) - 5} more"] if len(found) > 5 else [])])
