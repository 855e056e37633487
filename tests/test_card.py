"""The dataset card: what it counts, what it suspects, and how it looks."""

from __future__ import annotations

import io
import json
import re
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from conftest import ROOT, call_stage
from grocery.card.contact_sheet import SIDE, choose, contact_sheet, thumbnails
from grocery.card.numbers import Suspect, content_digest, dataset_card, read_report, read_rows
from grocery.card.page import pictures_per_class, render
from grocery.card.suspects import find_suspects, suspects
from grocery.core.errors import DataError, UnreadableImage
from grocery.core.files import digest
from grocery.core.params import VersionParams
from grocery.data.duplicates import perceptual_hash
from grocery.images.decoding import canonical, decode
from grocery.images.raw import RawImage
from grocery.parallel import sharing
from grocery.shards import IMAGE_SCHEMA, shard_paths
from grocery.synthetic.source import SyntheticSource
from samples import shard_files

Rows = list[dict[str, Any]]

PARAMS = VersionParams(suspect_neighbors=5, suspect_agreement=0.8, contact_sheet_images=3)
REPORT: dict[str, Any] = {
    "source": "lemons",
    "prepare": {"near_duplicate_bits": 8},
    "quarantined": [{"path": "Lemon/bad.jpg", "reason": "truncated"}],
    "duplicates": [
        {
            "kept": "Lemon/a.jpg",
            "dropped": ["Milk/b.jpg", "Milk/c.jpg"],
            "labels": ["Lemon", "Milk"],
        }
    ],
    "near_duplicates": [],
    "leaked": [],
}
HOSTILE = "<script>alert('x')</script>&\""


def prepared(image: RawImage) -> dict[str, Any] | None:
    """One row of a shard."""
    data = image.read()
    try:
        picture = decode(data, max_pixels=10**8)
    except UnreadableImage:
        return None
    image_id = sha256(data).hexdigest()
    return {
        "image_id": image_id,
        "path": image.path,
        "label": image.label,
        "coarse": image.coarse,
        "split": ("train", "val", "test", "train")[int(image_id[-1], 16) % 4],
        "phash": perceptual_hash(picture),
        "image": canonical(picture, size=128, quality=92),
    }


def write(folder: Path, rows: Rows, shards: int = 4) -> Path:
    shard_files(folder, rows, shards)
    return folder


@pytest.fixture(scope="module")
def embedded() -> SyntheticSource:
    return SyntheticSource(ROOT / "data/raw/synthetic")


@pytest.fixture(scope="module")
def rows(embedded: SyntheticSource) -> Rows:
    """Images of three classes of the embedded dataset, and some that have no label."""
    wrong = embedded.planted()["wrong_labels"]
    copies = embedded.planted()["conflicting_duplicates"]
    labels = ("Lemon", "Milk", "Carrot", None)
    chosen = [
        image
        for label in labels
        for image in [i for i in embedded.images() if i.label == label][:12]
        if image.path not in wrong and image.path not in copies
    ]
    return [row for row in map(prepared, chosen) if row]


@pytest.fixture
def shards(tmp_path: Path, rows: Rows) -> Path:
    return write(tmp_path / "shards", rows)


def card_of(folder: Path, found: tuple[Suspect, ...] = ()) -> dict[str, Any]:
    table = read_rows(shard_paths(folder))
    return dataset_card(table, REPORT, found)


class TestDigest:
    def test_the_number_of_shards_does_not_matter(self, tmp_path: Path, rows: Rows) -> None:
        few, many = (
            card_of(write(tmp_path / str(n), rows[::step], n)) for n, step in ((1, 1), (16, -1))
        )
        assert few == many

    @pytest.mark.parametrize(
        ("column", "value", "same"),
        [
            ("label", "Pear", False),
            ("coarse", "Other", False),
            ("split", "other", False),
            ("image_id", "0" * 64, False),
            ("path", "elsewhere.jpg", True),
        ],
    )
    def test_it_is_of_the_content(
        self, rows: Rows, column: str, value: str | None, same: bool
    ) -> None:
        before = content_digest(pa.Table.from_pylist(rows, IMAGE_SCHEMA))
        changed = [*rows[1:], {**rows[0], column: value}]
        after = content_digest(pa.Table.from_pylist(changed, IMAGE_SCHEMA))
        assert (before == after) == same

    def test_a_missing_label_is_not_the_label_null(self, rows: Rows) -> None:
        digests = {
            content_digest(pa.Table.from_pylist([{**rows[0], "label": label}], IMAGE_SCHEMA))
            for label in (None, "null", "None", "")
        }
        assert len(digests) == 4


