"""Slightly odd batches in a row: false alarms within the guarantee, slight shifts seen soon."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from grocery.monitoring.sequence import BINS, LASTING, WINDOWS, Past, binned, judge_sequence
from grocery.monitoring.signals import Signal, least_of
from grocery.reference.image_statistics import NAMES
from grocery.reference.reference import Reference
from thresholds import thresholds

CLASSES = ["apple", "kiwi", "pear"]
PARAMS = thresholds(sample_images=0)
NORMAL = NormalDist()
CLEAN, SLIGHT = 4.0, 2.9  # the confidences' distribution; between them a KS distance of 0.14


def predictions(
    rng: np.random.Generator, n: int, sure: float = CLEAN, shares: Sequence[float] = (0.4, 0.3, 0.3)
) -> NDArray[np.float32]:
    confidence = 1 / 3 + rng.beta(sure, 1.5, n) * 2 / 3
    rows = np.repeat((1 - confidence)[:, None] / 2, 3, axis=1)
    rows[np.arange(n), rng.choice(3, n, p=shares)] = confidence
    return rows.astype(np.float32)


def reference(rng: np.random.Generator, m: int = 200) -> Reference:
    return Reference.from_predictions(predictions(rng, m), None, CLASSES, "0" * 64)


YARDSTICK = reference(np.random.default_rng(1), 400)


def past(rows: NDArray[np.float32], unreadable: int = 0, signals: Sequence[Signal] = ()) -> Past:
    counts = np.bincount(rows.argmax(axis=1), minlength=3)
    return Past(unreadable, binned(rows.max(axis=1)), counts, signals, told=False)


@pytest.mark.parametrize(
    ("n", "significance", "sequences", "most"),
    [
        (40, 0.1, 4, 6),
        # Large batches tell precisely how 200 held-out images differ from the world they are of. It
        # is the same in every batch: evidence that is multiplied would grow without end.
        (400, 0.1, 4, 6),
        pytest.param(40, PARAMS.significance, 25, 4, marks=pytest.mark.long),
    ],
)
def test_clean_batches_alert_rarely(n: int, significance: float, sequences: int, most: int) -> None:
    """Every sequence has a reference of its own: its chance is part of the guarantee."""
    params, alerts = PARAMS.model_copy(update={"significance": significance}), 0
    for seed in range(sequences):
        rng = np.random.default_rng(seed)
        yardstick, seen = reference(rng), list[Past]()
        for _ in range(16):
            batch = past(predictions(rng, n))
            found = judge_sequence(yardstick, [*seen, batch], params)
            seen.append(replace(batch, told=found is not None))
            alerts += found is not None
    # At most so many are expected: 6.4 of 64 batches, 4 of 400.
    assert alerts <= most


def test_a_slight_shift_is_seen_after_a_few_batches() -> None:
    """One that does not count in a single batch, however large."""
    delays = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        yardstick, seen = reference(rng, 400), list[Past]()
        for _ in range(16):
            seen.append(past(predictions(rng, 60, SLIGHT)))
            if found := judge_sequence(yardstick, seen, PARAMS):
                assert found.signals[0].name == "confidence"
                assert found.signals[0].effect >= LASTING * PARAMS.min_confidence_shift
                break
        delays.append(len(seen))
    assert np.median(delays) <= 8
    assert max(delays) < 16


@pytest.mark.parametrize(
    ("batches", "n", "how", "name"),
    [
        (8, 30, {"shares": (0.62, 0.19, 0.19)}, "classes"),
        # "Too few" one by one, and none of them has a signal.
        (16, 6, {}, None),
        (16, 6, {"sure": 1.5}, "confidence"),
        (8, 40, {"unreadable": 5}, "unreadable"),
        # One batch is no sequence.
        (1, 200, {"sure": 1.0}, None),
        (0, 200, {}, None),
    ],
)
def test_what_is_pooled(batches: int, n: int, how: dict[str, Any], name: str | None) -> None:
    rng = np.random.default_rng(0)
    yardstick = reference(rng)

    def batch(unreadable: int = 0, **drawn: Any) -> Past:
        return past(predictions(rng, n, **drawn), unreadable)

    found = judge_sequence(yardstick, [batch(**how) for _ in range(batches)], PARAMS)
    assert (None if found is None else [one.name for one in found.signals]) == (name and [name])
    if found is not None:
        assert found.batches in WINDOWS
        assert found.images == n * found.batches
    if found is not None and name == "classes":
        assert "images are predicted apple, expected" in found.signals[0].sentence


def test_a_shift_that_is_too_small_to_matter() -> None:
    """However certain: here of 6,400 images."""
    rng = np.random.default_rng(0)
    yardstick = Reference.from_predictions(predictions(rng, 4_000), None, CLASSES, "0" * 64)
    seen = [past(predictions(rng, 400, 3.6)) for _ in range(16)]
    assert judge_sequence(yardstick, seen, PARAMS) is None
    eager = PARAMS.model_copy(update={"min_confidence_shift": 0.0})
    assert judge_sequence(yardstick, seen, eager) is not None


class TestSignalsWithoutCounts:
    """They are combined by their p-values, whatever their names."""

    @staticmethod
    def seen(p_values: Sequence[float], effect: float = 0.1) -> list[Past]:
        rng = np.random.default_rng(0)
        return [
            past(predictions(rng, 40), signals=[Signal("sharpness", 1.0, p, effect, 0.15, "")])
            for p in p_values
        ]

    @pytest.mark.parametrize(
        ("p_values", "effect", "said"),
        [
            ([0.05] * 2, 0.1, False),
            ([0.05] * 8, 0.1, True),
            ([0.001] * 8, 0.05, False),  # they must matter too
            ([0.03] * 7 + [1.0], 0.1, True),  # one p-value of 1 erases nothing
            ([0.0, 0.0], 0.1, True),
            ([1.0, 1.0], 0.1, False),
        ],
    )
    def test_what_is_said(self, p_values: list[float], effect: float, said: bool) -> None:
        found = judge_sequence(YARDSTICK, self.seen(p_values, effect), PARAMS)
        assert (found is not None) == said
        if found is not None:
            (signal,) = found.signals
            assert (signal.name, signal.threshold) == ("sharpness", 0.15 * LASTING)
            assert signal.sentence.startswith("Sharpness differed somewhat")

    @pytest.mark.parametrize(
        ("name", "m", "shift", "significance", "expected"),
        [
            # Five windows of one reference go together, so that not all of the level is used.
            ("images", 400, 0.0, 0.2, (0.06, 0.14)),
            ("images", 60, 0.0, 0.2, (0.03, 0.1)),
            ("labels", 400, 0.0, 0.2, (0.06, 0.14)),
            ("labels", 60, 0.0, 0.2, (0.06, 0.14)),
            # A lasting shift of one statistic of eight is seen.
            ("images", 400, 2.0, 0.01, (0.75, 1.0)),
        ],
    )
    def test_the_level_is_kept_and_used(
        self, name: str, m: int, shift: float, significance: float, expected: tuple[float, float]
    ) -> None:
        """Sequences of 32 batches of 40 images, compared with m of 500 that are held out.

        Of each batch there is a difference of means; of images the least p-value of eight, of
        which one lies off by so many standard errors.
        """
        rng, n = np.random.default_rng(0), 40
        labels = ["kiwi"] * m + [None] * (500 - m)
        seen = {"image_statistics": np.zeros((m if name == "images" else 0, len(NAMES)), "f")}
        probabilities = predictions(rng, 500)
        yardstick = Reference.from_predictions(probabilities, labels, CLASSES, "0" * 64, **seen)
        params = PARAMS.model_copy(update={"significance": significance, "min_batch": 10_000})
        one, alerts = past(predictions(rng, n)), 0
        for _ in range(400):
            means = rng.normal(0, n**-0.5, (32, 8)) - rng.normal(0, m**-0.5, 8)
            scores = means / (1 / n + 1 / m) ** 0.5
            scores[:, 0] += shift
            p_values = [NORMAL.cdf(batch[0]) for batch in scores]
            if name == "images":
                p_values = [least_of([2 * NORMAL.cdf(-abs(z)) for z in row]) for row in scores]
            batches = [replace(one, signals=[Signal(name, 0, p, 1, 0, "")]) for p in p_values]
            alerts += judge_sequence(yardstick, batches, params) is not None
        assert expected[0] < alerts / 400 <= expected[1]

    def test_what_has_changed_is_to_be_watched_and_what_is_worse_is_an_alert(self) -> None:
        rows = self.seen([0.02] * 8)
        for name, verdict in (("images", "watch"), ("features", "watch"), ("estimate", "alert")):
            past = [replace(b, signals=[replace(b.signals[0], name=name)]) for b in rows]
            found = judge_sequence(YARDSTICK, past, PARAMS)
            assert found is not None
            assert (found.verdict, found.signals[0].verdict) == (verdict, verdict)


def test_an_alert_begins_it_anew() -> None:
    rng = np.random.default_rng(0)
    yardstick = reference(rng)
    seen = [past(predictions(rng, 30, 1.5)) for _ in range(8)]
    assert judge_sequence(yardstick, seen, PARAMS) is not None
    told = [*seen[:-1], replace(seen[-1], told=True)]
    assert judge_sequence(yardstick, told, PARAMS) is None
    assert judge_sequence(yardstick, [*told, seen[0]], PARAMS) is None
    found = judge_sequence(yardstick, [*told, *seen[:4]], PARAMS)
    assert found is not None
    assert found.batches <= 4


def test_bins_hold_every_confidence() -> None:
    counts = binned(np.array([0.0, 0.004, 0.5, 0.999, 1.0, 1.0000001], np.float32))
    assert counts.shape == (BINS,)
    assert (counts[0], counts[50], counts[99]) == (2, 1, 3)
