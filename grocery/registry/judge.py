"""Versions against each other, and whether one may take the place of another in production.

They are compared on the same test images: those on which they were evaluated, if these are the
same, else those of the newest. Whoever knows fewer classes than another does not gain by it: the
test images of the classes that the newest does not know are added, and count as its mistakes.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from grocery.comparison.anew import Source, evaluate_anew, seen_images
from grocery.comparison.difference import (
    CONFIDENCE,
    Difference,
    compare,
    data_digest,
)
from grocery.core.errors import RegistryError
from grocery.registry.candidate import SHARDS, predictions_of
from grocery.registry.records import RELEASE, json_at
from grocery.registry.serving import verified
from grocery.registry.state import Version
from grocery.registry.store import Store, some
from grocery.release.model import Model
from grocery.settings import RegistryParams


@dataclass(frozen=True)
class Classes:
    """The classes that only the newer, and only the older of two versions knows."""

    gained: list[str]
    lost: list[str]


@dataclass(frozen=True)
class Decision:
    """Whether a version may go to production, why or why not, and how it differs from which.

    `note` says where the figures come from, if they are not the stored ones.
    """

    passed: bool
    sentence: str
    against: str | None = None
    difference: Difference | None = None
    classes: Classes | None = None
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """Several versions beside the first one.

    The differences are those of the others, in their order; there are none where they were
    evaluated on different test data, and `note` says where the figures come from, if they are not
    the stored ones.
    """

    versions: list[Version]
    classes: list[Classes]
    differences: list[Difference] = field(default_factory=list)
    note: str = ""


def decide(
    store: Store, version: Version, present: Version | None, rule: RegistryParams
) -> Decision:
    """Ask of a version what production asks: evidence that it is better, or not worse."""
    if json_at(store.git, version.commit, "metrics/register.json").get("accepted") is not True:
        return Decision(False, f"{version.name} was rejected when it was made")
    if present is None:
        return Decision(True, "production had no version")
    new, old = version.name, present.name
    classes = classes_between(store, present, version)
    lost = classes.lost
    unknown = f"{new} does not know {listed(lost)} of {old}; " if lost else ""
    try:
        tables, note = measure(store, [present, version])
    except RegistryError as error:
        if not unknown:
            raise
        return Decision(False, f"{unknown}{error}", old, classes=classes)
    found = compare(*tables)
    least = -rule.tolerance if rule.rule == "not worse" else 0.0
    shown = found.interval[0] > least
    claim = f"at most {rule.tolerance:g} worse" if rule.rule == "not worse" else "better"
    verdict = f"is {claim}" if shown else f"is not shown to be {claim}"
    sure = f", with {100 * (0.5 + CONFIDENCE / 2):g} % confidence" if shown else ""
    low, high = found.interval
    sentence = (
        f"{unknown}{new} {verdict} than {old}, which is in production (rule: {rule.rule}{sure}): "
        f"test accuracy {found.new:.4f} against {found.old:.4f}, a difference of "
        f"{found.difference:+.4f} [{low:+.4f}, {high:+.4f}] on {found.images} images; "
        f"{found.sentence(old, new)}"
    )
    if note:
        sentence += f"; both were {note}"
    return Decision(shown and not lost, sentence, old, found, classes, note)


def compare_versions(store: Store, versions: Sequence[Version], *, anew: bool) -> Comparison:
    """Compare versions with the first of them.

    Parameters
    ----------
    anew
        Evaluate them anew where their test data differ; otherwise there are no differences then.

    Raises
    ------
    RegistryError
        When one is named twice, or something of them cannot be had.
    """
    names = [version.name for version in versions]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise RegistryError(f"{twice} is named twice, and does not differ from itself")
    classes = [classes_between(store, versions[0], version) for version in versions[1:]]
    tables, note = measure(store, versions, anew=anew)
    differences = [compare(tables[0], table) for table in tables[1:]]
    return Comparison(list(versions), classes, differences, note)


def classes_between(store: Store, old: Version, new: Version) -> Classes:
    """The classes that the models of two versions do not both know, sorted."""
    before, now = (_known_classes(store, version) for version in (old, new))
    return Classes(sorted(now - before), sorted(before - now))


def measure(
    store: Store, versions: Sequence[Version], *, anew: bool = True
) -> tuple[list[pa.Table], str]:
    """Predictions of several versions for the same test images.

    What they stored is used if their test data are the same. Otherwise all are evaluated on the
    test images of the one that was registered last, and on those of the others of classes that it
    does not know, but for those that any of them learned from; or not at all, if not `anew`.

    Returns
    -------
    A table of predictions per version (`grocery.comparison.difference.PREDICTIONS`), and where they
    come from, if they are not the stored ones.

    Raises
    ------
    RegistryError
        When something that it takes cannot be had, or too few test images are left.
    """
    tables = [predictions_of(store, version.commit, version.name) for version in versions]
    if len({data_digest(table) for table in tables}) == 1:
        return tables, ""
    if not anew:
        return [], ""
    newest = max(versions, key=lambda version: version.tag.time)
    with tempfile.TemporaryDirectory(prefix="grocery-") as scratch:
        shards = {version.name: _shards(store, version, Path(scratch)) for version in versions}
        models = {v.name: Model.load(verified(store, v).folder) for v in versions}
        known = frozenset(models[newest.name].classes)
        others = {shards[v.name] for v in versions} - {shards[newest.name]}
        found = evaluate_anew(
            [*models.values()],
            [
                Source(shards[newest.name]),
                *(Source(folder, without=known) for folder in sorted(others)),
            ],
            [seen_images(shards[version.name]) for version in versions],
        )
    images, forgotten = found.images[0], sum(found.images[1:])
    note = f"evaluated anew on the {images} test images of {newest.name}"
    if forgotten:
        note += f", and {forgotten} of classes that it does not know,"
    if found.left_out:
        note += f" that are new to all ({found.left_out} left out)"
    return found.tables, note.rstrip(",")


def _known_classes(store: Store, version: Version) -> set[str]:
    """The classes of a version's model."""
    try:
        description = json.loads(store.file(store.output(version.commit, RELEASE), "model.json"))
        return set(map(str, description["classes"]))
    except (ValueError, TypeError, LookupError, RecursionError):
        raise RegistryError(f"model.json of {version.name} is damaged") from None


def _shards(store: Store, version: Version, scratch: Path) -> Path:
    """The prepared dataset of a version, in a folder that equal datasets share."""
    md5 = store.output(version.commit, SHARDS)
    folder = scratch / md5
    if not folder.is_dir():
        store.get(md5, folder)
    return folder


def listed(names: Sequence[str], one: str = "class", many: str = "classes") -> str:
    """Such as ``3 classes (Carrot, Lemon, Milk)``; of many the first ones."""
    return f"{len(names)} {one if len(names) == 1 else many} ({some(names)})"
