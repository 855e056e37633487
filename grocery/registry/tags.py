"""Git tags in GTO's format: what each says, and in which order.

======================  =================================================
``NAME@v1.2.3``         version 1.2.3 is this commit
``NAME@v1.2.3!#4``      it is withdrawn
``NAME#production#5``   the version of this commit goes to production
``NAME#production!#6``  and is taken out of it again
======================  =================================================

https://github.com/iterative/gto. GTO reads annotated tags only, in the order of their times.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from grocery.registry.git import LAST_SECOND, Git

ARTIFACT = "grocery-classifier"  # its entry in dvc.yaml
STAGES = ("staging", "production")

Action = Literal["register", "deregister", "assign", "unassign"]

# https://semver.org, clauses 2, 9 and 10
_NUMBER = r"(?:0|[1-9][0-9]{0,8})"  # of longer ones Python would refuse to make numbers
_PRE = rf"(?:{_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_BUILD = r"[0-9A-Za-z-]+"
_VERSION = (
    rf"v{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-{_PRE}(?:\.{_PRE})*)?(?:\+{_BUILD}(?:\.{_BUILD})*)?"
)
_TAG = re.compile(
    rf"{ARTIFACT}(?:@(?P<version>{_VERSION})|#(?P<stage>[A-Za-z0-9](?:[A-Za-z0-9/_-]*[A-Za-z0-9])?))"
    r"(?P<cancel>!?)(?:#(?P<counter>[0-9]{1,9}))?"
)
_FIELDS = (
    "%(refname:lstrip=2)%00%(objecttype)%00%(objectname)%00%(*objectname)%00%(*objecttype)%00"
    "%(taggername)%00%(taggeremail:trim)%00%(taggerdate:unix)%00%(contents)"
)
_DEEPEST = 50  # levels of evidence; ours has five
HIGHEST = 999_999_999  # number of a version or a tag


@dataclass(frozen=True)
class Tag:
    """One event in the life of the model: at a commit, an action on a version or else a stage.

    `object` is the id of the tag's git object, `counter` is GTO's number (0 without one), `time` is
    in seconds since 1970, and `evidence` the JSON object in the message (empty in a tag that was
    made by hand).
    """

    name: str
    object: str
    commit: str
    action: Action
    version: str | None
    stage: str | None
    counter: int
    who: str
    email: str
    time: int
    evidence: dict[str, Any]

    @property
    def when(self) -> str:
        """Its time, UTC, such as ``2025-01-31 08:30``."""
        return datetime.fromtimestamp(self.time, UTC).strftime("%Y-%m-%d %H:%M")


def is_version(name: str) -> bool:
    """Whether a name is a version, such as ``v1.2.3``."""
    return re.fullmatch(_VERSION, name) is not None


def message(text: str, evidence: dict[str, Any]) -> str:
    """The message of a tag: a sentence for people, and the evidence for programs."""
    return f"{text}\n\n{json.dumps(evidence, indent=2, sort_keys=True, ensure_ascii=False)}"


def read_tags(git: Git) -> tuple[list[Tag], list[str]]:
    """The model's tags in the order of their times, and a sentence for each that says nothing."""
    tags, problems = [], []
    for name, kind, sha, commit, target, who, email, time, text in _rows(git):
        found = _TAG.fullmatch(name)
        if not found:
            problems.append(f"tag {name} is not in GTO's format, and is passed over")
        elif kind != "tag":
            problems.append(
                f"tag {name} is a plain one, which says neither who nor when, and is passed over, "
                "as GTO does; delete it, and register or promote again"
            )
        elif target != "commit":
            problems.append(f"tag {name} does not stand at a commit, and is passed over")
        elif not 0 <= int(time or 0) <= LAST_SECOND:
            problems.append(f"tag {name} has a date that no calendar has, and is passed over")
        else:
            action: Action
            if found["version"]:
                action = "deregister" if found["cancel"] else "register"
            else:
                action = "unassign" if found["cancel"] else "assign"
            tags.append(
                Tag(
                    name=name,
                    object=sha,
                    commit=commit,
                    action=action,
                    version=found["version"],
                    stage=found["stage"],
                    counter=int(found["counter"] or 0),
                    who=who,
                    email=email,
                    time=int(time or 0),
                    evidence=_evidence(text),
                )
            )
    return sorted(tags, key=lambda tag: (tag.time, tag.counter)), problems


def _rows(git: Git) -> Iterator[list[str]]:
    places = [f"refs/tags/{ARTIFACT}{mark}*" for mark in "@#"]
    end = secrets.token_hex(16)  # a name or a message may hold anything that could be known before
    form = f"--format={_FIELDS}{end}"
    listed = git.ask("for-each-ref", form, *places, *(f"{p}/**" for p in places))
    for record in listed.split(end)[:-1]:
        yield record.strip("\n").split("\0")


def _evidence(text: str) -> dict[str, Any]:
    """The JSON object below the first line of a message, which may hold anything."""
    rest = text.partition("\n")[2]
    try:
        evidence = json.loads(rest[rest.index("{") :])
    except (ValueError, RecursionError):
        return {}
    return evidence if isinstance(evidence, dict) and _is_flat(evidence) else {}


def _is_flat(evidence: dict[str, Any]) -> bool:
    """Whether it is no deeper than a program that walks over it can follow."""
    level: list[Any] = [evidence]
    for _ in range(_DEEPEST):
        lists = [each.values() if isinstance(each, dict) else each for each in level]
        level = [item for each in lists for item in each if isinstance(item, dict | list)]
    return not level
