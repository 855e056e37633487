"""What a sweep found: a table for the terminal, and one self-contained page with its plots."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from grocery.pages.style import STYLE
from grocery.sweep.journal import Trial
from grocery.sweep.run import best, saved_seconds
from grocery.sweep.search import Search

_WIDTH, _HEIGHT = 480, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 16, 14, 56

_MORE = """
.search {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); gap: 1.25rem;
}
.search circle { fill: var(--batch); fill-opacity: .75; }
.search circle.stopped { fill: none; stroke: var(--watch); stroke-width: 2; }
.search circle.best { fill: var(--ok); }
.search path { fill: none; stroke: var(--before); stroke-width: 2; }
.search text { fill: var(--soft); font-size: 13px; }
.search line { stroke: var(--line); }
table { border-collapse: collapse; width: 100%; }
td, th {
  padding: .25rem .8rem .25rem 0; text-align: left; border-top: 1px solid var(--line);
  white-space: nowrap;
}
.wide { overflow-x: auto; }
"""


def score(trial: Trial, search: Search) -> float | None:
    """What a trial reached: its metric, or of one that did not finish the best step."""
    if search.metric in trial.summary:
        return float(trial.summary[search.metric])
    steps = [step[search.metric] for step in trial.steps if search.metric in step]
    return max(steps, key=lambda value: search.sign * value) if steps else None


def rows(trials: Sequence[Trial], search: Search) -> list[list[str]]:
    """A header and a row a trial, the best first, those that failed last."""

    def order(trial: Trial) -> tuple[int, float, int]:
        value = score(trial, search)
        rank = ("finished", "stopped", "running", "failed").index(trial.state)
        return (rank, 0.0 if value is None else -search.sign * value, trial.number)

    header = ["trial", "state", search.metric, "test accuracy", "steps", "s", *search.parameters]
    table = [header]
    for trial in sorted(trials, key=order):
        value = score(trial, search)
        tested = trial.summary.get("test_accuracy")
        table.append(
            [
                trial.name,
                trial.state,
                "-" if value is None else f"{value:.4f}",
                "-" if tested is None else f"{tested:.4f}",
                str(len(trial.steps)),
                f"{trial.seconds:.1f}",
                *(_shown(trial.assignments.get(name)) for name in search.parameters),
            ]
        )
    return table


def sentences(
    trials: Sequence[Trial],
    search: Search,
    seconds: float,
    *,
    before: int = 0,
    workspace: Mapping[str, float] | None = None,
) -> list[str]:
    """The account of a sweep: counts, time, what stopping saved, and how to apply the best.

    `before` trials are of an earlier command, which `seconds` are not. The metrics of what is in
    the `workspace` are named as in `Trial.summary`.
    """
    counts = {state: sum(t.state == state for t in trials) for state in ("stopped", "failed")}
    work = sum(trial.seconds for trial in trials)
    now = f"{len(trials) - before} of them now, " if before else ""
    text = f"{len(trials)} trials of {work:.0f} s, {now}in {seconds:.0f} s"
    text += "".join(f", {count} {state}" for state, count in counts.items() if count)
    found = [text]
    if counts["stopped"]:
        found.append(f"stopping early saved about {saved_seconds(list(trials)):.0f} s of trials")
    winner = best(list(trials), search)
    if winner is None:
        found.append("no trial has finished, so there is no best one")
    else:
        found.append(f"best: {winner.name}, {_compared(winner, search, workspace or {})}")
        found.append(f"apply it with: dvc exp apply {winner.name}")
    return found


def _compared(winner: Trial, search: Search, workspace: Mapping[str, float]) -> str:
    """The best trial's metrics, and in brackets what the workspace has."""
    parts = []
    for title, name in ((search.metric, search.metric), ("test accuracy", "test_accuracy")):
        if name in winner.summary:
            now = f" (workspace: {workspace[name]:.4f})" if name in workspace else ""
            parts.append(f"{title} {winner.summary[name]:.4f}{now}")
    return ", ".join(parts)


