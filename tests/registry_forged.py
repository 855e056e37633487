"""What somebody who may write to git and to the DVC remote could put there: consistent, hostile."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conftest import environment
from grocery.core.arrays import sealed
from grocery.release.model import KIND
from registry_project import ARTIFACT, Said, World, git, output_at

RELEASE = "models/release"
VERSION = "v9.0.0"  # what hostile versions are called


def md5_of(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def listing(files: Mapping[str, str]) -> bytes:
    """The list of a folder's files and their hashes, with the very bytes that DVC writes."""
    rows = [{"md5": md5, "relpath": name} for name, md5 in sorted(files.items())]
    return json.dumps(rows, sort_keys=True).encode()


@dataclass(frozen=True)
class Forge:
    """Makes objects in the DVC remote, commits and tags that fit them.

    Attributes
    ----------
    world
        Whose remote and git it is.
    """

    world: World

    @property
    def folder(self) -> Path:
        return self.world.project.path

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
        top = self.folder / ".dvc/cache" if cache else self.world.storage
        return top / "files/md5" / md5[:2] / md5[2:]

    def store_list(self, data: bytes, *, cache: bool = False) -> str:
        """Put the list of a folder there; the folder's hash."""
        return self.store(data, f"{md5_of(data)}.dir", cache=cache)

    def store_folder(self, files: Mapping[str, bytes], *, cache: bool = False) -> str:
        """Put a folder with all of its files there; its hash."""
        md5s = {name: self.store(data, cache=cache) for name, data in files.items()}
        return self.store_list(listing(md5s), cache=cache)

    def release(self) -> dict[str, bytes]:
        """The files of the genuine release."""
        root = self.folder / RELEASE
        found = (path for path in root.rglob("*") if path.is_file())
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}

    def with_arrays(self, arrays: bytes, **settings: Any) -> dict[str, bytes]:
        """The genuine release with other arrays or settings; model.json carries their digest."""
        files = self.release()
        description = sealed(KIND, arrays, json.loads(files["model.json"]) | settings)
        return files | {
            "model.safetensors": arrays,
            "model.json": json.dumps(description).encode(),
        }

    def lock_with(self, md5: str) -> bytes:
        """The committed dvc.lock with another hash of the release."""
        genuine = output_at(self.world.project, "HEAD", RELEASE)
        return (self.folder / "dvc.lock").read_bytes().replace(genuine.encode(), md5.encode())

    def commit(self, files: Mapping[str, bytes] | None = None, message: str = "Forged") -> str:
        """A commit on top of HEAD with other files; neither HEAD nor the checkout changes."""
        index = {"GIT_INDEX_FILE": str(self.world.folder / "forged.index")}
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

    def delete_tags(self, names: Iterable[str]) -> None:
        """Delete tags, whatever they are."""
        for name in names:
            self._git("update-ref", "-d", f"refs/tags/{name}")

    def _git(self, *arguments: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> str:
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.folder,
            env=environment(**(env or {})),
            input=stdin,
            capture_output=True,
            check=True,
        )
        return os.fsdecode(done.stdout).strip()


def message_of(evidence: Mapping[str, Any]) -> bytes:
    """The message of a tag that carries evidence."""
    return b"Forged\n\n" + json.dumps(evidence).encode()


def head_of(world: World) -> str:
    return git(world.project, "rev-parse", "HEAD")


def limited(world: World, *arguments: str) -> Said:
    """Run a command that may not take more than 4 GB of addresses, most of which are libraries."""
    command = 'ulimit -v 4000000; exec "$@"'
    done = subprocess.run(
        ["bash", "-c", command, "bash", sys.executable, "-m", "grocery.cli", *arguments],
        cwd=world.project.path,
        env=environment(XDG_CACHE_HOME=str(world.folder / "cache")),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return Said(done.returncode, done.stdout, done.stderr)