class TestCard:
    def test_counts(self, shards: Path, rows: Rows) -> None:
        card = card_of(shards)
        assert card["images"] == len(rows)
        assert card["unlabeled"] == 12
        assert card["labeled"] == len(rows) - 12
        assert list(card["classes"]) == ["Carrot", "Lemon", "Milk"]
        assert list(card["coarse_classes"]) == ["Dairy", "Fruit", "Vegetables"]
        for split in ("train", "val", "test"):
            members = [row for row in rows if row["split"] == split]
            labeled = [row for row in members if row["label"]]
            assert card["splits"][split] == {"images": len(members), "labeled": len(labeled)}
            assert sum(c[split] for c in card["classes"].values()) == len(labeled)
        lemons = card["classes"]["Lemon"]
        assert lemons["coarse"] == "Fruit"
        assert sum(lemons[split] for split in ("train", "val", "test")) == 12
        assert card["sizes"]["bytes"] == sum(len(row["image"]) for row in rows)
        assert set(card["sizes"]["width"].values()) == {128}
        told = card_of(shards, (Suspect("a", "p", "x", "y", 0.9, ("b",)),))
        assert json.loads(json.dumps(told))["suspected_labels"][0]["witnesses"] == ["b"]

    def test_near_duplicates_across_splits_are_counted_and_not_believed(
        self, tmp_path: Path, rows: Rows
    ) -> None:
        twin = {**rows[0], "image_id": "f" * 64, "path": "Lemon/twin.jpg"}
        together = card_of(write(tmp_path / "a", [*rows, twin]))["near_duplicates"]
        assert together == {"groups": 1, "images": 2, "across_splits": 0, "across": []}
        other = "val" if rows[0]["split"] != "val" else "test"
        apart = card_of(write(tmp_path / "b", [*rows, {**twin, "split": other}]))
        assert apart["near_duplicates"] == {
            "groups": 1,
            "images": 2,
            "across_splits": 1,
            "across": [sorted([rows[0]["path"], "Lemon/twin.jpg"])],
        }

    @pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"quarantined": []}', b"\xff"])
    def test_a_damaged_report(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "report.json").write_bytes(content)
        with pytest.raises(DataError, match="run prepare again"):
            read_report(tmp_path / "report.json")


GROUPS = ["a"] * 8 + ["b"] * 8 + ["c"] * 8


