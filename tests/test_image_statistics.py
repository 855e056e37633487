"""What is said of a photograph must be so."""

import numpy as np
import pytest
from PIL import Image

from grocery.images.decoding import canonical, pixels
from grocery.reference.image_statistics import NAMES, image_statistics, statistics_of
from grocery.reference.shifts import TRIED


def scene(seed: int = 0, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """A picture with edges, so that blur and noise have something to change."""
    rough = np.random.default_rng(seed).integers(40, 200, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(rough).resize(size, Image.Resampling.NEAREST)


def of(image: Image.Image) -> dict[str, float]:
    return dict(zip(NAMES, map(float, statistics_of(np.asarray(image))), strict=True))


def test_plain_images() -> None:
    grey = of(Image.new("RGB", (40, 20), (51, 51, 51)))
    assert grey["brightness"] == pytest.approx(0.2)
    assert grey["contrast"] == pytest.approx(0, abs=1e-6)
    assert grey["sharpness"] == grey["noise"] == -8
    assert grey["aspect"] == 1
    assert grey["size"] == pytest.approx(np.log2(40))
    red = of(Image.new("RGB", (20, 20), (255, 0, 0)))
    assert red["red-green balance"] == pytest.approx(1)
    assert red["blue-yellow balance"] == pytest.approx(-0.5)


def test_a_straight_edge_is_no_noise() -> None:
    edge = Image.new("RGB", (40, 40))
    edge.paste((200, 200, 200), (0, 0, 40, 17))
    for image in (edge, edge.rotate(90)):
        found = of(image)
        assert found["noise"] == pytest.approx(-8)
        assert found["sharpness"] > 0


def shifted(name: str, strength: float, seed: int = 0) -> Image.Image:
    return TRIED[name][0](scene(), strength, np.random.default_rng(seed))


@pytest.mark.parametrize(
    ("shift", "statistic", "direction"),
    [
        ("colour cast", "red-green balance", 1),
        ("colour cast", "blue-yellow balance", -1),
        ("contrast", "contrast", -1),
        ("blur", "sharpness", -1),
        ("camera noise", "noise", 1),
    ],
)
def test_shifts_move_what_they_are_named_after(shift: str, statistic: str, direction: int) -> None:
    strengths = sorted(TRIED[shift][1], reverse=shift == "contrast")
    values = [of(scene())[statistic]] if strengths[0] >= 1 else []
    values += [of(shifted(shift, strength))[statistic] for strength in strengths]
    assert len(values) > 2 or shift == "contrast"
    assert (np.diff(values) * direction > 0).all()


@pytest.mark.parametrize("name", TRIED)
def test_shifts_are_functions_of_the_image(name: str) -> None:
    strength = TRIED[name][1][-1]
    one, again, other = (np.asarray(shifted(name, strength, seed)) for seed in (0, 0, 1))
    assert one.shape == (48, 64, 3)
    assert (one == again).all()
    assert (one != np.asarray(scene())).any()
    assert (one != other).any() or name != "camera noise"  # it differs from image to image


def test_statistics_of_stored_images_and_thin_ones() -> None:
    jpegs = [canonical(scene(seed), size=48, quality=90) for seed in range(3)]
    found = image_statistics(jpegs)
    assert found.shape == (3, len(NAMES))
    assert (found[1] == statistics_of(pixels(jpegs[1]))).all()
    assert image_statistics([]).shape == (0, len(NAMES))
    for size in ((1, 1), (1, 30), (30, 2)):
        assert np.isfinite(statistics_of(np.asarray(scene(size=size)))).all()
