"""The model's tags in a clone, and at the git remote through which they are shared."""

from __future__ import annotations

from dataclasses import dataclass

from grocery.core.errors import RegistryError
from grocery.registry.git import Git, GitFailed, Refused
from grocery.registry.state import State, read_state
from grocery.registry.tags import ARTIFACT, Tag, read_tags


class NotMade(RegistryError):
    """A tag was not made, neither here nor at the git remote."""


@dataclass(frozen=True)
class Ledger:
    """The tags of a clone; a `remote` decides who was first, without one the clone does."""

    git: Git
    remote: str | None

    def state(self) -> State:
        """The registry as this clone knows it."""
        return read_state(self.git)

    def refresh(self) -> State:
        """Bring the tags of the git remote here, then read them all."""
        if self.remote:
            try:
                self.git.fetch_tags(self.remote, f"{ARTIFACT}*")
            except GitFailed as error:
                raise self._failed(error) from None
        return self.state()

    def add(self, name: str, made: str) -> Tag | None:
        """Give a tag object its name; None when another tag got this name first.

        Raises
        ------
        NotMade
            When it was refused.
        RegistryError
            When the remote cannot be asked whether it has it.
        """
        try:
            self.git.publish_tag(name, made, remote=self.remote)
        except GitFailed as error:
            standing = self._at_remote(name).get(name) or self.git.tag_object(name)
            if standing is None:
                raise NotMade(str(self._failed(error))) from None
            if standing != made:
                return None
            # It is ours: the answer was lost, or another command here has fetched it already.
            self.git.place_tag(name, made)
        return next(known for known in read_tags(self.git)[0] if known.name == name)

    def share(self, *tags: Tag) -> list[str]:
        """Send tags that stand here only, as after ``--local``; their names."""
        sent = []
        for tag in tags if self.remote else ():
            if tag.name not in self._at_remote(tag.name):
                try:
                    self.git.push_tag(tag.name, tag.object, self.remote or "")
                except GitFailed as error:
                    raise self._failed(error) from None
                sent.append(tag.name)
        return sent

    def unshared(self) -> list[str]:
        """A sentence for each tag that is not here as it is at the git remote."""
        try:
            there = self._at_remote(f"{ARTIFACT}*")
        except RegistryError as error:
            return [str(error)]
        here = {tag.name: tag.object for tag in read_tags(self.git)[0]} if self.remote else {}
        found = []
        for name in sorted({*here, *there}):
            if name not in there:
                found.append(f"tag {name} is not at {self.remote}; send it, or delete it here")
            elif name not in here and self.git.commit_of(f"refs/tags/{name}") is None:
                found.append(f"tag {name} is at {self.remote} and not here: git fetch --tags")
            elif name in here and here[name] != there[name]:
                found.append(f"tag {name} is another one here than at {self.remote}")
        return found

    def _at_remote(self, pattern: str) -> dict[str, str]:
        """Ids of the objects of the remote's tags; none without a remote."""
        try:
            return self.git.tags_at(self.remote, pattern) if self.remote else {}
        except GitFailed as error:
            raise self._failed(error) from None

    def _failed(self, error: GitFailed) -> RegistryError:
        if not self.remote:
            return error
        if isinstance(error, Refused):
            return RegistryError(f"the tag could not be sent to {self.remote}: {error}")
        if "clobber" in str(error):
            return RegistryError(
                f"a tag here is another one at {self.remote} ({error}); that one counts, so delete "
                "yours, with: git tag --delete NAME"
            )
        return RegistryError(
            f"{self.remote}, through which versions are shared, cannot be asked ({error}); "
            "--local works on the tags of this clone alone"
        )
