"""The dataset card: what it counts, what it suspects, and how it looks."""

import io
import json
import re
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from conftest import call_stage
from grocery.card.contact_sheet import SIDE, choose, contact_sheet, thumbnails
from grocery.card.numbers import Suspect, content_digest, dataset_card, read_report, read_rows
from grocery.card.page import pictures_per_class, render
from grocery.card.suspects import find_suspects, suspects
from grocery.core.errors import DataError
from grocery.core.files import digest
from grocery.core.params import VersionParams
from grocery.data.duplicates import perceptual_hash
from grocery.images.decoding import pixels
from grocery.images.preprocessing import Preprocessing, prepare
from grocery.images.raw import RawImage
from grocery.parallel import sharing
from grocery.shards import IMAGE_SCHEMA, SPLITS
from grocery.synthetic.source import SyntheticSource
from samples import image_row, jpeg, picture, put, shard_files
from test_report import HOSTILE, Page

Rows = list[dict[str, Any]]

PARAMS = VersionParams(suspect_neighbors=5, suspect_agreement=0.8, contact_sheet_images=3)
REPORT: dict[str, Any] = {
    "source": "lemons",
    "prepare": {"near_duplicate_bits": 8},
    "quarantined": [{"path": "Lemon/bad.jpg", "reason": "truncated"}],
    "duplicates": [
        {"kept": "Lemon/a", "dropped": ["Milk/b", "Milk/c"], "labels": ["Lemon", "Milk"]}
    ],
    "near_duplicates": [],
    "leaked": [],
}


def prepared(image: RawImage) -> dict[str, Any] | None:
    """One row of a shard, with the id of its file; nothing of one that cannot be read."""
    done = prepare(image, Preprocessing(128, 92, 10**8))
    if done.jpeg is None:
        return None
    split = ("train", "val", "test", "train")[int(done.image_id[-1], 16) % 4]
    phash = perceptual_hash(Image.fromarray(pixels(done.jpeg)))
    row = image_row(done.jpeg, image.path, image.label, coarse=image.coarse, split=split)
    return row | {"image_id": done.image_id, "phash": phash}


@pytest.fixture(scope="module")
def rows(embedded: SyntheticSource) -> Rows:
    """Twelve images of each of three classes of the embedded dataset, and some without a label."""
    labels = ("Lemon", "Milk", "Carrot", None)
    chosen = [[i for i in embedded.images() if i.label == label][:12] for label in labels]
    return [row for row in map(prepared, chain(*chosen)) if row]


@pytest.fixture
def shards(tmp_path: Path, rows: Rows) -> list[Path]:
    return shard_files(tmp_path / "shards", rows, 4)


def card_of(shards: list[Path], found: tuple[Suspect, ...] = ()) -> dict[str, Any]:
    return dataset_card(read_rows(shards), REPORT, found)


class TestDigest:
    def test_the_number_of_shards_does_not_matter(self, tmp_path: Path, rows: Rows) -> None:
        few = card_of(shard_files(tmp_path / "few", rows, 1))
        assert card_of(shard_files(tmp_path / "many", rows[::-1], 16)) == few

    def test_it_is_of_the_content_and_not_of_the_place(self, rows: Rows) -> None:
        def of(**changes: str | None) -> str:
            changed = [*rows[1:], {**rows[0], **changes}]
            return content_digest(pa.Table.from_pylist(changed, IMAGE_SCHEMA))

        assert of(path="elsewhere.jpg") == of()
        labels = [of(label=label) for label in (None, "null", "None", "", "Pear")]
        digests = {of(), of(coarse="Other"), of(split="other"), of(image_id="0" * 64), *labels}
        assert len(digests) == 9