class TestSuspects:
    def table(self, labels: list[str]) -> pa.Table:
        ids = [f"{i:064x}" for i in range(len(labels))]
        return pa.table({"image_id": ids, "path": ids, "label": labels})

    def points(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Three groups of 8, tight and far from each other."""
        rng = np.random.default_rng(0)
        return (np.repeat(np.eye(3), 8, axis=0) + rng.normal(0, 0.02, (24, 3))).astype(np.float32)

    def test_a_label_that_all_neighbours_contradict(self) -> None:
        labels = [*GROUPS[:3], "c", *GROUPS[4:]]
        (found,) = suspects(self.table(labels), self.points(), neighbors=5, agreement=0.8)
        assert (found.label, found.suggested) == ("c", "a")
        assert int(found.image_id, 16) == 3
        assert found.agreement == 1.0
        assert all(int(witness, 16) < 8 for witness in found.witnesses)
        assert len(found.witnesses) == 3

    def test_right_labels_are_left_alone(self) -> None:
        assert suspects(self.table(GROUPS), self.points(), neighbors=5, agreement=0.5) == []

    def test_a_wrong_label_does_not_drag_its_neighbours_along(self) -> None:
        """Its vote, from very near, would convict a right one; but it is convicted itself."""
        points = self.points()
        points[4] = points[3] + np.float32(1e-4)
        labels = [*GROUPS[:3], "c", *GROUPS[4:]]
        found = suspects(self.table(labels), points, neighbors=5, agreement=0.8)
        assert [int(suspect.image_id, 16) for suspect in found] == [3]

    def test_few_images(self) -> None:
        for count in (0, 1, 2, 4):
            table = self.table(["a", "b", "c", "d"][:count])
            found = suspects(table, self.points()[:count], neighbors=10, agreement=1.0)
            assert len(found) <= count

    @pytest.mark.parametrize(
        "among",
        [{"Apple-Juice", "Carrot", "Orange-Juice"}, pytest.param(None, marks=pytest.mark.long)],
    )
    def test_planted_wrong_labels_are_found(
        self, among: set[str] | None, tmp_path: Path, embedded: SyntheticSource
    ) -> None:
        """Of some classes, or all: most are found, and most of what is found is wrong."""
        wrong, classes = embedded.planted()["wrong_labels"], among or embedded.recipe.classes.keys()
        shown = {i: {i.label, wrong.get(i.path, i.label)} for i in embedded.images() if i.label}
        images = [image for image, names in shown.items() if names <= classes]
        by_id = {row["image_id"]: row for row in map(prepared, images) if row}
        folder = write(tmp_path / "s", list(by_id.values()))
        found = find_suspects(shard_paths(folder), labelled=len(by_id), neighbors=10, agreement=0.8)
        planted = [image for image in images if image.path in wrong]
        right = [suspect for suspect in found if suspect.path in wrong]
        assert len(right) >= 0.8 * len(planted) > 2
        assert len(right) >= 0.7 * len(found)
        assert sum(s.suggested == wrong[s.path] for s in right) >= 0.8 * len(right)


class TestContactSheet:
    def test_images_are_chosen_by_content(self, rows: Rows) -> None:
        table = pa.Table.from_pylist(rows, IMAGE_SCHEMA)
        chosen = choose(table, 4)
        assert chosen == choose(pa.Table.from_pylist(rows[::-1], IMAGE_SCHEMA), 4)
        assert list(chosen) == ["Carrot", "Lemon", "Milk"]
        lemons = sorted(row["image_id"] for row in rows if row["label"] == "Lemon")
        assert chosen["Lemon"] == lemons[:4]

    def test_the_picture(self, shards: Path, rows: Rows) -> None:
        chosen = choose(pa.Table.from_pylist(rows, IMAGE_SCHEMA), 3)
        ids = [image_id for members in chosen.values() for image_id in members]
        pictures = thumbnails(shard_paths(shards), ids)
        assert sorted(pictures) == sorted(ids)
        notes = dict.fromkeys(chosen, "a note")
        sheet = contact_sheet(chosen, notes, pictures)
        assert sheet == contact_sheet(chosen, notes, pictures)
        with Image.open(io.BytesIO(sheet)) as image:
            assert image.format == "JPEG"
            assert image.height == 3 * (SIDE + 2)

    @pytest.mark.parametrize("classes", [0, 81, pytest.param(2000, marks=pytest.mark.long)])
    def test_any_number_of_classes(self, classes: int) -> None:
        stream = io.BytesIO()
        Image.new("RGB", (SIDE, SIDE)).save(stream, "JPEG")
        chosen = {f"a rather long name of a class, {i}": ["x"] for i in range(classes)}
        sheet = contact_sheet(chosen, dict.fromkeys(chosen, ""), {"x": stream.getvalue()})
        with Image.open(io.BytesIO(sheet)) as image:
            assert 0 < image.height < 65_000


class Checker(HTMLParser):
    """Collects tags, attributes and text, and sees that tags close."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.values: list[str] = []
        self.text = ""
        self.feed(page.decode())
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.values += [value or "" for _, value in attrs]
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


class TestPage:
    def page(self, shards: Path, **changes: Any) -> bytes:
        table = read_rows(shard_paths(shards))
        chosen = choose(table, 2)
        pictures = thumbnails(shard_paths(shards), [i for ids in chosen.values() for i in ids])
        return render(card_of(shards) | changes, chosen, pictures)

    def test_it_is_whole_and_needs_nothing_else(self, shards: Path) -> None:
        page = Checker(self.page(shards))
        assert not {"script", "link", "iframe"} & set(page.tags)
        assert page.tags.count("img") == 6
        for value in page.values:
            assert not re.match(r"(https?:)?//", value)
        for name in ("Lemon", "Milk", "Carrot", "Vegetables", "truncated", "labels disagree"):
            assert name in page.text

    def test_everything_from_the_data_is_escaped(self, tmp_path: Path, rows: Rows) -> None:
        evil = {**rows[0], "label": HOSTILE, "coarse": HOSTILE, "path": HOSTILE}
        folder = write(tmp_path / "s", [*rows[1:], evil])
        suspect = Suspect(evil["image_id"], HOSTILE, HOSTILE, HOSTILE, 0.9, (evil["image_id"],))
        card = card_of(folder, (suspect,))
        page = self.page(
            folder,
            suspected_labels=card["suspected_labels"],
            quarantined=[{"path": HOSTILE, "reason": HOSTILE}],
            leaked=[{"path": HOSTILE, "reason": HOSTILE}],
            duplicates=[{"kept": HOSTILE, "dropped": [HOSTILE], "labels": [HOSTILE, "b"]}],
            near_duplicates=card["near_duplicates"] | {"across": [[HOSTILE, "b"]]},
        )
        assert b"<script" not in page
        assert Checker(page).text.count(HOSTILE) >= 12

    def test_it_says_which_dataset_it_is_and_which_doubts_are_about_test_images(
        self, shards: Path, rows: list[dict[str, Any]]
    ) -> None:
        one = {
            split: next(row for row in rows if row["split"] == split)
            for split in ("train", "val", "test")
        }
        doubts = [
            Suspect(row["image_id"], row["path"], row["label"] or "a", "b", 0.9)
            for row in one.values()
        ]
        card = card_of(shards, tuple(doubts))
        assert [suspect["split"] for suspect in card["suspected_labels"]] == list(one)
        page = Checker(self.page(shards, suspected_labels=card["suspected_labels"]))
        assert page.text.count(f"Dataset {card['source']}") == 2  # title and heading
        assert "1 of them is an image of the test split" in page.text
        assert "not a test image (train)" in page.text
        assert "grocery data diff OLD" in page.text

    def test_it_stays_small_with_many_classes(self) -> None:
        assert pictures_per_class(12, 12) == 12
        assert 81 * pictures_per_class(81, 50) <= 900
        assert pictures_per_class(5000, 12) == 1


class TestStage:
    def run(self, shards: Path, out: Path) -> dict[str, Any]:
        out.mkdir(exist_ok=True)
        (out / "report.json").write_text(json.dumps(REPORT))
        return call_stage(
            "version",
            PARAMS,
            shards=shards,
            report=out / "report.json",
            card=out / "card",
            metrics=out / "data.json",
        )

    def test_what_it_writes(self, shards: Path, tmp_path: Path, rows: Rows) -> None:
        result = self.run(shards, tmp_path / "out")
        card = json.loads((tmp_path / "out/card/card.json").read_bytes())
        figures = json.loads((tmp_path / "out/data.json").read_bytes())
        names = sorted(path.name for path in (tmp_path / "out/card").iterdir())
        assert names == ["card.json", "contact-sheet.jpg", "index.html"]
        assert result == figures | {"digest": card["digest"]}
        assert (figures["images"], figures["classes"]) == (len(rows), 3)
        assert (figures["quarantined"], figures["duplicates"]) == (1, 2)
        assert figures["near_duplicates_across_splits"] == 0

    def test_workers_and_runs_do_not_matter(self, shards: Path, tmp_path: Path) -> None:
        self.run(shards, tmp_path / "a")
        with sharing(2):
            self.run(shards, tmp_path / "b")
        assert digest(tmp_path / "a/card") == digest(tmp_path / "b/card")

    def test_a_damaged_image_leaves_the_card_as_it_was(
        self, shards: Path, tmp_path: Path, rows: Rows
    ) -> None:
        self.run(shards, tmp_path / "out")
        before = digest(tmp_path / "out/card")
        bad = write(tmp_path / "bad", [{**rows[0], "image": rows[0]["image"][:400]}])
        with pytest.raises(DataError, match="shard-0000"):
            self.run(bad, tmp_path / "out")
        assert digest(tmp_path / "out/card") == before

    def test_unlabelled_images_only(self, tmp_path: Path, rows: Rows) -> None:
        unlabelled = [{**row, "label": None, "coarse": None} for row in rows]
        result = self.run(write(tmp_path / "s", unlabelled), tmp_path / "out")
        assert (result["labeled"], result["classes"], result["suspected_labels"]) == (0, 0, 0)
