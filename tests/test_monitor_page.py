"""The page over time, and what a browser makes of it: no script, no network, no overflow."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grocery.inbox.history import Entry, SequenceFinding
from grocery.inbox.timeline import SHOWN, over_time, realised
from grocery.monitoring.drift import Signal
from grocery.monitoring.report import UNCERTAIN, BatchReport, Sample, render
from samples import jpeg, picture
from test_report import BATCHES, HOSTILE, PARAMS, REFERENCE, VOID, Page

LONG = "Pneumonoultramicroscopicsilicovolcanoconiosis-" * 4
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PHONE = 390  # CSS pixels

SIGNALS = [
    Signal("confidence", 0.2, 0.004, 0.21, 0.15, "Confidence fell.", verdict="watch"),
    Signal("classes", 0.2, 0.5, 0.02, 0.2, "Predicted classes are as expected.", verdict="ok"),
    Signal("image statistics", 0.2, 0.0001, 0.9, 0.3, "Sharpness fell.", verdict="alert"),
    Signal(f"new {HOSTILE}", 0.2, 0.5, 0.0, 0.1, HOSTILE, verdict="ok"),
]


def entry(number: int, **changes: object) -> Entry:
    made = Entry(
        kind="batch",
        batch=f"batch-{number}",
        incoming="inbox",
        digest=f"{number:064x}",
        labels=None,
        time=f"2026-11-{1 + number % 30:02d}T08:00:00Z",
        judged="2026-12-01T08:00:00Z",
        version="v1.2.0",
        model="a" * 64,
        reference="b" * 64,
        verdict=("ok", "watch", "too few", "alert")[number % 4],
        images=40,
        unreadable=0,
        labelled=0,
        estimated_accuracy=0.8,
        estimate_interval=(0.74, 0.86),
        accuracy=None,
        wasserstein=0.1,
        signals=SIGNALS,
        confidence_counts=[0] * 100,
        class_counts=[40, 0, 0],
        sequence=None,
    )
    return made.model_copy(update=changes)


SEQUENCE = SequenceFinding(
    batches=["batch-4", "batch-5", LONG, HOSTILE],
    images=160,
    signals=[replace(SIGNALS[0], sentence="Over the last 4 batches: lower.")],
)
ENTRIES = [
    *(entry(number) for number in range(30)),
    entry(30, batch=HOSTILE, sequence=SEQUENCE, verdict="ok"),
    entry(31, batch=LONG, estimated_accuracy=None, estimate_interval=None, signals=[]),
    entry(3, kind="labels", labels="c" * 64, accuracy=0.725),
]


def crowded() -> BatchReport:
    """A batch whose every name is long, with signals that the page has never heard of."""
    judgement = replace(
        BATCHES[0].judgement, verdict="alert", signals=tuple(SIGNALS), estimated_accuracy=0.8
    )
    object.__setattr__(judgement, "estimate_interval", (0.7412, 0.8571))
    samples = [Sample(UNCERTAIN, LONG, LONG, 0.5, LONG, jpeg(picture(0, (160, 90))))] * 4
    return replace(BATCHES[0], name=LONG, judgement=judgement, samples=samples)


def page(
    new: Sequence[Entry] = ENTRIES[-3:],
    entries: Sequence[Entry] = ENTRIES,
    batches: Sequence[BatchReport] = BATCHES,
) -> bytes:
    return render(REFERENCE, [crowded(), *batches], PARAMS, over_time(entries, new))


class TestOverTime:
    def test_is_well_formed_and_safe(self) -> None:
        parsed = Page(page())
        assert not {"script", "link", "iframe", "object", "base", "form"} & set(parsed.tags)
        assert not [name for name, _ in parsed.attributes if name.startswith("on")]
        assert "rect" in parsed.tags
        assert "line" in VOID
        assert HOSTILE in parsed.text

    def test_is_the_same_each_time_and_only_there_with_a_history(self) -> None:
        assert page() == page()
        assert b"Over time" not in render(REFERENCE, BATCHES, PARAMS)
        assert b"Over time" not in page(entries=[])

    def test_a_new_sequence_is_said_first(self) -> None:
        text = Page(page()).text
        assert "2 of 6 batches in alert, and a sequence" not in text  # all-bad, drifted, crowded
        assert "3 of 6 batches in alert, and a sequence" in text
        assert text.index("A sequence of 4 batches") < text.index("Over time")
        assert "Over the last 4 batches: lower." in text
        old = Page(page(new=[])).text
        assert "and a sequence" not in old.split("Over time")[0]

    def test_a_sequence_alone(self) -> None:
        calm = [batch for batch in BATCHES if batch.judgement.verdict != "alert"]
        text = Page(render(REFERENCE, calm, PARAMS, over_time(ENTRIES, ENTRIES[-3:]))).text
        assert "A sequence of batches in alert" in text

    def test_every_batch_is_a_square_and_a_line(self) -> None:
        html = page().decode()
        strip = html.split('<ol class="strip">')[1].split("</ol>")[0]
        assert strip.count("<li") == 32
        assert strip.count(" part") == 4
        assert html.count('class="interval"') == 31
        assert html.count('class="truth"') == 2  # a square in the chart and one in the key
        text = Page(page()).text
        assert (
            "2026-11-04 08:00:00 UTC, 40 images, estimated accuracy 0.800, realised 0.725" in text
        )

    def test_a_long_history_shows_its_end(self) -> None:
        many = [entry(number) for number in range(3 * SHOWN)]
        html = page(entries=many).decode()
        assert html.split('<ol class="strip">')[1].split("</ol>")[0].count("<li") == SHOWN
        assert f"The latest {SHOWN} of {3 * SHOWN} batches" in html

    def test_one_batch(self) -> None:
        parsed = Page(page(entries=[entry(0)]))
        assert "1 batch with this model" in parsed.text

    def test_accuracy_is_the_latest_that_was_realised(self) -> None:
        corrected = entry(3, kind="labels", labels="d" * 64, accuracy=0.9)
        assert realised([*ENTRIES, corrected]) == {f"{3:064x}": 0.9}


class TestSignals:
    def test_unknown_ones_have_a_title(self) -> None:
        text = Page(page()).text
        assert "Image statistics" in text
        assert "Predicted classes" in text
        assert f"New {HOSTILE}" in text

    def test_the_estimate_has_its_interval(self) -> None:
        assert "Estimated accuracy, 90 % interval0.800 0.741 to 0.857" in Page(page()).text


def screenshot(html: Path, to: Path, width: int, height: int, *, dark: bool = False) -> np.ndarray:
    """What Chromium draws, shape (height, width, 3)."""
    assert CHROMIUM is not None
    options = ["--blink-settings=preferredColorScheme=0"] if dark else []
    subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={to.parent / 'profile'}",
            f"--window-size={width},{height}",
            f"--screenshot={to}",
            *options,
            html.as_uri(),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    with Image.open(to) as image:
        return np.asarray(image.convert("RGB"))


def beside(page_text: str, folder: Path) -> bool:
    """Whether anything of a page is drawn to the right of a phone's width."""
    narrow = page_text.replace("<body>", f'<body style="width:{PHONE}px;margin:0">')
    # Media queries ask for the width of the window: the rules for phones are made to hold in it.
    assert "@media (max-width: 40rem)" in narrow
    file = folder / "narrow.html"
    file.write_text(narrow.replace("@media (max-width: 40rem)", "@media all"))
    drawn = screenshot(file, folder / "narrow.png", 900, 9_000)
    background = drawn[-1, -1]
    assert (drawn[:, :PHONE] != background).any()
    return bool((drawn[:, PHONE:] != background).any())


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
class TestInChromium:
    @pytest.fixture
    def html(self, tmp_path: Path) -> Path:
        file = tmp_path / "page.html"
        short = page(entries=ENTRIES[-8:], batches=BATCHES[-2:])
        file.write_bytes(short.replace(b"<details", b"<details open"))
        return file

    def test_nothing_is_wider_than_a_phone(self, html: Path, tmp_path: Path) -> None:
        """In a wider window, what sticks out of a page of a phone's width is seen beside it."""
        assert not beside(html.read_text(), tmp_path)
        wide = '<p style="width:24.5rem;background:#888">to the last line: 392 pixels</p></body>'
        assert beside(html.read_text().replace("</body>", wide), tmp_path)

    def test_light_and_dark(self, html: Path, tmp_path: Path) -> None:
        light = screenshot(html, tmp_path / "light.png", 1280, 900)
        dark = screenshot(html, tmp_path / "dark.png", 1280, 900, dark=True)
        assert light[0, 0].min() > 230
        assert dark[0, 0].max() < 40
        for drawn in (light, dark):  # there is something to be read
            assert drawn.std() > 15
