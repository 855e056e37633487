"""The dataset card: what it counts, what it suspects, and how it looks."""

from __future__ import annotations

import io
import json
import re
from hashlib import sha256
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
from grocery.shards import IMAGE_SCHEMA, SPLITS, shard_paths
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
        {
            "kept": "Lemon/a.jpg",
            "dropped": ["Milk/b.jpg", "Milk/c.jpg"],
            "labels": ["Lemon", "Milk"],
        }
    ],
    "near_duplicates": [],
    "leaked": [],
}


def prepared(image: RawImage) -> dict[str, Any] | None:
    """One row of a shard, with the id of its file; nothing of one that cannot be read."""
    data = image.read()
    try:
        picture = decode(data, max_pixels=10**8)
    except UnreadableImage:
        return None
    image_id = sha256(data).hexdigest()
    small = canonical(picture, size=128, quality=92)
    split = ("train", "val", "test", "train")[int(image_id[-1], 16) % 4]
    row = image_row(small, image.path, image.label, coarse=image.coarse, split=split)
    return row | {"image_id": image_id, "phash": perceptual_hash(picture)}


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

    def test_it_is_of_the_content_and_not_of_the_place(self, rows: Rows) -> None:
        def of(**changes: str | None) -> str:
            changed = [*rows[1:], {**rows[0], **changes}]
            return content_digest(pa.Table.from_pylist(changed, IMAGE_SCHEMA))

        assert of(path="elsewhere.jpg") == of()
        labels = [of(label=label) for label in (None, "null", "None", "", "Pear")]
        digests = {of(), of(coarse="Other"), of(split="other"), of(image_id="0" * 64), *labels}
        assert len(digests) == 9


class TestCard:
    def test_counts(self, shards: Path, rows: Rows) -> None:
        card = card_of(shards)
        assert card["images"] == len(rows)
        assert card["unlabeled"] == 12
        assert card["labeled"] == len(rows) - 12
        assert list(card["classes"]) == ["Carrot", "Lemon", "Milk"]
        assert list(card["coarse_classes"]) == ["Dairy", "Fruit", "Vegetables"]
        for split in SPLITS:
            members = [row for row in rows if row["split"] == split]
            labeled = [row for row in members if row["label"]]
            assert card["splits"][split] == {"images": len(members), "labeled": len(labeled)}
            assert sum(c[split] for c in card["classes"].values()) == len(labeled)
        lemons = card["classes"]["Lemon"]
        assert lemons["coarse"] == "Fruit"
        assert sum(lemons[split] for split in SPLITS) == 12
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

    @pytest.mark.parametrize("count", [0, 1, 2, 4])
    def test_few_images(self, count: int) -> None:
        table = self.table(["a", "b", "c", "d"][:count])
        assert not suspects(table, self.points()[:count], neighbors=10, agreement=1.0)[count:]

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
        folder = write(tmp_path / "s", list(by_id.values()))
        found = find_suspects(shard_paths(folder), labelled=len(by_id), neighbors=10, agreement=0.8)
        planted = [image for image in images if image.path in wrong]
        right = [suspect for suspect in found if suspect.path in wrong]
        assert len(right) >= 0.8 * len(planted) > 2
        assert len(right) >= 0.7 * len(found)
        assert sum(s.suggested == wrong[s.path] for s in right) >= 0.8 * len(right)


class TestContactSheet:
    def test_images_are_chosen_by_content(self, shards: Path, rows: Rows) -> None:
        chosen = choose(pa.Table.from_pylist(rows, IMAGE_SCHEMA), 4)
        assert chosen == choose(pa.Table.from_pylist(rows[::-1], IMAGE_SCHEMA), 4)
        assert list(chosen) == ["Carrot", "Lemon", "Milk"]
        lemons = sorted(row["image_id"] for row in rows if row["label"] == "Lemon")
        assert chosen["Lemon"] == lemons[:4]
        ids = [image_id for members in chosen.values() for image_id in members]
        assert sorted(thumbnails(shard_paths(shards), ids)) == sorted(ids)

    @pytest.mark.parametrize("classes", [0, 81, pytest.param(2000, marks=pytest.mark.long)])
    def test_any_number_of_classes(self, classes: int) -> None:
        chosen = {f"a rather long name of a class, {i}": ["x"] for i in range(classes)}
        sheet = contact_sheet(
            chosen, dict.fromkeys(chosen, "note"), {"x": jpeg(picture(0, (SIDE, SIDE)))}
        )
        with Image.open(io.BytesIO(sheet), formats=["JPEG"]) as image:
            assert 0 < image.height < 65_000


