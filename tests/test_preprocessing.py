"""The one preprocessing: of the pipeline, of the model, and in the metadata of shards."""

from __future__ import annotations

import io
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from pydantic import ValidationError

from conftest import ROOT
from grocery.core.errors import DataError, UnreadableImage
from grocery.core.files import digest
from grocery.core.params import PrepareParams
from grocery.images.decoding import pixels
from grocery.images.preprocessing import SRGB, Preprocessing
from grocery.settings import load
from grocery.shards import BATCH_SCHEMA, how_prepared, read_preprocessing, read_table, write_table
from odd_files import TURNED
from samples import encoded, picture

HOW = Preprocessing(48, 90, max_pixels=10_000, max_file_bytes=100_000, colours=SRGB)
PARAMS = load(ROOT / "params.yaml").prepare.model_copy(
    update={name: value for name, value in asdict(HOW).items() if name != "colours"}
)


PHOTO = encoded(picture(0, (90, 60)), "JPEG", exif=TURNED)


def test_the_settings_decide() -> None:
    prepared = HOW.prepare(PHOTO)
    assert pixels(prepared).shape == (48, 32, 3)  # turned, and reduced
    assert HOW.prepare(Image.open(io.BytesIO(PHOTO))) == prepared
    assert len(Preprocessing(48, 100, 10_000).prepare(PHOTO)) > len(prepared)
    with pytest.raises(UnreadableImage, match=r"10,100; prepare\.max_pixels allows 10,000"):
        HOW.prepare(encoded(picture(0, (101, 100)), "PNG"))


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("image_size", 32, 1024),
        ("jpeg_quality", 50, 100),
        ("max_pixels", 10_000, 10**9),
        ("max_file_bytes", 10_000, 10**10),
    ],
)
def test_it_is_bounded_as_the_parameters_are(name: str, least: int, most: int) -> None:
    for value in (least, most):
        PrepareParams(**PARAMS.model_dump() | {name: value})
        Preprocessing(**asdict(HOW) | {name: value})
    for value in (least - 1, most + 1):
        with pytest.raises(ValidationError):
            PrepareParams(**PARAMS.model_dump() | {name: value})
        with pytest.raises(ValueError, match=f"{name} is {value}, but it should be a whole number"):
            Preprocessing(**asdict(HOW) | {name: value})


def test_settings_among_others() -> None:
    assert Preprocessing.of(asdict(HOW) | {"digest": "0"}, "v1") == HOW
    for settings, why in [
        (None, "object is not"),
        ({"image_size": 48, "jpeg_quality": 90}, "'max_pixels' is missing"),
        (asdict(HOW) | {"image_size": "48"}, "image_size is '48', but"),
        (asdict(HOW) | {"colours": "cmyk"}, "colours is 'cmyk', but"),
    ]:
        with pytest.raises(DataError, match=f"^v1 does not say how its images were .*{why}"):
            Preprocessing.of(settings, "v1")


class TestShards:
    def write(self, folder: Path, *said: dict[str, Any] | None) -> list[Path]:
        paths = [folder / f"{number}.parquet" for number in range(len(said))]
        for path, settings in zip(paths, said, strict=True):
            write_table(
                path, pa.table([["0"], ["p"], ["x"], [b"1"]], schema=BATCH_SCHEMA), settings
            )
        return paths

    def test_carry_it_and_equal_content_gives_equal_bytes(self, tmp_path: Path) -> None:
        how = asdict(HOW)
        paths = self.write(tmp_path, how, dict(reversed(how.items())), None, {"image_size": 1})
        assert Preprocessing(**read_preprocessing(paths[:2])) == HOW
        assert how_prepared(paths[2]) is None
        assert read_table(paths[0]).schema == BATCH_SCHEMA
        assert read_table(paths[0], ["path"]).to_pylist() == [{"path": "p"}]
        sums = [digest(path) for path in paths]
        assert sums[0] == sums[1]
        assert len(set(sums)) == 3

    def test_that_do_not_agree_or_do_not_say_it_are_refused(self, tmp_path: Path) -> None:
        how = asdict(HOW)
        for others, sentence in (
            ((how, how | {"max_pixels": 20_000}), r"2\.parquet was .* than .*0\.parquet"),
            ((None, how), r"1\.parquet does not say how"),
        ):
            paths = self.write(tmp_path, how, *others)
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
