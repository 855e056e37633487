"""What changes the registry: register, promote, roll back. Each change is one new git tag.

A tag is made where it decides who came first: at the git remote if there is one, else here. Its
name carries a number that follows from the state it was decided on, so of two people who promote at
the same time the second finds the name taken. A kill leaves the tag or no tag, and W&B is told from
the tags, so every command can simply be repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grocery.core.errors import RegistryError
from grocery.registry.candidate import Candidate, evidence, failed_checks, read_candidate
from grocery.registry.git import Git, GitFailed
from grocery.registry.judge import Judgement, judge
from grocery.registry.mirror import Mirror
from grocery.registry.objects import Objects, open_objects
from grocery.registry.pipeline import read_pipeline
from grocery.registry.records import RELEASE, recorded_hashes
from grocery.registry.revisions import Revision, commits, experiments, resolve
from grocery.registry.serving import release_of
from grocery.registry.state import State, Version, read_state
from grocery.registry.tags import ARTIFACT, STAGES, Tag, is_version, message, read_tags
from grocery.settings import load
from grocery.tracking.provenance import project_root

_TRIES = 5


class Refused(RegistryError):
    """The registry is in order, and the request is not granted."""


@dataclass(frozen=True)
class Outcome:
    """What a command did.

    Attributes
    ----------
    version
        The version it was about.
    tag
        The tag that now stands.
    new
        Whether the command made it; False when everything was so already.
    judgement
        What production was asked, if it was.
    """

    version: Version
    tag: Tag
    new: bool
    judgement: Judgement | None = None


class Registry:
    """The registry of the project in a folder.

    Parameters
    ----------
    root
        The project's root.
    local
        Make tags in this clone only, even where there is a git remote.
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
        """Bring the tags of the git remote here, then read them all.

        Raises
        ------
        RegistryError
            When the remote cannot be asked, or a tag differs here and there.
        """
        if self.remote:
            try:
                self.git.fetch_tags(self.remote, f"{ARTIFACT}*")
            except GitFailed as error:
                raise RegistryError(self._of_remote(error)) from None
        return self.state()

    def _of_remote(self, error: GitFailed) -> str:
        if not self.remote:
            return str(error)
        if "clobber" in str(error):
            return (
                f"a tag here is another one at {self.remote} ({error}); that one counts, so delete "
                "yours, with: git tag --delete NAME"
            )
        return (
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

        Parameters
        ----------
        revision
            Anything git knows, or the name of an experiment; None for HEAD, and then the working
            tree must be what was committed.
        version
            Its name; None for the next one.
        bump
            Which number the next one counts up: ``major``, ``minor`` or ``patch``.
        push
            Send the objects that the DVC remote lacks.

        Raises
        ------
        RegistryError
            With the reason when it is refused.
        """
        if version is not None and not is_version(version):
            raise Refused(f"{version!r} is no version; a version is like v1.2.0")
        found = resolve(self.git, revision or "HEAD")
        if revision is None:
            self._check_clean()
        with open_objects(self.root) as objects:
            return self._register(
                objects, found, self.refresh(), version=version, bump=bump, push=push
            )

    def register_all(
        self, span: str | None = None, *, bump: str = "minor", push: bool = False
    ) -> Iterator[tuple[Revision, Outcome | RegistryError]]:
        """Register every accepted candidate that is no version yet, the oldest first.

        Parameters
        ----------
        span
            A range of commits, such as ``v1.0.0..main``; None for all DVC experiments.
        bump, push
            As for `register`.

        Yields
        ------
        The revision, and what became of it, or why it was passed over.
        """
        found = commits(self.git, span) if span else experiments(self.git)
        with open_objects(self.root) as objects:
            for revision in found:
                state = self.refresh()
                try:
                    outcome = self._register(
                        objects, revision, state, version=None, bump=bump, push=push
                    )
                except RegistryError as reason:
                    yield revision, reason
                else:
                    yield revision, outcome

    def _check_clean(self) -> None:
        changed = self.git.changed_files()
        if changed:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise Refused(
                f"the working tree is not what was committed ({changed[0]}{more}); commit it, or "
                "name the commit that is meant"
            )

    def _register(
        self,
        objects: Objects,
        found: Revision,
        state: State,
        *,
        version: str | None,
        bump: str,
        push: bool,
    ) -> Outcome:
        known = state.at(found.commit) or self._twin(state, found)
        if known:
            if version and version != known.name:
                raise Refused(f"{found} is {known.name} already, and cannot be {version} too")
            self._share(known.tag)
            return Outcome(known, known.tag, new=False)
        for name, gone in state.withdrawn.items():
            if gone.commit == found.commit:
                raise Refused(
                    f"{found} is {name}, which was withdrawn, and GTO knows one version a commit; "
                    f"to have it back, delete the tag {gone.name}"
                )
        if version and (version in state.versions or version in state.withdrawn):
            raise Refused(f"{version} is taken; the next one is {state.next_version(bump)}")
        candidate = read_candidate(objects, self.git, found.commit)
        self._check_candidate(objects, candidate, found, push)
        facts = evidence(candidate, objects, self.git) | {"experiment": found.experiment}
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
        raise Refused(f"{name} was registered by somebody else at the same time; try again")

    def _twin(self, state: State, found: Revision) -> Version | None:
        """The version that has the very same release, built in another commit."""
        md5 = recorded_hashes(self.git, found.commit).get(RELEASE)
        for known in state.versions.values():
            if md5 and recorded_hashes(self.git, known.commit).get(RELEASE) == md5:
                return known
        return None

    def _check_candidate(
        self, objects: Objects, candidate: Candidate, found: Revision, push: bool
    ) -> None:
        """Refuse a candidate that could not be built again, was rejected, or cannot be pulled."""
        problems = candidate.pipeline.problems
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise Refused(
                f"dvc.lock of {found} is not what the commit holds: {problems[0]}{more}; run dvc "
                "repro and commit"
            )
        if candidate.judged.get("accepted") is not True:
            reasons = "; ".join(failed_checks(candidate, objects))
            raise Refused(f"the candidate of {found} was rejected: {reasons}")
        self.check_pullable(objects, candidate.pipeline.stored, str(found), push=push)

    def check_pullable(
        self, objects: Objects, stored: Mapping[str, str], what: str, *, push: bool = False
    ) -> None:
        """Make sure that the DVC remote holds all of these hashes, whose paths are named.

        Raises
        ------
        RegistryError
            When it does not; with `push`, when they cannot be sent either.
        """
        lacking = objects.not_in_remote(stored)
        if lacking and push:
            objects.push(lacking)
            lacking = objects.not_in_remote(stored)
        if lacking:
            first = min(stored[md5] for md5 in lacking)
            more = f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else ""
            raise Refused(
                f"{first}{more} of {what} is not in the DVC remote {objects.address}, so nobody "
                "could pull it; dvc push, or register with --push"
            )

    def promote(
        self, name: str, stage: str, *, force: bool = False, reason: str | None = None
    ) -> Outcome:
        """Put a version into a stage; into production only if it beats the present one.

        Parameters
        ----------
        name
            A version, or a stage whose version is meant.
        stage
            ``staging`` or ``production``.
        force
            Do so whatever the comparison says; `reason` is recorded.

        Raises
        ------
        RegistryError
            With the reason when it is refused.
        """
        if stage not in STAGES:
            raise Refused(f"{stage!r} is no stage; the stages are {', '.join(STAGES)}")
        if force and not (reason and reason.strip()):
            raise Refused("--force needs a --reason, which is recorded")
        state = self.refresh()
        version = state.find(name)
        now = state.assignment(stage)
        if now and now.commit == version.commit:
            self._share(version.tag)
            self._share(now)
            return Outcome(version, now, new=False)
        with open_objects(self.root) as objects:
            self.check_pullable(objects, {release_of(self.git, version): RELEASE}, version.name)
            judgement = None
            if stage == "production":
                present = state.at(now.commit) if now else None
                judgement = self._judge(objects, version, present, force=force)
                if now and not present and not force:
                    state.current(stage)  # says what is wrong with it
                if not judgement.passed and not force:
                    raise Refused(
                        f"{judgement.sentence}; --force --reason overrides, and is recorded"
                    )
        facts = {
            "judgement": judgement.document() if judgement else None,
            "forced": force,
            "reason": reason,
        }
        tag = self._assign(state, stage, version, facts, "Promote")
        return Outcome(version, tag, new=True, judgement=judgement)

    def _judge(
        self, objects: Objects, version: Version, present: Version | None, *, force: bool
    ) -> Judgement:
        try:
            margin = self.params.registry.margin
            return judge(objects, self.git, version, present, margin=margin)
        except RegistryError as error:
            if not force:  # which is for the day when the present version is lost, too
                raise
            return Judgement(False, f"{version.name} could not be judged: {error}")

    def rollback(self, stage: str, *, reason: str | None = None) -> Outcome:
        """Put the version back that a stage had before.

        Raises
        ------
        RegistryError
            When there was none, or it cannot be had any more.
        """
        state = self.refresh()
        now, before = state.assignment(stage), state.previous(stage)
        if now is None:
            raise Refused(f"no version is in {stage}, so nothing can be rolled back")
        if before is None:
            raise Refused(f"{stage} had no version before {_name(state, now)}")
        version = state.at(before.commit)
        if version is None:
            raise Refused(
                f"{stage} was at commit {before.commit[:7]} before (tag {before.name}), which is "
                "no version any more; promote another one"
            )
        with open_objects(self.root) as objects:
            self.check_pullable(objects, {release_of(self.git, version): RELEASE}, version.name)
        facts = {"rollback": {"undoes": now.name, "from": _name(state, now)}, "reason": reason}
        return Outcome(version, self._assign(state, stage, version, facts, "Roll back"), new=True)

    def _assign(
        self, state: State, stage: str, version: Version, facts: dict[str, Any], verb: str
    ) -> Tag:
        self._share(version.tag)
        history = state.history(stage)
        now = state.assignment(stage)
        number = max((tag.counter for tag in history), default=0) + 1
        text = message(
            f"{verb} {ARTIFACT} {stage} to {version.name}",
            {
                "schema": 1,
                "version": version.name,
                "stage": stage,
                "previous": _name(state, now) if now else None,
                **facts,
            },
        )
        latest = max((tag.time for tag in history), default=0)
        tag = self._tag(
            f"{ARTIFACT}#{stage}#{number}",
            version.commit,
            text,
            not_before=max(latest + 1, version.tag.time),
        )
        if tag:
            return tag
        winner = self.refresh().assignment(stage)
        who = f" by {winner.who} ({winner.name})" if winner else ""
        raise Refused(f"{stage} was moved at the same time{who}; look at it, then try again")

    def _tag(self, name: str, commit: str, text: str, *, not_before: int) -> Tag | None:
        """Make a tag; None when somebody else made one of this name first."""
        tag = self.git.create_tag(name, commit, text, not_before=not_before)
        self.mirror.remember(text.partition("\n")[0])
        try:
            self.git.publish_tag(name, tag, remote=self.remote)
        except GitFailed as error:
            standing = self._standing(name)
            if standing is None:
                raise RegistryError(self._of_remote(error)) from None
            if standing != tag:
                return None
            # It is ours: the answer was lost, or another command here has fetched it already.
            self.git.place_tag(name, tag)
        return next(known for known in read_tags(self.git)[0] if known.name == name)

    def _standing(self, name: str) -> str | None:
        """Id of the tag object of a name, at the remote or else here."""
        there = self.git.tags_at(self.remote, name).get(name) if self.remote else None
        return there or self.git.tag_object(name)

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
        with open_objects(self.root) as objects:
            for version in self.state().versions.values():
                try:
                    pipeline = read_pipeline(objects, self.git, version.commit)
                    release_of(self.git, version)
                    self.check_pullable(objects, pipeline.stored, version.name)
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
                self.git.push_tag(tag.name, self.remote)
        except GitFailed as error:
            raise RegistryError(self._of_remote(error)) from None


def _name(state: State, tag: Tag) -> str:
    """What to call the version of an assignment."""
    version = state.at(tag.commit)
    return version.name if version else tag.commit[:7]