class TestPage:
    def page(self, shards: Path, **changes: Any) -> bytes:
        table = read_rows(shard_paths(shards))
        chosen = choose(table, 2)
        pictures = thumbnails(shard_paths(shards), [i for ids in chosen.values() for i in ids])
        return render(card_of(shards) | changes, chosen, pictures)

    def test_it_is_whole_and_needs_nothing_else(self, shards: Path) -> None:
        page = Page(self.page(shards))
        assert not {"script", "link", "iframe"} & set(page.tags)
        assert page.tags.count("img") == 6
        assert not [value for _, value in page.attributes if re.match(r"(https?:)?//", value)]
        for name in ("Lemon", "Milk", "Carrot", "Vegetables", "truncated", "labels disagree"):
            assert name in page.text

    def test_everything_from_the_data_is_escaped(self, tmp_path: Path, rows: Rows) -> None:
        evil = {**rows[0], "label": HOSTILE, "coarse": HOSTILE, "path": HOSTILE}
        folder = write(tmp_path / "s", [*rows[1:], evil])
        suspect = Suspect(evil["image_id"], HOSTILE, HOSTILE, HOSTILE, 0.9, (evil["image_id"],))
        card = card_of(folder, (suspect,))
        page = Page(
            self.page(
                folder,
                suspected_labels=card["suspected_labels"],
                quarantined=[{"path": HOSTILE, "reason": HOSTILE}],
                leaked=[{"path": HOSTILE, "reason": HOSTILE}],
                duplicates=[{"kept": HOSTILE, "dropped": [HOSTILE], "labels": [HOSTILE, "b"]}],
                near_duplicates=card["near_duplicates"] | {"across": [[HOSTILE, "b"]]},
            )
        )
        assert "script" not in page.tags
        assert page.text.count(HOSTILE) >= 12

    def test_it_says_which_dataset_it_is_and_which_doubts_are_about_test_images(
        self, shards: Path, rows: Rows
    ) -> None:
        one = {row["split"]: row for row in rows}
        doubts = [Suspect(one[s]["image_id"], "p", "a", "b", 0.9) for s in SPLITS]
        card = card_of(shards, tuple(doubts))
        assert [suspect["split"] for suspect in card["suspected_labels"]] == list(SPLITS)
        page = Page(self.page(shards, suspected_labels=card["suspected_labels"]))
        assert page.text.count(f"Dataset {card['source']}") == 2  # title and heading
        assert "1 of them is an image of the test split" in page.text
        assert "not a test image (train)" in page.text
        assert "grocery data diff OLD" in page.text

    def test_it_stays_small_with_many_classes(self) -> None:
        assert pictures_per_class(12, 12) == 12
        assert 81 * pictures_per_class(81, 50) <= 900
        assert pictures_per_class(5000, 12) == 1


class TestStage:
    def run(self, shards: Path, out: Path, **changes: float) -> dict[str, Any]:
        put(out, "data/prepared/report.json", json.dumps(REPORT).encode())
        params = PARAMS.model_copy(update=changes)
        return call_stage("version", params, root=out, shards=shards)

    def test_what_it_writes(self, shards: Path, tmp_path: Path, rows: Rows) -> None:
        result = self.run(shards, tmp_path / "out")
        card = json.loads((tmp_path / "out/data/card/card.json").read_bytes())
        figures = json.loads((tmp_path / "out/metrics/data.json").read_bytes())
        names = sorted(path.name for path in (tmp_path / "out/data/card").iterdir())
        assert names == ["card.json", "contact-sheet.jpg", "index.html"]
        assert result == figures | {"digest": card["digest"]}
        assert (figures["images"], figures["classes"]) == (len(rows), 3)
        assert (figures["quarantined"], figures["duplicates"]) == (1, 2)
        assert figures["near_duplicates_across_splits"] == 0

    def test_fewer_labels_are_suspected_where_more_neighbours_must_agree(
        self, tmp_path: Path, rows: Rows
    ) -> None:
        labels = [row["label"] for row in rows]
        mixed = [row | {"label": label} for row, label in zip(rows, labels[::-1], strict=True)]
        shards = write(tmp_path / "mixed", [*rows[::2], *mixed[1::2]])
        many, few = (
            self.run(shards, tmp_path / str(share), suspect_agreement=share)["suspected_labels"]
            for share in (0.5, 1.0)
        )
        assert many > few

    def test_workers_and_runs_do_not_matter(self, shards: Path, tmp_path: Path) -> None:
        self.run(shards, tmp_path / "a")
        with sharing(2):
            self.run(shards, tmp_path / "b")
        assert digest(tmp_path / "a/data/card") == digest(tmp_path / "b/data/card")

    def test_a_damaged_image_leaves_the_card_as_it_was(
        self, shards: Path, tmp_path: Path, rows: Rows
    ) -> None:
        self.run(shards, tmp_path / "out")
        before = digest(tmp_path / "out/data/card")
        bad = write(tmp_path / "bad", [{**rows[0], "image": rows[0]["image"][:400]}])
        with pytest.raises(DataError, match="shard-0000"):
            self.run(bad, tmp_path / "out")
        assert digest(tmp_path / "out/data/card") == before

    def test_unlabelled_images_only(self, tmp_path: Path, rows: Rows) -> None:
        unlabelled = [{**row, "label": None, "coarse": None} for row in rows]
        result = self.run(write(tmp_path / "s", unlabelled), tmp_path / "out")
        assert (result["labeled"], result["classes"], result["suspected_labels"]) == (0, 0, 0)
