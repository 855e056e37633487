"""The history file: whole lines, one writer at a time, nothing ever lost."""

import errno
import json
import resource
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from grocery.core.errors import DataError
from grocery.inbox.entries import Entry, as_past, content_digest, labels_digest, utc
from grocery.inbox.history import KEPT, NAME, History, Recorded
from grocery.inbox.record import Release, Taken, record
from grocery.monitoring.drift import judge
from grocery.monitoring.signals import Signal
from grocery.monitoring.speed import Timing
from grocery.reference.reference import Reference
from running import wait_for
from test_report import predictions, report_of
from thresholds import thresholds

CLASSES = ["apple", "kiwi", "pear"]
PARAMS = thresholds(sample_images=0)

EMPTY = Recorded()


def release(model: str = "a") -> Release:
    reference = Reference.from_predictions(predictions(300, 1), None, CLASSES, model * 64)
    return Release(reference, "e" * 64, "v1.2.0")


def entry(
    content: str,
    before: Recorded = EMPTY,
    *,
    n: int = 60,
    strength: float = 1,
    labels: str | None = None,
    unreadable: int = 0,
    by: Release | None = None,
) -> Entry | None:
    by = by or release()
    seed = 1 + sum(one.kind == "batch" for one in before.entries)
    probabilities = predictions(n, strength, seed)
    truth = ["apple" if labels else None] * n
    judgement = judge(by.reference, probabilities, truth, unreadable, PARAMS)
    report = report_of(content, judgement, probabilities)
    taken = Taken(
        incoming=f"inbox/{content}",
        digest=content_digest([content]),
        labels=labels,
        files=content_digest(["file", content]),
        time=utc(1_800_000_000),
        judged=utc(1_800_000_060.9),
        host="shop",
        timing=Timing.of([0.02, 0.01, 0.03]),
    )
    return record(before, taken, report, by, PARAMS)


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "history.jsonl")


def add(history: History, *contents: str, **how: Any) -> None:
    for content in contents:
        history.append(lambda before, name=content: entry(name, before, **how))  # type: ignore[misc]


def names(history: History) -> list[str]:
    return [one.batch for one in reread(history).entries]


def reread(history: History) -> Recorded:
    """What another process finds in it."""
    return History(history.path).read()


class TestEntries:
    def test_are_read_as_they_were_written(self, history: History) -> None:
        assert names(history) == []
        written = history.append(lambda before: entry("monday", before))
        assert ([*history.read().entries], history.read().damaged) == ([written], [])
        assert written is not None
        assert (written.time, written.judged) == ("2027-01-15T08:00:00Z", "2027-01-15T08:01:00Z")
        assert (written.version, written.model, written.kind) == ("v1.2.0", "a" * 64, "batch")
        assert sum(written.class_counts) == sum(written.confidence_counts) == written.images == 60
        add(history, "tuesday")  # lines of JSON, which anybody can read
        lines = [json.loads(line) for line in history.path.read_text().splitlines()]
        assert [line["batch"] for line in lines] == ["monday", "tuesday"]
        assert {one["signal"] for one in lines[0]["signals"]} >= {"confidence", "classes"}
        add(history, "monday")  # it is known by its content, whichever model judged it
        assert history.append(lambda before: entry("monday", before, by=release("b"))) is None
        add(history, "empty", n=0)
        add(history, "broken", n=0, unreadable=30)
        assert names(history) == ["monday", "tuesday", "empty", "broken"]

    def test_labels_that_come_later_add_a_line(self, history: History) -> None:
        for labels in (None, "1" * 64, "1" * 64, None, "2" * 64):  # the last ones are corrected
            add(history, "monday", labels=labels)
        batch, first, corrected = history.read().entries
        assert [batch.kind, first.kind, corrected.kind] == ["batch", "labels", "labels"]
        assert (batch.accuracy, first.digest, first.labelled) == (None, batch.digest, 60)
        assert first.accuracy is not None

    def test_labels_may_be_an_alert_of_their_own(self) -> None:
        """What else was found was said when the batch was judged."""
        watched = entry("monday", strength=30)
        assert watched is not None
        batch = watched.model_copy(update={"verdict": "alert"})
        assert batch.alert
        labels = batch.model_copy(update={"kind": "labels"})
        assert not labels.alert
        drop = replace(batch.signals[0], name="accuracy", verdict="alert")
        assert labels.model_copy(update={"signals": [*batch.signals, drop]}).alert

    def test_digests_are_of_content_image_by_image(self) -> None:
        assert content_digest(["1", "2"]) == content_digest(["2", "1"]) != content_digest(["1"])
        assert labels_digest(["1", "2"], [None, None]) is None
        assert labels_digest(["1", "2"], ["a", None]) == labels_digest(["2", "1"], [None, "a"])
        assert labels_digest(["1", "2"], ["a", None]) != labels_digest(["1", "2"], [None, "a"])


