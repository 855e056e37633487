"""What changes the registry: register, promote, roll back. Each change is one new git tag.

A tag is made where it decides who came first: at the git remote if there is one, else here. Its
name carries a number that follows from the state it was decided on, so of two people who promote at
the same time the second finds the name taken. A kill leaves the tag or no tag, and W&B is told from
the tags, so every command can simply be repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grocery.core.errors import RegistryError, meant
from grocery.registry.candidate import Candidate, read_pipeline
from grocery.registry.decision import Decision, decide
from grocery.registry.git import Git, GitFailed
from grocery.registry.mirror import Mirror
from grocery.registry.records import RELEASE, recorded_hashes
from grocery.registry.revisions import Revision, commits, experiments, resolve
from grocery.registry.serving import release_of
from grocery.registry.state import State, Version, read_state
from grocery.registry.store import Store, open_store
from grocery.registry.tags import ARTIFACT, STAGES, Tag, is_version, message, read_tags
from grocery.settings import load
from grocery.tracking.provenance import project_root

_TRIES = 5
_MORE = "(and {} more)"


@dataclass(frozen=True)
class Outcome:
    """A version, its tag that stands now, whether that is new, and what production decided."""

    version: Version
    tag: Tag
    new: bool
    decision: Decision | None = None


class Registry:
    """The registry of the project in a folder. What it refuses and what fails is a `RegistryError`.

    When it is `local`, tags are made in this clone only, even where there is a git remote.
    """

    def __init__(self, root: Path, *, local: bool = False) -> None:
        self.root = root
        self.git = Git(root)
        self.params = load(root / "params.yaml")
        wanted = self.params.registry.remote
        self.remote = wanted if not local and wanted in self.git.remotes else None
        self.mirror = Mirror(project_root(), self.git, self.params.tracking, self.remote)

    @property
    def public(self) -> bool:
        """Whether a tag that is made now is one that all have: not after ``--local``."""
        return self.remote is not None or self.params.registry.remote not in self.git.remotes

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

    def _failed(self, error: GitFailed) -> RegistryError:
        if not self.remote:
            return error
        if "clobber" in str(error):
            return RegistryError(
                f"a tag here is another one at {self.remote} ({error}); that one counts, so delete "
                "yours, with: git tag --delete NAME"
            )
        return RegistryError(
            f"{self.remote}, through which versions are shared, cannot be asked ({error}); "
            "--local works on the tags of this clone alone"
        )

    def register(
        self,
        revision: str | None = None,
        *,
        version: str | None = None,
        bump: str = "minor",
        push: bool = False,
    ) -> Outcome:
        """Make the release candidate of a commit or of a DVC experiment a version.

        A `revision` is anything git knows, or the name of an experiment; None is HEAD, and then the
        working tree must be what was committed. Without a `version` it is the next one, by
        ``major``, ``minor`` or ``patch``. With `push`, what the DVC remote lacks is sent there.
        """
        if version is not None and not is_version(version):
            raise RegistryError(f"{version!r} is no version; a version is like v1.2.0")
        found = resolve(self.git, revision or "HEAD")
        if revision is None and (changed := self.git.changed_files()):
            raise RegistryError(
                f"the working tree is not what was committed ({_first(changed)}); commit it, or "
                "name the commit that is meant"
            )
        with open_store(self.root) as store:
            return self._register(store, found, self.refresh(), version, bump=bump, push=push)

    def register_all(
        self, span: str | None = None, *, bump: str = "minor", push: bool = False
    ) -> Iterator[tuple[Revision, Outcome | RegistryError]]:
        """Register every accepted candidate that is no version yet, the oldest first.

        Parameters
        ----------
        span
            A range of commits, such as ``v1.0.0..main``; None for all DVC experiments.

        Yields
        ------
        The revision, and what became of it, or why it was passed over.
        """
        found = commits(self.git, span) if span else experiments(self.git)
        with open_store(self.root) as store:
            for revision in found:
                state = self.refresh()
                outcome: Outcome | RegistryError
                try:
                    outcome = self._register(store, revision, state, None, bump=bump, push=push)
                except RegistryError as reason:
                    outcome = reason
                yield revision, outcome

    def _register(
        self,
        store: Store,
        found: Revision,
        state: State,
        version: str | None,
        *,
        bump: str,
        push: bool,
    ) -> Outcome:
        known = state.at(found.commit) or self._twin(state, found)
        if known:
            if version and version != known.name:
                raise RegistryError(f"{found} is {known.name} already, and cannot be {version} too")
            self._share(known.tag)
            return Outcome(known, known.tag, new=False)
        for name, gone in state.withdrawn.items():
            if gone.commit == found.commit:
                raise RegistryError(
                    f"{found} is {name}, which was withdrawn, and GTO knows one version a commit; "
                    f"to have it back, delete the tag {gone.name}"
                )
        if version and (version in state.versions or version in state.withdrawn):
            raise RegistryError(f"{version} is taken; the next one is {state.next_version(bump)}")
        candidate = Candidate(store, found.commit)
        self._check(store, candidate, found, push)
        facts = candidate.evidence() | {"experiment": found.experiment}
        for _ in range(_TRIES):
            name = version or state.next_version(bump)
            text = message(f"Register {ARTIFACT} {name}", {"schema": 1, "version": name, **facts})
            tag = self._tag(f"{ARTIFACT}@{name}", found.commit, text, not_before=0)
            if tag:
                return Outcome(Version(name, tag), tag, new=True)
            state = self.refresh()
            known = state.at(found.commit)
            if known:
                return Outcome(known, known.tag, new=False)
            if version:
                break
        raise RegistryError(f"{name} was registered by somebody else at the same time; try again")

    def _twin(self, state: State, found: Revision) -> Version | None:
        """The version that has the very same release, built in another commit."""
        if md5 := recorded_hashes(self.git, found.commit).get(RELEASE):
            for known in state.versions.values():
                if recorded_hashes(self.git, known.commit).get(RELEASE) == md5:
                    return known
        return None

    def _check(self, store: Store, candidate: Candidate, found: Revision, push: bool) -> None:
        """Refuse a candidate that could not be built again, was rejected, or cannot be pulled."""
        problems = candidate.pipeline.problems
        if problems:
            raise RegistryError(
                f"dvc.lock of {found} is not what the commit holds: {_first(problems, _MORE)}; run "
                "dvc repro and commit"
            )
        if not candidate.accepted:
            reasons = "; ".join(candidate.failed_checks())
            raise RegistryError(f"the candidate of {found} was rejected: {reasons}")
        if push and (lacking := store.not_in_remote(candidate.pipeline.stored)):
            store.push(lacking)
        self._check_pullable(store, candidate.pipeline.stored, str(found))

    def _check_pullable(self, store: Store, stored: Mapping[str, str], what: str) -> None:
        """Make sure that the DVC remote holds all of these hashes, whose paths are named."""
        lacking = sorted(stored[md5] for md5 in store.not_in_remote(stored))
        if lacking:
            raise RegistryError(
                f"{_first(lacking, _MORE)} of {what} is not in the DVC remote {store.address}, so "
                "nobody could pull it; dvc push, or register with --push"
            )

    def promote(
        self, name: str, stage: str, *, force: bool = False, reason: str | None = None
    ) -> Outcome:
        """Put a version, or that of a stage, into a stage: staging or production.

        Into production only if it beats the present one, or by `force`; `reason` is recorded.
        """
        if stage not in STAGES:
            known = f"{meant(stage, STAGES)}; the stages are {', '.join(STAGES)}"
            raise RegistryError(f"{stage!r} is no stage{known}")
        if force and not (reason and reason.strip()):
            raise RegistryError("--force needs a --reason, which is recorded")
        state = self.refresh()
        version = state.find(name)
        now = state.assignment(stage)
        if now and now.commit == version.commit:
            self._share(version.tag)
            self._share(now)
            return Outcome(version, now, new=False)
        decision = None
        with open_store(self.root) as store:
            self._check_pullable(store, {release_of(self.git, version): RELEASE}, version.name)
            if stage == "production":
                present = state.at(now.commit) if now else None
                decision = self._decide(store, version, present, force=force)
                if now and not present and not force:
                    state.current(stage)  # says what is wrong with it
                if not decision.passed and not force:
                    raise RegistryError(
                        f"{decision.sentence}; --force --reason overrides, and is recorded"
                    )
        facts = {
            "judgement": decision.document() if decision else None,
            "forced": force,
            "reason": reason,
        }
        tag = self._assign(state, stage, version, facts, "Promote")
        return Outcome(version, tag, new=True, decision=decision)

    def _decide(
        self, store: Store, version: Version, present: Version | None, *, force: bool
    ) -> Decision:
        try:
            return decide(store, version, present, margin=self.params.registry.margin)
        except RegistryError as error:
            if not force:  # which is for the day when the present version is lost, too
                raise
            return Decision(False, f"{version.name} could not be judged: {error}")

    def rollback(self, stage: str, *, reason: str | None = None) -> Outcome:
        """Put the version back that a stage had before; refused when it cannot be had any more."""
        state = self.refresh()
        now, before = state.assignment(stage), state.previous(stage)
        if now is None:
            raise RegistryError(f"no version is in {stage}, so nothing can be rolled back")
        if before is None:
            raise RegistryError(f"{stage} had no version before {_name(state, now)}")
        version = state.at(before.commit)
        if version is None:
            raise RegistryError(
                f"{stage} was at commit {before.commit[:7]} before (tag {before.name}), which is "
                "no version any more; promote another one"
            )
        with open_store(self.root) as store:
            self._check_pullable(store, {release_of(self.git, version): RELEASE}, version.name)
        facts = {"rollback": {"undoes": now.name, "from": _name(state, now)}, "reason": reason}
        return Outcome(version, self._assign(state, stage, version, facts, "Roll back"), new=True)

    def _assign(
        self, state: State, stage: str, version: Version, facts: dict[str, Any], verb: str
    ) -> Tag:
        self._share(version.tag)
        history = state.history(stage)
        now = state.assignment(stage)
        number = max((tag.counter for tag in history), default=0) + 1
        previous = _name(state, now) if now else None
        about = {"schema": 1, "version": version.name, "stage": stage, "previous": previous}
        text = message(f"{verb} {ARTIFACT} {stage} to {version.name}", about | facts)
        name = f"{ARTIFACT}#{stage}#{number}"
        latest = max([version.tag.time, *(tag.time + 1 for tag in history)])
        tag = self._tag(name, version.commit, text, not_before=latest)
        if tag:
            return tag
        winner = self.refresh().assignment(stage)
        who = f" by {winner.who} ({winner.name})" if winner else ""
        raise RegistryError(f"{stage} was moved at the same time{who}; look at it, then try again")

    def _tag(self, name: str, commit: str, text: str, *, not_before: int) -> Tag | None:
        """Make a tag; None when somebody else made one of this name first."""
        tag = self.git.create_tag(name, commit, text, not_before=not_before)
        self.mirror.remember(text.partition("\n")[0])
        try:
            self.git.publish_tag(name, tag, remote=self.remote)
        except GitFailed as error:
            there = self.git.tags_at(self.remote, name).get(name) if self.remote else None
            standing = there or self.git.tag_object(name)
            if standing is None:
                raise self._failed(error) from None
            if standing != tag:
                return None
            # It is ours: the answer was lost, or another command here has fetched it already.
            self.git.place_tag(name, tag)
        return next(known for known in read_tags(self.git)[0] if known.name == name)

    def unshared(self) -> list[str]:
        """A sentence for each tag that is not here as it is at the git remote."""
        if not self.remote:
            return []
        try:
            there = self.git.tags_at(self.remote, f"{ARTIFACT}*")
        except GitFailed as error:
            return [f"{self.remote} cannot be asked ({error})"]
        here = {tag.name: tag.object for tag in read_tags(self.git)[0]}
        found = []
        for name in sorted({*here, *there}):
            if name not in there:
                found.append(f"tag {name} is not at {self.remote}; send it, or delete it here")
            elif name not in here and self.git.commit_of(f"refs/tags/{name}") is None:
                found.append(f"tag {name} is at {self.remote} and not here: git fetch --tags")
            elif name in here and here[name] != there[name]:
                found.append(f"tag {name} is another one here than at {self.remote}")
        return found

    def lost(self) -> list[str]:
        """A sentence for each version that the DVC remote does not hold whole."""
        found = []
        with open_store(self.root) as store:
            for version in self.state().versions.values():
                try:
                    pipeline = read_pipeline(store, version.commit)
                    release_of(self.git, version)
                    self._check_pullable(store, pipeline.stored, version.name)
                    found += [f"{version.name}: {problem}" for problem in pipeline.problems[:1]]
                except RegistryError as error:
                    said = str(error)
                    found.append(said if version.name in said else f"{version.name}: {said}")
        return found

    def _share(self, tag: Tag) -> None:
        """Send a tag that stands here only, as after ``--local``."""
        if not self.remote:
            return
        try:
            if tag.name not in self.git.tags_at(self.remote, tag.name):
                self.git.push_tag(tag.name, tag.object, self.remote)
        except GitFailed as error:
            raise self._failed(error) from None


def _name(state: State, tag: Tag) -> str:
    """What to call the version of an assignment."""
    version = state.at(tag.commit)
    return version.name if version else tag.commit[:7]


def _first(found: Sequence[str], more: str = "and {} more") -> str:
    return f"{found[0]} {more.format(len(found) - 1)}" if len(found) > 1 else found[0]
