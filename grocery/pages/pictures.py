"""Pictures of many small images, as JPEG with the same bytes on every machine."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

_MARGIN, _LINE = 6, 13


def captioned_grid(
    images: Sequence[tuple[bytes, str]], *, columns: int = 6, side: int = 160
) -> bytes:
    """Lay JPEG images out in a grid, each above its caption of at most two lines.

    Parameters
    ----------
    images
        Pairs of JPEG bytes and caption; none gives an empty sheet that says so.
    columns
        Images a row.
    side
        Longest side of an image in the grid, in pixels.
    """
    rows = max(1, -(-len(images) // columns))
    width, height = side + _MARGIN, side + 2 * _LINE + 2 * _MARGIN
    sheet = Image.new("RGB", (columns * width + _MARGIN, rows * height + _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(11)
    if not images:
        draw.text((_MARGIN, _MARGIN), "nothing to show", fill="black", font=font)
    for place, (jpeg, caption) in enumerate(images):
        left = _MARGIN + (place % columns) * width
        top = _MARGIN + (place // columns) * height
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
            image.thumbnail((side, side))
            sheet.paste(image, (left, top + side - image.height))
        for number, line in enumerate(caption.split("\n")[:2]):
            position = (left, top + side + 2 + number * _LINE)
            draw.text(position, shortened(line, font, side), fill="black", font=font)
    data = io.BytesIO()
    sheet.save(data, "JPEG", quality=88)
    return data.getvalue()


def shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Cut a line to what fits in `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
