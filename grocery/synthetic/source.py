"""The embedded dataset: groceries drawn from a recipe, so that nothing needs to be downloaded.

Each image follows from the recipe and its own name. A name picks a scene of its class (a variety,
an arrangement, a background and a light, shared by some images) and draws its own photograph of
it. Classes thus are made of modes, as in photographs from a few shops, and unlabelled photographs
say something about labelled ones.
"""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from grocery.core.bounds import FILE_BYTES
from grocery.images.raw import RawImage
from grocery.synthetic.drawing import ROUND, Colour, Rng, item, jittered
from grocery.synthetic.recipe import Recipe, load_recipe
from grocery.synthetic.scenery import background, put, turned

RECIPE = "recipe.yaml"

# Scenes are drawn on a canvas, and photographs show a frame of it.
CANVAS = 272
FRAME = 192


def _digest(recipe: Recipe, name: str) -> bytes:
    return hashlib.sha256(f"{recipe.seed}\0{name}".encode()).digest()


def _generator(recipe: Recipe, name: str) -> Rng:
    """The generator of one name; no name's draws depend on another's."""
    return np.random.default_rng(int.from_bytes(_digest(recipe, name)[:16], "big"))


@dataclass(frozen=True)
class DrawnImage(RawImage):
    """An image that is drawn when it is read.

    Attributes
    ----------
    recipe
        What it is drawn from.
    subject
        The class that it shows, whatever `label` says.
    original
        Name that it is drawn from; another image's for a copy.
    flaw
        A key of `FLAWS` for a file that is to be damaged or changed, else "".
    light
        Factor on its brightness.
    """

    recipe: Recipe = field(kw_only=True, repr=False, compare=False)
    subject: str = field(kw_only=True)
    original: str = field(kw_only=True)
    flaw: str = ""
    light: float = 1.0

    def read(self, limit: int = FILE_BYTES) -> bytes:
        """Draw it, and return the bytes of its file."""
        picture = draw(self.recipe, self.subject, self.original, self.light)
        data = _jpeg(picture, self.recipe.jpeg_quality)
        return FLAWS[self.flaw](data) if self.flaw else data


