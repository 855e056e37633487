"""What the tags say together: the versions there are, and which of them each stage has."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from grocery.core.errors import RegistryError, meant
from grocery.registry.git import Git
from grocery.registry.tags import HIGHEST, STAGES, Tag, is_version, read_tags


@dataclass(frozen=True)
class Version:
    """A registered version, such as ``v1.2.0``, and the tag that registered it."""

    name: str
    tag: Tag

    @property
    def commit(self) -> str:
        """The commit that made it."""
        return self.tag.commit

    @property
    def evidence(self) -> dict[str, Any]:
        """What was recorded when it was registered; empty if the tag was made by other means."""
        return self.tag.evidence

    def section(self, name: str) -> dict[str, Any]:
        """A section of the evidence; empty when it is not there, or is none."""
        value = self.evidence.get(name)
        return value if isinstance(value, dict) else {}

    def said(self, section: str, key: str) -> str | None:
        """A text in the evidence; None when it is not there, or is none."""
        value = self.section(section).get(key)
        return value if isinstance(value, str) else None


@dataclass(frozen=True)
class State:
    """The registry as the tags of one repository tell it."""

    # Those that are not withdrawn, by name, the lowest first.
    versions: dict[str, Version]
    # Assignments and their ends, oldest first.
    events: Sequence[Tag]
    # One sentence for each tag that makes no sense.
    problems: Sequence[str]
    # Tags that took versions out of use, by the versions' names.
    withdrawn: Mapping[str, Tag]

    def at(self, commit: str) -> Version | None:
        """The version of a commit."""
        found = (v for v in reversed(self.versions.values()) if v.commit == commit)
        return next(found, None)

    def stages(self) -> list[str]:
        """The stages that have, or had, a version."""
        return sorted({tag.stage for tag in self.events if tag.stage})

    def assignment(self, stage: str) -> Tag | None:
        """The tag that put a stage where it is: the latest that was not taken back.

        As GTO has it, the end of an assignment brings back the one before it.
        """
        standing: dict[str, Tag] = {}
        for tag in self.history(stage):
            standing.pop(tag.commit, None)
            if tag.action == "assign":
                standing[tag.commit] = tag
        return list(standing.values())[-1] if standing else None

    def history(self, stage: str) -> list[Tag]:
        """The events of a stage, oldest first."""
        return [tag for tag in self.events if tag.stage == stage]

    def current(self, stage: str) -> Version | None:
        """The version that a stage has; None when it has none.

        Raises
        ------
        RegistryError
            When the stage stands at a commit that is no version (any more).
        """
        tag = self.assignment(stage)
        if tag is None:
            return None
        version = self.at(tag.commit)
        if version is None:
            raise RegistryError(
                f"{stage} stands at commit {tag.commit[:7]} (tag {tag.name}), which is no version: "
                "its tag was deleted or withdrawn; roll back, or promote another version with "
                "--force --reason"
            )
        return version

    def previous(self, stage: str) -> Tag | None:
        """The assignment before the current one; one that was rolled back does not count."""
        before: list[Tag] = []
        for tag in self.history(stage):
            if tag.action == "unassign":
                before = [other for other in before if other.commit != tag.commit]
            elif isinstance(tag.evidence.get("rollback"), dict):
                while before and before[-1].commit != tag.commit:
                    before.pop()
                before = before or [tag]
            elif not before or before[-1].commit != tag.commit:
                before.append(tag)
        now = self.assignment(stage)
        if now is None:
            return None
        if before and before[-1].commit == now.commit:
            before.pop()
        return before[-1] if before else None

    def name_of(self, tag: Tag) -> str:
        """What to call the version of an assignment."""
        version = self.at(tag.commit)
        return version.name if version else tag.commit[:7]

    def next_number(self, stage: str) -> int:
        """The number after the highest; when there is none, the lowest that is free."""
        taken = {tag.counter for tag in self.history(stage)}
        number = max(taken, default=0) + 1
        return number if number <= HIGHEST else next(n for n in count(1) if n not in taken)

    def stages_of(self, version: Version) -> list[str]:
        """The stages that have a version."""
        assigned = {stage: self.assignment(stage) for stage in self.stages()}
        return [stage for stage, tag in assigned.items() if tag and tag.commit == version.commit]

    def find(self, name: str) -> Version:
        """The version that a name means: a version, with or without its ``v``, or a stage.

        Raises
        ------
        RegistryError
            When there is none; the sentence says which there are.
        """
        found = self.versions.get(name) or self.versions.get(f"v{name}") or self.current(name)
        if found:
            return found
        if name in STAGES:
            what, how = "make one", "register"
            if self.versions:
                what, how = "put one there", f"promote VERSION --stage {name}"
            raise RegistryError(
                f"no version is in {name}; versions: {self._names()}; {what} with: "
                f"grocery registry {how}"
            )
        near = meant(name, STAGES)
        raise RegistryError(f"{name!r} is no version or stage{near}; versions: {self._names()}")

    def next_version(self, bump: str) -> str:
        """The version after the highest one by ``major``, ``minor`` or ``patch``; first v1.0.0.

        Raises
        ------
        RegistryError
            When its number is higher than one may be.
        """
        ever = (*self.versions, *self.withdrawn)  # a name is not used twice
        if not ever:
            return "v1.0.0"
        major, minor, patch = max(map(precedence, ever))[0]
        name = {
            "major": f"v{major + 1}.0.0",
            "minor": f"v{major}.{minor + 1}.0",
            "patch": f"v{major}.{minor}.{patch + 1}",
        }[bump]
        if not is_version(name):
            raise RegistryError(f"there is no version {name}; name another one with --version")
        return name

    def _names(self) -> str:
        withdrawn = f" (withdrawn: {', '.join(self.withdrawn)})" if self.withdrawn else ""
        return (", ".join(self.versions) or "none") + withdrawn


def read_state(git: Git) -> State:
    """Read the tags of a repository and put them together."""
    tags, problems = read_tags(git)
    registered: dict[str, Tag] = {}
    withdrawn: dict[str, Tag] = {}
    for tag in tags:
        if tag.version and tag.action == "register":
            other = registered.get(tag.version)
            if other and other.commit != tag.commit:
                problems.append(f"tags {other.name} and {tag.name} name two commits")
            registered[tag.version] = tag
            withdrawn.pop(tag.version, None)
        elif tag.version:
            registered.pop(tag.version, None)
            withdrawn[tag.version] = tag
    versions = {
        name: Version(name, registered[name]) for name in sorted(registered, key=precedence)
    }
    state = State(versions, [tag for tag in tags if tag.stage], problems, withdrawn)
    for stage in state.stages():
        now = state.assignment(stage)
        if now and not state.at(now.commit):
            problems.append(f"tag {now.name} stands at {now.commit[:7]}, which is no version")
    return state


def precedence(version: str) -> tuple[tuple[int, int, int], bool, list[tuple[bool, int, str]]]:
    """What versions are sorted by; a pre-release comes before its release (semver.org, 11)."""
    numbers, _, pre = version.partition("+")[0].partition("-")
    major, minor, patch = (int(number) for number in re.findall(r"\d+", numbers))
    parts = [
        (False, int(part), "") if part.isdecimal() else (True, 0, part) for part in pre.split(".")
    ]
    return (major, minor, patch), not pre, parts


def is_registry_name(name: str) -> bool:
    """Whether a name means a registered model rather than a folder."""
    return name in STAGES or is_version(name)
