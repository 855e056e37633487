"""What groceries lie on, and how they are laid there; drawn with Pillow.

Like `grocery.synthetic.drawing`, everything is a function of its arguments and the given generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from PIL import Image, ImageDraw

from grocery.synthetic.drawing import PAPER, Colour, Pencil, Rng, darker, jittered, lighter, mix

Place = tuple[float, float]

# How dark a shadow is, by how opaque the item.
_SHADOW = [round(level * 0.45) for level in range(256)]


def turned(image: Image.Image, side: int, middle: Place, c: float, s: float) -> Image.Image:
    """A square of an image around its `middle`, turned and scaled to `side` pixels.

    A pixel of the square is `c` and `s` (cosine and sine times scale) pixels of the image.
    """
    half = side / 2
    matrix = (c, s, middle[0] - (c + s) * half, -s, c, middle[1] - (c - s) * half)
    return image.transform(
        (side, side), Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR
    )


def put(
    canvas: Image.Image, thing: Image.Image, centre: Place, side: float, degrees: float
) -> None:
    """Paste an item at its centre, scaled to `side` pixels, turned, with its shadow."""
    box = math.ceil(side * 1.42)  # wide enough for any turn
    angle, scale, half = math.radians(degrees), thing.width / side, thing.width / 2
    c, s = math.cos(angle) * scale, math.sin(angle) * scale
    whole = turned(thing, box, (half, half), c, s)
    left, top = (round(at - box / 2) for at in centre)
    alpha = whole.getchannel("A")
    offset = max(2, round(side * 0.05))
    canvas.paste((18, 16, 14), (left + offset, top + offset), alpha.point(_SHADOW))
    canvas.paste(whole.convert("RGB"), (left, top), alpha)


# Each function below fills a canvas, given a base colour.


def _shelf(pencil: Pencil, side: int, base: Colour, rng: Rng) -> None:
    """Boards with price tags in front of a wall."""
    board = jittered(mix(base, PAPER, 0.45), 0.08, rng)
    gap = side // int(rng.integers(2, 4))
    for y in range(int(rng.integers(gap // 2, gap)), side, gap):
        pencil.rectangle((0, y - 20, side, y), fill=darker(base, 0.35))
        pencil.rectangle((0, y, side, y + 14), fill=board)
        pencil.line((0, y + 14, side, y + 14), fill=darker(board, 0.5), width=2)
        for x in range(int(rng.integers(0, 45)), side, int(rng.integers(52, 90))):
            pencil.rectangle((x, y + 2, x + 26, y + 12), fill=PAPER)
            pencil.line((x + 3, y + 6, x + 20, y + 6), fill=(40, 40, 44), width=2)


def _crate(pencil: Pencil, side: int, base: Colour, rng: Rng) -> None:
    """Wooden slats with a grain."""
    height = int(rng.integers(24, 42))
    for y in range(0, side, height):
        slat = darker(base, rng.uniform(0, 0.25))
        pencil.rectangle((0, y, side, y + height - 4), fill=slat)
        pencil.rectangle((0, y + height - 4, side, y + height), fill=darker(base, 0.65))
        for _ in range(3):
            line = y + int(rng.integers(2, height - 6))
            pencil.line((0, line, side, line + int(rng.integers(-2, 3))), fill=darker(slat, 0.15))


def _tray(pencil: Pencil, side: int, base: Colour, rng: Rng) -> None:
    """Crumpled paper."""
    for _ in range(16):
        x, y = rng.uniform(0, side, size=2)
        points = [(x + dx, y + dy) for dx, dy in rng.uniform(-52, 52, size=(3, 2))]
        fold = lighter(base, rng.uniform(0, 0.2)) if rng.uniform() < 0.5 else None
        pencil.polygon(points, fill=fold or darker(base, rng.uniform(0, 0.25)))


def _fridge(pencil: Pencil, side: int, base: Colour, rng: Rng) -> None:
    """A wire rack in a cold light."""
    for y in range(0, side, 6):
        pencil.rectangle((0, y, side, y + 6), fill=darker(base, 0.45 * y / side))
    step = int(rng.integers(12, 26))
    for x in range(int(rng.integers(0, step)), side, step):
        pencil.line((x, 0, x, side), fill=lighter(base, 0.45), width=3)
    y = int(rng.integers(side // 2, side))
    pencil.rectangle((0, y, side, y + 8), fill=lighter(base, 0.3))


BACKGROUNDS: dict[str, Callable[[Pencil, int, Colour, Rng], None]] = {
    "shelf": _shelf,
    "crate": _crate,
    "tray": _tray,
    "fridge": _fridge,
}


def background(kind: str, side: int, base: Colour, rng: Rng) -> Image.Image:
    """Draw what items lie on, RGB, a square of `side` pixels; `kind` is a key of `BACKGROUNDS`."""
    canvas = Image.new("RGB", (side, side), base)
    BACKGROUNDS[kind](ImageDraw.Draw(canvas), side, base, rng)
    return canvas