class SyntheticSource:
    """The raw dataset of a folder that holds a ``recipe.yaml``.

    Raises
    ------
    DataError
        When the recipe cannot be read or has a key or value that is not allowed.
    """

    def __init__(self, folder: Path) -> None:
        self.recipe = load_recipe(folder / RECIPE)
        self.classes = list(self.recipe.classes)

    def images(self) -> list[RawImage]:
        """All labelled and unlabelled images, sorted by path."""
        recipe, planted = self.recipe, self.planted()
        retouched = dict.fromkeys(planted["near_duplicates"], "retouched")
        flaws = planted["corrupt"] | retouched
        originals = planted["duplicates"] | planted["conflicting_duplicates"]
        originals |= planted["near_duplicates"]
        images: list[RawImage] = []
        for path in (*self._regular(), *planted["corrupt"], *originals):
            original = originals.get(path, path)
            subject = planted["wrong_labels"].get(original, _class_of(original))
            image = self._labelled(path, _class_of(path), subject, original=original)
            images.append(replace(image, flaw=flaws.get(path, "")))
        for path in _names("unlabelled", recipe.unlabelled):
            number = int.from_bytes(_digest(recipe, f"class of {path}")[:8], "big")
            subject = self.classes[number % len(self.classes)]
            images.append(DrawnImage(path, recipe=recipe, subject=subject, original=path))
        return sorted(images, key=lambda image: image.path)

    def left_out(self) -> dict[str, str]:
        """Nothing: what is not in the recipe is not there."""
        return {}

    def incoming(self) -> dict[str, list[RawImage]]:
        """Batches of incoming images by name, each with its true labels and sorted by path."""
        recipe, classes = self.recipe, self.classes
        batches: dict[str, list[RawImage]] = {}
        for name, batch in recipe.incoming.items():
            weights = np.array([batch.shares.get(label, 1.0) for label in classes])
            edges = np.cumsum(weights / weights.sum())
            paths = list(_names(f"incoming/{name}", batch.images))
            ranked = sorted(paths, key=lambda path: _digest(recipe, f"unreadable {path}"))
            flaws = dict.fromkeys(ranked[: batch.unreadable], "truncated")
            batches[name] = []
            for path in paths:
                at = _generator(recipe, f"class of {path}").uniform()
                label = classes[min(int(np.searchsorted(edges, at, side="right")), len(edges) - 1)]
                image = self._labelled(path, label, label, original=path)
                image = replace(image, flaw=flaws.get(path, ""), light=batch.light)
                image = replace(image, drill=batch.told)
                batches[name].append(image)
        return batches

    def planted(self) -> dict[str, dict[str, str]]:
        """What is wrong with the dataset on purpose, for each kind by path.

        Returns
        -------
        dict
            ``corrupt``: path to kind of damage. ``duplicates``, ``conflicting_duplicates`` and
            ``near_duplicates``: path of the copy to path of the original. ``wrong_labels``: path to
            the class that the image shows.
        """
        recipe, counts = self.recipe, self.recipe.planted
        # Chosen by their hash, and each for one thing only.
        chosen = iter(sorted(self._regular(), key=lambda path: _digest(recipe, f"planted {path}")))
        free = {
            label: _names(label, 10**6, start=kind.images) for label, kind in recipe.classes.items()
        }

        def other(path: str) -> str:
            rest = [label for label in self.classes if label != _class_of(path)]
            return rest[_digest(recipe, f"not {path}")[0] % len(rest)]

        def copies(count: int, label_of: Callable[[str], str]) -> dict[str, str]:
            return {next(free[label_of(path)]): path for path in islice(chosen, count)}

        return {
            "wrong_labels": {path: other(path) for path in islice(chosen, counts.wrong_labels)},
            "duplicates": copies(counts.duplicates, _class_of),
            "conflicting_duplicates": copies(counts.conflicting_duplicates, other),
            "near_duplicates": copies(counts.near_duplicates, _class_of),
            "corrupt": {
                next(free[_class_of(path)]): kind
                for kind, path in zip(Counter(counts.corrupt).elements(), chosen, strict=False)
            },
        }

    def _regular(self) -> list[str]:
        """Paths of the labelled images, without those that are planted in addition."""
        classes = self.recipe.classes
        return [path for label in classes for path in _names(label, classes[label].images)]

    def _labelled(self, path: str, label: str, subject: str, *, original: str) -> DrawnImage:
        coarse, recipe = self.recipe.classes[label].coarse, self.recipe
        return DrawnImage(path, label, coarse, recipe=recipe, subject=subject, original=original)


def _class_of(path: str) -> str:
    return path.split("/", 1)[0]


def _names(folder: str, count: int, start: int = 0) -> Iterator[str]:
    """Names of the images of a folder."""
    return (f"{folder}/{number:04d}.jpg" for number in range(start, start + count))


def draw(recipe: Recipe, subject: str, name: str, light: float = 1.0) -> Image.Image:
    """Draw the image called `name`, which shows the class `subject`; RGB, square."""
    photo = _generator(recipe, name)
    number = photo.integers(recipe.scenes.per_class)
    scene = _generator(recipe, f"{subject}, scene {number}")
    canvas = _lay(recipe, subject, scene, photo)
    return _photograph(canvas, recipe, scene, photo, light)


