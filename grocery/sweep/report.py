"""What a sweep found: a table for the terminal, and one self-contained page with its plots."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from grocery.pages import page as pages
from grocery.pages.charts import Axis, Chart
from grocery.sweep.journal import Trial
from grocery.sweep.run import best, saved_seconds
from grocery.sweep.search import Search

# Metrics of `grocery.sweep.search.STEPS` and of evaluate, for people.
_WORDS = {
    "val_accuracy": "accuracy on validation images",
    "test_accuracy": "accuracy on test images",
    "pseudo_labels": "images that were given a label",
}


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
    reached = [(trial, score(trial, search)) for trial in trials]
    scored = [(trial, v) for trial, v in reached if v is not None and math.isfinite(v)]
    charts = [_chart(name, scored, search) for name in (None, *search.parameters) if scored]
    head, *body = rows(trials, search)
    values = {"name": search.name, "account": account, "charts": charts, "head": head, "body": body}
    return pages.render(__file__, **values)


def _chart(name: str | None, scored: Sequence[tuple[Trial, float]], search: Search) -> Chart:
    """The metric over a parameter or, without one, over the trials with the best so far."""
    if name is None:
        at: Sequence[float] = [trial.number for trial, _ in scored]
        x = Axis.numbers("number of the trial, in the order in which they began", at)
    else:
        x, at = _axis(name, [trial.assignments.get(name) for trial, _ in scored], search)
    words = _WORDS.get(search.metric, search.metric)
    better = "higher" if search.sign > 0 else "lower"
    y = Axis.numbers(f"{words} ({better} is better)", [value for _, value in scored])
    if name is None:
        chart = Chart("The search", x, y, [("", "line: the best so far")])
        done = [(trial.number, value) for trial, value in scored if trial.state == "finished"]
        bests = list(accumulate((v for _, v in done), max if search.sign > 0 else min))
        stairs = zip(done, [*bests[:1], *bests], bests, strict=False)
        chart.line("leading", *((n, v) for (n, _), old, new in stairs for v in (old, new)))
    else:
        chart = Chart(f"By {name}", x, y)
    winner = best([trial for trial, _ in scored], search)
    marks = zip(scored, at, strict=True)
    for (trial, value), place in sorted(marks, key=lambda mark: mark[0][0] is winner):  # on top
        ended = "finished" if trial.state == "finished" else "stopped"
        kind = "best" if trial is winner else ended
        chart.dot(kind, place, value, f"{trial.name}: {value:.4f}")
    return chart


def _axis(name: str, values: list[Any], search: Search) -> tuple[Axis, Sequence[float]]:
    """The axis of a parameter and where values lie: numbers by size, anything else by name."""
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        log = "log" in search.config["parameters"][name].get("distribution", "")
        return Axis.numbers(f"value of {name}", values, log=log), values
    names = sorted({_shown(value) for value in values})
    axis = Axis.places(f"value of {name}", len(names), dict(enumerate(names)))
    return axis, [names.index(_shown(value)) for value in values]


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
