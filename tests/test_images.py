"""Decoding odd and hostile files, the canonical image, and the one preprocessing."""

import errno
import io
import os
import pickle
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from pydantic import ValidationError

from conftest import ROOT, Project
from grocery.core.errors import DataError, UnreadableImage
from grocery.core.params import PrepareParams
from grocery.images.decoding import canonical, decode, pixels, upright_rgb
from grocery.images.opening import FORMATS
from grocery.images.preprocessing import SRGB, Preprocessing
from grocery.settings import load
from odd_files import SWAPPED
from samples import encoded, picture

RED, GREEN, WHITE = (220, 30, 30), (30, 160, 40), (255, 255, 255)


def halves(mode: str = "RGB") -> Image.Image:
    """Red left, green right; 40 x 20."""
    image = Image.new("RGB", (40, 20), RED)
    image.paste(GREEN, (20, 0, 40, 20))
    return image.convert(mode)


def turned(image: Image.Image, orientation: int = 6) -> bytes:
    """A PNG whose EXIF block says how the camera was turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, "PNG", exif=exif)


def read(data: bytes) -> Image.Image:
    image = decode(data, max_pixels=10**6)
    assert image.mode == "RGB"
    return image


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_camera_was_turned_and_the_picture_stands_upright(orientation: int) -> None:
    data = turned(halves().rotate(20), orientation)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(np.asarray(read(data)), np.asarray(expected))
    assert read(data).size == ((40, 20) if orientation < 5 else (20, 40))


class TestBadFiles:
    @pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
    def test_only_our_own_limit_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Pillow would refuse at twice its limit; its setting is as before afterwards."""
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        for image in (halves(), Image.new("L", (3000, 20)), Image.new("F", (3000, 20))):
            assert read(encoded(image, "TIFF")).size == image.size
        assert Image.MAX_IMAGE_PIXELS == 100

    def test_damaged_files_give_one_kind_of_error(self, recwarn: pytest.WarningsRecorder) -> None:
        draw = np.random.default_rng(0)
        originals = [encoded(halves(), kind) for kind in FORMATS]
        originals.append(encoded(halves(), "TIFF", compression="tiff_lzw"))
        originals.append(encoded(halves(), "JPEG", icc_profile=SWAPPED))
        reasons = []
        for trial in range(400):
            data = bytearray(originals[trial % len(originals)])
            for place in draw.integers(0, min(len(data), 200), size=3):
                data[place] = draw.integers(0, 256)
            try:
                read(bytes(data[: draw.integers(1, len(data))] if trial % 5 == 0 else data))
            except UnreadableImage as error:
                reasons.append(str(error))
        assert len(reasons) > 100
        # Reasons are part of an output, so they hold no addresses.
        assert not any("0x" in reason for reason in reasons)
        assert not recwarn.list


# Prepares each file given on standard input with less and less memory, in a process of its own.
STARVED = """
import os, pickle, resource, sys
from grocery.images.preprocessing import Preprocessing

how = Preprocessing(96, 90, max_pixels=4_000_000)
small, files = pickle.load(sys.stdin.buffer)
for data in small:  # imports what the formats need
    how.prepare(data)
for data in files:
    for megabytes in (0, 2, 4, 6, 9, 12, 500):
        child = os.fork()
        if not child:
            pages = int(open("/proc/self/statm").read().split()[0])
            limit = pages * resource.getpagesize() + megabytes * 2**20
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            try:
                how.prepare(data)
                os._exit(0)
            except MemoryError:
                os._exit(1)
            except BaseException as error:
                os.write(2, f"{megabytes} MiB: {error!r}\\n".encode())
                os._exit(2)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), end="")
    print()
"""


