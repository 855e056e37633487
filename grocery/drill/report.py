"""The drill's table: rates with exact intervals, and how good the estimated accuracy was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from grocery.core.intervals import clopper_pearson
from grocery.drill.drawing import CHECKED, CLEAN, Condition
from grocery.drill.drill import Outcome
from grocery.drill.shifts import SHIFTS

_STRENGTHS = {
    "class imbalance": "{:g} to 1",
    "missing class": "{:.0%} of the classes",
    "unknown product": "{:.0%} of the images",
    "relabelling": "{:.0%} of the labels",
} | {name: text for name, (_, text, _) in SHIFTS.items()}

Results = Mapping[Condition, Sequence[Outcome]]


def summary(results: Results) -> list[dict[str, Any]]:
    """One row a condition, as JSON values; rates are 0 to 1."""
    return [_row(condition, outcomes) for condition, outcomes in results.items()]


def _row(condition: Condition, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    alerts = sum(o.verdict == "alert" for o in outcomes)
    covered = sum(o.interval[0] <= o.accuracy <= o.interval[1] for o in outcomes)
    names = sorted({name for o in outcomes for name in o.alerts})
    errors = {"estimated": float(np.mean([abs(o.estimate - o.accuracy) for o in outcomes]))}
    for name in outcomes[0].others:
        errors[name] = float(np.mean([abs(o.others[name] - o.accuracy) for o in outcomes]))
    return {
        "shift": condition.shift,
        "strength": condition.strength,
        "size": condition.size,
        "batches": len(outcomes),
        "alerts": alerts / len(outcomes),
        "alerts_interval": clopper_pearson(alerts, len(outcomes)),
        "watches": sum(o.verdict == "watch" for o in outcomes) / len(outcomes),
        "signals": {n: sum(n in o.alerts for o in outcomes) / len(outcomes) for n in names},
        "accuracy": float(np.mean([o.accuracy for o in outcomes])),
        "loss": float(np.mean([o.loss for o in outcomes])),
        "error": errors,
        "bias": float(np.mean([o.estimate - o.accuracy for o in outcomes])),
        "coverage": covered / len(outcomes),
        "coverage_interval": clopper_pearson(covered, len(outcomes)),
    }


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table for people: alerts by size, and the estimate at the size that is nearest to 100."""
    sizes = sorted({row["size"] for row in rows})
    chosen = min(sizes, key=lambda size: (abs(size - 100), size))
    head = ["shift", "strength", "accuracy lost", *(f"alerts at {size}" for size in sizes)]
    head += [f"estimate off at {chosen}", f"interval holds at {chosen}"]
    lines = [head, ["---", "---", *("---:" for _ in head[2:])]]
    for name, strength in dict.fromkeys((row["shift"], row["strength"]) for row in rows):
        same = {
            row["size"]: row for row in rows if (row["shift"], row["strength"]) == (name, strength)
        }
        loss = np.mean([row["loss"] for row in same.values()])
        cells = [name, _STRENGTHS.get(name, "").format(strength), f"{100 * loss:.1f}"]
        cells += [_rate(same.get(size), "alerts") for size in sizes]
        at = same.get(chosen)
        cells += [f"{100 * at['error']['estimated']:.1f}" if at else "", _rate(at, "coverage")]
        lines.append(cells)
    return _table(lines)


def estimates(rows: Sequence[dict[str, Any]]) -> str:
    """How far each estimate of the accuracy is off, in points; mean over sizes and strengths."""
    photographs = [row for row in rows if row["shift"] in SHIFTS]
    mildest = {name: shift[2][0] for name, shift in SHIFTS.items()}
    groups = {
        "clean": [row for row in rows if row["shift"] in (CLEAN, CHECKED)],
        "mild": [row for row in photographs if row["strength"] == mildest[row["shift"]]],
        "stronger": [row for row in photographs if row["strength"] != mildest[row["shift"]]],
        "class imbalance": [row for row in rows if row["shift"] == "class imbalance"],
        "unknown product": [row for row in rows if row["shift"] == "unknown product"],
    }
    names = list(rows[0]["error"])
    lines = [["batches", *names, "interval holds"], ["---", *("---:" for _ in [*names, ""])]]
    for title, members in groups.items():
        if members:
            means = [np.mean([row["error"][name] for row in members]) for name in names]
            held = np.mean([row["coverage"] for row in members])
            lines.append([title, *(f"{100 * mean:.1f}" for mean in means), f"{100 * held:.0f} %"])
    return _table(lines)


def _table(lines: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _rate(row: dict[str, Any] | None, key: str) -> str:
    if row is None:
        return ""
    low, high = (100 * end for end in row[f"{key}_interval"])
    return f"{100 * row[key]:.0f} % ({low:.0f} to {high:.0f})"