def test_what_was_read_is_not_read_again_and_little_of_it_is_held(history: History) -> None:
    add(history, "monday")
    (line,) = history.path.read_text().splitlines()
    digest = content_digest(["monday"])
    many = [line.replace(digest, f"{number:064x}") for number in range(KEPT + 10)]
    history.path.write_text("\n".join([line, *many, ""]))
    recorded = history.read()
    assert len(recorded.entries) == KEPT
    assert recorded.knows(digest, None)
    assert recorded.batches["a" * 64, "e" * 64] == KEPT + 11
    with history.path.open("r+b") as stream:
        stream.write(b"#")
    add(history, "monday", "tuesday")
    assert (history.read().damaged, reread(history).damaged) == ([], [1])
    assert names(history)[-1] == "tuesday"


class TestSequences:
    def test_a_slow_machine_is_no_part_of_it(self) -> None:
        judged, reference = entry("monday"), release().reference
        assert judged is not None
        slow = Signal("speed", 40, 0.001, 0.5, 0.1, "", verdict="watch")
        seen = judged.model_copy(update={"signals": [*judged.signals, slow]})
        assert as_past([seen], reference)[0].signals == judged.signals

    def test_slightly_odd_batches_are_said_once(self, history: History) -> None:
        days = [f"day {number}" for number in range(12)]
        for day in days:
            add(history, day, n=40, strength=1.9)
            add(history, day, n=40, labels="1" * 64)  # a line that is no part of it
        entries = [one for one in history.read().entries if one.kind == "batch"]
        first = next(one for one in entries if one.sequence is not None)
        assert first.sequence is not None
        # Confidence and classes: the world has changed, and nobody is to be told.
        assert (first.sequence.verdict, first.alert) == ("watch", False)
        worse = first.sequence.model_copy(update={"verdict": "alert"})
        assert first.model_copy(update={"sequence": worse}).alert
        last = entries.index(first)
        assert first.sequence.batches == days[last + 1 - len(first.sequence.batches) : last + 1]
        assert "Over the last" in first.sequence.signals[0].sentence
        assert entries[last + 1].sequence is None

    def test_another_models_batches_are_not_part_of_it(self, history: History) -> None:
        days = [f"day {number}" for number in range(8)]
        for number, day in enumerate(days):
            add(history, day, n=8, strength=5, by=release("ab"[number % 2]))
        recorded = history.read()
        assert [one.batch for one in recorded.of("a" * 64, "e" * 64)] == days[::2]
        assert recorded.of("a" * 64, "f" * 64) == []
        sequences = [one for one in recorded.entries if one.sequence is not None]
        assert sequences
        for one in sequences:
            assert one.sequence is not None
            assert set(one.sequence.batches) <= set(days[days.index(one.batch) % 2 :: 2])


