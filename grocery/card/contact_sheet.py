"""Contact sheets: a few small pictures of every class, so that a person sees what the data is."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
from PIL import Image, ImageDraw, ImageFont, ImageOps

from grocery.pages.pictures import as_jpeg, shortened
from grocery.shards import images_of

# Side of a picture, and of the overview's pictures when there are more than a few classes.
SIDE, _SMALL_SIDE, _FEW = 88, 60, 24
# More rows than this make a picture that few programs open (JPEG itself ends at 65,535 pixels).
_MOST_ROWS = 900
_NAMES, _GAP = 220, 2
_INK, _SOFT, _PAPER = "#1c2128", "#59636e", "#ffffff"


def choose(rows: pa.Table, count: int) -> dict[str, list[str]]:
    """Choose `count` images of each class: those whose content hash comes first.

    Of the ``image_id`` and ``label`` of all images; gives image ids by class name, both sorted.
    """
    by_class: dict[str, list[str]] = {}
    pairs = zip(rows.column("image_id").to_pylist(), rows.column("label").to_pylist(), strict=True)
    for image_id, label in sorted(pair for pair in pairs if pair[1] is not None):
        by_class.setdefault(label, []).append(image_id)
    return {label: members[:count] for label, members in sorted(by_class.items())}


def thumbnails(shards: Sequence[Path], image_ids: Collection[str]) -> dict[str, bytes]:
    """Square JPEG pictures of some images, `SIDE` pixels wide and cut to their middle, by id."""
    found = {}
    for image_id, jpeg in images_of(shards, image_ids).items():
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
            small = ImageOps.fit(image, (SIDE, SIDE), Image.Resampling.BICUBIC)
        found[image_id] = as_jpeg(small, 72)
    return found


def contact_sheet(
    classes: Mapping[str, Sequence[str]], notes: Mapping[str, str], pictures: Mapping[str, bytes]
) -> bytes:
    """One JPEG picture with a row per class: its name, a note below it, and its images.

    See `choose` for `classes`, and `thumbnails` for `pictures`.
    """
    side = SIDE if len(classes) <= _FEW else _SMALL_SIDE
    rows = list(classes.items())[:_MOST_ROWS]
    columns = max((len(members) for _, members in rows), default=0)
    step = side + _GAP
    sheet = Image.new("RGB", (_NAMES + columns * step, max(len(rows), 1) * step), _PAPER)
    pencil = ImageDraw.Draw(sheet)
    large, small = ImageFont.load_default(14), ImageFont.load_default(11)
    for row, (name, members) in enumerate(rows):
        top, middle = row * step, row * step + side // 2
        pencil.text((8, middle - 16), shortened(name, large, _NAMES - 16), _INK, large)
        pencil.text((8, middle + 2), shortened(notes[name], small, _NAMES - 16), _SOFT, small)
        for column, image_id in enumerate(members):
            with Image.open(io.BytesIO(pictures[image_id]), formats=["JPEG"]) as image:
                sheet.paste(image.resize((side, side)), (_NAMES + column * step, top))
    return as_jpeg(sheet, 88)
