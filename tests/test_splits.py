"""Splits by content hash, and what may not cross them."""

import hashlib
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import pytest

from grocery.core.draws import draw, generator_of
from grocery.core.errors import DataError
from grocery.data.splits import assign, check_labels, check_shares
from grocery.shards import SPLITS, shard_of


def test_no_two_purposes_draw_alike() -> None:
    assert draw("split", 7) != draw("drill", 7) != draw("drill", 8)
    first, other = (generator_of(purpose, 7).random() for purpose in ("split", "drill"))
    assert first != other


def ids(count: int, salt: str = "") -> list[str]:
    return [hashlib.sha256(f"{salt}{number}".encode()).hexdigest() for number in range(count)]


def split(image_ids: Sequence[str], labels: Sequence[str | None], **how: Any) -> list[str]:
    usual = dict[str, Any](given=[None] * len(labels), groups=(), val_ratio=0.15, test_ratio=0.25)
    return assign(image_ids, labels, **(usual | how))


class TestByHash:
    def test_shares_are_those_asked_for_in_each_shard(self) -> None:
        """Of labelled images; the others train."""
        image_ids = ids(4000)
        splits = split(image_ids, ["a", "b"] * 2000)
        assert set(split(image_ids, ["a", None] * 2000)[1::2]) == {"train"}
        assert splits.count("test") / 4000 == pytest.approx(0.25, abs=0.02)
        assert splits.count("val") / 4000 == pytest.approx(0.15, abs=0.02)
        for shard in range(4):
            inside = [s for s, i in zip(splits, image_ids, strict=True) if shard_of(i, 4) == shard]
            assert inside.count("test") / len(inside) == pytest.approx(0.25, abs=0.05)

    def test_neither_order_nor_another_image_moves_an_image(self) -> None:
        image_ids = ids(300)
        labels = [f"class {int(i[:2], 16) % 7}" for i in image_ids]
        before = split(image_ids, labels)
        assert split(image_ids[::-1], labels[::-1]) == before[::-1]
        for new in ids(50, "new"):
            assert split([*image_ids, new], [*labels, "class 0"])[:-1] == before

    def test_the_smallest_classes_have_all_splits_they_can(self) -> None:
        for count, val, test, expected in (
            (2, 0.15, 0.25, {"train", "test"}),
            (3, 0.15, 0.25, set(SPLITS)),
            (6, 0.02, 0.02, set(SPLITS)),
            (6, 0.3, 0.5, set(SPLITS)),
        ):
            for salt in map(str, range(40)):
                splits = split(ids(count, salt), ["a"] * count, val_ratio=val, test_ratio=test)
                assert set(splits) == expected, count


class TestNearDuplicates:
    def test_stay_together(self) -> None:
        """Also those of two classes."""
        groups = [[i, i + 1, i + 2] for i in range(0, 300, 3)]
        for labels in (["a"] * 300, ["a", "b", "b"] * 50 + ["a", "b"] * 75):
            splits = split(ids(300), labels, groups=groups)
            assert all(len({splits[i] for i in group}) == 1 for group in groups)
            assert set(splits) == {"train", "val", "test"}

    @pytest.mark.parametrize(
        ("left", "refused"),
        [
            ([60, 15, 25], None),
            ([30, 8, 62], None),
            ([29, 15, 56], "29 for train instead of about 60"),
            ([60, 6, 34], None),
            ([63, 5, 32], "5 for val instead of about 15"),
            ([21, 0, 7], "21 for train instead of about 60"),
        ],
    )
    def test_shares_far_from_those_asked_for(self, left: list[int], refused: str | None) -> None:
        """Less than half of a split, and at least ten images."""
        wanted, splits = (
            [split for split, n in zip(SPLITS, counts, strict=True) for _ in range(n)]
            for counts in ([60, 15, 25], left)
        )
        with nullcontext() if refused is None else pytest.raises(DataError, match=refused):
            check_shares(wanted, splits, cause="Something makes 90 alike")


def test_given_ones_hold_and_a_lacking_one_is_taken_from_training() -> None:
    given = ["train", "val", "test"] * 10
    assert split(ids(30), ["a"] * 30, given=given) == given
    for lacking, other in (("val", "test"), ("test", "val")):
        given = ["train"] * 60 + [other] * 20
        splits = split(ids(80), ["a", "b"] * 40, given=given)
        assert splits[60:] == [other] * 20
        assert set(splits[:60]) == {"train", lacking}


@pytest.mark.parametrize(
    ("labels", "given", "sentence"),
    [
        ([None, None], None, "no image has a label"),
        (["a", "a", None], None, "one class only, 'a'"),
        (["a", "a", "b"], None, "class 'b' has one image only"),
        (["a", "a", "b", "c"], None, "classes 'b', 'c' have one image only"),
        (["a", "b", "a", "b"], ["train", "train", "val", "val"], None),
        (["a", "b", "a"], ["train", "train", "test"], None),
        (["a", "b", "a", "c"], ["train", "train", "test", "test"], "class 'c' has no readable"),
        *(
            (["Tea", "Milk", other] * 2, None, "'Milk'.* differ in case, spaces or width only")
            for other in ("milk", "Milk ", "Ｍilk", "MI\u200bLK")
        ),
    ],
)
def test_labels_that_cannot_be_split(
    labels: list[str | None], given: list[str | None] | None, sentence: str | None
) -> None:
    with pytest.raises(DataError, match=sentence) if sentence else nullcontext():
        check_labels(labels, given or [None] * len(labels))
