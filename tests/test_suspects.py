"""How the search for wrong labels is divided, and what of it is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from grocery.action_cache import remembering
from grocery.card import suspects as module
from grocery.card.numbers import Suspect
from grocery.card.suspects import MOST, find_suspects, parts_of
from grocery.images.decoding import canonical
from grocery.parallel import sharing
from grocery.shards import shard_of
from samples import image_row, shard_files

COLOURS = {"apple": (200, 40, 40), "lemon": (220, 220, 40), "plum": (90, 40, 140)}


def images(count: int, seed: int) -> list[dict[str, Any]]:
    """Plain pictures in the colour of their class; every tenth has another one's label."""
    rng = np.random.default_rng(seed)
    names = list(COLOURS)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        name = names[number % 3]
        noise = rng.normal(0, 8, (32, 32, 3)) + COLOURS[name]
        picture = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
        shown = names[(number + 1) % 3] if number % 10 == 0 else name
        jpeg = canonical(picture, size=32, quality=90)
        rows.append(image_row(jpeg, f"{seed}-{number}.jpg", shown))
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
    wrong = {row["path"] for row in rows if int(str(row["path"])[2:-4]) % 10 == 0}
    right = [suspect for suspect in found if suspect.path in wrong]
    assert len(right) >= 0.8 * len(wrong)
    assert len(right) >= 0.8 * len(found)
    for suspect in found:
        assert {shard_of(w, 4) for w in suspect.witnesses} == {shard_of(suspect.image_id, 4)}
    for shards, workers in ((2, 1), (4, 2), (16, 1)):
        with sharing(workers):
            assert search(shard_files(tmp_path / str(shards), rows, shards), 200) == found


@pytest.mark.usefixtures("small")
def test_only_parts_that_have_changed_are_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, (new, *_) = images(200, 0), images(1, 1)
    paths = shard_files(tmp_path / "shards", rows, 16)
    described: list[np.ndarray] = []
    describe = module.colour_descriptor

    def noting(picture: np.ndarray) -> np.ndarray:
        described.append(picture)
        return describe(picture)

    monkeypatch.setattr(module, "colour_descriptor", noting)
    first = search(paths, 200, tmp_path / "memory")
    assert len(described) == 200
    described.clear()
    assert search(paths, 200, tmp_path / "memory") == first
    assert described == []

    changed = [*rows[1:], new]
    paths = shard_files(tmp_path / "shards", changed, 16)
    again = search(paths, 200, tmp_path / "memory")
    touched = {shard_of(str(row["image_id"]), 4) for row in (rows[0], new)}
    near = [row for row in changed if shard_of(str(row["image_id"]), 4) in touched]
    assert len(described) == len(near) < 200
    assert again == search(paths, 200)
