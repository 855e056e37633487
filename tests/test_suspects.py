"""How the search for wrong labels is divided, and what of it is kept."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from grocery.action_cache import remembering
from grocery.card import suspects as module
from grocery.card.numbers import Suspect
from grocery.card.suspects import MOST, find_suspects, parts_of
from grocery.features.colour import colour_descriptor
from grocery.images.decoding import canonical
from grocery.parallel import sharing
from grocery.shards import shard_of
from samples import image_row, shard_files

COLOURS = {"apple": (200, 40, 40), "lemon": (220, 220, 40), "plum": (90, 40, 140)}


def images(count: int, seed: int) -> list[dict[str, Any]]:
    """Plain pictures in the colour of their class; every tenth has another one's label."""
    rng, names, rows = np.random.default_rng(seed), list(COLOURS), []
    for number in range(count):
        noise = rng.normal(0, 8, (32, 32, 3)) + COLOURS[names[number % 3]]
        picture = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
        label = names[(number + (number % 10 == 0)) % 3]
        jpeg = canonical(picture, size=32, quality=90)
        rows.append(image_row(jpeg, f"{seed}-{number}.jpg", label))
    return rows


def search(paths: list[Path], count: int, memory: Path | None = None) -> list[Suspect]:
    with remembering(memory):
        return find_suspects(paths, labelled=count, neighbors=5, agreement=0.8)


def test_how_many_parts_there_are() -> None:
    assert [parts_of(n) for n in (0, MOST, MOST + 1, 2 * MOST, 10**5)] == [1, 1, 2, 2, 16]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 50 images instead of thousands."""
    monkeypatch.setattr(module, "MOST", 50)


@pytest.mark.usefixtures("small")
def test_each_part_is_looked_at_by_itself_however_many_shards_there_are(tmp_path: Path) -> None:
    rows = images(200, 0)
    found = search(shard_files(tmp_path / "one", rows, 1), 200)
    right = [suspect for suspect in found if suspect.path.endswith("0.jpg")]  # every tenth
    assert len(right) >= 0.8 * max(20, len(found))
    for suspect in found:
        assert {shard_of(w, 4) for w in suspect.witnesses} == {shard_of(suspect.image_id, 4)}
    for shards, workers in ((2, 1), (4, 2), (16, 1)):
        with sharing(workers):
            assert search(shard_files(tmp_path / str(shards), rows, shards), 200) == found


@pytest.mark.usefixtures("small")
def test_only_changed_parts_are_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, (new, *_) = images(200, 0), images(1, 1)
    described: list[np.ndarray] = []

    def noting(picture: np.ndarray) -> np.ndarray:
        described.append(picture)
        return colour_descriptor(picture)

    monkeypatch.setattr(module, "colour_descriptor", noting)
    paths = shard_files(tmp_path / "shards", rows, 16)
    first = search(paths, 200, tmp_path / "memory")
    assert search(paths, 200, tmp_path / "memory") == first
    assert len(described) == 200

    changed = [*rows[1:], new]
    paths = shard_files(tmp_path / "shards", changed, 16)
    again = search(paths, 200, tmp_path / "memory")
    touched = {shard_of(row["image_id"], 4) for row in (rows[0], new)}
    near = [row for row in changed if shard_of(row["image_id"], 4) in touched]
    assert 200 + len(near) == len(described) < 400
    assert again == search(paths, 200)