def page(trials: Sequence[Trial], search: Search, account: Sequence[str]) -> str:
    """The plots as one HTML page: the search over time, and the metric over each parameter."""
    winner = best(list(trials), search)
    scored = [(trial, value) for trial in trials if (value := score(trial, search)) is not None]
    charts = [_chart("trial", scored, [t.number for t, _ in scored], search, winner, line=True)]
    charts += [
        _chart(name, scored, [t.assignments.get(name) for t, _ in scored], search, winner)
        for name in search.parameters
    ]
    head, *body = rows(trials, search)
    table = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in body
    )
    said = "".join(f"<p>{escape(sentence)}</p>" for sentence in account)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sweep {escape(search.name)}</title><style>{STYLE}{_MORE}</style></head><body>
<header><h1>Sweep {escape(search.name)}</h1>{said}
<p class="soft">Filled: finished. Open: stopped early, at its best step. Green: the best.</p>
</header>
<section class="card search">{"".join(charts)}</section>
<section class="card wide"><table><tr>{"".join(f"<th>{escape(c)}</th>" for c in head)}</tr>
{table}</table></section>
</body></html>
"""


def _chart(
    title: str,
    scored: Sequence[tuple[Trial, float]],
    places: Sequence[Any],
    search: Search,
    winner: Trial | None,
    *,
    line: bool = False,
) -> str:
    """Points of the metric over one thing, as inline SVG."""
    if not scored:
        return ""
    low, high = min(value for _, value in scored), max(value for _, value in scored)
    span = (high - low) or 1.0
    space = search.config["parameters"].get(title, {})
    positions, ticks = _axis(places, logarithmic="log" in space.get("distribution", ""))

    def x(place: float) -> float:
        return _LEFT + place * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - low) / span * (_HEIGHT - _TOP - _BOTTOM)

    marks = []
    last_is_on_top = sorted(zip(scored, positions, strict=True), key=lambda p: p[0][0] is winner)
    for (trial, value), place in last_is_on_top:
        kind = "best" if trial is winner else trial.state
        tip = f"{trial.name}: {value:.4f}"
        marks.append(
            f'<circle class="{kind}" cx="{x(place):.1f}" cy="{y(value):.1f}" r="5">'
            f"<title>{escape(tip)}</title></circle>"
        )
    path = ""
    if line:
        leading, points = None, []
        for (trial, value), place in zip(scored, positions, strict=True):
            better = leading is None or search.sign * value > search.sign * leading
            if trial.state == "finished" and better:
                leading = value
            if leading is not None:
                points.append(f"{x(place):.1f} {y(leading):.1f}")
        path = f'<path d="M{"L".join(points)}"/>' if points else ""
    anchors = {0.0: "start", 1.0: "end"}
    labels = "".join(
        f'<text x="{x(place):.1f}" y="{_HEIGHT - 37 + 15 * (len(ticks) > 2 and index % 2)}" '
        f'text-anchor="{anchors.get(place, "middle")}">{escape(text)}</text>'
        for index, (place, text) in enumerate(ticks)
    )
    sides = "".join(
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
        f'<text x="{_LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.3f}</text>'
        for value in sorted({low, high})
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(search.metric)} '
        f'over {escape(title)}">{sides}{labels}<text x="{_WIDTH / 2}" y="{_HEIGHT - 3}" '
        f'text-anchor="middle">{escape(title)}</text>{path}{"".join(marks)}</svg>'
    )


def _axis(
    places: Sequence[Any], *, logarithmic: bool
) -> tuple[list[float], list[tuple[float, str]]]:
    """Positions (0 to 1) of values, and labels; numbers by size, anything else by name."""
    numbers = all(isinstance(p, int | float) and not isinstance(p, bool) for p in places)
    if numbers:
        low, high = min(places), max(places)
        if high == low:
            return [0.5] * len(places), [(0.5, _shown(low))]
        sizes = [math.log(p) if logarithmic and low > 0 else p for p in places]
        least, most = min(sizes), max(sizes)
        ticks = [(0.0, _shown(low)), (1.0, _shown(high))]
        return [(size - least) / (most - least) for size in sizes], ticks
    names = sorted({_shown(p) for p in places})
    spots = {name: (index + 0.5) / len(names) for index, name in enumerate(names)}
    return [spots[_shown(p)] for p in places], [(spot, name) for name, spot in spots.items()]


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
