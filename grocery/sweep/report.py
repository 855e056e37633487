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
svg .dot.stopped { fill: none; stroke: var(--watch); stroke-width: 2; }
svg .leading { fill: none; stroke: var(--before); stroke-width: 2; }
table { border-collapse: collapse; width: 100%; }
td, th { padding: .25rem .8rem .25rem 0; border-top: 1px solid var(--line); }
td, th { text-align: left; white-space: nowrap; }
.wide { overflow-x: auto; }
"""


def score(trial: Trial, search: Search) -> float | None:
    """What a trial reached: its metric, or of one that did not finish the best step."""
    if search.metric in trial.summary:
        return float(trial.summary[search.metric])
    steps = [step[search.metric] for step in trial.steps if search.metric in step]
    return max(steps, key=lambda value: search.sign * value, default=None)


def rows(trials: Sequence[Trial], search: Search) -> list[list[str]]:
    """A header and a row a trial, the best first, those that failed last."""

    def order(trial: Trial) -> tuple[int, float, int]:
        rank = ("finished", "stopped", "running", "failed").index(trial.state)
        return (rank, -search.sign * (score(trial, search) or 0.0), trial.number)

    def row(trial: Trial) -> list[str]:
        reached = (score(trial, search), trial.summary.get("test_accuracy"))
        return [
            trial.name,
            trial.state,
            *("-" if value is None else f"{value:.4f}" for value in reached),
            str(len(trial.steps)),
            f"{trial.seconds:.1f}",
            *(_shown(trial.assignments.get(name)) for name in search.parameters),
        ]

    header = ["trial", "state", search.metric, "test accuracy", "steps", "s", *search.parameters]
    return [header, *map(row, sorted(trials, key=order))]


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
    found = [text + "".join(f", {count} {state}" for state, count in counts.items() if count)]
    if counts["stopped"]:
        found.append(f"stopping early saved about {saved_seconds(trials):.0f} s of trials")
    winner = best(trials, search)
    if winner is None:
        return [*found, "no trial has finished, so there is no best one"]
    parts = [winner.name]
    for title, name in ((search.metric, search.metric), ("test accuracy", "test_accuracy")):
        if name in winner.summary:
            here = f" (workspace: {workspace[name]:.4f})" if workspace and name in workspace else ""
            parts.append(f"{title} {winner.summary[name]:.4f}{here}")
    return [*found, f"best: {', '.join(parts)}", f"apply it with: dvc exp apply {winner.name}"]


def page(trials: Sequence[Trial], search: Search, account: Sequence[str]) -> str:
    """The plots as one HTML page: the search over time, and the metric over each parameter."""
    winner = best(trials, search)
    scored = [(trial, value) for trial in trials if (value := score(trial, search)) is not None]
    charts = [_chart("trial", scored, search, winner)] if scored else []
    charts += [_chart(name, scored, search, winner) for name in search.parameters if scored]
    head, *body = rows(trials, search)
    table = "".join(f"<tr>{_tags('td', row)}</tr>" for row in body)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sweep {escape(search.name)}</title><style>{STYLE}{_MORE}</style></head><body>
<header><h1>Sweep {escape(search.name)}</h1>{_tags("p", account)}
<p class="soft">Filled: finished. Open: stopped early, at its best step. Green: the best.</p>
</header>
<section class="card charts">{"".join(charts)}</section>
<section class="card wide"><table><tr>{_tags("th", head)}</tr>
{table}</table></section>
</body></html>
"""


def _tags(name: str, texts: Sequence[str]) -> str:
    return "".join(f"<{name}>{escape(text)}</{name}>" for text in texts)


def _chart(
    title: str, scored: Sequence[tuple[Trial, float]], search: Search, winner: Trial | None
) -> str:
    """Points of the metric over a parameter, or over the trials with the best so far as a line."""
    over_trials = title not in search.parameters
    values = [t.number if over_trials else t.assignments.get(title) for t, _ in scored]
    space = search.config["parameters"].get(title, {})
    positions, ticks = _axis(values, logarithmic="log" in space.get("distribution", ""))
    low, high = min(value for _, value in scored), max(value for _, value in scored)
    span = (high - low) or 1.0

    def x(place: float) -> str:
        return f"{_LEFT + place * (_WIDTH - _LEFT - _RIGHT):.1f}"

    def y(value: float, below: int = 0) -> str:
        return (
            f"{_HEIGHT - _BOTTOM - (value - low) / span * (_HEIGHT - _TOP - _BOTTOM) + below:.1f}"
        )

    points, marks, leading = [], [], -math.inf
    for (trial, value), place in zip(scored, positions, strict=True):
        kind = "" if trial is winner else "stopped" if trial.state == "stopped" else "batch"
        mark = (
            f'<circle class="dot {kind}" cx="{x(place)}" cy="{y(value)}" r="5">'
            f"<title>{escape(trial.name)}: {value:.4f}</title></circle>"
        )
        marks.append((trial is winner, mark))
        if trial.state == "finished":
            leading = max(leading, search.sign * value)
        if over_trials and leading > -math.inf:
            points.append(f"{x(place)} {y(search.sign * leading)}")
    shown = "".join(mark for _, mark in sorted(marks, key=lambda found: found[0]))  # best on top
    path = f'<path class="leading" d="M{"L".join(points)}"/>' if points else ""
    anchors = {0.0: "start", 1.0: "end"}
    labels = "".join(
        f'<text x="{x(place)}" y="{_HEIGHT - 37 + 15 * (len(ticks) > 2 and index % 2)}" '
        f'text-anchor="{anchors.get(place, "middle")}">{escape(text)}</text>'
        for index, (place, text) in enumerate(ticks)
    )
    sides = "".join(
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(value)}" y2="{y(value)}"/>'
        f'<text x="{_LEFT - 6}" y="{y(value, 4)}" text-anchor="end">{value:.3f}</text>'
        for value in sorted({low, high})
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(search.metric)} '
        f'over {escape(title)}">{sides}{labels}<text x="{_WIDTH / 2}" y="{_HEIGHT - 3}" '
        f'text-anchor="middle">{escape(title)}</text>{path}{shown}</svg>'
    )


def _axis(
    values: Sequence[Any], *, logarithmic: bool
) -> tuple[list[float], list[tuple[float, str]]]:
    """Positions (0 to 1) of values, and labels; numbers by size, anything else by name."""
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        low, high = min(values), max(values)
        if high == low:
            return [0.5] * len(values), [(0.5, _shown(low))]
        sizes = [math.log(v) if logarithmic and low > 0 else v for v in values]
        least, most = min(sizes), max(sizes)
        ticks = [(0.0, _shown(low)), (1.0, _shown(high))]
        return [(size - least) / (most - least) for size in sizes], ticks
    names = sorted({_shown(v) for v in values})
    spots = {name: (index + 0.5) / len(names) for index, name in enumerate(names)}
    return [spots[_shown(v)] for v in values], [(spot, name) for name, spot in spots.items()]


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
