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

# The stages that are mirrored.
STAGES = frozenset({"staging", "production"})
_VERSION = re.compile(r"v\d+\.\d+\.\d+([-+].*)?")


@dataclass(frozen=True)
class Wanted:
    """A version as it should stand in the W&B registry.

    Attributes
    ----------
    version
        Its name, such as ``v1.2.0``.
    md5
        DVC's hash of its release.
    aliases
        Its name, and those of `STAGES` that it has.
    """

    version: str
    md5: str
    aliases: frozenset[str]


@dataclass(frozen=True)
class Link:
    """A link in the registry's collection.

    Attributes
    ----------
    number
        W&B's own version of it, such as ``v3``.
    md5
        DVC's hash of what it links to, as its metadata says it; empty if nothing is said.
    aliases
        Its aliases, but for its number.
    artifact
        W&B's object.
    """

    number: str
    md5: str
    aliases: frozenset[str]
    artifact: Any = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        """What a person would call it."""
        versions = sorted(alias for alias in self.aliases if is_version(alias))
        return " and ".join(versions) or f"its number {self.number}, which is no version"


@dataclass(frozen=True)
class Difference:
    """One alias that is not where it should be.

    Attributes
    ----------
    says
        The difference, in a sentence.
    mended
        What is to be said when it is mended.
    alias
        The alias.
    wanted
        The version that should have it; None when no link should.
    link
        The link that should have it, None when it is not there yet. Without a `wanted`, the link
        that has it.
    """

    says: str
    mended: str
    alias: str
    wanted: Wanted | None
    link: Link | None


def compare(links: Sequence[Link], wanted: Iterable[Wanted]) -> list[Difference]:
    """What is otherwise than it should be, in the order in which it is to be mended.

    Parameters
    ----------
    links
        What is there. No alias is on two of them.
    wanted
        Every version, in the order in which new ones are to be linked. Those with the same release
        share a link.
    """
    holders = {alias: link for link in links for alias in link.aliases}
    found = [
        difference
        for version in wanted
        for difference in _missing(version, _link_of(version, links), holders)
    ]
    right = {alias for version in wanted for alias in version.aliases}
    for alias, holder in sorted(holders.items()):
        if alias in right:
            continue
        if alias in STAGES:
            says = f"W&B has {alias} at {holder.name}, git has nothing there"
        elif is_version(alias):
            says = f"W&B has {alias}, git has no release of that name"
        else:
            continue
        found.append(Difference(says, f"{alias} is taken away", alias, None, holder))
    return found


def is_version(alias: str) -> bool:
    """Whether an alias is like ``v1.2.3``."""
    return _VERSION.fullmatch(alias) is not None


def _link_of(version: Wanted, links: Iterable[Link]) -> Link | None:
    """The link of a version's release; of several, the one that is most like it."""
    same = [link for link in links if link.md5 == version.md5]
    return max(same, key=lambda link: len(link.aliases & version.aliases), default=None)


def _missing(
    version: Wanted, link: Link | None, holders: Mapping[str, Link]
) -> Iterable[Difference]:
    """The aliases of a version that its link lacks; the version's name comes first."""
    name = version.version
    for alias in sorted(version.aliases, key=lambda alias: (alias != name, alias)):
        holder = holders.get(alias)
        if holder is not None and holder is link:
            continue
        mended = f"{alias} is {name}"
        if alias == name and holder is None:
            says, mended = f"{name} is not linked", f"{name} is linked"
        elif alias == name:
            assert holder
            says = f"W&B has {name} at another release (its number {holder.number})"
            mended = f"{name} is at its release"
        elif holder is None:
            says = f"W&B has nothing in {alias}, git has {name}"
        else:
            says = f"W&B has {alias} at {holder.name}, git at {name}"
        yield Difference(says, mended, alias, version, link)