def _lay(recipe: Recipe, subject: str, scene: Rng, photo: Rng) -> Image.Image:
    """Draw a scene, with its items where this photograph finds them."""
    scenes, classes = recipe.scenes, list(recipe.classes)
    kind = list(scenes.backgrounds)[scene.integers(len(scenes.backgrounds))]
    bases = scenes.backgrounds[kind]
    base = _nearly(bases[scene.integers(len(bases))], scene)
    canvas = background(kind, CANVAS, base, scene)
    stir = scenes.stir * FRAME

    for _ in range(scene.integers(scenes.clutter[0], scenes.clutter[1] + 1)):
        thing = _thing(recipe, classes[scene.integers(len(classes))], scene)
        at, side = scene.uniform(0, CANVAS, size=2), scene.uniform(38, 68)
        x, y = at + photo.uniform(-stir, stir, size=2)
        put(canvas, thing, (x, y), side, scene.uniform(-30, 30))

    thing = _thing(recipe, subject, scene)
    count = int(scene.integers(scenes.items[0], scenes.items[1] + 1))
    side = scene.uniform(112, 142) / count**0.3
    upright = recipe.classes[subject].shape not in ROUND
    slant = scene.uniform(-8, 8) if upright else scene.uniform(-180, 180)
    # Lying on a ring around the middle, or in a row.
    spread = 0 if count == 1 else scene.uniform(38, 64)
    flat = scene.uniform(0.15, 0.9)
    phase = scene.uniform(0, 2)
    for number in range(count):
        turn = np.pi * (phase + 2 * number / count)
        centre = CANVAS / 2 + spread * np.array([np.cos(turn), flat * np.sin(turn)])
        x, y = centre + scene.uniform(-9, 9, size=2) + photo.uniform(-stir, stir, size=2)
        wobble = (6 if upright else 40) * scene.uniform(-1, 1) + 6 * photo.uniform(-1, 1)
        put(canvas, thing, (x, y), side * scene.uniform(0.85, 1.15), slant + wobble)
    return canvas


def _thing(recipe: Recipe, label: str, scene: Rng) -> Image.Image:
    """Draw one item of a class, of one of its varieties."""
    kind = recipe.classes[label]
    variety = kind.varieties[scene.integers(len(kind.varieties))]
    body, accent = _nearly(variety.body, scene), _nearly(variety.accent, scene)
    return item(kind.shape, kind.print, body, accent, scene)


def _photograph(
    canvas: Image.Image,
    recipe: Recipe,
    scene: Rng,
    photo: Rng,
    light: float,
) -> Image.Image:
    """Take a photograph of a canvas: frame, light, blur and noise."""
    camera = recipe.camera
    scale = 1 / _between(camera.zoom, photo)
    angle = np.radians(photo.uniform(-camera.turn, camera.turn))
    c, s = float(np.cos(angle)) * scale, float(np.sin(angle)) * scale
    x, y = photo.uniform(-camera.shift, camera.shift, size=2) * FRAME + CANVAS / 2
    frame = turned(canvas, FRAME, (x, y), c, s)
    frame = frame.resize((recipe.size, recipe.size), Image.Resampling.BOX)
    frame = frame.filter(ImageFilter.GaussianBlur(_between(camera.blur, photo)))

    # The lamp's colour belongs to the scene; the exposure to the photograph.
    gains = 1 + scene.uniform(-camera.cast, camera.cast, size=3)
    gains *= _between(camera.light, photo) * light
    noise = photo.standard_normal((recipe.size, recipe.size, 3), dtype=np.float32)
    pixels = np.asarray(frame) * gains.astype(np.float32)
    pixels += noise * np.float32(_between(camera.noise, photo))
    return Image.fromarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8))


def _between(pair: list[float], rng: Rng) -> float:
    """A value between the least and the most of a pair."""
    return rng.uniform(pair[0], pair[1])


def _nearly(colour: str, scene: Rng) -> Colour:
    """A colour that is nearly the one written #rrggbb."""
    red, green, blue = bytes.fromhex(colour[1:])
    return jittered((red, green, blue), 0.05, scene)


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def _retouched(data: bytes) -> bytes:
    """The same picture, slightly brighter and stored again."""
    picture = Image.open(io.BytesIO(data))
    brighter = picture.point([min(255, round(level * 1.02)) for level in range(256)] * 3)
    return _jpeg(brighter, 90)


def _bomb(data: bytes) -> bytes:
    """A PNG file of a few bytes that claims 50,000 x 50,000 pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


FLAWS: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "text": lambda data: b"<!doctype html><title>404 Not Found</title>\n",
    "noise": lambda data: hashlib.shake_256(data).digest(len(data)),
    "header": lambda data: data[:20],
    "bomb": _bomb,
    "retouched": _retouched,
}