class TestCard:
    def test_near_duplicates_across_splits_are_counted(self, tmp_path: Path, rows: Rows) -> None:
        twin = {**rows[0], "image_id": "f" * 64, "path": "Lemon/twin.jpg"}
        together = card_of(shard_files(tmp_path / "a", [*rows, twin], 4))["near_duplicates"]
        assert together == {"groups": 1, "images": 2, "across_splits": 0, "across": []}
        other = "val" if rows[0]["split"] != "val" else "test"
        apart = card_of(shard_files(tmp_path / "b", [*rows, {**twin, "split": other}], 4))
        across = [sorted([rows[0]["path"], "Lemon/twin.jpg"])]
        assert apart["near_duplicates"] == together | {"across_splits": 1, "across": across}

    def test_a_damaged_report_and_a_damaged_image(self, tmp_path: Path, rows: Rows) -> None:
        for content in (b"", b"[]", b'{"quarantined": []}', b"\xff"):
            (tmp_path / "report.json").write_bytes(content)
            with pytest.raises(DataError, match="run prepare again"):
                read_report(tmp_path / "report.json")
        bad = shard_files(tmp_path / "bad", [{**rows[0], "image": rows[0]["image"][:400]}], 1)
        with pytest.raises(DataError, match="shard-0000"):
            card_of(bad)


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
        """Its vote, from very near, would convict a right one; but it is convicted itself."""
        points, labels = self.points(), [*GROUPS[:3], "c", *GROUPS[4:]]
        points[4] = points[3] + np.float32(1e-4)
        (found,) = suspects(self.table(labels), points, neighbors=5, agreement=0.8)
        assert (int(found.image_id, 16), found.label, found.suggested) == (3, "c", "a")
        assert found.agreement == 1.0
        assert all(int(witness, 16) < 8 for witness in found.witnesses)
        assert len(found.witnesses) == 3
        # Right ones are left alone.
        assert suspects(self.table(GROUPS), points, neighbors=5, agreement=0.5) == []

    def test_few_images(self) -> None:
        for count in (0, 1, 2, 4):
            table, points = self.table(["a", "b", "c", "d"][:count]), self.points()[:count]
            assert len(suspects(table, points, neighbors=10, agreement=1.0)) <= count

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
        if among:  # of the right ones every second is enough
            images = [i for n, i in enumerate(images) if n % 2 or len(shown[i]) > 1]
        by_id = {row["image_id"]: row for row in map(prepared, images) if row}
        shards = shard_files(tmp_path / "s", list(by_id.values()), 4)
        found = find_suspects(shards, labelled=len(by_id), neighbors=10, agreement=0.8)
        planted = [image for image in images if image.path in wrong]
        right = [suspect for suspect in found if suspect.path in wrong]
        assert len(right) >= 0.8 * len(planted) > 2
        assert len(right) >= 0.7 * len(found)
        assert sum(s.suggested == wrong[s.path] for s in right) >= 0.8 * len(right)


class TestContactSheet:
    def test_images_are_chosen_by_content(self, rows: Rows) -> None:
        chosen = choose(pa.Table.from_pylist(rows, IMAGE_SCHEMA), 4)
        assert chosen == choose(pa.Table.from_pylist(rows[::-1], IMAGE_SCHEMA), 4)
        assert list(chosen) == ["Carrot", "Lemon", "Milk"]
        lemons = sorted(row["image_id"] for row in rows if row["label"] == "Lemon")
        assert chosen["Lemon"] == lemons[:4]

    @pytest.mark.parametrize("classes", [0, 81, pytest.param(2000, marks=pytest.mark.long)])
    def test_any_number_of_classes(self, classes: int) -> None:
        chosen = {f"a rather long name of a class, {i}": ["x"] for i in range(classes)}
        notes, pictures = dict.fromkeys(chosen, "note"), {"x": jpeg(picture(0, (SIDE, SIDE)))}
        sheet = contact_sheet(chosen, notes, pictures)
        with Image.open(io.BytesIO(sheet), formats=["JPEG"]) as image:
            assert 0 < image.height < 65_000


