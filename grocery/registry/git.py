"""The few questions that the registry asks of git, and the one way in which it changes it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from grocery.contents import folder_md5, md5_of
from grocery.core.errors import RegistryError, printable, public

NETWORK_SECONDS = 60.0
LAST_SECOND = 253_402_300_799  # of the year 9999, in seconds since 1970
_BLOBS = 256  # files of a commit that are in memory at once


class GitFailed(RegistryError):
    """A git command failed; the sentence holds what git said."""


class Refused(GitFailed):
    """A hook, or the remote itself, refused what was pushed; the sentence says it in its words."""


class Git:
    """A git repository.

    Parameters
    ----------
    folder
        A folder in it: the project's root, to which all paths are relative.

    Raises
    ------
    RegistryError
        When there is no git, or the folder is in no repository.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not folder.is_dir():
            raise RegistryError(f"{folder} is not a folder")
        try:
            self.ask("rev-parse", "--git-dir")
        except GitFailed:
            raise RegistryError(
                f"{folder.absolute()} is in no git repository; run this in a clone of the project"
            ) from None

    def ask(self, *arguments: str, stdin: str = "", seconds: float | None = None) -> str:
        """What a git command prints, without the last line break.

        Raises
        ------
        GitFailed
            When it fails; in git's own words.
        """
        return self._run(arguments, stdin, seconds).decode(errors="replace").rstrip("\n")

    def _run(self, arguments: Sequence[str], stdin: str, seconds: float | None) -> bytes:
        environment = {
            **os.environ,
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_TERMINAL_PROMPT": "0",  # a question would wait for ever in a pipe
            "LC_ALL": "C",
        }
        try:
            done = subprocess.run(
                ["git", *arguments],
                cwd=self.folder,
                env=environment,
                # an argument that was no UTF-8 cannot be written as it was
                input=stdin.encode(errors="replace"),
                capture_output=True,
                check=False,
                timeout=seconds,
            )
        except FileNotFoundError:
            raise RegistryError("git is not installed; the registry lives in its tags") from None
        except subprocess.TimeoutExpired:
            raise GitFailed(f"git {arguments[0]} did not end within {seconds:.0f} s") from None
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            if arguments[0] == "push" and (words := _refusal(said)):
                raise Refused(public(printable(words)))
            marks = ("!", "fatal", "error")  # a refused tag, then what git says of it all
            found = (s.strip() for mark in marks for s in said if s.strip().startswith(mark))
            reason = next(found, " ".join(said) or f"git {arguments[0]} failed")
            raise GitFailed(public(printable(reason)))
        return done.stdout

    def commit_of(self, revision: str) -> str | None:
        """Full id of the commit that a revision or a tag names; None when git knows no such."""
        if revision.startswith("-"):
            return None
        try:
            return self.ask("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
        except GitFailed:
            return None

    def read(self, commit: str, path: str) -> bytes | None:
        """Content of a file in a commit; None where it is not there."""
        try:
            return self._run(["cat-file", "blob", f"{commit}:./{path}"], "", None)
        except GitFailed:
            return None

    def md5(self, commit: str, path: str) -> str | None:
        """What DVC calls the content of a path in a commit; None where git does not have it."""
        listed = self.ask("ls-tree", "-r", "-z", commit, "--", path)
        rows = [row.split("\t", 1) for row in listed.split("\0")[:-1]]
        md5s = self._md5s([about.split()[2] for about, _ in rows])
        files = {name: md5 for (_, name), md5 in zip(rows, md5s, strict=True)}
        if files and [*files] != [path]:
            return folder_md5({name.removeprefix(f"{path}/"): md5 for name, md5 in files.items()})
        return files.get(path)

    def _md5s(self, blobs: Sequence[str]) -> Iterator[str]:
        """MD5 of each of these blobs; git is started once for many, not once for each."""
        for start in range(0, len(blobs), _BLOBS):
            some = blobs[start : start + _BLOBS]
            said, at = self._run(["cat-file", "--batch"], "\n".join(some), None), 0
            for _ in some:
                end = said.index(b"\n", at)  # of "ID blob SIZE", or of "ID missing": a submodule
                words = said[at:end].split()
                size = int(words[2]) if len(words) > 2 else -1
                yield md5_of(said[end + 1 : end + 1 + size] if size > 0 else b"")
                at = end + 2 + size

    def changed_files(self) -> list[str]:
        """Tracked files that are not what was committed."""
        listed = self.ask("status", "--porcelain", "--untracked-files=no", "--", ".")
        return [line[3:] for line in listed.splitlines()]

    @cached_property
    def remotes(self) -> list[str]:
        """Names of the remotes of this clone."""
        return self.ask("remote").splitlines()

    def tags_at(self, remote: str, pattern: str) -> dict[str, str]:
        """Id of the object of each tag at a remote."""
        listed = self.ask("ls-remote", "--tags", "--refs", remote, pattern, seconds=NETWORK_SECONDS)
        rows = [line.split("\t") for line in listed.splitlines()]
        return {name.removeprefix("refs/tags/"): sha for sha, name in rows}

    def fetch_tags(self, remote: str, pattern: str) -> None:
        """Bring the tags of a remote here. One that is here already, and differs, is an error."""
        place = f"refs/tags/{pattern}"
        self.ask("fetch", "--no-tags", remote, f"{place}:{place}", seconds=NETWORK_SECONDS)

    def create_tag(self, name: str, commit: str, message: str, *, not_before: int) -> str:
        """Write an annotated tag's object and give its id; `publish_tag` gives it its name.

        Clocks differ from machine to machine, and tags are read in the order of their times: the
        tag's is at least `not_before`, in seconds since 1970.
        """
        who, seconds, zone = self.ask("var", "GIT_COMMITTER_IDENT").rsplit(" ", 2)
        when = max(int(seconds), not_before)
        if when >= LAST_SECOND:  # no tag could come after it
            raise RegistryError(f"the tag {name} would be dated after the year 9999; set the clock")
        head = f"object {commit}\ntype commit\ntag {name}\ntagger {who} {when} {zone}\n"
        return self.ask("mktag", stdin=f"{head}\n{message}\n")

    def publish_tag(self, name: str, tag: str, *, remote: str | None) -> None:
        """Give a tag object its name: at the remote first, which decides who came first, then here.

        Raises
        ------
        GitFailed
            When a tag of that name is there already, or the remote cannot be written to.
        """
        if remote:
            self.push_tag(name, tag, remote)
        self.ask("update-ref", f"refs/tags/{name}", tag, "0" * 40)

    def place_tag(self, name: str, tag: str) -> None:
        """Give a tag object its name here, where it may have it already."""
        self.ask("update-ref", f"refs/tags/{name}", tag)

    def tag_object(self, name: str) -> str | None:
        """Id of the object of a tag here."""
        return self.ask("for-each-ref", "--format=%(objectname)", f"refs/tags/{name}") or None

    def push_tag(self, name: str, tag: str, remote: str) -> None:
        """Give a tag object its name at a remote."""
        place = f"{tag}:refs/tags/{name}"
        self.ask("push", "--quiet", remote, place, seconds=NETWORK_SECONDS)


def _refusal(said: Sequence[str]) -> str:
    """What git says of a push that the remote or a hook refused; empty if it failed otherwise.

    A hook of this clone stops the push before anything is asked: then git names no tag.
    """
    hook = [line.removeprefix("remote:").strip() for line in said if line.startswith("remote:")]
    rejected = [line for line in said if "[remote rejected]" in line]
    if rejected:
        return "; ".join([rejected[0].partition("]")[2].strip(), *hook])
    if said[-1:] and said[-1].startswith("error: failed to push some refs"):
        known = any(line.lstrip().startswith(("!", "fatal")) for line in said)
        return "" if known else "; ".join(["the hook pre-push of this clone", *said[:-1]])
    return ""
