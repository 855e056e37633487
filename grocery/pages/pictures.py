"""Pictures of many small images, as JPEG with the same bytes on every machine."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

_COLUMNS, _SIDE = 6, 160  # images per row, and their longest side in pixels
_MARGIN, _LINE = 6, 13


def captioned_grid(images: Sequence[tuple[bytes, str]]) -> bytes:
    """Lay JPEG images out in a grid, each above its caption of at most two lines.

    No images give an empty sheet that says so.
    """
    rows = max(1, -(-len(images) // _COLUMNS))
    width, height = _SIDE + _MARGIN, _SIDE + 2 * _LINE + 2 * _MARGIN
    sheet = Image.new("RGB", (_COLUMNS * width + _MARGIN, rows * height + _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(11)
    if not images:
        draw.text((_MARGIN, _MARGIN), "nothing to show", fill="black", font=font)
    for place, (jpeg, caption) in enumerate(images):
        left = _MARGIN + (place % _COLUMNS) * width
        top = _MARGIN + (place // _COLUMNS) * height
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
            image.thumbnail((_SIDE, _SIDE))
            sheet.paste(image, (left, top + _SIDE - image.height))
        for number, line in enumerate(caption.split("\n")[:2]):
            position = (left, top + _SIDE + 2 + number * _LINE)
            draw.text(position, shortened(line, font, _SIDE), fill="black", font=font)
    return as_jpeg(sheet, 88)


def as_jpeg(image: Image.Image, quality: int) -> bytes:
    """The bytes of a JPEG file of an image."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Cut a line to what fits in `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
