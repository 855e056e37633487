"""Single groceries, drawn with Pillow.

Everything here is a function of its arguments and of the generator it is given. Coordinates
are pixels of a square canvas of side `ITEM`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw

ITEM = 128
Colour = tuple[int, int, int]
Pencil = ImageDraw.ImageDraw
Rng = np.random.Generator

LEAF: Colour = (62, 112, 46)
STEM: Colour = (92, 66, 38)
PAPER: Colour = (244, 242, 236)


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """The colour `share` of the way from `a` to `b`; 0 is `a`."""
    r, g, b_ = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return min(max(r, 0), 255), min(max(g, 0), 255), min(max(b_, 0), 255)


def darker(colour: Colour, share: float) -> Colour:
    """A shade of a colour; `share` 1 is black."""
    return mix(colour, (0, 0, 0), share)


def lighter(colour: Colour, share: float) -> Colour:
    """A tint of a colour; `share` 1 is white."""
    return mix(colour, (255, 255, 255), share)


def jittered(colour: Colour, amount: float, rng: Rng) -> Colour:
    """A colour whose channels move by at most `amount` (of 255)."""
    r, g, b = (round(c + rng.uniform(-amount, amount) * 255) for c in colour)
    return mix((r, g, b), (0, 0, 0), 0.0)


# Each function below draws one kind of thing, upright, in a body and an accent colour.


def _disc(pencil: Pencil, x: float, y: float, radius: float, colour: Colour) -> None:
    pencil.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _dots(
    pencil: Pencil, colour: Colour, rng: Rng, *, count: int, radius: float, spread: float
) -> None:
    """Scatter dots over a disc of `spread` around the middle."""
    for turn, far in rng.uniform(size=(count, 2)):
        reach = spread * math.sqrt(far)
        x, y = 64 + reach * math.cos(turn * math.tau), 66 + reach * math.sin(turn * math.tau)
        _disc(pencil, x, y, radius, colour)


def _leaf(pencil: Pencil, x: float, y: float, rng: Rng) -> None:
    """One leaf beside a stem."""
    side = 1 if rng.uniform() < 0.5 else -1
    tip, dip = x + side * 30, y - 12
    pencil.polygon(
        [(x, y), (x + side * 10, dip - 6), (tip, dip), (x + side * 16, y + 2)],
        fill=jittered(LEAF, 0.06, rng),
    )


def _apple(pencil: Pencil, body: Colour, accent: Colour, rng: Rng) -> None:
    """Two shoulders, a dimple with a stem, and a blush of the accent on one side."""
    low = int(rng.integers(112, 120))
    pencil.ellipse((10, 22, 84, low - 6), fill=body)
    pencil.ellipse((44, 22, 118, low - 6), fill=body)
    pencil.ellipse((20, 34, 108, low), fill=body)
    x, y, r = rng.uniform(34, 94), rng.uniform(58, 88), rng.uniform(14, 26)
    for step, share in ((1.0, 0.3), (0.8, 0.55), (0.55, 0.8)):
        wide, high = r * step, r * step * 1.2
        pencil.ellipse((x - wide, y - high, x + wide, y + high), fill=mix(body, accent, share))
    _dots(pencil, lighter(body, 0.3), rng, count=26, radius=1.2, spread=44)
    pencil.ellipse((48, 26, 80, 40), fill=darker(body, 0.45))
    pencil.line((64, 36, 64 + int(rng.integers(-8, 9)), 8), fill=STEM, width=5)
    if rng.uniform() < 0.5:
        _leaf(pencil, 65, 24, rng)


def _tomato(pencil: Pencil, body: Colour, accent: Colour, rng: Rng) -> None:
    """A flattened ball with ribs and a star of sepals."""
    pencil.ellipse((8, 24, 120, 114), fill=body)
    for x in (30, 52, 76, 98):
        bend, rib = (x - 64) * 0.5, mix(body, accent, 0.5)
        pencil.line((64 + bend * 0.3, 40, x + bend * 0.4, 100), fill=rib, width=3)
    cx, cy, turn = 64 + rng.uniform(-14, 14), 42 + rng.uniform(-6, 14), rng.uniform(0, math.tau)
    star: list[tuple[float, float]] = []
    for i in range(12):
        reach = 25 + rng.uniform(-5, 5) if i % 2 == 0 else 7.0
        angle = turn + i * math.tau / 12
        star.append((cx + reach * math.cos(angle), cy + 0.7 * reach * math.sin(angle)))
    pencil.polygon(star, fill=jittered(LEAF, 0.05, rng))
    pencil.line((cx, cy, cx + 5, cy - 12), fill=darker(LEAF, 0.2), width=5)


def _orange(pencil: Pencil, body: Colour, accent: Colour, rng: Rng) -> None:
    """A ball of pores, with a navel."""
    pencil.ellipse((10, 10, 118, 118), fill=body)
    _dots(pencil, darker(body, 0.16), rng, count=60, radius=1.8, spread=50)
    _dots(pencil, mix(body, accent, 0.6), rng, count=26, radius=2.2, spread=48)
    x, y = 64 + rng.uniform(-26, 26), 64 + rng.uniform(-26, 26)
    _disc(pencil, x, y, 6, mix(LEAF, body, 0.3))


def _lemon(pencil: Pencil, body: Colour, accent: Colour, rng: Rng) -> None:
    """An oval with two tips, pores, and a patch that is not ripe."""
    pencil.polygon([(2, 64), (26, 46), (102, 46), (126, 64), (102, 84), (26, 84)], fill=body)
    pencil.ellipse((14, 26, 114, 102), fill=body)
    x = rng.uniform(24, 84)
    pencil.ellipse((x, 44, x + 22, 88), fill=mix(body, accent, 0.5))
    _dots(pencil, darker(body, 0.13), rng, count=44, radius=1.7, spread=36)


def _carrot(pencil: Pencil, body: Colour, accent: Colour, rng: Rng) -> None:
    """A root with rings, and a tuft of leaves."""
    for _ in range(int(rng.integers(3, 8))):
        tip = (64 + rng.uniform(-26, 26), rng.uniform(0, 12))
        pencil.line((64, 36, *tip), fill=jittered(LEAF, 0.08, rng), width=5)
    wide = rng.uniform(17, 24)
    narrow = wide * 0.55
    left, right = [(61, 126), (64 - narrow, 90)], [(64 + narrow, 90), (67, 126)]
    pencil.polygon([(64 - wide, 38), (64 + wide, 38), *right, *left], fill=body)
    pencil.ellipse((64 - wide, 28, 64 + wide, 50), fill=body)
    for y in rng.uniform(46, 108, size=7):
        x = 64 + rng.uniform(-0.5, 0.5) * wide * (130 - y) / 90
        pencil.line((x - 7, y, x + 7, y), fill=mix(body, accent, 0.7), width=2)


def _cucumber(pencil: Pencil, body: Colour, accent: Colour, rng: Rng) -> None:
    """A long body with light stripes and bumps."""
    wide = int(rng.integers(18, 24))
    pencil.rounded_rectangle((64 - wide, 4, 64 + wide, 124), radius=wide, fill=body)
    for x in (-0.6, -0.2, 0.2, 0.6):
        pencil.line((64 + x * wide, 16, 64 + x * wide, 112), fill=mix(body, accent, 0.6), width=2)
    for x, y in rng.uniform(-1, 1, size=(18, 2)):
        cx, cy = 64 + x * wide * 0.85, 64 + y * 50
        _disc(pencil, cx, cy, 2, darker(body, 0.3))
    pencil.ellipse((58, 2, 70, 10), fill=mix(STEM, accent, 0.5))


def _print_waves(pencil: Pencil, top: int, accent: Colour, rng: Rng) -> None:
    """Bands of waves across a package."""
    for row in range(3):
        y = top + 6 + row * 12
        points = [(x, y + 4 * math.sin(x / 6 + row)) for x in range(36, 94, 4)]
        pencil.line(points, fill=accent, width=5)


def _print_fruit(pencil: Pencil, top: int, accent: Colour, rng: Rng) -> None:
    """A round fruit with a leaf on a package."""
    x = 64 + int(rng.integers(-6, 7))
    pencil.ellipse((x - 19, top, x + 19, top + 38), fill=accent)
    pencil.ellipse((x - 11, top + 6, x - 3, top + 14), fill=lighter(accent, 0.5))
    _leaf(pencil, x, top + 2, rng)


def _print_slice(pencil: Pencil, top: int, accent: Colour, rng: Rng) -> None:
    """A cut citrus fruit on a package."""
    x, y = 64 + int(rng.integers(-6, 7)), top + 19
    _disc(pencil, x, y, 20, accent)
    _disc(pencil, x, y, 16, lighter(accent, 0.6))
    for i in range(8):
        turn = i * math.tau / 8
        wedge = [
            (x + r * math.cos(turn + w), y + r * math.sin(turn + w))
            for r, w in ((2, 0), (14, -0.28), (14, 0.28))
        ]
        pencil.polygon(wedge, fill=accent)


def _print_drops(pencil: Pencil, top: int, accent: Colour, rng: Rng) -> None:
    """Falling drops on a package."""
    for x, y in ((46, 2), (64, 16), (82, 2), (50, 26), (78, 26)):
        pencil.polygon([(x, top + y - 7), (x - 6, top + y + 4), (x + 6, top + y + 4)], fill=accent)
        pencil.ellipse((x - 6, top + y - 1, x + 6, top + y + 11), fill=accent)


PRINTS: dict[str, Callable[[Pencil, int, Colour, Rng], None]] = {
    "waves": _print_waves,
    "fruit": _print_fruit,
    "slice": _print_slice,
    "drops": _print_drops,
}


def _carton(pencil: Pencil, body: Colour, accent: Colour, rng: Rng, pattern: str) -> None:
    """A carton with a gable, a label band, a print and some lines of text."""
    gable = [(40, 6), (88, 6), (88, 14), (98, 36), (30, 36), (40, 14)]
    pencil.polygon(gable, fill=darker(body, 0.1))
    pencil.line((40, 14, 88, 14), fill=darker(body, 0.3), width=2)
    pencil.rectangle((30, 36, 98, 124), fill=body)
    if rng.uniform() < 0.6:
        pencil.ellipse((56, 16, 74, 32), fill=accent)
    band = int(rng.integers(40, 48))
    pencil.rectangle((30, band, 98, band + 13), fill=accent)
    pencil.rectangle((36, band + 3, 36 + int(rng.integers(30, 56)), band + 9), fill=PAPER)
    PRINTS[pattern](pencil, band + 22, accent, rng)
    for y in (112, 118):
        end = 36 + int(rng.integers(20, 54))
        pencil.line((36, y, end, y), fill=mix(body, accent, 0.6), width=2)


def _cup(pencil: Pencil, body: Colour, accent: Colour, rng: Rng, pattern: str) -> None:
    """A tapered cup with a lid and a print."""
    pencil.polygon([(22, 32), (106, 32), (94, 120), (34, 120)], fill=body)
    pencil.rounded_rectangle((16, 20, 112, 36), radius=6, fill=mix(accent, PAPER, 0.35))
    pencil.line((30, 44, 98, 44), fill=accent, width=4)
    PRINTS[pattern](pencil, 58, accent, rng)
    pencil.line((44, 108, 44 + int(rng.integers(20, 40)), 108), fill=darker(body, 0.4), width=3)


Drawing = Callable[[Pencil, Colour, Colour, Rng], None]
ROUND: dict[str, Drawing] = {
    "apple": _apple,
    "tomato": _tomato,
    "orange": _orange,
    "lemon": _lemon,
    "carrot": _carrot,
    "cucumber": _cucumber,
}
PACKAGES: dict[str, Callable[[Pencil, Colour, Colour, Rng, str], None]] = {
    "carton": _carton,
    "cup": _cup,
}


def item(shape: str, pattern: str | None, body: Colour, accent: Colour, rng: Rng) -> Image.Image:
    """Draw one upright grocery with its own shading, RGBA, side `ITEM`.

    The shape is a key of `ROUND`, or of `PACKAGES` and then the pattern one of `PRINTS`.
    """
    picture = Image.new("RGBA", (ITEM, ITEM), (*darker(body, 0.4), 0))
    pencil = ImageDraw.Draw(picture)
    if shape in ROUND:
        ROUND[shape](pencil, body, accent, rng)
    else:
        PACKAGES[shape](pencil, body, accent, rng, pattern or "waves")
    alpha = picture.getchannel("A")
    lit = ImageChops.multiply(picture.convert("RGB"), _shade(shape in ROUND))
    lit.putalpha(alpha)
    return lit


@cache
def _shade(is_round: bool) -> Image.Image:
    """How much light each place of an item gets: a glow off the middle, or from one side."""
    if is_round:
        glow = Image.radial_gradient("L").resize((ITEM, ITEM), box=(40, 60, 240, 256))
        depth = 0.62
    else:
        glow = Image.linear_gradient("L").rotate(90).resize((ITEM, ITEM))
        depth = 0.3
    shade = glow.point([255 - round(level * depth) for level in range(256)])
    return Image.merge("RGB", (shade, shade, shade))
