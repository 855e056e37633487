"""`grocery registry compare`: versions side by side, and whether they differ by chance."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from grocery.cli.registry.common import answer, argument, command, open_registry, said
from grocery.cli.terminal import table

if TYPE_CHECKING:
    from grocery.registry.comparison import Difference
    from grocery.registry.registry import Registry
    from grocery.registry.state import Version

_ABSENT = "-"


@command(
    "compare",
    "versions side by side: metrics, parameters, data",
    argument("names", nargs="+", metavar="VERSION", help="a version or a stage"),
    argument("--anew", action="store_true", help="evaluate anew where the test data differ"),
)
def compare(arguments: argparse.Namespace) -> None:
    """Compare versions with the first one: metrics, the parameters that differ, and the
    data. From the stored test predictions: on how many images only one is right,
    McNemar's exact test, and 95 % paired bootstrap intervals of the differences.

    Versions that were evaluated on different test data have no difference: that is
    said, and the exit code is 1. --anew evaluates all on the test images of the newest,
    but for those that any of them learned from.

    examples:
      grocery registry compare production staging
      grocery registry compare v1.0.0 v1.1.0 v1.2.0 --anew
    """
    from grocery.core.errors import RegistryError
    from grocery.registry.decision import measure, same_test_data, stored_predictions
    from grocery.registry.store import open_store

    if len(arguments.names) < 2:
        raise RegistryError("name at least two versions to compare")
    registry = open_registry()
    state = registry.state()
    versions = [state.find(name) for name in arguments.names]
    with open_store(registry.root) as store:
        tables = [stored_predictions(store, version) for version in versions]
        note, comparable = "", same_test_data(tables)
        if not comparable and arguments.anew:
            tables, note = measure(store, versions)
            comparable = True
    differences = _differences(versions, tables) if comparable else []
    document = {
        "versions": [{**v.evidence, "version": v.name} for v in versions],
        "comparable": comparable,
        "note": note,
        "differences": [
            {"version": version.name, "against": versions[0].name, **difference.document()}
            for version, difference in zip(versions[1:], differences, strict=False)
        ],
        "params": _params(registry, versions),
    }
    answer(arguments, document, _lines(registry, versions, differences, note))
    if not comparable:
        raise RegistryError(
            f"{versions[0].name} and the others were evaluated on different test data, so their "
            "metrics are not alike; --anew evaluates them on the same images"
        )


def _differences(versions: Sequence[Version], tables: Sequence[Any]) -> list[Difference]:
    from grocery.registry.comparison import compare

    first, *others = zip(versions, tables, strict=True)
    return [
        compare(first[1], predictions, names=(first[0].name, version.name))
        for version, predictions in others
    ]


def _lines(
    registry: Registry,
    versions: Sequence[Version],
    differences: Sequence[Difference],
    note: str,
) -> list[str]:
    names = [version.name for version in versions]
    lines = [*table([("", *names), *_data(versions), *_metrics(versions)])]
    params = _params(registry, versions)
    lines.append("")
    if params:
        lines += table([("parameter", *names), *((k, *map(str, v)) for k, v in params.items())])
    else:
        lines.append("all parameters are the same")
    if differences:
        lines += ["", f"Against {names[0]}" + (f", {note}:" if note else ":")]
    for name, difference in zip(names[1:], differences, strict=False):
        low, high = difference.interval
        f1_low, f1_high = difference.macro_f1_interval
        lines += [
            f"  {name}: accuracy {difference.difference:+.4f} [{low:+.4f}, {high:+.4f}], macro F1 "
            f"{difference.macro_f1_difference:+.4f} [{f1_low:+.4f}, {f1_high:+.4f}], "
            f"{difference.images} images",
            f"  {difference.sentence(names[0], name)}",
        ]
    return lines


def _data(versions: Sequence[Version]) -> list[Sequence[str]]:
    return [
        ("dataset", *(said(version, "dataset", "source") for version in versions)),
        ("dataset digest", *(said(version, "dataset", "digest")[:12] for version in versions)),
        ("images", *(said(version, "dataset", "images") for version in versions)),
        ("test digest", *(said(version, "test", "digest")[:12] for version in versions)),
        ("test images", *(said(version, "test", "images") for version in versions)),
    ]


def _metrics(versions: Sequence[Version]) -> list[Sequence[str]]:
    metrics = [version.section("metrics") for version in versions]
    names = sorted({name for m in metrics for name, value in m.items() if isinstance(value, float)})
    return [
        (
            name.replace("_", " "),
            *(f"{m[name]:.4f}" if isinstance(m.get(name), float) else _ABSENT for m in metrics),
        )
        for name in names
    ]


def _params(registry: Registry, versions: Sequence[Version]) -> dict[str, list[Any]]:
    """The parameters that are not the same in all versions, by their dotted names."""
    from grocery.registry.candidate import SECTIONS
    from grocery.registry.records import params_at

    flat = []
    for version in versions:
        params = params_at(registry.git, version.commit)
        flat.append(dict(_flat({name: params.get(name) for name in SECTIONS})))
    names = sorted({name for params in flat for name in params})
    rows = {name: [params.get(name) for params in flat] for name in names}
    return {name: values for name, values in rows.items() if any(v != values[0] for v in values)}


def _flat(value: Any, name: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [
            pair for key, item in value.items() for pair in _flat(item, f"{name}.{key}".lstrip("."))
        ]
    return [(name, value)]
