"""What is otherwise in the W&B registry than in git: a comparison of plain values.

A version is a link in the registry's collection to the artifact of its release, and its aliases are
its name and its stages. Aliases that are neither are nobody's business here: `candidate`, `latest`,
and W&B's own numbers `v0`, `v1` and so on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from grocery.registry.tags import STAGES

_VERSION = re.compile(r"v\d+\.\d+\.\d+([-+].*)?")


@dataclass(frozen=True)
class Wanted:
    """A version as it should stand in the W&B registry."""

    version: str  # its name, such as ``v1.2.0``
    md5: str  # DVC's hash of its release
    aliases: frozenset[str]  # its name, and those of `STAGES` that it has


@dataclass(frozen=True)
class Link:
    """A link in the registry's collection."""

    number: str  # W&B's own version of it, such as ``v3``
    md5: str  # DVC's hash of what it links to, as its metadata says it; empty if nothing is said
    aliases: frozenset[str]  # but for its number
    artifact: Any = field(default=None, repr=False, compare=False)  # W&B's object

    @property
    def name(self) -> str:
        """What a person would call it."""
        versions = sorted(alias for alias in self.aliases if _VERSION.fullmatch(alias))
        return " and ".join(versions) or f"its number {self.number}, which is no version"


@dataclass(frozen=True)
class Correction:
    """One alias that is not where it should be."""

    says: str  # what is wrong, in a sentence
    mended: str  # what is to be said when it is mended
    alias: str
    wanted: Wanted | None  # the version that should have it; None when no link should
    link: Link | None  # of `wanted`, None when it is not there yet; else the link that has it
    holder: Link | None  # the link that has it now


def corrections(links: Sequence[Link], wanted: Iterable[Wanted]) -> list[Correction]:
    """What is otherwise than it should be, in the order in which it is to be mended.

    No alias is on two of the `links`. `wanted` is every version, in the order in which new ones are
    to be linked; those with the same release share a link.
    """
    holders = {alias: link for link in links for alias in link.aliases}
    found = [
        correction
        for version in wanted
        for correction in _missing(version, _link_of(version, links), holders)
    ]
    right = {alias for version in wanted for alias in version.aliases}
    for alias in sorted(holders.keys() - right):
        holder = holders[alias]
        if alias in STAGES:
            says = f"W&B has {alias} at {holder.name}, git has nothing there"
        elif _VERSION.fullmatch(alias):
            says = f"W&B has {alias}, git has no release of that name"
        else:
            continue
        found.append(Correction(says, f"{alias} is taken away", alias, None, holder, holder))
    return found


def _link_of(version: Wanted, links: Iterable[Link]) -> Link | None:
    """The link of a version's release; of several, the one that is most like it."""
    same = [link for link in links if link.md5 == version.md5]
    return max(same, key=lambda link: len(link.aliases & version.aliases), default=None)


def _missing(
    version: Wanted, link: Link | None, holders: Mapping[str, Link]
) -> Iterable[Correction]:
    """The aliases of a version that its link lacks; the version's name comes first."""
    name = version.version
    for alias in sorted(version.aliases, key=lambda alias: (alias != name, alias)):
        holder = holders.get(alias)
        mended = f"{alias} is {name}"
        if holder is None and alias == name:
            says, mended = f"{name} is not linked", f"{name} is linked"
        elif holder is None:
            says = f"W&B has nothing in {alias}, git has {name}"
        elif holder is link:
            continue
        elif alias == name:
            says = f"W&B has {name} at another release (its number {holder.number})"
            mended = f"{name} is at its release"
        else:
            says = f"W&B has {alias} at {holder.name}, git at {name}"
        yield Correction(says, mended, alias, version, link, holder)