def test_a_lack_of_memory_is_no_fact_about_a_file() -> None:
    """However little there is: a decoder that lacks it may say that the file is damaged."""

    def files(width: int, height: int) -> list[bytes]:
        image = picture(0, (width, height))
        return [
            encoded(image, "JPEG", progressive=True),
            encoded(image, "WEBP", method=0),
            encoded(image.convert("RGBA"), "PNG", compress_level=1),
            encoded(Image.new("I;16", (width, height), 7), "PNG"),
        ]

    data, command = pickle.dumps((files(40, 30), files(1000, 750))), [sys.executable, "-c", STARVED]
    done = subprocess.run(command, input=data, capture_output=True, check=True, cwd=ROOT)
    for codes in done.stdout.split():
        assert re.fullmatch(rb"1[01]*0", codes), done.stderr  # 2 is for another error


# Writes a batch and a shard, and reads the files of a batch, with little and with enough.
LIMITED = """
import resource, sys
from pathlib import Path
from grocery.inbox import incoming
from grocery.core.errors import one_sentence
from grocery.data.build import Shard, decode_shard, image_ids_of, preprocessing_of
from grocery.data.duplicates import Copies
from grocery.data.incoming import write_batch
from grocery.images.decoding import decode
from grocery.images.raw import RawImage
from grocery.settings import load

folder = Path(sys.argv[1])
params = load().prepare
decode((folder / "small.png").read_bytes(), max_pixels=10_000)
image = RawImage("monday/large.png", file=folder / "monday/large.png")
shard = Shard("shard", (Copies(image_ids_of([image], 10**6)[0][0], image),))

def batch():
    return write_batch(("monday", [image]), params=params, folder=folder)["quarantined"]

def one_shard():
    return [*decode_shard((shard, preprocessing_of(params), folder / "shard"))["reasons"]]

listed = [*incoming.files_of(folder / "monday"), "gone.png"]
incoming.files_of = lambda _, left_out: listed  # which needs an open file itself

def look():
    return incoming.fingerprint(folder / "monday", labelled=False)[1]

for plenty in (False, True):
    for work in (batch, one_shard, look):
        kind, limit = resource.RLIMIT_NOFILE, 3
        if work != look:
            pages = int(open("/proc/self/statm").read().split()[0])
            kind, limit = resource.RLIMIT_AS, pages * resource.getpagesize() + 5_000_000
        before = resource.getrlimit(kind)
        try:
            with one_sentence(work.__name__):
                resource.setrlimit(kind, before if plenty else (limit, before[1]))
                found = work()
                print(found)
        except SystemExit:
            pass
        finally:
            resource.setrlimit(kind, before)
"""


def test_what_a_run_lacks_fails_it_and_is_not_remembered(tmp_path: Path) -> None:
    (tmp_path / "monday").mkdir()
    (tmp_path / "small.png").write_bytes(encoded(halves(), "PNG"))
    large = encoded(Image.new("RGB", (3000, 3000), RED), "PNG")
    (tmp_path / "monday/large.png").write_bytes(large)
    done = Project(ROOT).run(sys.executable, "-c", LIMITED, str(tmp_path))
    little = "not enough memory for monday/large.png; fewer compute.workers need less"
    assert done.stderr.splitlines() == [
        f"error: batch: {little}",
        f"error: one_shard: {little}",
        f"error: look: Too many open files '{tmp_path}/monday/gone.png'",
    ]
    assert done.stdout.splitlines() == ["[]", "[]", "None"]


def test_an_error_of_the_disk_is_no_fact_about_a_file() -> None:
    class FailingDisk(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    image = Image.open(io.BytesIO(encoded(halves(), "PNG")))
    image.fp = FailingDisk()
    with pytest.raises(OSError, match="Input/output error"):
        upright_rgb(image)


class TestPillowImages:
    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "1"])
    def test_are_prepared_as_files_are(self, mode: str) -> None:
        """The caller's image is not touched, and nothing is applied twice."""
        data = turned(halves(mode))
        given = Image.open(io.BytesIO(data))
        image = upright_rgb(given)
        assert (image.size, image.info) == ((20, 40), {})
        assert image == read(data) == upright_rgb(image)
        assert (given.size, given.getexif()[0x0112]) == ((40, 20), 6)

    def test_white_of_an_image_that_does_not_say_it(self) -> None:
        bright = Image.new("I", (8, 8), 1_000_000)
        bright.putpixel((0, 0), 500_000)
        assert upright_rgb(bright).getpixel((0, 0)) == (128, 128, 128)


