"""One run over an inbox: what is new is judged and recorded, and alerts are announced. For cron."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

from grocery.core.errors import DataError
from grocery.core.params import MonitorParams
from grocery.inbox import incoming, timeline
from grocery.inbox.entries import Entry, latencies, utc
from grocery.inbox.history import History
from grocery.inbox.judging import Judge, Judged, kept_apart
from grocery.inbox.record import Taken, recalled, record, timing
from grocery.monitoring.batches import Batch
from grocery.monitoring.speed import with_speed
from grocery.parallel import progress


class Watch:
    """A run over batches, with a history: what it has found, and what was left to announce.

    `open_judge` is called when there is something new, and not before. With `alone` no other
    process is at work: what was recorded and not announced is left of a run that was killed.
    """

    def __init__(
        self,
        history: History,
        open_judge: Callable[[], Judge],
        params: MonitorParams,
        *,
        alone: bool,
    ) -> None:
        self.history, self._open, self._params = history, open_judge, params
        self._recorded = history.read()
        self.unsettled: list[Path] = []
        self.troubles: list[str] = []
        left = self._recorded.pending if alone else []
        self.new: list[Judged] = [_recalled(entry) for entry in left]

    @cached_property
    def judge(self) -> Judge:
        """The model."""
        return self._open()

    def look_at(
        self,
        origins: Sequence[Path],
        *,
        settled: float,
        labelled: bool,
        flat: bool,
        moment: float | None = None,
    ) -> None:
        """Judge and record the batches that are new; what is wrong with one stops no other.

        `settled` is in seconds, `labelled` and `flat` see `grocery.inbox.incoming.read`, and
        `moment` is when they were taken, in seconds since the epoch, where it is known.
        """
        for origin in progress(origins, title="monitor", total=len(origins)):
            if not incoming.has_settled(origin, settled):
                self.unsettled.append(origin)
                continue
            files = None
            with kept_apart(self.troubles, str(origin)):
                files = self._unknown_files(origin, labelled)
            if files is None:
                continue
            judge, found = self.judge, None  # without a model there is nothing to go on with
            with kept_apart(self.troubles, str(origin)):
                judged, batch = judge.examine(origin, labelled=labelled, flat=flat)
                when = incoming.taken_at(origin) if moment is None else moment
                found = judged, _taken(judged, batch, files, when)
            if found is not None:
                try:
                    self._record(*found)
                except DataError as error:  # what cannot be written at all ends the run
                    self.troubles.append(str(error))

    def _unknown_files(self, origin: Path, labelled: bool) -> str | None:
        """What the history will know the files of a batch by; None when it was judged."""
        files = incoming.state_of_files(origin, labelled=labelled)
        if self._recorded.knows_files(files):
            return None
        known = self._recorded.knows(*incoming.fingerprint(origin, labelled=labelled))
        return None if known else files

    def _record(self, judged: Judged, taken: Taken) -> None:
        release = self.judge.release
        earlier = latencies(self._of_the_model(), taken.host, self._params.min_batch)
        judgement = judged.report.judgement
        judgement = with_speed(judgement, taken.timing.latency_ms, earlier, self._params)
        report = replace(judged.report, judgement=judgement)
        make = partial(record, taken=taken, report=report, release=release, params=self._params)
        entry = self.history.append(make)
        self.history.read()
        if entry is None:
            return
        self.new.append(replace(judged, report=report, entry=entry))
        if (older := len(self.new) - 1 - timeline.DETAILED) >= 0:  # or pictures would heap up
            self.new[older] = _without_pictures(self.new[older])

    def write_page(self, page: Path) -> None:
        """Write the page, if it is not of what the history holds now.

        Raises
        ------
        DataError, OSError
            When it cannot be written.
        """
        mark = f"<!-- {self._recorded.state} -->\n".encode()
        if page.is_file() and page.read_bytes().endswith(mark):
            return
        pictures = {one.entry.digest: one.report.samples for one in self.new if one.entry}
        html = timeline.page(self._recorded, self.judge.release, self._params, pictures)
        timeline.write(page, html + mark)

    def announce(self, deliver: Callable[[Entry], None]) -> None:
        """Have each alert delivered, and mark those that were; the next run goes on with the rest.

        The first that cannot be delivered is the last that is tried.
        """
        for entry in [one.entry for one in self.new if one.entry and one.entry.to_announce]:
            before = len(self.troubles)
            with kept_apart(self.troubles, str(self.history.path)):
                deliver(entry)
                self.history.announced(entry, utc(time.time()))
            if len(self.troubles) > before:
                break

    @property
    def damaged(self) -> Sequence[int]:
        """Numbers of the lines of the history that are damaged."""
        return self._recorded.damaged

    def _of_the_model(self) -> list[Entry]:
        release = self.judge.release
        return self._recorded.of(release.reference.model_digest, release.reference_digest)


def _taken(judged: Judged, batch: Batch, files: str, when: float) -> Taken:
    # Of what was judged, to the byte.
    digest, labels = incoming.digests(batch.image_ids, batch.labels)
    now, host = utc(time.time()), platform.node()
    return Taken(judged.incoming, digest, labels, files, utc(when), now, host, judged.timing)


def _recalled(entry: Entry) -> Judged:
    return Judged(entry.incoming, recalled(entry), timing(entry), entry=entry)


def _without_pictures(one: Judged) -> Judged:
    return replace(one, report=replace(one.report, samples=()))