class TestDamage:
    @pytest.mark.parametrize(
        ("between", "end"),
        [
            *((b"", end) for end in (3, 25, 200, -2)),  # where the last line is cut off
            *((wrong + b"\n", None) for wrong in (b"\0" * 100, b"\xff\xfe", b"[" * 100_000)),
            (b'{"grocery_history":1,"kind":"batch"}\n', None),
        ],
    )
    def test_costs_no_other_line(self, history: History, between: bytes, end: int | None) -> None:
        """Neither one that is there nor one that is added; a batch that it has lost comes again."""
        add(history, "monday", "tuesday")
        one, two = history.path.read_bytes().splitlines(keepends=True)
        history.path.write_bytes(one + between + two[:end])
        whole = ["monday", "tuesday"] if between else ["monday"]
        assert (names(history), reread(history).damaged) == (whole, [2])
        add(history, "wednesday", "tuesday")
        again = [name for name in ("wednesday", "tuesday") if name not in whole]
        assert (names(history), reread(history).damaged) == ([*whole, *again], [2])

    def test_labels_do_not_stand_for_a_batch_whose_own_line_is_lost(self, history: History) -> None:
        add(history, "monday")
        add(history, "monday", labels="1" * 64)
        _, labels = history.path.read_bytes().splitlines(keepends=True)
        history.path.write_bytes(b"lost\n" + labels)
        (left,) = reread(history).entries
        assert left.files is not None
        assert not reread(history).knows_files(left.files)
        add(History(history.path), "monday", labels="1" * 64)
        assert [one.kind for one in reread(history).entries] == ["labels", "batch"]
        assert reread(history).knows_files(left.files)

    def test_a_line_without_its_end_is_whole(self, history: History) -> None:
        add(history, "monday")
        history.path.write_bytes(history.path.read_bytes().rstrip(b"\n"))
        add(history, "tuesday")
        assert (names(history), reread(history).damaged) == (["monday", "tuesday"], [])

        history.path.write_bytes(b'{"grocery_his')  # the very first one, cut off
        add(history, "monday")
        assert (names(history), reread(history).damaged) == (["monday"], [1])

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ('"verdict":"ok"', '"verdict":"fine"'),
            ('"time":"2027', '"time":"27'),
            ('"class_counts":[', f'"class_counts":[{10**30},'),
            ('"class_counts":[', '"class_counts":[1,'),  # which are not as many as its images
            ('"class_counts":[', f'"class_counts":[{"0," * 40_000}'),
            ('"latency_ms":', '"latency_ms":1e300,"latency":'),
            ('"threshold":', '"threshold":-1,"size":'),
            ('"batch":"', f'"batch":"{"x" * 2**22}'),
            ('{"grocery_history":1,', f'{{"grocery_history":{"9" * 5000},'),
        ],
        ids=range(9),
    )
    def test_numbers_that_cannot_be(self, history: History, old: str, new: str) -> None:
        add(history, "monday", "tuesday")
        history.path.write_text(history.path.read_text().replace(old, new, 1))
        assert (names(history), reread(history).damaged) == (["tuesday"], [1])


class TestRefused:
    """One sentence, and what is there stays as it is."""

    @pytest.mark.parametrize("other", [b"a,b\n1,2\n", b'{\n  "alerts": 1\n}\n', b"{}\n", b"\0\0"])
    def test_a_file_of_another_format(self, history: History, other: bytes) -> None:
        history.path.write_bytes(other)
        for use in (history.read, lambda: add(history, "monday")):
            with pytest.raises(DataError, match="is no history of grocery monitor"):
                use()
        assert history.path.read_bytes() == other

    def test_a_later_version_of_the_format(self, history: History) -> None:
        add(history, "monday")
        line = history.path.read_text()
        history.path.write_text(line + line.replace('"grocery_history":1', '"grocery_history":2'))
        with pytest.raises(DataError, match=r"line 2 of .* is of another version"):
            history.read()

    def test_what_is_no_file(self, tmp_path: Path) -> None:
        (tmp_path / NAME).mkdir()
        with pytest.raises(DataError, match="is a folder"):
            History(tmp_path).check()
        with pytest.raises(DataError, match="neither a file nor a folder"):
            History("/dev/null").check()
        (tmp_path / "file").touch()  # nothing can be written below it
        with pytest.raises(OSError, match=r"file") as caught:
            History(tmp_path / "file/history.jsonl").check()
        assert caught.value.errno in (errno.ENOTDIR, errno.EEXIST)

    def test_a_disk_that_is_full_leaves_no_half_line(self, history: History) -> None:
        add(history, "monday")
        before = history.path.read_bytes()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, limits[1]))
        try:
            with pytest.raises(OSError, match=r".") as caught:
                add(history, "tuesday")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert caught.value.filename == str(history.path)
        assert history.path.read_bytes() == before
        add(history, "tuesday")
        assert names(history) == ["monday", "tuesday"]


def writer(history: History, who: str, batches: int) -> Any:
    """A process of its own that writes."""

    def write() -> None:
        own = History(history.path)
        for number in range(batches):
            for name in (who, "shared"):
                add(own, f"{name} {number}", n=5)

    process = get_context("fork").Process(target=write)
    process.start()
    return process


def test_a_writer_that_is_killed_leaves_whole_lines(history: History) -> None:
    process = writer(history, "one", 1_000_000)
    try:
        wait_for(lambda: len(history.read().entries) >= 3)
    finally:
        process.kill()
        process.join()
    before = names(history)
    assert history.read().damaged == []
    add(history, "after")  # the lock is free
    assert names(history)[-2:] == [before[-1], "after"]


def test_several_processes_write_whole_lines_and_each_batch_once(history: History) -> None:
    writers = [writer(history, who, 6) for who in ("one", "two")]
    for process in writers:
        process.join()
    assert [process.exitcode for process in writers] == [0, 0]
    assert history.read().damaged == []
    expected = {f"{who} {number}" for who in ("one", "two", "shared") for number in range(6)}
    assert sorted(names(history)) == sorted(expected)
