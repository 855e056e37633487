"""The prepare stage, from raw files to shards, batches and the report."""

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image, ImageEnhance

from conftest import call_stage, refusal
from grocery.core.errors import DataError
from grocery.core.files import digest
from grocery.core.params import PrepareParams
from grocery.data import incoming
from grocery.data.build import Shard, decode_shard
from grocery.data.duplicates import Copies
from grocery.data.incoming import choose_drills
from grocery.data.near_duplicates import NearDuplicates
from grocery.images.decoding import canonical, decode, pixels
from grocery.images.preprocessing import Preprocessing
from grocery.images.raw import RawImage
from grocery.shards import (
    BATCH_SCHEMA,
    IMAGE_SCHEMA,
    how_prepared,
    read_columns,
    read_preprocessing,
    read_table,
    shard_of,
    write_table,
)
from samples import dataset, jpeg, picture, put
from test_synthetic import TINY
from test_synthetic import source as synthetic

PARAMS = PrepareParams(
    image_size=48,
    jpeg_quality=90,
    shards=4,
    val_ratio=0.15,
    test_ratio=0.25,
    near_duplicate_bits=8,
    max_bad_ratio=0.2,
    max_pixels=1_000_000,
    max_file_bytes=1_000_000,
)


HOW: dict[str, Any] = {"image_size": 64, "jpeg_quality": 90, "max_pixels": 10**6}


def prepare(source: Path, output: Path, **changes: Any) -> dict[str, int]:
    return call_stage(
        "prepare",
        PARAMS.model_copy(update=changes),
        raw=source,
        shards=output / "shards",
        incoming=output / "incoming",
        report=output / "report.json",
    )


def rows(output: Path) -> dict[str, dict[str, Any]]:
    """Prepared images by path."""
    table = read_columns(output / "shards", IMAGE_SCHEMA.names)
    return {row["path"]: row for row in table.to_pylist()}


def report(output: Path) -> dict[str, Any]:
    return dict(json.loads((output / "report.json").read_text()))


