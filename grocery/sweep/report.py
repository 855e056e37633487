"""What a sweep found: a table for the terminal, and one self-contained page with its plots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from grocery.pages import page as pages
from grocery.pages.charts import Axis, Chart
from grocery.sweep.search import Search
from grocery.sweep.study import Trial


def score(trial: Trial, search: Search) -> float | None:
    """What a trial reached: its metric, or of one that did not finish the best step."""
    if trial.state == "finished":
        return float(trial.summary[search.metric.name])
    return max(trial.steps, key=lambda value: search.sign * value, default=None)


def ranked(trials: Sequence[Trial], search: Search) -> list[Trial]:
    """The best first, of equal ones the earlier; then those that were stopped or failed."""
    states = ("finished", "stopped", "running", "failed")

    def rank(trial: Trial) -> tuple[int, float, int]:
        cost = -search.sign * (score(trial, search) or 0.0)
        return states.index(trial.state), cost, trial.number

    return sorted(trials, key=rank)


def rows(trials: Sequence[Trial], search: Search) -> list[list[str]]:
    """A header and a row a trial, as `ranked`."""
    head = ["trial", "state", search.metric.name, "test accuracy", "steps", "s"]
    table = [[*head, *search.parameters]]
    for trial in ranked(trials, search):
        reached = (score(trial, search), trial.summary.get("test_accuracy"))
        shown = ["-" if value is None else f"{value:.4f}" for value in reached]
        shown += [str(len(trial.steps)), f"{trial.seconds:.1f}"]
        values = (_shown(trial.assignments[name]) for name in search.parameters)
        table.append([trial.name, trial.state, *shown, *values])
    return table


def sentences(
    trials: Sequence[Trial], search: Search, seconds: float, workspace: Mapping[str, float]
) -> list[str]:
    """The account of a sweep: counts, time, and whether to apply the best.

    This command has taken `seconds`. The metrics of what is in the `workspace` are named as
    in `Trial.summary`; there are none before a first run.
    """
    states = Counter(trial.state for trial in trials)
    parts = [f"{len(trials)} trials of {sum(trial.seconds for trial in trials):.0f} s"]
    parts += [f"{states[word]} {word}" for word in ("stopped", "failed") if states[word]]
    found = [f"{', '.join(parts)}; this command took {seconds:.0f} s"]
    if not states["finished"]:
        return [*found, "no trial has finished, so there is no best one"]
    best, name = ranked(trials, search)[0], search.metric.name
    parts = [f"best: {best.name}"]
    for title, key in ((name, name), ("test accuracy", "test_accuracy")):
        here = f" (workspace: {workspace[key]:.4f})" if key in workspace else ""
        parts += [f"{title} {best.summary[key]:.4f}{here}"] if key in best.summary else []
    found.append(", ".join(parts))
    if name in workspace and search.sign * (best.summary[name] - workspace[name]) <= 0:
        return [*found, "no trial beats the workspace, so there is nothing to apply"]
    return [*found, f"apply it with: dvc exp apply {best.name}"]


def page(trials: Sequence[Trial], search: Search, account: Sequence[str]) -> str:
    """The plots as one HTML page: the search over time, and the metric over each parameter."""
    worst_first = reversed(ranked(trials, search))  # so that the best lies on top
    scored = [(t, value) for t in worst_first if (value := score(t, search)) is not None]
    charts = [_chart(name, scored, search) for name in ("", *search.parameters) if scored]
    head, *body = rows(trials, search)
    values = {"name": search.name, "account": account, "charts": charts, "head": head, "body": body}
    return pages.render(__file__, **values)


def _chart(name: str, scored: Sequence[tuple[Trial, float]], search: Search) -> Chart:
    """The metric over a parameter or, without a name, over the trials; the best of them is last."""
    better = "higher" if search.sign > 0 else "lower"
    y = Axis.numbers(f"{search.metric.name} ({better} is better)", [value for _, value in scored])
    at: Sequence[float] = [trial.number for trial, _ in scored]
    x = Axis.numbers("number of the trial, in the order in which they began", at)
    if name:
        x, at = _axis(name, [trial.assignments[name] for trial, _ in scored], search)
    chart = Chart(f"By {name}" if name else "The search", x, y)
    for (trial, value), place in zip(scored, at, strict=True):
        kind = "finished" if trial.state == "finished" else "stopped"
        best = trial is scored[-1][0] and kind == "finished"
        chart.dot("best" if best else kind, place, value, f"{trial.name}: {value:.4f}")
    return chart


def _axis(name: str, values: list[Any], search: Search) -> tuple[Axis, Sequence[float]]:
    """The axis of a parameter and where values lie: numbers by size, anything else by name."""
    if all(type(value) in (int, float) for value in values):
        log = "log" in search.parameters[name].kind
        return Axis.numbers(f"value of {name}", values, log=log), values
    names = sorted({_shown(value) for value in values})
    axis = Axis.places(f"value of {name}", len(names), dict(enumerate(names)))
    return axis, [names.index(_shown(value)) for value in values]


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
