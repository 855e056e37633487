"""What cameras, phones and tools really make: the right pixels, or the true reason.

The one door is shown for each case: shards, incoming batches, the model and the monitor agree.
"""

import io
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from conftest import ROOT, Project, refusal
from grocery.core.bounds import FILE_BYTES
from grocery.core.errors import DataError, NotInstalled, UnreadableImage
from grocery.data.build import Shard, decode_shard
from grocery.data.duplicates import Copies
from grocery.data.incoming import write_batch
from grocery.images import colours
from grocery.images.decoding import decode
from grocery.images.preprocessing import SRGB, Preprocessing
from grocery.images.raw import RawImage
from grocery.inbox import incoming
from grocery.settings import load
from grocery.shards import read_table
from odd_files import (
    LINEAR_GREY,
    PRESS,
    SWAPPED,
    TURNED,
    chunk,
    damaged,
    pages,
    png,
    ramp,
    retagged,
    spoilt,
    tiff,
    with_chunk,
)
from samples import encoded, picture, put
from test_model import small_model

RED, WHITE = (230, 20, 20), (255, 255, 255)
MAX = 1_000_000
HOW = Preprocessing(48, 90, MAX, 10**7, SRGB)
PARAMS = load(ROOT / "params.yaml").prepare.model_copy(
    update={name: value for name, value in HOW.settings().items() if name != "colours"}
)


def plain(colour: Any, mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (8, 8), colour)


def tagged(icc: bytes, colour: Any, mode: str = "RGB", kind: str = "PNG") -> bytes:
    return encoded(plain(colour, mode), kind, icc_profile=icc)


def lab() -> bytes:
    one, other = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return encoded(ImageCms.buildTransform(one, other, "RGB", "LAB").apply(plain(RED)), "TIFF")


def heic(image: Image.Image, **options: Any) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    stream = io.BytesIO()
    pillow_heif.from_pillow(image).save(stream, **options)
    return stream.getvalue()


GREY = (188, 188, 188)
DEEP_GREY = Image.fromarray(np.full((8, 8), 128 * 257, np.uint16))
INDEXED = plain((255, 0, 0)).quantize(2)
MORE, ALL = [plain(WHITE), plain(GREY)], {"save_all": True}
JPEG, PNG = encoded(plain(RED), "JPEG", quality=95), encoded(plain(RED), "PNG")
PROGRESSIVE = encoded(plain(RED), "JPEG", quality=95, progressive=True)
LAST_SCAN = PROGRESSIVE.rindex(b"\xff\xda")
TWELVE_BITS = retagged(retagged(tiff(np.full((1, 3), 255, np.uint8)), 258, 12), 256, 2)
WHITE_IS_ZERO = retagged(tiff(np.zeros((1, 2), np.uint16)), 262, 0)
FLOATS = tiff(np.zeros((4, 5, 3), np.float32))
DAMAGED_KEY = with_chunk(PNG, damaged(chunk(b"tRNS", bytes(6))))
KEY = b"\x10\0\x20\0\x30\0"

