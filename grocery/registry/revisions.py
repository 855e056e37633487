"""What a person may call a commit: a revision of git's, or the name of a DVC experiment."""

from __future__ import annotations

from dataclasses import dataclass

from grocery.core.errors import RegistryError
from grocery.registry.git import Git, GitFailed


@dataclass(frozen=True)
class Revision:
    """A commit (its full id), as somebody named it, and the DVC experiment that made it, if any."""

    name: str
    commit: str
    experiment: str | None = None

    def __str__(self) -> str:
        if self.name.startswith(self.commit[:7]):
            return f"commit {self.commit[:7]}"
        return f"{self.name} ({self.commit[:7]})"


def resolve(git: Git, name: str) -> Revision:
    """The commit that a name means: a revision of git's, or else an experiment.

    Raises
    ------
    RegistryError
        When there is none, or several experiments have the name.
    """
    commit, known = git.commit_of(name), experiments(git)
    if commit is not None:
        return Revision(name, commit, {each.commit: each.name for each in known}.get(commit))
    named = [each for each in known if each.name == name]
    if len(named) > 1:
        bases = ", ".join(found.commit[:7] for found in named)
        raise RegistryError(f"several experiments are called {name!r}; name a commit: {bases}")
    if not named:
        raise RegistryError(f"{name!r} is neither a revision nor a DVC experiment here")
    return named[0]


def experiments(git: Git) -> list[Revision]:
    """All DVC experiments of this clone, the oldest first."""
    # refs/exps/AB/CDEF.../NAME; what DVC keeps for itself, such as refs/exps/exec, is not as deep
    listed = git.ask(
        "for-each-ref",
        "--sort=committerdate",
        "--format=%(objectname) %(refname:lstrip=4)",
        "refs/exps/??/*/*",
    )
    pairs = (line.split(" ", 1) for line in listed.splitlines())
    return [Revision(name, commit, name) for commit, name in pairs]


def commits(git: Git, span: str) -> list[Revision]:
    """The commits of a range that changed dvc.lock, the oldest first.

    Raises
    ------
    RegistryError
        When git does not know the range.
    """
    try:
        listed = git.ask("rev-list", "--reverse", "--end-of-options", span, "--", "dvc.lock")
    except GitFailed as error:
        raise RegistryError(f"{span!r} is no range of commits ({error})") from None
    return [Revision(commit, commit) for commit in listed.splitlines()]