class TestCanonical:
    def test_reduces_the_longest_side_and_never_enlarges(self) -> None:
        sizes = {
            (400, 300): (224, 168),
            (300, 400): (168, 224),
            (40, 20): (40, 20),
            (5000, 2): (224, 1),
        }
        for size, expected in sizes.items():
            jpeg = canonical(Image.new("RGB", size), size=224, quality=92)
            assert pixels(jpeg).shape == (expected[1], expected[0], 3)

    def test_the_pixels_without_metadata_full_chroma_and_baseline(self) -> None:
        image = read(encoded(halves(), "JPEG", comment=b"hello", dpi=(72, 72)))
        image.info["comment"] = b"hello"
        jpeg = canonical(image, size=224, quality=92)
        assert np.abs(pixels(jpeg).astype(int) - np.asarray(image)).mean() < 3
        assert b"hello" not in jpeg
        opened = Image.open(io.BytesIO(jpeg))
        assert set(opened.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
        assert [component[1:3] for component in opened.layer] == [(1, 1)] * 3  # type: ignore[attr-defined]
        assert image.info["comment"] == b"hello"  # the caller's image is not touched

    def test_a_damaged_prepared_image_is_a_data_error(self) -> None:
        jpeg = canonical(halves(), size=224, quality=92)
        for damaged in (b"", b"no", jpeg[:-100]):
            with pytest.raises(DataError, match="prepared image cannot be read"):
                pixels(damaged)


HOW = Preprocessing(48, 90, max_pixels=10_000, max_file_bytes=100_000, colours=SRGB)


class TestPreprocessing:
    def test_the_settings_decide(self) -> None:
        data = turned(halves().resize((90, 60)))
        prepared = HOW.prepare(data)
        assert pixels(prepared).shape == (48, 32, 3)  # turned, and reduced
        assert HOW.prepare(Image.open(io.BytesIO(data))) == prepared
        assert len(Preprocessing(48, 100, 10_000).prepare(data)) > len(prepared)
        with pytest.raises(UnreadableImage, match=r"10,100; prepare\.max_pixels allows 10,000"):
            HOW.prepare(encoded(Image.new("RGB", (101, 100)), "PNG"))

    @pytest.mark.parametrize(
        ("name", "least", "most"),
        [
            ("image_size", 32, 1024),
            ("jpeg_quality", 50, 100),
            ("max_pixels", 10_000, 10**9),
            ("max_file_bytes", 10_000, 10**10),
        ],
    )
    def test_it_is_bounded_as_the_parameters_are(self, name: str, least: int, most: int) -> None:
        params = load(ROOT / "params.yaml").prepare.model_dump()
        for value in (least, most):
            PrepareParams(**params | {name: value})
            Preprocessing(**asdict(HOW) | {name: value})
        for value in (least - 1, most + 1):
            with pytest.raises(ValidationError):
                PrepareParams(**params | {name: value})
            with pytest.raises(ValueError, match=f"{name} is {value}, but it should be a whole"):
                Preprocessing(**asdict(HOW) | {name: value})

    def test_it_is_found_among_other_settings(self) -> None:
        assert Preprocessing.of(asdict(HOW) | {"digest": "0"}, "v1") == HOW
        for settings, why in [
            (None, "object is not"),
            ({"image_size": 48, "jpeg_quality": 90}, "'max_pixels' is missing"),
            (asdict(HOW) | {"image_size": "48"}, "image_size is '48', but"),
            (asdict(HOW) | {"colours": "cmyk"}, "colours is 'cmyk', but"),
        ]:
            with pytest.raises(DataError, match=f"^v1 does not say how its images were .*{why}"):
                Preprocessing.of(settings, "v1")
