"""What all pages share: templates that escape everything, and charts over round axes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from conftest import Project
from grocery.images.preprocessing import Preprocessing
from grocery.monitoring.batches import read_batch
from grocery.monitoring.report import render
from grocery.pages import page
from grocery.pages.charts import Axis, Bars, Chart
from grocery.shards import how_prepared
from test_report import BATCHES, HOSTILE, PARAMS, REFERENCE, Page

RTL = "\u202eevil\u202c"
PAGE = """{% extends "base.html" %}
{% from "parts.html" import bars, chart, picture %}
{% block title %}{{ name }}{% endblock %}
{% block body %}{{ chart(c) }}{{ bars(b) }}{{ picture(jpeg, name) }}{% endblock %}
"""


def drawn(folder: Path, name: str) -> str:
    (folder / "one.html").write_text(PAGE)
    x, y = Axis.places(name, 1, {0: name}), Axis.numbers(name, [0, 1])
    chart = Chart(name, x, y, [("batch", name)])
    chart.dot("batch", 0, 0.5, name)
    chart.square("truth", 0, 0.5, name)
    chart.line("limit", (0, 0), (0, 1))
    bars = Bars(name, name, [("", name)], [(name, [("batch", 0.5)], name)])
    return page.render(str(folder / "one.py"), name=name, c=chart, b=bars, jpeg=b"\xff\xd8")


@pytest.mark.parametrize("name", [HOSTILE, RTL, "{{ 1 + 1 }}"])
def test_whatever_a_name_is_it_stays_text(tmp_path: Path, name: str) -> None:
    data = drawn(tmp_path, name)
    seen, plain = Page(data.encode()), Page(drawn(tmp_path, "plain").encode())
    assert seen.tags == plain.tags
    assert seen.text.count(name) >= 9
    assert ("alt", name) in seen.attributes
    assert data == drawn(tmp_path, name)
    assert "default-src 'none'" in data


@pytest.mark.parametrize("name", [HOSTILE, RTL])
def test_drills_are_called_drills(name: str) -> None:
    drills = [replace(batch, drill=name) for batch in BATCHES]
    seen = Page(render(REFERENCE, drills, PARAMS))
    assert seen.text.count("1 of 5 drills in alert") == 2  # title and heading
    assert "an alert is right" in seen.text
    assert seen.text.count(f"drill: {name}") == 2 * len(drills)
    mixed = Page(render(REFERENCE, [*drills[:1], *BATCHES[1:]], PARAMS))
    assert "1 of 5 batches in alert" in mixed.text
    assert "drill" not in Page(render(REFERENCE, BATCHES, PARAMS)).text


def test_a_batch_says_itself_what_was_done_on_purpose(built: Project) -> None:
    """What the recipe does to its batches, from prepare to the page."""
    incoming = built.path / "data/prepared/incoming"
    how = Preprocessing.of(how_prepared(incoming / "dim.parquet"), "dim")
    told = {file.stem: read_batch(file, how).drill for file in incoming.glob("*.parquet")}
    assert told["dim"] == "photographs are darker"
    assert told["clean"] == "nothing was changed"
    page = Page((built.path / "metrics/monitor/index.html").read_bytes())
    assert "drills in alert" in page.text or "No alert in" in page.text
    assert "a drill: photographs are darker" in page.text


def test_what_a_page_is_not_given_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "one.html").write_text("{{ nothing }}")
    with pytest.raises(UndefinedError):
        page.render(str(tmp_path / "one.py"))


@pytest.mark.parametrize(
    ("values", "log", "ticks"),
    [
        ([0.0, 1.0], False, ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        ([3, 30], False, ["0", "10", "20", "30"]),
        ([1, 2], False, ["1", "2"]),
        ([0.72, 0.93], False, ["0.7", "0.75", "0.8", "0.85", "0.9", "0.95"]),
        ([5], False, ["4", "5", "6"]),
        ([0.0], False, ["-0.2", "0", "0.2"]),
        ([0.11, 96.0], True, ["0.1", "1", "10", "100"]),
        ([1e-5, 1e-4], True, ["1e-05", "2e-05", "5e-05", "0.0001"]),
        ([3.0], True, ["2", "5"]),
        ([0.0, 4.0], True, ["0", "1", "2", "3", "4"]),  # it has no logarithm
    ],
)
def test_an_axis_ends_at_round_numbers(values: list[float], log: bool, ticks: list[str]) -> None:
    axis = Axis.numbers("size", values, log=log)
    assert [text for _, text in axis.ticks] == ticks
    assert axis.low <= min(values) <= max(values) <= axis.high
    assert [axis.share(axis.low), axis.share(axis.high)] == pytest.approx([0, 1])
    assert ("logarithmic" in axis.title) == (log and min(values) > 0)


def test_a_logarithmic_axis_gives_each_power_of_ten_the_same_room() -> None:
    axis = Axis.numbers("size", [0.1, 1000], log=True)
    assert [axis.share(value) for value in (0.1, 1, 10, 100)] == pytest.approx([0, 0.25, 0.5, 0.75])


def test_a_histogram_is_closed_along_its_axis() -> None:
    chart = Chart("h", Axis.numbers("x", [0, 2]), Axis.numbers("y", [0, 1]))
    chart.steps("batch", [0, 1, 2], [0.5, 1.0])
    ((tag, attributes, _),) = chart.marks
    assert tag == "path"
    assert attributes["d"] == "M56.0 204.0L56.0 117.0L261.0 117.0L261.0 30.0L466.0 30.0L466.0 204.0"
