"""The registry: its verbs, as those of MLflow's client. Each change is one new git tag.

A tag is made where it decides who came first: at the git remote if there is one, else here. Its
name carries a number that follows from the state it was decided on, so of two people who promote at
the same time the second finds the name taken. A kill leaves the tag or no tag, and W&B is told from
the tags, so every verb can simply be repeated.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from grocery.core.errors import RegistryError, meant
from grocery.registry.candidate import Candidate
from grocery.registry.git import LAST_SECOND, Git
from grocery.registry.judge import Comparison, Decision, compare_versions, decide
from grocery.registry.ledger import Ledger, NotMade
from grocery.registry.mirror import Disagreement, Mirror
from grocery.registry.records import RELEASE
from grocery.registry.reproduce import Reproduction, reproduce
from grocery.registry.revisions import Revision, commits, experiments, resolve
from grocery.registry.serving import release_of
from grocery.registry.state import State, Version
from grocery.registry.store import Store, first, open_store
from grocery.registry.tags import ARTIFACT, STAGES, Tag, is_version, message
from grocery.settings import load

_TRIES = 5


@dataclass(frozen=True)
class Outcome:
    """A version, its tag that stands now, whether that is new, and what production decided.

    What has left this machine: the names of the tags that were `sent` to the git remote, and the
    paths whose objects were `pushed` to the DVC remote.
    """

    version: Version
    tag: Tag
    new: bool
    decision: Decision | None = None
    sent: Sequence[str] = ()
    pushed: Sequence[str] = ()


class Registry:
    """The registry of a project. What it refuses and what fails is a `RegistryError`.

    Parameters
    ----------
    root
        Folder of the project.
    local
        Make tags in this clone only, even where there is a git remote.
    say
        Is given what came of telling W&B about a change, in a sentence.
    """

    def __init__(
        self, root: Path, *, local: bool = False, say: Callable[[str], object] = lambda _: None
    ) -> None:
        self.root = root
        self.git = Git(root)
        self.params = load(root / "params.yaml")
        folder = Path(os.environ.get("WANDB_DIR") or root).absolute()
        self.mirror = Mirror.of(folder, self.git, self.params)
        self.ledger = Ledger(self.git, None if local else self.mirror.remote)
        self._say = say

    def state(self) -> State:
        """The registry as this clone knows it."""
        return self.ledger.state()

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
                f"the working tree is not what was committed ({first(changed)}); commit it, or "
                "name the commit that is meant"
            )
        with open_store(self.root) as store:
            made = self._register(
                store, found, self.ledger.refresh(), version, bump=bump, push=push
            )
        self._tell()
        return made

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
                state = self.ledger.refresh()
                register = partial(self._register, store, revision, state, None)
                yield revision, _tried(partial(register, bump=bump, push=push))
        self._tell()

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
        if known := state.at(found.commit):
            return self._registered(known, found, version)
        candidate = Candidate(store, found.commit)
        candidate.check_fresh(found)  # before its release is taken for its own
        if known := candidate.twin(state):
            return self._registered(known, found, version)
        for name, gone in state.withdrawn.items():
            if gone.commit == found.commit:
                raise RegistryError(
                    f"{found} is {name}, which was withdrawn, and GTO knows one version per "
                    f"commit; to have it back, delete the tag {gone.name}"
                )
        if version and (version in state.versions or version in state.withdrawn):
            raise RegistryError(f"{version} is taken; the next one is {state.next_version(bump)}")
        pushed = candidate.check(str(found), push=push)
        facts = candidate.evidence() | {"experiment": found.experiment}
        for _ in range(_TRIES):
            name = version or state.next_version(bump)
            text = message(f"Register {ARTIFACT} {name}", {"schema": 1, "version": name, **facts})
            tag = self._tag(f"{ARTIFACT}@{name}", found.commit, text, not_before=0)
            if tag:
                sent = [tag.name] if self.ledger.remote else []
                return Outcome(Version(name, tag), tag, new=True, sent=sent, pushed=pushed)
            state = self.ledger.refresh()
            if known := state.at(found.commit):
                return Outcome(known, known.tag, new=False, pushed=pushed)
            if version:
                break
        raise RegistryError(f"{name} was registered by somebody else at the same time; try again")

    def _registered(self, known: Version, found: Revision, version: str | None) -> Outcome:
        if version and version != known.name:
            raise RegistryError(f"{found} is {known.name} already, and cannot be {version} too")
        return Outcome(known, known.tag, new=False, sent=self.ledger.share(known.tag))

    def promote(
        self, name: str, stage: str, *, force: bool = False, reason: str | None = None
    ) -> Outcome:
        """Put a version, or that of a stage, into a stage: staging or production.

        Into production only with the evidence that `registry.rule` of params.yaml asks for, or by
        `force`; `reason` is recorded.
        """
        _refuse_unknown(stage)
        if force and not (reason and reason.strip()):
            raise RegistryError("--force needs a --reason, which is recorded")
        state = self.ledger.refresh()
        version = state.find(name)
        now = state.assignment(stage)
        if now and now.commit == version.commit:
            return Outcome(version, now, new=False, sent=self.ledger.share(version.tag, now))
        decision = None
        with open_store(self.root) as store:
            _require(store, version, {release_of(self.git, version): RELEASE})
            if stage == "production":
                decision = self._decide(store, version, state, force=force)
                if not decision.passed and not force:
                    raise RegistryError(
                        f"{decision.sentence}; --force --reason overrides, and is recorded"
                    )
        facts = {
            "judgement": asdict(decision) if decision else None,
            "forced": force,
            "reason": reason,
        }
        return self._assign(state, stage, version, "Promote", facts=facts, decision=decision)

    def accept(self) -> Iterator[tuple[Disagreement, Outcome | RegistryError]]:
        """Promote, as by `promote`, what somebody has moved a stage to on W&B's page.

        Yields
        ------
        What W&B shows, and what became of it, or why it was refused.
        """
        for found in self.mirror.disagreements():
            if found.stage:
                yield found, _tried(partial(self._accept, found.version, found.stage))

    def _accept(self, name: str, stage: str) -> Outcome:
        state = self.ledger.refresh()
        if name not in state.versions:
            raise RegistryError("W&B has no version there; register it first")
        commit = state.versions[name].commit
        if any(tag.commit == commit for tag in state.history(stage)):  # by a rollback, it may be
            raise RegistryError(
                f"{stage} had {name} before, so W&B may only be behind; to have it back, type: "
                f"grocery registry promote {name} --stage {stage}"
            )
        return self.promote(name, stage, reason="moved there in W&B")

    def _decide(self, store: Store, version: Version, state: State, *, force: bool) -> Decision:
        try:
            return decide(store, version, state.current("production"), self.params.registry)
        except RegistryError as error:
            if not force:  # which is for the day when the present version is lost, too
                raise
            return Decision(False, f"{version.name} could not be judged: {error}")

    def rollback(self, stage: str, *, reason: str | None = None) -> Outcome:
        """Put the version back that a stage had before; refused when it cannot be had any more."""
        _refuse_unknown(stage)
        state = self.ledger.refresh()
        now, before = state.assignment(stage), state.previous(stage)
        if now is None:
            raise RegistryError(f"no version is in {stage}, so nothing can be rolled back")
        if before is None:
            raise RegistryError(f"{stage} had no version before {state.name_of(now)}")
        version = state.at(before.commit)
        if version is None:
            raise RegistryError(
                f"{stage} was at commit {before.commit[:7]} before (tag {before.name}), which is "
                "no version any more; promote another one"
            )
        with open_store(self.root) as store:
            _require(store, version, {release_of(self.git, version): RELEASE})
        facts = {"rollback": {"undoes": now.name, "from": state.name_of(now)}, "reason": reason}
        return self._assign(state, stage, version, "Roll back", facts=facts)

    def _assign(
        self,
        decided: State,
        stage: str,
        version: Version,
        verb: str,
        *,
        facts: dict[str, Any],
        decision: Decision | None = None,
    ) -> Outcome:
        """Move a stage, if nothing that was decided on has changed meanwhile."""
        state = self.ledger.refresh()
        now = state.assignment(stage)
        if now != decided.assignment(stage):
            raise _moved(stage, now)
        if state.versions.get(version.name) != version:
            raise RegistryError(
                f"{version.name} was withdrawn or moved meanwhile; look at it again"
            )
        history = state.history(stage)
        not_before = max([version.tag.time, *(tag.time + 1 for tag in history)])
        if not_before >= LAST_SECOND:
            last = max([version.tag, *history], key=lambda tag: tag.time)
            raise RegistryError(
                f"tag {last.name} is dated {last.when}, and nothing comes after that; delete it "
                "here and at the remote: git tag --delete, git push --delete"
            )
        sent = self.ledger.share(version.tag)
        previous = state.name_of(now) if now else None
        about = {"schema": 1, "version": version.name, "stage": stage, "previous": previous}
        text = message(f"{verb} {ARTIFACT} {stage} to {version.name}", about | facts)
        name = f"{ARTIFACT}#{stage}#{state.next_number(stage)}"
        tag = self._tag(name, version.commit, text, not_before=not_before)
        if not tag:
            raise _moved(stage, self.ledger.refresh().assignment(stage))
        sent += [tag.name] if self.ledger.remote else []
        self._tell()
        return Outcome(version, tag, new=True, decision=decision, sent=sent)

    def _tag(self, name: str, commit: str, text: str, *, not_before: int) -> Tag | None:
        """Make a tag; None when somebody else made one of this name first."""
        made = self.git.create_tag(name, commit, text, not_before=not_before)
        title = text.partition("\n")[0]
        self.mirror.remember(title)
        try:
            tag = self.ledger.add(name, made)
        except NotMade:
            self.mirror.forget(title)
            raise
        if tag is None:
            self.mirror.forget(title)
        return tag

    def _tell(self) -> None:
        """Bring W&B up to date. It shows what all have: a tag that stays in this clone waits."""
        if self.ledger.remote == self.mirror.remote and self.mirror.waiting:
            sentence = self.mirror.mirror_now()
            if "W&B: " in sentence:
                self._say(sentence)

    def compare(self, names: Sequence[str], *, anew: bool = False) -> Comparison:
        """Compare versions or stages with the first; see `grocery.registry.judge`."""
        state = self.state()
        with open_store(self.root) as store:
            return compare_versions(store, [state.find(name) for name in names], anew=anew)

    def reproduce(self, name: str) -> Reproduction:
        """Build a version, or that of a stage, again from its commit, and compare the bytes."""
        version = self.state().find(name)
        with open_store(self.root) as store:
            return reproduce(store, version)

    def lost(self) -> list[str]:
        """A sentence for each version that the DVC remote does not hold whole."""
        found = []
        with open_store(self.root) as store:
            for version in self.state().versions.values():
                try:
                    pipeline = store.pipeline(version.commit)
                    release_of(self.git, version)
                    _require(store, version, pipeline.stored)
                    found += [f"{version.name}: {problem}" for problem in pipeline.problems[:1]]
                except RegistryError as error:
                    said = str(error)
                    found.append(said if version.name in said else f"{version.name}: {said}")
        return found


def _tried(verb: Callable[[], Outcome]) -> Outcome | RegistryError:
    try:
        return verb()
    except RegistryError as reason:
        return reason


def _require(store: Store, version: Version, stored: Mapping[str, str]) -> None:
    """Refuse a version whose objects the DVC remote does not hold: paths by their hashes."""
    push = f"git checkout {version.tag.name} && dvc checkout && dvc push"
    store.require(stored, version.name, advice=f"in a clone that has it: {push}")


def _refuse_unknown(stage: str) -> None:
    if stage not in STAGES:
        known = f"{meant(stage, STAGES)}; the stages are {', '.join(STAGES)}"
        raise RegistryError(f"{stage!r} is no stage{known}")


def _moved(stage: str, now: Tag | None) -> RegistryError:
    who = f" by {now.who} ({now.name})" if now else ""
    return RegistryError(f"{stage} was moved at the same time{who}; look at it, then try again")
