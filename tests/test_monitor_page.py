"""The page over time, and what a browser makes of it: no script, no network, no overflow."""

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from html import escape, unescape
from pathlib import Path

import pytest

from conftest import ROOT
from grocery.inbox.entries import Entry, SequenceFinding
from grocery.inbox.timeline import SHOWN, over_time, realised
from grocery.monitoring.report import UNCERTAIN, BatchReport, Sample, render, title
from grocery.monitoring.signals import Signal
from samples import jpeg, picture
from test_history import entry as judged
from test_report import BATCHES, HOSTILE, PARAMS, REFERENCE, Page

LONG = "Pneumonoultramicroscopicsilicovolcanoconiosis-" * 4
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PHONE = 390  # CSS pixels

SIGNALS = [
    Signal("confidence", 0.2, 0.004, 0.21, 0.15, "Confidence fell.", verdict="watch"),
    Signal("classes", 0.2, 0.5, 0.02, 0.2, "Predicted classes are as expected.", verdict="ok"),
    Signal("image statistics", 0.2, 0.0001, 0.9, 0.3, "Sharpness fell.", verdict="alert"),
    Signal(f"new {HOSTILE}", 0.2, 0.5, 0.0, 0.1, HOSTILE, verdict="ok"),
]


BASE = judged("inbox", n=40)


def entry(number: int, **changes: object) -> Entry:
    assert BASE is not None
    said = {
        "batch": f"batch-{number}",
        "digest": f"{number:064x}",
        "time": f"2026-11-{1 + number % 30:02d}T08:00:00Z",
        "verdict": ("ok", "watch", "too few", "alert")[number % 4],
        "estimated_accuracy": 0.8,
        "estimate_interval": (0.74, 0.86),
        "signals": SIGNALS,
    }
    return BASE.model_copy(update=said | changes)


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
        BATCHES[0].judgement,
        verdict="alert",
        signals=tuple(SIGNALS),
        estimated_accuracy=0.8,
        estimate_interval=(0.7412, 0.8571),
    )
    samples = [Sample(UNCERTAIN, LONG, LONG, 0.5, LONG, jpeg(picture(0, (160, 90))))] * 4
    return replace(BATCHES[0], name=LONG, judgement=judgement, samples=samples)


def page(
    new: Sequence[Entry] = ENTRIES[-3:],
    entries: Sequence[Entry] = ENTRIES,
    batches: Sequence[BatchReport] = BATCHES,
) -> bytes:
    return render(REFERENCE, [crowded(), *batches], PARAMS, over_time(entries, new, len(entries)))


HTML = page()
TEXT = Page(HTML).text


def squares(html: bytes) -> str:
    """The strip over time."""
    return html.decode().split('<ol class="strip">')[1].split("</ol>")[0]


def test_it_is_well_formed_and_safe_and_the_same_each_time() -> None:
    for said in (HOSTILE, "Image statistics", "Predicted classes", f"New {HOSTILE}"):
        assert said in TEXT
    assert "Estimated accuracy, 90 % interval0.800 0.741 to 0.857" in TEXT
    assert page() == HTML


def test_a_signal_has_one_name_in_docs_and_json_and_on_the_page() -> None:
    table = (
        (ROOT / "docs/monitoring.md").read_text().partition("| signal |")[2].partition("\n\n")[0]
    )
    names = re.findall(r"^\| \**([a-z]+)\** \|", table, flags=re.MULTILINE)
    recorded = json.loads((ROOT / "metrics/monitor.json").read_bytes())["batches"]["clean"]
    sizes = {key.removesuffix("_shift") for key in recorded if key.endswith("_shift")}
    assert sizes < {*names}
    for name in names:
        assert title(name).lower().startswith(name)


