"""What somebody who may write to git and to the DVC remote could put there: consistent, hostile."""

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from conftest import Project, environment, once
from grocery.core.arrays import sealed
from grocery.registry.candidate import EVALUATION, PREDICTIONS_FILE, SHARDS
from grocery.registry.records import RELEASE
from grocery.registry.tags import ARTIFACT
from grocery.release.model import KIND
from grocery.shards import read_table, shard_paths, write_table
from registry_project import World, create_world, git, object_of, output_at
from samples import picture

JUDGED = "metrics/register.json"
VERSION = "v9.0.0"  # what hostile versions are called


def md5_of(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def listing(files: Mapping[str, str]) -> bytes:
    """The list of a folder's files and their hashes, with the very bytes that DVC writes."""
    rows = [{"md5": md5, "relpath": name} for name, md5 in sorted(files.items())]
    return json.dumps(rows, sort_keys=True).encode()


def files_of(folder: Path) -> dict[str, bytes]:
    """Content of every file in a folder, by its relative POSIX path."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


@dataclass(frozen=True)
class Forge(World):
    """A world with a forger: objects in its DVC remote, commits and tags that fit them."""

    @property
    def head(self) -> str:
        return git(self.project, "rev-parse", "HEAD")

    def store(self, data: bytes, md5: str | None = None, *, cache: bool = False) -> str:
        """Put an object into the remote or the cache, under its own hash or another one."""
        md5 = md5 or md5_of(data)
        place = self.place(md5, cache=cache)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        place.write_bytes(data)
        place.chmod(0o444)  # as DVC does
        return md5

    def place(self, md5: str, *, cache: bool = False) -> Path:
        """Where an object lies."""
        return object_of(self.project.path / ".dvc/cache" if cache else self.storage, md5)

    def store_list(self, data: bytes, *, cache: bool = False) -> str:
        """Put the list of a folder there; the folder's hash."""
        return self.store(data, f"{md5_of(data)}.dir", cache=cache)

    def store_folder(self, files: Mapping[str, bytes], *, cache: bool = False) -> str:
        """Put a folder with all of its files there; its hash."""
        md5s = {name: self.store(data, cache=cache) for name, data in files.items()}
        return self.store_list(listing(md5s), cache=cache)

    def release(self) -> dict[str, bytes]:
        """The files of the genuine release."""
        return files_of(self.project.path / RELEASE)

    def with_arrays(self, arrays: bytes, **settings: Any) -> dict[str, bytes]:
        """The genuine release with other arrays or settings; model.json carries their digest."""
        files = self.release()
        description = sealed(KIND, arrays, json.loads(files["model.json"]) | settings)
        return files | {"model.safetensors": arrays, "model.json": json.dumps(description).encode()}

    def lock_with(self, release: str, **others: str) -> bytes:
        """The committed dvc.lock with other hashes of the release and of further paths."""
        lock = (self.project.path / "dvc.lock").read_bytes()
        for path, md5 in {RELEASE: release, **others}.items():
            lock = lock.replace(output_at(self.project, "HEAD", path).encode(), md5.encode())
        return lock

    def rejected(self) -> dict[str, bytes]:
        """The files of a commit whose candidate is not accurate enough, with its objects."""
        genuine = self.release()
        verdict = json.loads(genuine["verdict.json"])
        verdict["checks"][0] |= {"limit": 0.99, "passed": False}
        release = genuine | {"verdict.json": json.dumps(verdict | {"accepted": False}).encode()}
        judged = json.loads((self.project.path / JUDGED).read_bytes()) | {"accepted": False}
        said = json.dumps(judged).encode()
        hashes = {JUDGED: md5_of(said)}
        return {JUDGED: said, "dvc.lock": self.lock_with(self.store_folder(release), **hashes)}

    def grown(
        self, without: str = "", release: Mapping[str, bytes] | None = None
    ) -> dict[str, bytes]:
        """The files of a commit with other test data, with its objects.

        It is the genuine model with another card, if no other `release` is given. Some images that
        others learned from are test images here, and some of their test images are none; those of a
        class may be left out.
        """
        release = {**(release or self.release()), "README.md": b"# More data"}
        shards = {}
        for path in shard_paths(self.project.path / SHARDS):
            rows = read_table(path)
            if without:
                rows = rows.filter(pc.not_equal(rows["label"], without))
            splits = rows["split"].to_pylist()
            first = {split: splits.index(split) for split in ("train", "test")}
            splits[first["train"]], splits[first["test"]] = "test", "train"
            rows = rows.set_column(rows.column_names.index("split"), "split", pa.array(splits))
            path.unlink()  # which may be a link into the cache
            write_table(path, rows)
            shards[path.name] = path.read_bytes()
        evaluation = files_of(self.project.path / EVALUATION)
        table = pq.read_table(self.project.path / EVALUATION / PREDICTIONS_FILE)
        sink = pa.BufferOutputStream()
        pq.write_table(table.slice(1), sink)
        evaluation[PREDICTIONS_FILE] = sink.getvalue().to_pybytes()
        hashes = {SHARDS: self.store_folder(shards), EVALUATION: self.store_folder(evaluation)}
        return {"dvc.lock": self.lock_with(self.store_folder(release), **hashes)}

    def commit(self, files: Mapping[str, bytes] | None = None, message: str = "Forged") -> str:
        """A commit on top of HEAD with other files; neither HEAD nor the checkout changes."""
        index = {"GIT_INDEX_FILE": str(self.folder / "forged.index")}
        self._git("read-tree", "HEAD", env=index)
        for path, data in (files or {}).items():
            blob = self._git("hash-object", "-w", "--stdin", stdin=data)
            self._git("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", env=index)
        tree = self._git("write-tree", env=index)
        return self._git("commit-tree", tree, "-p", "HEAD", "-m", message)

    def tag(
        self,
        name: str,
        target: str,
        message: bytes = b"Forged",
        *,
        kind: str = "commit",
        who: bytes = b"Eve <eve@example.invalid>",
        when: bytes = b"1900000000 +0000",
    ) -> str:
        """An annotated tag of the model with any content; git is told not to look at it."""
        head = f"object {target}\ntype {kind}\ntag {name}\ntagger ".encode()
        body = b"%s%s %s\n\n%s\n" % (head, who, when, message)
        made = self._git("hash-object", "-t", "tag", "-w", "--literally", "--stdin", stdin=body)
        self._git("update-ref", f"refs/tags/{ARTIFACT}{name}", made)
        return made

    def another_release(self) -> str:
        """Put a release there that is genuine but for a word in its card; its hash."""
        return self.store_folder(self.release() | {"README.md": b"# Another card"})

    def version(self, release: str, evidence: Mapping[str, Any] | None = None) -> str:
        """Make a release of the remote the version `VERSION`; its commit."""
        commit = self.commit({"dvc.lock": self.lock_with(release)})
        self.tag(f"@{VERSION}", commit, message_of(evidence or {}))
        return commit

    def _git(self, *arguments: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> str:
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.project.path,
            env=environment(**(env or {})),
            input=stdin,
            capture_output=True,
            check=True,
        )
        return os.fsdecode(done.stdout).strip()


def message_of(evidence: Mapping[str, Any]) -> bytes:
    """The message of a tag that carries evidence."""
    return b"Forged\n\n" + json.dumps(evidence).encode()


# Copies, free to change, of worlds that are built once for all test processes

WEAK, STRONG, GROWN, REJECTED = (f"v1.{minor}.0" for minor in range(4))


def copied(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Forge:
    return Forge(once(factory, name, make)).copy(factory.mktemp(name) / "world")


def candidates(built: Project, factory: pytest.TempPathFactory) -> Forge:
    """HEAD, and two DVC experiments: `rejected`, and later `weak`, which is really trained."""

    def make(folder: Path) -> None:
        forge = Forge(create_world(built, folder).folder)
        commit = forge.commit(forge.rejected())
        git(forge.project, "update-ref", f"refs/exps/{commit[:2]}/{commit[2:]}/rejected", commit)
        forge.project.dvc(
            "exp run --name weak -S train.algorithm=supervised -S train.labeled_ratio=0.05"
        )
        git(forge.project, "reset", "--quiet", "--hard")
        forge.project.dvc("checkout --quiet --force")

    return copied(factory, "registry-candidates", make)


def one_version(built: Project, factory: pytest.TempPathFactory) -> Forge:
    """One version, in production, and a photo beside it."""

    def make(folder: Path) -> None:
        world = create_world(built, folder)
        picture().save(world.project.path / "photo.png")
        world.done("register", "--push")
        world.done("promote", "v1.0.0", "--stage", "production")

    return copied(factory, "registry-one", make)


def four_versions(built: Project, factory: pytest.TempPathFactory) -> Forge:
    """WEAK, STRONG, GROWN with other test data, and REJECTED, whose tag was made by hand.

    HEAD is REJECTED, HEAD~1 is GROWN and HEAD~2 is STRONG. No stage has a version.
    """

    def make(folder: Path) -> None:
        forge = candidates(built, factory).copy(folder)
        forge.done("register", "weak", "--push", GIT_COMMITTER_DATE="1700000000 +0000")
        forge.done("register", "--push", GIT_COMMITTER_DATE="1700000010 +0000")
        git(forge.project, "reset", "--quiet", "--hard", forge.commit(forge.grown()))
        forge.done("register", "--push", GIT_COMMITTER_DATE="1700000020 +0000")
        git(forge.project, "reset", "--quiet", "--hard", forge.commit(forge.rejected()))
        by_hand = ("tag", "-a", f"{ARTIFACT}@{REJECTED}", "-m", "By hand")
        git(forge.project, *by_hand, GIT_COMMITTER_DATE="1700000030 +0000")

    return copied(factory, "registry-four", make)