# What is read, and the colour of its first pixel.
READ: dict[str, tuple[Any, tuple[int, ...]]] = {
    **{
        f"plain.{kind.lower()}": (encoded(plain(RED), kind), RED)
        for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
    },
    **{
        f"frames.{kind.lower()}": (encoded(plain(RED), kind, append_images=MORE, **ALL), RED)
        for kind in ("GIF", "WEBP", "TIFF")
    },
    "cmyk.jpg": (encoded(plain((25, 235, 235, 0), "CMYK"), "JPEG", quality=95), RED),
    "bit.png": (encoded(plain(1, "1"), "PNG"), WHITE),
    "grey16.png": (encoded(DEEP_GREY, "PNG"), (128, 128, 128)),
    "clear.png": (encoded(plain((*RED, 0), "RGBA"), "PNG"), WHITE),
    "clear-indexed.png": (encoded(INDEXED, "PNG", transparency=INDEXED.getpixel((0, 0))), WHITE),
    "key.png": (encoded(plain(RED), "PNG", transparency=RED), WHITE),
    "profile.png": (tagged(SWAPPED, (128, 0, 0)), (0, 0, 188)),
    "profile-alpha.png": (tagged(SWAPPED, (128, 0, 0, 255), "RGBA"), (0, 0, 188)),
    "profile-indexed.png": (encoded(INDEXED, "PNG", icc_profile=SWAPPED), (0, 0, 255)),
    "profile-grey.png": (tagged(LINEAR_GREY, 128, "L"), GREY),
    "profile-grey-of-rgb.jpg": (tagged(SWAPPED, 128, "L", "JPEG"), GREY),
    "profile-grey-16.png": (encoded(DEEP_GREY, "PNG", icc_profile=LINEAR_GREY), GREY),
    "profile-press.jpg": (tagged(PRESS, (255, 0, 0, 0), "CMYK", "JPEG"), (0, 0, 0)),
    "profile-broken.png": (tagged(b"no profile", RED), RED),
    "profile-of-press.png": (tagged(PRESS, RED), RED),
    "profile-huge.tif": (tagged(SWAPPED + bytes(5_000_000), RED, kind="TIFF"), RED),
    "lab.tif": (lab(), RED),
    "float.pfm": (b"Pf\n2 1\n-1.0\n" + np.ones(2, "<f4").tobytes(), WHITE),
    "grey12.tif": (TWELVE_BITS, WHITE),
    "signed16.tif": (tiff(np.full((1, 2), 2**15 - 1, np.int16)), WHITE),
    "white-is-zero16.tif": (WHITE_IS_ZERO, WHITE),
    "phone.avif": (encoded(plain(RED), "AVIF", quality=90), RED),
    "phone.heic": (lambda: heic(plain(RED).resize((64, 64))), RED),
    "grey2-key.png": (png(2, 0, [b"\xaa"], 4, chunk(b"tRNS", b"\0\x02")), WHITE),
    "grey4-key.png": (png(4, 0, [b"\x3f"], 2, chunk(b"tRNS", b"\0\x03")), WHITE),
    "grey16-key.png": (png(16, 0, [b"\x10\0\xff\xff"], 2, chunk(b"tRNS", b"\x10\0")), WHITE),
    "rgb16-key.png": (png(16, 2, [KEY], 1, chunk(b"tRNS", KEY)), WHITE),
    "no-end.jpg": (JPEG[:-2], RED),
    "half-an-end.jpg": (JPEG[:-1], RED),
    "no-end-progressive.jpg": (PROGRESSIVE[:-2], RED),
    "text.png": (with_chunk(PNG, damaged(chunk(b"tEXt", b"a\0b"))), RED),
    "exif.jpg": (encoded(plain(RED), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"), RED),
    "exif.png": (with_chunk(PNG, damaged(chunk(b"eXIf", b"MM"))), RED),
}
NOTED = {
    *("profile-broken.png", "profile-of-press.png", "profile-huge.tif", "text.png", "exif.png"),
    *("no-end.jpg", "half-an-end.jpg", "no-end-progressive.jpg"),
}

# What is refused, and how the reason begins.
REFUSED = {
    "empty.jpg": (b"", "empty file"),
    "short.jpg": (b"\xff\xd8\xff", "damaged"),
    "cut.jpg": (encoded(picture(), "JPEG")[:-40], "truncated"),
    "cut.png": (encoded(picture(), "PNG")[:-60], "truncated"),
    "huge.png": (  # refused before anything is decoded, which would be "truncated"
        encoded(Image.new("1", (1001, 1000)), "PNG")[:60],
        "too many pixels: 1,001,000; prepare.max_pixels allows 1,000,000",
    ),
    "scan-lacks.jpg": (PROGRESSIVE[:LAST_SCAN], "truncated"),
    "key-damaged.png": (DAMAGED_KEY, "damaged: broken PNG file (bad header checksum in b'tRNS')"),
    "float32.tif": (FLOATS, "unsupported layout: unknown pixel mode (3 samples of 32 bits, float)"),
    "scans.jpg": (PROGRESSIVE[:-2] + PROGRESSIVE[LAST_SCAN:-2] * 100, "too many scans: a JPEG"),
    "segments.jpg": (JPEG[:2] + b"\xff\xe1\0\2" * 10**5 + JPEG[2:], "too many segments: a JPEG"),
    "chunks.png": (with_chunk(PNG, chunk(b"prVt", b"") * 10**5), "too many chunks: a PNG may"),
    "raw.dng": (encoded(plain(RED), "TIFF", tiffinfo={254: 1, 330: 8}), "a camera's raw file,"),
    "a.cr3": (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "a camera's raw file, which"),
    "a.m4a": (b"\0\0\0\x14ftypM4A \0\0\2\0isom", "a sound, which"),
    "odd.bmp": (b"BM" + bytes(12) + b"\x07" + bytes(47), "unsupported layout: Unsupported BMP"),
    "a.pdf": (b"%PDF-1.7", "PDF, which"),
    "a.mp4": (b"\0\0\0\x18ftypisom\0\0\2\0isomiso2", "a video, which"),
    "a.html": (b"\n<!DOCTYPE html><title>404</title>", "HTML, which"),
    "a.svg": (b"<?xml version='1.0'?>\n<svg xmlns='x'/>", "SVG, which"),
    "a.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript, which"),
    "a.txt": (b"milk, bread", "not an image of a known format"),
}


def contents(name: str) -> bytes:
    data = (READ | REFUSED)[name][0]
    return data() if callable(data) else data


@pytest.mark.parametrize("name", READ)
def test_what_is_read_has_the_right_colours(name: str) -> None:
    notes: list[str] = []
    image = decode(contents(name), max_pixels=MAX, note=notes.append)
    found = np.array(image.getpixel((0, 0)))
    assert np.abs(found - READ[name][1]).max() <= 3
    assert bool(notes) == (name in NOTED)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_has_the_true_reason(name: str) -> None:
    said = refusal(UnreadableImage, decode, contents(name), max_pixels=MAX)
    assert said.startswith(REFUSED[name][1])


def test_one_door(tmp_path: Path) -> None:
    raw = [RawImage(name, file=tmp_path / "files" / name) for name in sorted(READ | REFUSED)]
    for image in raw:
        put(tmp_path / "files", image.path, contents(image.path))
    ids = {image.path: image.identify(10**7)[0] for image in raw}
    shard = Shard("shard", tuple(Copies(ids[image.path], image) for image in raw))
    reasons = decode_shard((shard, HOW, tmp_path / "shard"))["reasons"]
    table = read_table(tmp_path / "shard", ["path", "image"]).to_pylist()
    stored = {row["path"]: row["image"] for row in table}
    model = replace(small_model(), preprocessing=HOW)
    prepared: dict[str, bytes] = {}
    for image in raw:
        if image.path in REFUSED:
            with pytest.raises(DataError, match=re.escape(reasons[ids[image.path]]) + "$"):
                model.prepare(tmp_path / "files" / image.path)
        else:
            prepared[image.path] = model.prepare(tmp_path / "files" / image.path)
            assert model.prepare(contents(image.path)) == prepared[image.path]
    assert prepared == stored
    assert stored.keys() == READ.keys()
    batch, said = incoming.read(tmp_path / "files", model, labelled=False, flat=False)
    seen = dict(zip(batch.paths, batch.jpegs, strict=True))
    assert seen == stored | dict.fromkeys(REFUSED)
    assert batch.image_ids == [ids[image.path] for image in raw]
    assert len(said) == len(REFUSED) + len(NOTED)
    bad = write_batch(("batch", raw), params=PARAMS, folder=tmp_path)
    said_of = {entry["path"]: entry["reason"] for entry in bad["quarantined"]}
    assert said_of == {name: reasons[ids[name]] for name in REFUSED}
    assert {entry["path"] for entry in bad["noted"]} == NOTED
    rows = read_table(tmp_path / "batch.parquet", ["path", "image"]).to_pylist()
    assert {row["path"]: row["image"] for row in rows} == seen


# Levels of which 256 steps are to come out; some pixels have others.
LEVELS = {
    "inf": spoilt(ramp(1), np.inf, -np.inf, np.nan),
    "slightly over": spoilt(ramp(1), 1.01),
    "hot": spoilt(ramp(255), 1e9),
    **{f"{white:g}": ramp(white) for white in (1, 1.5, 255, 3000, 65535, 1e6)},
    "int32": ramp(100_000, np.int32),
    "hot int32": spoilt(ramp(65535, np.int32), 2**31 - 1),
    "uint32": ramp(2**32 - 1, np.uint32),
}


@pytest.mark.parametrize("values", LEVELS.values(), ids=LEVELS)
def test_no_white_that_is_guessed_turns_a_picture_black(values: Any) -> None:
    grey = np.asarray(decode(tiff(values), max_pixels=MAX))[1, :, 0].astype(int)
    assert np.abs(grey - np.arange(256)).max() <= 3


def test_what_is_dark_stays_dark() -> None:
    known = encoded(Image.fromarray(ramp(1000, np.uint16)), "PNG")  # where white is known
    assert np.asarray(decode(known, max_pixels=MAX)).max() == 4
    assert not np.asarray(decode(tiff(ramp(0)), max_pixels=MAX)).any()


class TestProfiles:
    def test_one_of_srgb_changes_no_pixel(self) -> None:
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        data = encoded(picture(), "PNG", icc_profile=srgb)
        assert np.array_equal(np.asarray(decode(data, max_pixels=MAX)), np.asarray(picture()))

    def test_an_older_release_goes_on_as_it_was_trained(self) -> None:
        """It knows no colours: profiles are ignored, and its digest, of its settings, stays."""
        older = Preprocessing(48, 90, MAX)
        data = encoded(plain((255, 0, 0)), "PNG", icc_profile=SWAPPED)
        assert older.prepare(data) == older.prepare(encoded(plain((255, 0, 0)), "PNG"))
        assert older.settings() == {"image_size": 48, "jpeg_quality": 90, "max_pixels": MAX}
        newer = replace(older, max_file_bytes=10**6, colours=SRGB)
        assert newer.prepare(data) != older.prepare(data)
        assert newer.gives_the_same_as(older)  # of prepared images, which have no profile
        assert not replace(newer, jpeg_quality=91).gives_the_same_as(older)


@pytest.mark.parametrize("kinds", [(1, 0), (1, 1), (4, 0), (0, 1)])
def test_the_picture_of_a_tiff_is_no_thumbnail(kinds: tuple[int, int]) -> None:
    found = decode(pages(*kinds), max_pixels=MAX)
    assert found.size == ((16, 12) if kinds == (0, 1) else (64, 48))


@pytest.mark.parametrize("version", [None, "1.6.9"])
def test_heic_without_what_decodes_it(
    version: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the model, the monitor, shards and batches; of which none remembers it of the file."""
    if version is None:
        monkeypatch.setitem(sys.modules, "pillow_heif", None)
    else:
        monkeypatch.setattr(pytest.importorskip("pillow_heif"), "__version__", version)
    put(tmp_path, "files/phone.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    file, model = tmp_path / "files/phone.heic", replace(small_model(), preprocessing=HOW)
    image = RawImage(file.name, file=file)
    shard = Shard("shard", (Copies(image.identify()[0], image),))
    for way in (
        lambda: model.prepare(file),
        lambda: incoming.read(file.parent, model, labelled=False, flat=False),
        lambda: decode_shard((shard, HOW, tmp_path / "shard")),
        lambda: write_batch(("b", [image]), params=PARAMS, folder=tmp_path),
    ):
        with pytest.raises(NotInstalled, match=r"phone\.heic is HEIC, which needs pillow-heif"):
            way()


# Says of a folder and of a file that their owner may not read why they are not read: the file in
# shards, batches and the monitor.
DENIED = """
import sys
from pathlib import Path
from grocery.inbox import incoming
from grocery.data.incoming import write_batch
from grocery.images.finding import walk
from grocery.images.raw import RawImage
from grocery.settings import load
from test_model import small_model

folder = Path(sys.argv[1])
print(*walk(folder / "shelf"))
image = RawImage("a.jpg", file=folder / "files/a.jpg")
print(image.identify(10**6)[1])
said = write_batch(("batch", [image]), params=load().prepare, folder=folder)
print(said["quarantined"][0]["reason"])
print(*incoming.read(folder / "files", small_model(), labelled=False, flat=False)[1], sep=chr(10))
"""


def test_a_file_without_permission_is_quarantined(tmp_path: Path) -> None:
    file = tmp_path / "files/a.jpg"
    put(tmp_path, "files/a.jpg", JPEG)
    file.chmod(0)
    odd = tmp_path / "files/b.tif"
    odd.write_bytes(retagged(tiff(ramp(1)), 277, 40_000))  # of which Pillow's log would speak
    (tmp_path / "shelf/shut").mkdir(mode=0, parents=True)
    powers = "-dac_override,-dac_read_search"  # by which root reads all
    without = ["setpriv", "--bounding-set", powers, "--inh-caps", powers] if not os.getuid() else []
    command = [*without, sys.executable, "-c", DENIED, str(tmp_path)]
    env = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=env)
    unreadable = "cannot be read as an image:"
    assert done.stdout.splitlines() == [
        "('shut', 'cannot be read: Permission denied')",
        *["Permission denied"] * 2,
        f"unreadable: {file} {unreadable} Permission denied",
        f"unreadable: {odd} {unreadable} damaged: Invalid value for samples per pixel",
    ]
    assert done.stderr == ""


def test_the_orientation_of_heic_and_avif_is_applied_once() -> None:
    image = Image.new("RGB", (64, 32), RED)
    for data in (heic(image, exif=TURNED.tobytes()), encoded(image, "AVIF", exif=TURNED)):
        assert decode(data, max_pixels=MAX).size == (32, 64)


class TestBounds:
    @pytest.mark.parametrize("kind", ["JPEG", "PNG"])
    def test_a_large_picture_is_halved(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        image = picture(0, (333, 251))
        monkeypatch.setattr(colours, "_TILE", 64)
        whole = np.asarray(decode(encoded(image, kind), max_pixels=MAX))
        assert whole.shape == (251, 333, 3)
        monkeypatch.setattr(colours, "LARGE", 6000)
        found = np.asarray(decode(encoded(image, kind), max_pixels=MAX))
        assert found.shape == (63, 84, 3)
        expected = np.asarray(Image.fromarray(whole).reduce(4))
        assert np.abs(found.astype(int) - expected).mean() < 2

    def test_what_decoders_need_more_memory_for_counts_as_more(self) -> None:
        data = encoded(Image.new("RGB", (800, 800)), "WEBP")
        with pytest.raises(UnreadableImage, match="640,000 of WEBP, as much memory as 1,600,000"):
            decode(data, max_pixels=MAX)
        how = {"compression": "tiff_lzw", "strip_size": 10**8}
        one_strip = encoded(Image.new("RGBA", (900, 900)), "TIFF", **how)
        decode(one_strip, max_pixels=MAX)
        cmyk = encoded(Image.new("CMYK", (1000, 1000)), "JPEG", progressive=True)
        with pytest.raises(UnreadableImage, match="of JPEG, as much memory as 1,00"):
            decode(cmyk, max_pixels=MAX)
        with pytest.raises(UnreadableImage, match="of TIFF, as much memory as"):
            decode(one_strip.replace(b"\x08\0\x08\0\x08\0\x08\0", b"\x10\0" * 4), max_pixels=MAX)

    def test_libtiff_and_pillow_say_nothing(
        self, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
    ) -> None:
        data = bytearray(encoded(picture(), "TIFF", compression="tiff_lzw"))
        for place in range(100, 400, 7):
            data[place] ^= 0x5A
        image = Image.open(io.BytesIO(data))
        with pytest.raises(OSError, match="decoder error"):
            image.load()
        assert "Using code not yet in table" in capfd.readouterr().err  # so it does say something
        with pytest.raises(UnreadableImage, match="damaged"):
            decode(bytes(data), max_pixels=MAX)
        decode(tiff(spoilt(ramp(1).view(np.uint32), 0x7F800001).view(np.float32)), max_pixels=MAX)
        assert capfd.readouterr().err == ""
        assert not recwarn.list

    def test_a_file_that_is_too_large_is_not_read(self, tmp_path: Path) -> None:
        video = tmp_path / "video.mp4"
        with video.open("wb") as stream:
            stream.truncate(10**12)  # takes no room, and would take hours to hash
        sentence = "too large a file: 1,000,000,000,000 bytes"
        assert sentence in refusal(DataError, RawImage("v", file=video).read)
        assert sentence in refusal(DataError, small_model().prepare, video)
        with video.open("wb") as stream:
            stream.truncate(FILE_BYTES + 1)
        for limit in (10**6, 10**9):  # the history knows a batch whatever the model allows
            how = replace(small_model().preprocessing, max_file_bytes=limit)
            model = replace(small_model(), preprocessing=how)
            batch, _ = incoming.read(tmp_path, model, labelled=False, flat=False)
            seen = incoming.digests(batch.image_ids, batch.labels)
            assert incoming.fingerprint(tmp_path, labelled=False) == seen


def test_the_table_of_a_folder(tmp_path: Path) -> None:
    for name in ("plain.jpeg", "plain.png", "no-end.jpg", "a.pdf"):
        (tmp_path / name).write_bytes(contents(name))
    # Of which Pillow's log would speak.
    (tmp_path / "odd.tif").write_bytes(retagged(tiff(ramp(1)), 277, 40_000))
    os.mkfifo(tmp_path / "pipe.jpg")
    done = Project(ROOT).run(sys.executable, "benchmarks/corpus.py", str(tmp_path), "--list")
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[:4] == [
        "a.pdf: PDF, which is no supported image",
        "no-end.jpg: read, with a note: the end marker is missing",
        "odd.tif: damaged: Invalid value for samples per pixel",
        "pipe.jpg: is neither a file nor a folder",
    ]
    files, *_, most, said = lines[5].split()
    assert (files, float(most) > 10, said) == ("2", True, "read")
    assert len(lines) == 10


# Prepares a file with the limits of params.yaml, and says what it took at most, in MiB.
PEAK = """
import sys
from grocery.core.errors import UnreadableImage
from grocery.data.build import preprocessing_of
from grocery.settings import load
try:
    preprocessing_of(load().prepare).prepare(sys.stdin.buffer.read())
except UnreadableImage as error:
    print(error)
# Of this program alone; ru_maxrss begins with what the process had that started it.
(most,) = (line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(most) // 1024)
"""


LARGE = ("cmyk", "rgba", "webp", "avif", "heic", "strip", "float")


@pytest.mark.parametrize(
    "kind", ["grey", *(pytest.param(kind, marks=pytest.mark.long) for kind in LARGE)]
)
def test_memory_at_the_default_limits(kind: str) -> None:
    def levels() -> Image.Image:
        return Image.fromarray(np.add.outer(*[np.arange(7000, dtype=np.uint8)] * 2))

    def four(mode: str = "RGBA", size: tuple[int, int] = (7000, 7000)) -> Image.Image:
        return Image.merge(mode, [levels()] * 4).resize(size)

    half, packed = (5000, 4990), {"compression": "tiff_adobe_deflate"}
    whole, turned = {"subsampling": 0, "progressive": True}, {"exif": TURNED}
    files = {
        "grey": lambda: encoded(Image.new("I;16", (7000, 7000)), "PNG"),
        "cmyk": lambda: encoded(four("CMYK"), "JPEG", **whole, **turned),
        "rgba": lambda: encoded(four(), "PNG", compress_level=1, **turned),
        "webp": lambda: encoded(four(size=half), "WEBP", lossless=True, method=0, quality=0),
        "avif": lambda: encoded(four(size=half), "AVIF", speed=10, subsampling="4:4:4"),
        "heic": lambda: heic(four(size=half), chroma=444),
        "strip": lambda: encoded(four(), "TIFF", **packed, strip_size=2**31 - 1),
        "float": lambda: encoded(levels().convert("F"), "TIFF", **packed),
    }
    command, data = [sys.executable, "-c", PEAK], files[kind]()
    done = subprocess.run(command, input=data, capture_output=True, check=True, cwd=ROOT)
    assert int(done.stdout.splitlines()[-1]) < 600