def test_a_new_sequence_is_said_first() -> None:
    assert "2 of the latest 6 batches in alert, and a sequence" in TEXT
    assert TEXT.index("A sequence of 4 batches") < TEXT.index("Over time")
    assert "Over the last 4 batches: lower." in TEXT
    assert "and a sequence" not in Page(page(new=[])).text.split("Over time")[0]
    calm = [batch for batch in BATCHES if batch.judgement.verdict != "alert"]
    alone = Page(render(REFERENCE, calm, PARAMS, over_time(ENTRIES, ENTRIES[-3:], 32))).text
    assert "A sequence of batches in alert" in alone


def test_every_batch_is_a_square_and_a_line() -> None:
    assert squares(HTML).count("<li") == 32
    assert squares(HTML).count(" part") == 4
    assert HTML.count(b'class="interval"') == 31
    assert HTML.count(b'class="truth"') == 2  # a square in the chart and one in the key
    line = "2026-11-04 08:00:00 UTC, 40 images, estimated accuracy 0.800, realised 0.725"
    assert line in TEXT
    corrected = entry(3, kind="labels", labels="d" * 64, accuracy=0.9)
    assert realised([*ENTRIES, corrected]) == {f"{3:064x}": 0.9}


def test_a_long_history_shows_its_end_and_none_shows_nothing() -> None:
    many = [entry(number) for number in range(3 * SHOWN)]
    html = page(entries=many)
    assert squares(html).count("<li") == SHOWN
    assert f'title="{many[-1].batch},' in squares(html)
    assert f"The latest {SHOWN} of {3 * SHOWN} batches" in html.decode()
    assert "1 batch with this model" in Page(page(entries=many[:1])).text
    assert b"Over time" not in page(entries=[])


MEASURE = """<script>addEventListener("load", () => {
  const found = {};
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument;
    page.querySelectorAll("details").forEach((one) => { one.open = true; });
    const style = frame.contentWindow.getComputedStyle(page.body);
    const boxes = [...page.querySelectorAll("body *")].map((one) => one.getBoundingClientRect());
    found[frame.id] = {
      right: Math.max(page.documentElement.scrollWidth, ...boxes.map((box) => box.right)),
      text: page.body.innerText,
      pictures: [...page.images].filter((one) => one.naturalWidth > 0).length,
      ink: style.color.match(/[0-9]+/g).map(Number),
      paper: style.backgroundColor.match(/[0-9]+/g).map(Number),
    };
  }
  document.body.textContent = JSON.stringify(found);
});</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_in_a_browser(tmp_path: Path) -> None:
    """What Chromium makes of pages, each in a frame of some width."""
    html = page(entries=ENTRIES[-8:], batches=BATCHES[-2:]).decode()
    dark = "@media (prefers-color-scheme: dark)"
    assert html.count(dark) == 1
    wide = f'<p style="width:{PHONE + 2}px">to the last pixel</p></body>'
    pages = {
        "phone": (PHONE, html),
        "small phone": (320, html),
        "desktop": (1280, html),
        "dark": (1280, html.replace(dark, "@media all")),
        "broken": (PHONE, html.replace("</body>", wide).replace("img-src data:", "")),
    }
    frames = [
        f'<iframe id="{name}" style="width:{width}px;border:0" srcdoc="{escape(text)}"></iframe>'
        for name, (width, text) in pages.items()
    ]
    (tmp_path / "frames.html").write_text(f'<meta charset="utf-8">{"".join(frames)}{MEASURE}')
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--dump-dom"]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    command = [str(CHROMIUM), *options, profile, (tmp_path / "frames.html").as_uri()]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    found = json.loads(unescape(done.stdout.split("<body>")[1].split("</body>")[0]))
    assert list(found) == list(pages)
    broken = found.pop("broken")
    assert broken["right"] > PHONE
    assert broken["pictures"] == 0
    for name, one in found.items():
        assert one["right"] <= pages[name][0]  # nothing is wider than the window
        assert one["pictures"] == 4  # the policy lets them pass
        for said in (LONG, HOSTILE, "Over time", "estimated accuracy 0.800", "How verdicts"):
            assert said in one["text"]
        dim, bright = ("paper", "ink") if name == "dark" else ("ink", "paper")
        assert max(one[dim]) < 60
        assert min(one[bright]) > 200