class TestPage:
    def page(self, shards: list[Path], **changes: Any) -> Page:
        chosen = choose(read_rows(shards), 2)
        pictures = thumbnails(shards, [*chain(*chosen.values())])
        return Page(render(card_of(shards) | changes, chosen, pictures))

    def test_it_says_all_and_needs_nothing_else(self, shards: list[Path], rows: Rows) -> None:
        one = {row["split"]: row for row in rows}
        doubts = [Suspect(one[s]["image_id"], "p", "a", "b", 0.9) for s in SPLITS]
        doubtful = card_of(shards, tuple(doubts))["suspected_labels"]
        assert [suspect["split"] for suspect in doubtful] == list(SPLITS)
        page = self.page(shards, suspected_labels=doubtful)
        assert page.tags.count("img") == 6
        assert not [value for _, value in page.attributes if re.match(r"(https?:)?//", value)]
        for name in ("Lemon", "Milk", "Carrot", "Vegetables", "truncated", "labels disagree"):
            assert name in page.text
        assert page.text.count("Dataset lemons") == 2  # title and heading
        assert "1 of them is an image of the test split" in page.text
        assert "not a test image (train)" in page.text
        assert "grocery data diff OLD" in page.text

    def test_everything_from_the_data_is_escaped(self, tmp_path: Path, rows: Rows) -> None:
        evil = {**rows[0], "label": HOSTILE, "coarse": HOSTILE, "path": HOSTILE}
        shards = shard_files(tmp_path / "s", [*rows[1:], evil], 4)
        suspect = Suspect(evil["image_id"], HOSTILE, HOSTILE, HOSTILE, 0.9, (evil["image_id"],))
        card, reason = card_of(shards, (suspect,)), {"path": HOSTILE, "reason": HOSTILE}
        page = self.page(
            shards,
            suspected_labels=card["suspected_labels"],
            quarantined=[reason],
            leaked=[reason],
            duplicates=[{"kept": HOSTILE, "dropped": [HOSTILE], "labels": [HOSTILE, "b"]}],
            near_duplicates=card["near_duplicates"] | {"across": [[HOSTILE, "b"]]},
        )
        assert page.text.count(HOSTILE) >= 12

    def test_it_stays_small_with_many_classes(self) -> None:
        assert pictures_per_class(12, 12) == 12
        assert 81 * pictures_per_class(81, 50) <= 900
        assert pictures_per_class(5000, 12) == 1


class TestStage:
    def run(self, shards: list[Path], out: Path, **changes: float) -> dict[str, Any]:
        put(out, "data/prepared/report.json", json.dumps(REPORT).encode())
        params = PARAMS.model_copy(update=changes)
        return call_stage("version", params, root=out, shards=shards[0].parent)

    def test_what_it_writes(self, shards: list[Path], tmp_path: Path, rows: Rows) -> None:
        result = self.run(shards, tmp_path / "out")
        card = json.loads((tmp_path / "out/data/card/card.json").read_bytes())
        figures = json.loads((tmp_path / "out/metrics/data.json").read_bytes())
        names = sorted(path.name for path in (tmp_path / "out/data/card").iterdir())
        assert names == ["card.json", "contact-sheet.jpg", "index.html"]
        assert result == figures | {"digest": card["digest"]}
        assert (figures["quarantined"], figures["duplicates"]) == (1, 2)
        assert figures["near_duplicates_across_splits"] == 0
        for counts in (card, figures):
            assert [counts[name] for name in ("images", "unlabeled", "labeled")] == [48, 12, 36]
        assert (list(card["classes"]), figures["classes"]) == (["Carrot", "Lemon", "Milk"], 3)
        assert list(card["coarse_classes"]) == ["Dairy", "Fruit", "Vegetables"]
        assert card["classes"]["Lemon"]["coarse"] == "Fruit"
        for split in SPLITS:
            labels = Counter(row["label"] for row in rows if row["split"] == split)
            unlabelled = labels.pop(None, 0)
            assert {name: counts[split] for name, counts in card["classes"].items()} == labels
            labelled = labels.total()
            assert card["splits"][split] == {"images": labelled + unlabelled, "labeled": labelled}
        assert card["sizes"]["bytes"] == sum(len(row["image"]) for row in rows)
        assert set(card["sizes"]["width"].values()) == {128}
        with sharing(2):
            self.run(shards, tmp_path / "again")
        assert digest(tmp_path / "again/data/card") == digest(tmp_path / "out/data/card")

    def test_fewer_are_suspected_where_more_must_agree(self, tmp_path: Path, rows: Rows) -> None:
        labels = [row["label"] for row in rows]
        mixed = [row | {"label": label} for row, label in zip(rows, labels[::-1], strict=True)]
        shards = shard_files(tmp_path / "mixed", [*rows[::2], *mixed[1::2]], 4)
        many, few = (
            self.run(shards, tmp_path / str(share), suspect_agreement=share)["suspected_labels"]
            for share in (0.5, 1.0)
        )
        assert many > few

    def test_unlabelled_images_only(self, tmp_path: Path, rows: Rows) -> None:
        unlabelled = [{**row, "label": None, "coarse": None} for row in rows]
        result = self.run(shard_files(tmp_path / "s", unlabelled, 4), tmp_path / "out")
        assert (result["labeled"], result["classes"], result["suspected_labels"]) == (0, 0, 0)