class TestShards:
    def test_hold_what_they_should(self, tmp_path: Path) -> None:
        source = dataset(tmp_path / "raw")
        put(source, "unlabeled/u.png", jpeg(picture(9999)))
        counts = prepare(source, tmp_path)
        paths = sorted((tmp_path / "shards").iterdir())
        names = [f"shard-0000{i}-of-00004.parquet" for i in range(4)]
        assert [path.name for path in paths] == names
        for number, path in enumerate(paths):
            table = read_table(path)
            assert table.schema == IMAGE_SCHEMA
            image_ids = table.column("image_id").to_pylist()
            assert image_ids == sorted(image_ids)
            assert {shard_of(image_id, 4) for image_id in image_ids} <= {number}
        prepared = rows(tmp_path)
        assert len(prepared) == counts["images"] == 43
        assert prepared["unlabeled/u.png"]["label"] is None
        assert prepared["unlabeled/u.png"]["split"] == "train"
        row = prepared["b/03.jpg"]
        data = (source / "b/03.jpg").read_bytes()
        assert row["image_id"] == hashlib.sha256(data).hexdigest()
        assert row["label"] == "b"
        # A prediction on the raw file sees the very same bytes.
        assert row["image"] == canonical(decode(data, max_pixels=10**6), size=48, quality=90)
        assert counts["train"] + counts["val"] + counts["test"] == 43
        for label in "abc":
            splits = {row["split"] for row in prepared.values() if row["label"] == label}
            assert splits == {"train", "val", "test"}

    def test_a_tiny_dataset_has_empty_shards_and_no_drills(self, tmp_path: Path) -> None:
        source = dataset(tmp_path / "raw", "ab", 4)
        for name, size in (("dot", (1, 1)), ("line", (3000, 2))):
            put(source, f"a/{name}.jpg", jpeg(picture(1).resize(size)))
        assert prepare(source, tmp_path, shards=16)["images"] == 10
        tables = [read_table(path) for path in sorted((tmp_path / "shards").iterdir())]
        assert len(tables) == 16
        assert min(len(table) for table in tables) == 0
        assert all(table.schema == IMAGE_SCHEMA for table in tables)
        assert list((tmp_path / "incoming").iterdir()) == []

    def test_more_of_them_split_each_one(self) -> None:
        ids = [f"{number:08x}{'0' * 56}" for number in range(0, 2**32, 2**27 + 1)]
        assert [shard_of(i, 8) // 2 for i in ids] == [shard_of(i, 4) for i in ids]
        assert sorted({shard_of(i, 8) for i in ids}) == list(range(8))

    def test_are_decided_by_label_too(self) -> None:
        """A list may name another class for a file that stays where it is."""
        one, other = (
            Shard("0", (Copies("ab", RawImage("a.jpg", label, None, "train")),))
            for label in ("Lemon", "Milk")
        )
        assert one.facts(Preprocessing(**HOW)) != other.facts(Preprocessing(**HOW))

    def test_an_image_that_has_changed_since_it_was_hashed_is_refused(self, tmp_path: Path) -> None:
        put(tmp_path, "a.jpg", jpeg(picture(1)))
        shard = Shard("0", (Copies("0" * 64, RawImage("a.jpg", file=tmp_path / "a.jpg")),))
        with pytest.raises(DataError, match=r"a\.jpg was changed while it was read; run again"):
            decode_shard((shard, Preprocessing(**HOW), tmp_path / "shard"))


class TestWhatShardsSay:
    """Of how their images were prepared."""

    def write(self, folder: Path, *said: dict[str, Any] | None) -> list[Path]:
        paths = [folder / f"{number}.parquet" for number in range(len(said))]
        table = pa.table([["0"], ["p"], ["x"], [b"1"]], schema=BATCH_SCHEMA)
        for path, settings in zip(paths, said, strict=True):
            write_table(path, table, settings)
        return paths

    def test_carry_it_and_equal_content_gives_equal_bytes(self, tmp_path: Path) -> None:
        paths = self.write(tmp_path, HOW, dict(reversed(HOW.items())), None, {"image_size": 1})
        assert read_preprocessing(paths[:2]) == HOW
        assert how_prepared(paths[2]) is None
        assert read_table(paths[0]).schema == BATCH_SCHEMA
        assert read_table(paths[0], ["path"]).to_pylist() == [{"path": "p"}]
        sums = [digest(path) for path in paths]
        assert sums[0] == sums[1]
        assert len(set(sums)) == 3

    def test_that_do_not_agree_or_do_not_say_it_are_refused(self, tmp_path: Path) -> None:
        for others, sentence in (
            ((HOW, HOW | {"max_pixels": 20_000}), r"2\.parquet was .* than .*0\.parquet"),
            ((None, HOW), r"1\.parquet does not say how"),
        ):
            paths = self.write(tmp_path, HOW, *others)
            with pytest.raises(DataError, match=sentence):
                read_preprocessing(paths)

    def test_damaged_ones_are_named(self, tmp_path: Path) -> None:
        (path,) = self.write(tmp_path, None)
        table = read_table(path).replace_schema_metadata({"preprocessing": b"{"})
        write_table(path, table)
        with pytest.raises(DataError, match=r"0\.parquet cannot be read as a shard"):
            how_prepared(path)
        path.write_bytes(b"PAR1")
        for read in (how_prepared, read_table):
            with pytest.raises(DataError, match=r"0\.parquet cannot be read as a shard"):
                read(path)


class TestBadFiles:
    def test_what_is_left_out_or_damaged_is_listed_with_the_reason(self, tmp_path: Path) -> None:
        source = dataset(tmp_path / "raw")
        with (tmp_path / "raw/a/video.mp4").open("wb") as stream:
            stream.truncate(10**12)  # takes no room, and would take hours to hash
        for name in ("a/empty.jpg", "b/also-empty.jpg"):
            put(source, name, b"")
        put(source, "b/no-end.jpg", jpeg(picture(7777))[:-2])
        put(source, "c/half.jpg", jpeg(picture(1, (400, 300)))[:3000])
        for name in ("a/.draft.jpg", "b/README.md", "Thumbs.db", "a/@eaDir/1.jpg"):
            put(source, name, b"no image")
        counts, found = prepare(source, tmp_path), report(tmp_path)
        large = "too large a file: 1,000,000,000,000 bytes; prepare.max_file_bytes allows 1,000,000"
        assert {entry["path"]: entry["reason"] for entry in found["quarantined"]} == {
            "a/empty.jpg": "empty file",
            "a/video.mp4": large,
            "b/also-empty.jpg": "empty file",
            "c/half.jpg": "truncated",
        }
        assert (counts["quarantined"], counts["duplicates"], counts["images"]) == (4, 0, 43)
        assert found["noted"] == [{"path": "b/no-end.jpg", "note": "the end marker is missing"}]
        assert found["left_out"] == [
            {"path": "a/.draft.jpg", "reason": "hidden"},
            {"path": "b/README.md", "reason": "about the images"},
        ]

    def test_too_many_are_an_error_that_names_ten(self, tmp_path: Path) -> None:
        source = dataset(tmp_path / "raw")
        for i in range(14):
            put(source, f"a/bad{i:02}.jpg", f"no image {i}".encode())
        sentence = refusal(DataError, prepare, source, tmp_path)
        assert sentence.startswith("14 of 56 files cannot be read, more than prepare.max_bad_ratio")
        assert sentence.endswith("a/bad09.jpg (not an image of a known format); and 4 more")
        assert prepare(source, tmp_path, max_bad_ratio=0.25)["quarantined"] == 14
        for image in source.rglob("[0-9]*.jpg"):  # and nothing but bad ones always are
            image.write_bytes(b"no image either")
        with pytest.raises(DataError, match=r"56 of 56 files cannot be read: a/00\.jpg"):
            prepare(source, tmp_path, max_bad_ratio=1.0)

    def test_too_little_to_learn_from_is_refused_unread(self, tmp_path: Path) -> None:
        for path in ("a/1.jpg", "a/2.jpg", "b/1.jpg"):
            put(tmp_path / "raw", path, b"no image")
        with pytest.raises(DataError, match="class 'b' has one image only"):
            prepare(tmp_path / "raw", tmp_path)

    def test_a_class_of_bad_ones_is_an_error_and_earlier_outputs_stay(self, tmp_path: Path) -> None:
        source, output = dataset(tmp_path / "raw"), tmp_path / "prepared"
        prepare(source, output)
        before = digest(output)
        put(source, "d/1.jpg", b"no")
        put(source, "d/2.jpg", b"image")
        with pytest.raises(DataError, match="class 'd' has no readable image left for train"):
            prepare(source, output)
        assert digest(output) == before


class TestDuplicates:
    def test_near_ones_stay_in_one_split(self, tmp_path: Path) -> None:
        source = dataset(tmp_path / "raw", images=20)
        for i in range(20):
            copy = ImageEnhance.Brightness(picture(i)).enhance(1.03)
            put(source, f"a/{i:02}-again.jpg", jpeg(copy, 70))
            put(source, f"unlabeled/{i:02}.jpg", jpeg(picture(1000 + i), 60))
        counts = prepare(source, tmp_path)
        prepared = rows(tmp_path)
        splits = [(prepared[f"a/{i:02}.jpg"], prepared[f"a/{i:02}-again.jpg"]) for i in range(20)]
        assert all(one["split"] == other["split"] for one, other in splits)
        assert {one["split"] for one, _ in splits} == {"train", "val", "test"}
        assert counts["near_duplicate_groups"] == 40
        # An unlabelled copy of a test image must not be trained on.
        leaked = report(tmp_path)["leaked"]
        assert len(leaked) == counts["leaked"] > 0
        for entry in leaked:
            original = prepared[entry["path"].replace("unlabeled", "b")]
            assert entry["path"] not in prepared
            found = f"near duplicate of {original['path']} in {original['split']}"
            assert entry["reason"] == found
        hashes = [row["phash"] for row in prepared.values()]
        everyone = [row["split"] for row in prepared.values()]
        assert NearDuplicates(hashes, max_bits=8).leaks(everyone) == {}

    def test_the_datasets_own_test_set_stays_whole(self, tmp_path: Path) -> None:
        source = tmp_path / "raw"
        folders = "train/a train/b val/a val/b test/a test/b train/c"  # no test image shows c
        for start, folder in enumerate(folders.split()):
            for i in range(8):
                put(source, f"{folder}/{i}.jpg", jpeg(picture(100 * start + i)))
        shutil.copy(source / "test/a/0.jpg", source / "train/a/exact.jpg")
        put(source, "train/b/near.jpg", jpeg(picture(501), 70))
        put(source, "val/a/near.jpg", jpeg(picture(402), 70))
        counts, found = prepare(source, tmp_path), report(tmp_path)
        assert (counts["train"], counts["val"], counts["test"]) == (24, 16, 16)
        assert found["duplicates"] == [{"kept": "test/a/0.jpg", "dropped": ["train/a/exact.jpg"]}]
        assert found["leaked"] == [
            {"path": "train/b/near.jpg", "reason": "near duplicate of test/b/1.jpg in test"},
            {"path": "val/a/near.jpg", "reason": "near duplicate of test/a/2.jpg in test"},
        ]
        for image in source.glob("test/*/*.jpg"):  # and is not replaced when it cannot be read
            image.write_bytes(b"no image")
        with pytest.raises(DataError, match="own test split can be read"):
            prepare(source, tmp_path, max_bad_ratio=0.9)

    def test_so_many_near_ones_that_little_would_be_left_are_refused(self, tmp_path: Path) -> None:
        """Of ninety that change bit by bit each is a near duplicate of the next."""
        for number in range(90):
            image = Image.blend(picture(1), picture(2), number / 90)
            put(tmp_path / "raw", f"{'abc'[number % 3]}/{number}.jpg", jpeg(image))
        sentence = (
            "prepare.near_duplicate_bits 8 makes 89 of 90 images near duplicates, which leaves "
            "1 for train instead of about 58; lower it, or bring splits of your own"
        )
        with pytest.raises(DataError, match=f"^{re.escape(sentence)}$"):
            prepare(tmp_path / "raw", tmp_path)
        assert prepare(tmp_path / "raw", tmp_path, near_duplicate_bits=0)["train"] > 25


class TestDrills:
    def test_are_cut_from_test(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(incoming, "LEAST_IMAGES", 2)
        prepare(dataset(tmp_path / "raw", "abc", 40), tmp_path)
        prepared = {row["image_id"]: row for row in rows(tmp_path).values()}
        seen: list[str] = []
        for name in ("clean", "dim", "shares"):
            batch = read_table(tmp_path / f"incoming/{name}.parquet")
            assert batch.schema == BATCH_SCHEMA
            assert len(batch) == report(tmp_path)["incoming"][name]["images"] > 0
            for row in batch.to_pylist():
                original = prepared[row["image_id"]]
                assert original["split"] == "test"
                assert (row["path"], row["label"]) == (original["path"], original["label"])
                if name == "dim":
                    ratio = pixels(row["image"]).mean() / pixels(original["image"]).mean()
                    assert ratio == pytest.approx(0.35, abs=0.02)
                else:
                    assert row["image"] == original["image"]
                seen.append(row["image_id"])
        assert len(seen) == len(set(seen))

    def test_what_drills_hold(self) -> None:
        image_ids = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(9000)]
        labels = [f"class {i % 9}" for i in range(9000)]

        def sizes(count: int) -> list[int]:
            drills = choose_drills(image_ids[:count], labels[:count])
            return [len(chosen) for chosen in drills.values()]

        # Three tenths of the test images, unless that is too few, and 200 each at most.
        counts = {199: [], 201: [20] * 3, 600: [60] * 3, 9000: [200] * 3}
        assert {count: sizes(count) for count in counts} == counts
        drills = choose_drills(image_ids, labels)
        label_of = dict(zip(image_ids, labels, strict=True))
        assert len({label_of[i] for i in drills["clean"]}) == 9
        assert len({label_of[i] for i in drills["shares"]}) == 3
        assert choose_drills(image_ids[::-1], labels[::-1]) == drills


def test_the_embedded_dataset(tmp_path: Path) -> None:
    """A small recipe of the embedded kind: what is planted in it is what the report finds."""
    planted = synthetic(tmp_path / "raw", TINY).planted()
    counts, found = prepare(tmp_path / "raw", tmp_path), report(tmp_path)
    assert {entry["path"] for entry in found["quarantined"]} == set(planted["corrupt"])
    copies = {(e["kept"], *e["dropped"]): e.get("labels") for e in found["duplicates"]}
    ((one, original),) = planted["conflicting_duplicates"].items()
    ((same, first),) = planted["duplicates"].items()
    assert copies == {
        tuple(sorted([one, original])): sorted([one.split("/")[0], original.split("/")[0]]),
        tuple(sorted([same, first])): None,
    }
    assert (counts["duplicates"], counts["label_conflicts"]) == (2, 1)
    near = {path for entry in found["near_duplicates"] for path in entry["paths"]}
    assert near == {*planted["near_duplicates"], *planted["near_duplicates"].values()}
    for name, unreadable in (("clean", 0), ("dim", 0), ("shares", 2)):  # the recipe's own batches
        batch, said = read_table(tmp_path / f"incoming/{name}.parquet"), found["incoming"][name]
        assert (batch.schema, len(batch)) == (BATCH_SCHEMA, 24)
        assert batch.column("image").null_count == len(said["quarantined"]) == unreadable
        assert set(batch.column("label").to_pylist()) <= TINY["classes"].keys()
        assert said["images"] == 24
