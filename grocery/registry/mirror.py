"""Git and its mirror, the W&B registry: what waits to be told, and what is told.

A command that changes the registry first notes so in ``wandb/outbox/registry.jsonl``, then changes
git, then tells W&B what git says now. So after a kill at any point the note stands, and `grocery
sync` tells W&B. A note names what was done for people only: W&B is told the state, not the steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock, Timeout

from grocery.core.errors import RegistryError, TrackingError
from grocery.registry.collection import NOT_ASKED, Release, may_tell, open_collection
from grocery.registry.corrections import Wanted
from grocery.registry.git import Git
from grocery.registry.notes import Notes
from grocery.registry.serving import release_of
from grocery.registry.state import read_state
from grocery.registry.tags import ARTIFACT, STAGES
from grocery.settings import Params, TrackingParams
from grocery.tracking.mode import requested_mode
from grocery.tracking.process import apart
from grocery.tracking.sdk import one_line

LATER = "`grocery sync` tells W&B"

# Git may change while W&B is told; as often it is told anew.
_ROUNDS = 5


@dataclass(frozen=True)
class Disagreement:
    """A sentence on what is otherwise in W&B than in git.

    Where somebody has moved a stage on W&B's page, also the stage, and the version that has it
    there: empty where that is none of git's.
    """

    says: str
    stage: str = ""
    version: str = ""


@dataclass
class Mirror:
    """The mirror of one clone."""

    # Folder that W&B's own folder lies in, see `grocery.tracking.provenance.project_root`.
    root: Path
    git: Git
    # The section ``tracking`` of params.yaml; an empty `registry` means that there is no mirror.
    settings: TrackingParams
    # Git remote whose tags count; None for those of this clone alone.
    remote: str | None = None

    @cached_property
    def _notes(self) -> Notes:
        return Notes(self.root)

    @classmethod
    def of(cls, root: Path, git: Git, params: Params) -> Mirror:
        """The mirror that params.yaml describes."""
        shared = params.registry.remote
        return cls(root, git, params.tracking, shared if shared in git.remotes else None)

    @property
    def enabled(self) -> bool:
        """Whether W&B is told at all: there is a registry, and WANDB_MODE is not disabled."""
        return bool(self.settings.registry) and requested_mode() != "disabled"

    @property
    def waiting(self) -> bool:
        """Whether W&B is still to be told of something."""
        return bool(self._notes.waiting())

    def remember(self, what: str) -> None:
        """Note what is about to be done to git, for people; it is on disk when this returns."""
        if self.enabled:
            self._notes.add(what)

    def forget(self, what: str) -> None:
        """Take back the note of what was not done after all."""
        if self.enabled:
            self._notes.take_back(what)

    def mirror_now(self) -> str:
        """Tell W&B after git was changed: now if it can be reached, else it stays noted.

        Returns
        -------
        A sentence for people, which begins with ``warning:`` when W&B failed; empty when there is
        no mirror. Nothing is raised: what was done is done.
        """
        try:
            if not self.enabled:
                return ""
            self._notes.done()
            reason = NOT_ASKED
            if may_tell(self.root):
                count = sum(1 for _ in self.reconcile())
                return f"W&B: {count} change{'' if count == 1 else 's'}"
        except Exception as error:  # also a defect: the command has done its work
            reason = one_line(error)
        if reason == NOT_ASKED:
            return LATER
        return f"warning: W&B: {reason}; {LATER}"

    def disagreements(self) -> list[Disagreement]:
        """What is otherwise in W&B than in git; nothing without a mirror.

        Raises
        ------
        TrackingError
            When W&B is not to be asked, or cannot be.
        RegistryError
            When git's remote cannot be asked.
        """
        if not self.enabled:
            return []
        if not may_tell(self.root):
            raise TrackingError(NOT_ASKED)
        return [Disagreement(*found) for found in self._apart("disagreements_of")]

    def repair(self) -> Iterator[str]:
        """Make W&B what git says, whatever it is now; yields a sentence for each change.

        Raises
        ------
        TrackingError
            When there is no mirror, when W&B cannot be reached, and when it refuses something.
        RegistryError
            When git's remote cannot be asked.
        """
        if not self.settings.registry:
            raise TrackingError("there is no W&B registry: tracking.registry is empty")
        yield from self.reconcile(patient=True)

    def reconcile(self, *, patient: bool = False) -> Iterator[str]:
        """As `repair`; without `patient`, a release must get to W&B within the longest wait.

        When it comes to its end, what was noted before it began is told.
        """
        self._notes.done()
        if not self.settings.registry:
            self._notes.told(self._notes.settled())
            return
        yield from self._apart("reconciled", patient=patient)

    def _apart(self, verb: str, **how: Any) -> Iterator[str]:
        """What a function of this module yields, in a process that may speak with W&B."""
        how |= {"root": str(self.root), "folder": str(self.git.folder), "remote": self.remote}
        how["settings"] = self.settings.model_dump()
        function, seconds = f"{__name__}:{verb}", 3 * self.settings.timeout
        return apart(function, self.root / "wandb", seconds, **how)

    def _reconcile(self, patient: bool) -> Iterator[Any]:
        with self._alone(), _releases(self.git) as release:
            collection = open_collection(self.settings, self.root, self.git.folder, patient=patient)
            noted = self._notes.settled()
            versions, _ = self._wanted()
            for _ in range(_ROUNDS):
                yield from collection.reconcile(versions, release)
                # Whoever changed git meanwhile may have told W&B before us. Of all that tell it,
                # the last one looks at git after that, so W&B ends as git does.
                before = versions
                versions, _ = self._wanted()
                if versions == before:
                    break
            self._notes.told(noted)

    def _disagreements(self) -> Iterator[list[str]]:
        versions, problems = self._wanted()
        yield from ([problem] for problem in problems)
        collection = open_collection(self.settings, self.root, self.git.folder)
        named = {version.md5: version.version for version in versions}
        for found in collection.corrections(versions):
            moved = found.alias in STAGES and found.holder
            yield [found.says, *([found.alias, named.get(moved.md5, "")] if moved else [])]

    def _wanted(self) -> tuple[list[Wanted], list[str]]:
        """What should stand in the W&B registry, in the order in which it was registered.

        Returns
        -------
        The versions, and a sentence for each that has no release that could be linked.
        """
        if self.remote:
            try:
                self.git.fetch_tags(self.remote, f"{ARTIFACT}*")
            except RegistryError as error:
                raise RegistryError(f"the tags of {self.remote} cannot be had ({error})") from None
        state = read_state(self.git)
        found, problems = [], []
        for version in sorted(state.versions.values(), key=lambda v: (v.tag.time, v.tag.counter)):
            try:
                md5 = release_of(self.git, version)
            except RegistryError as error:
                problems.append(str(error))
                continue
            stages = {*STAGES} & {*state.stages_of(version)}
            found.append(Wanted(version.name, md5, frozenset({version.name, *stages})))
        return found, problems

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait for others in this clone that tell W&B."""
        try:
            with FileLock(self._notes.lock, timeout=self.settings.timeout):
                yield
        except Timeout:
            raise TrackingError("another command is telling W&B about the registry") from None


def reconciled(patient: bool, **ours: Any) -> Iterator[Any]:
    """See `Mirror.reconcile`; in the process that speaks with W&B."""
    return _mirror(**ours)._reconcile(patient)


def disagreements_of(**ours: Any) -> Iterator[list[str]]:
    """See `Mirror.disagreements`; in the process that speaks with W&B."""
    return _mirror(**ours)._disagreements()


def _mirror(root: str, folder: str, settings: dict[str, Any], remote: str | None) -> Mirror:
    return Mirror(Path(root), Git(Path(folder)), TrackingParams(**settings), remote)


@contextmanager
def _releases(git: Git) -> Iterator[Release]:
    """Gives releases that W&B has not got from DVC's cache or its remote, for a while."""
    from grocery.registry.store import open_store

    with TemporaryDirectory(prefix="grocery-release-") as scratch, open_store(git.folder) as store:

        def get(version: Wanted) -> Path:
            folder = Path(scratch) / version.version
            store.get(version.md5, folder)
            return folder

        yield get
