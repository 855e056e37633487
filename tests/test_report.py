"""The monitoring page: whole, self-contained, safe with hostile names, the same bytes each time."""

from __future__ import annotations

from html.parser import HTMLParser
from itertools import product

import numpy as np

from grocery.monitoring.drift import judge
from grocery.monitoring.report import (
    ANY,
    TYPICAL,
    UNCERTAIN,
    BatchReport,
    Sample,
    choose_samples,
    render,
)
from grocery.reference.reference import Reference
from samples import jpeg, picture
from thresholds import thresholds

PARAMS = thresholds(sample_images=8)
HOSTILE = "\"><script src=https://evil.example/x.js></script><img src=x onerror=alert(1)> & 'é'"
CLASSES = ["apple", HOSTILE, "pear"]
VOID = {"meta", "img", "br", "line"}


class Page(HTMLParser):
    """Collects tags and attributes, and checks that every tag is closed in its turn."""

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
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.text += data


def predictions(n: int, strength: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet([strength, 1, 1], n).astype(np.float32)


REFERENCE = Reference.from_predictions(predictions(200, 1), None, CLASSES, "abcdef" * 8)


def batch(name: str, n: int = 60, strength: float = 1, unreadable: int = 0) -> BatchReport:
    probabilities = predictions(n, strength, seed=1)
    labels = [HOSTILE if row % 2 else None for row in range(n)]
    return BatchReport(
        name=name,
        judgement=judge(REFERENCE, probabilities, labels, unreadable, PARAMS),
        confidences=probabilities.max(axis=1),
        predicted_counts=np.bincount(probabilities.argmax(axis=1), minlength=3),
        samples=[
            Sample(reason, f"{HOSTILE}/1.jpg", HOSTILE, 0.5, label, jpeg(picture(0)))
            for reason in (UNCERTAIN, TYPICAL, ANY)
            for label in (None, HOSTILE, "pear")
        ][: 9 if n else 0],
    )


BATCHES = [
    batch("clean"),
    batch(f"drifted {HOSTILE}", strength=30),
    batch("small", 12),
    batch("empty", 0),
    batch("all-bad", 0, unreadable=40),
]


def test_the_page_is_well_formed_and_needs_nothing_else() -> None:
    data = render(REFERENCE, BATCHES, PARAMS)
    page = Page(data)
    assert {"html", "head", "body", "h1", "section", "svg"} <= set(page.tags)
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(page.tags)
    sources = [value for name, value in page.attributes if name in {"src", "href", "srcset"}]
    assert sources
    assert all(value.startswith(("data:image/jpeg;base64,", "#batch-")) for value in sources)
    assert b"url(" not in data
    assert b"@import" not in data
    ids = {value for name, value in page.attributes if name == "id"}
    assert {value[1:] for value in sources if value.startswith("#")} == ids
    assert ("content", "width=device-width, initial-scale=1") in page.attributes
    assert b"prefers-color-scheme: dark" in data


def test_hostile_names_stay_text() -> None:
    page = Page(render(REFERENCE, BATCHES, PARAMS))
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert page.tags.count("img") == sum(len(batch.samples) for batch in BATCHES)
    assert page.text.count(HOSTILE) > 10
    assert ("title", f"{HOSTILE}/1.jpg") in page.attributes
    assert ("alt", f"predicted {HOSTILE}") in page.attributes


def test_the_same_verdicts_give_the_same_bytes() -> None:
    page = render(REFERENCE, BATCHES, PARAMS)
    assert render(REFERENCE, BATCHES[::-1], PARAMS) == page
    assert b"nan" not in page


def test_verdicts_come_first_and_worst_first() -> None:
    text = Page(render(REFERENCE, BATCHES, PARAMS)).text
    assert text.index("1 of 5 batches in alert") < text.index("all-bad") < text.index("drifted")
    assert text.index("drifted") < text.index("empty") < text.index("small") < text.index("clean")
    assert text.index("clean") < text.index("Most uncertain")
    assert "12 readable images are too few to judge predictions by; 20 are needed." in text
    assert "of 60 images are predicted apple" in text


def test_headlines() -> None:
    for batches, headline in [
        ([], "No incoming batches"),
        (BATCHES[:1], "No alert in 1 batch"),
        (BATCHES[1:2], "No alert in 1 batch"),  # it has changed, and may be as easy as before
        (BATCHES[4:], "1 of 1 batch in alert"),
        ([BATCHES[0], BATCHES[2]], "No alert in 2 batches"),
    ]:
        page = Page(render(REFERENCE, batches, PARAMS))
        assert page.text.count(headline) == 2  # title and heading


def test_a_page_without_batches_says_how_to_add_one() -> None:
    text = Page(render(REFERENCE, [], PARAMS)).text
    assert "data/raw/NAME/incoming/monday/" in text
    assert "grocery monitor FOLDER --report FILE" in text
    assert "incoming/monday" not in Page(render(REFERENCE, BATCHES, PARAMS)).text


def test_advice_stands_between_the_verdicts_and_the_reasons() -> None:
    text = Page(render(REFERENCE, BATCHES, PARAMS, advice=[HOSTILE, "Label more."])).text
    assert text.count("Label more.") == 1
    assert text.index("5 batches") < text.index("about the model") < text.index("Most uncertain")


# Which pictures are shown


def test_samples_have_three_reasons_and_no_repeats() -> None:
    confidences = np.linspace(0.1, 0.9, 41).astype(np.float32)
    ids = [f"{(7 * row) % 41:02x}" for row in range(41)]
    chosen = choose_samples(confidences, ids, 8)
    assert [reason for _, reason in chosen] == [UNCERTAIN] * 3 + [TYPICAL] * 3 + [ANY] * 2
    assert [index for index, _ in chosen[:3]] == [0, 1, 2]
    assert sorted(index for index, _ in chosen[3:6]) == [19, 20, 21]
    assert len({index for index, _ in chosen}) == 8
    rest = [index for index in range(41) if index not in {0, 1, 2, 19, 20, 21}]
    assert [index for index, _ in chosen[6:]] == sorted(rest, key=ids.__getitem__)[:2]


def test_as_many_samples_as_asked_for_or_as_there_are() -> None:
    for n, count in product((0, 1, 4, 30), (0, 1, 2, 3, 5, 100)):
        confidences = np.full(n, 0.5, np.float32)
        chosen = choose_samples(confidences, [f"{row:03x}" for row in range(n)], count)
        assert len(chosen) == len(dict(chosen)) == min(n, count)
