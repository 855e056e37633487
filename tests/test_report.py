"""Pages: templates that escape everything, charts, and the monitor's page, which is whole."""

from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from jinja2 import UndefinedError

from conftest import Project
from grocery.monitoring.drift import Judgement, judge
from grocery.monitoring.report import (
    ANY,
    TYPICAL,
    UNCERTAIN,
    BatchReport,
    Sample,
    choose_samples,
    render,
)
from grocery.pages import page
from grocery.pages.charts import Axis, Bars, Chart
from grocery.reference.reference import Reference
from samples import jpeg, picture
from thresholds import thresholds

PARAMS = thresholds(sample_images=8)
HOSTILE = "\"><script src=https://evil.example/x.js></script><img src=x onerror=alert(1)> & 'é'"
CLASSES = ["apple", HOSTILE, "pear"]
VOID = {"meta", "img", "br", "line"}
UNSAFE = {"script", "link", "iframe", "object", "base", "form"}


class Page(HTMLParser):
    """Collects tags and attributes; every tag must be closed in its turn, and none may act."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(data.decode())
        self.close()
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in UNSAFE
        assert not [name for name, _ in attrs if name.startswith("on")]
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag in VOID or self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.text += data


def predictions(n: int, strength: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet([strength, 1, 1], n).astype(np.float32)


REFERENCE = Reference.from_predictions(predictions(200, 1), None, CLASSES, "abcdef" * 8)


def report_of(
    name: str, judgement: Judgement, probabilities: np.ndarray, samples: Sequence[Sample] = ()
) -> BatchReport:
    counts = np.bincount(probabilities.argmax(axis=1), minlength=3)
    return BatchReport(name, judgement, probabilities.max(axis=1), counts, samples)


def batch(name: str, n: int = 60, strength: float = 1, unreadable: int = 0) -> BatchReport:
    probabilities = predictions(n, strength, seed=1)
    labels = [HOSTILE if row % 2 else None for row in range(n)]
    samples = [
        Sample(reason, f"{HOSTILE}/1.jpg", HOSTILE, 0.5, label, jpeg(picture(0)))
        for reason in (UNCERTAIN, TYPICAL, ANY)
        for label in (None, HOSTILE, "pear")
    ]
    judgement = judge(REFERENCE, probabilities, labels, unreadable, PARAMS)
    return report_of(name, judgement, probabilities, samples[: 9 if n else 0])


BATCHES = [
    batch("clean"),
    batch(f"drifted {HOSTILE}", strength=30),
    batch("small", 12),
    batch("empty", 0),
    batch("all-bad", 0, unreadable=40),
]


def test_the_page_is_well_formed_needs_nothing_else_and_hostile_names_stay_text() -> None:
    data = render(REFERENCE, BATCHES, PARAMS)
    assert render(REFERENCE, BATCHES[::-1], PARAMS) == data
    page = Page(data)
    assert {"html", "head", "body", "h1", "section", "svg"} <= set(page.tags)
    sources = [value for name, value in page.attributes if name in {"src", "href", "srcset"}]
    assert sources
    assert all(value.startswith(("data:image/jpeg;base64,", "#batch-")) for value in sources)
    ids = {value for name, value in page.attributes if name == "id"}
    assert {value[1:] for value in sources if value.startswith("#")} == ids
    assert not [word for word in (b"url(", b"@import", b"nan") if word in data]
    assert ("content", "width=device-width, initial-scale=1") in page.attributes
    assert b"prefers-color-scheme: dark" in data

    assert page.tags.count("img") == sum(len(batch.samples) for batch in BATCHES)
    assert page.text.count(HOSTILE) > 10
    assert ("title", f"{HOSTILE}/1.jpg") in page.attributes
    assert ("alt", f"predicted {HOSTILE}") in page.attributes


def test_verdicts_come_first_and_the_worst_of_them_then_advice_and_then_reasons() -> None:
    text = Page(render(REFERENCE, BATCHES, PARAMS, advice=["Label more."])).text
    order = ["1 of 5 batches in alert", "all-bad", "drifted", "empty", "small", "clean"]
    places = [text.index(each) for each in [*order, "about the model", "Most uncertain"]]
    assert places == sorted(places)
    assert text.count("Label more.") == 1
    assert "12 readable images are too few to judge predictions by; 20 are needed." in text
    assert "of 60 images are predicted apple" in text
    assert "incoming/monday" not in text


def test_headlines() -> None:
    for batches, headline in [
        ([], "No incoming batches"),
        (BATCHES[:1], "No alert in 1 batch"),
        (BATCHES[1:2], "No alert in 1 batch"),  # it has changed, and may be as easy as before
        (BATCHES[4:], "1 of 1 batch in alert"),
        ([BATCHES[0], BATCHES[2]], "No alert in 2 batches"),
    ]:
        text = Page(render(REFERENCE, batches, PARAMS)).text
        assert text.count(headline) == 2  # title and heading
        how_to_add_one = ("data/raw/NAME/incoming/monday/", "grocery monitor FOLDER --report FILE")
        assert all((each in text) == (not batches) for each in how_to_add_one)


def test_pictures_are_chosen_for_three_reasons_and_none_twice() -> None:
    confidences = np.linspace(0.1, 0.9, 41).astype(np.float32)
    ids = [f"{(7 * row) % 41:02x}" for row in range(41)]
    chosen = choose_samples(confidences, ids, 8)
    assert [reason for _, reason in chosen] == [UNCERTAIN] * 3 + [TYPICAL] * 3 + [ANY] * 2
    assert [index for index, _ in chosen[:3]] == [0, 1, 2]
    assert sorted(index for index, _ in chosen[3:6]) == [19, 20, 21]
    rest = [index for index in range(41) if index not in {0, 1, 2, 19, 20, 21}]
    assert [index for index, _ in chosen[6:]] == sorted(rest, key=ids.__getitem__)[:2]

    for n, count in product((0, 1, 4, 30), (0, 1, 2, 3, 5, 100)):
        alike = np.full(n, 0.5, np.float32)
        chosen = choose_samples(alike, [f"{row:03x}" for row in range(n)], count)
        assert len(chosen) == len(dict(chosen)) == min(n, count)


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


def test_drills_are_called_drills() -> None:
    drills = [replace(batch, drill=RTL) for batch in BATCHES]
    text = Page(render(REFERENCE, drills, PARAMS)).text
    assert text.count("1 of 5 drills in alert") == 2  # title and heading
    assert "an alert is right" in text
    assert text.count(f"drill: {RTL}") == 2 * len(drills)
    mixed = Page(render(REFERENCE, [*drills[:1], *BATCHES[1:]], PARAMS))
    assert "1 of 5 batches in alert" in mixed.text
    assert "drill" not in Page(render(REFERENCE, BATCHES, PARAMS)).text


def test_a_batch_says_itself_what_was_done_on_purpose(built: Project) -> None:
    """What the recipe does to its batches, from prepare to the page."""
    page = Page((built.path / "metrics/monitor/index.html").read_bytes())
    assert "drills in alert" in page.text or "No alert in" in page.text
    assert "a drill: photographs are darker" in page.text
    assert "a drill: nothing was changed" in page.text


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
    logarithmic = log and min(values) > 0
    assert ("logarithmic" in axis.title) == logarithmic
    middle = (axis.low * axis.high) ** 0.5 if logarithmic else (axis.low + axis.high) / 2
    assert [*map(axis.share, (axis.low, middle, axis.high))] == pytest.approx([0, 0.5, 1])


def test_a_histogram_is_closed_along_its_axis() -> None:
    chart = Chart("h", Axis.numbers("x", [0, 2]), Axis.numbers("y", [0, 1]))
    chart.steps("batch", [0, 1, 2], [0.5, 1.0])
    ((tag, attributes, _),) = chart.marks
    assert tag == "path"
    assert attributes["d"] == "M56.0 204.0L56.0 117.0L261.0 117.0L261.0 30.0L466.0 30.0L466.0 204.0"
