"""`grocery monitor --history`: judge what is new, and remember it. Made for cron."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from grocery.cli.monitor import incoming, output
from grocery.cli.monitor.judging import (
    Examined,
    Judge,
    check_report,
    open_judge,
    read_thresholds,
    read_tracking,
    say_unreadable,
)
from grocery.cli.monitor.once import ALERT
from grocery.core.errors import DataError, printable

if TYPE_CHECKING:
    from grocery.core.params import MonitorParams
    from grocery.inbox.history import Entry, History


@dataclass(frozen=True)
class New:
    """A batch that this run has judged, and its line in the history."""

    origin: Path
    examined: Examined
    entry: Entry


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from grocery.inbox.history import History

    params = read_thresholds(Path(arguments.params))
    tracking = read_tracking(Path(arguments.params)) if arguments.track else None
    origins = incoming.find_batches(arguments.incoming, each=arguments.each)
    if arguments.time is not None and len(origins) > 1:
        raise DataError(f"--time is the time of one batch, and there are {len(origins)}")
    page = check_report(arguments.report)
    history = History(arguments.history)
    history.check()

    watch = _Watch(arguments, params, history)
    try:
        watch.look_at(origins)
    finally:  # what is recorded is not looked at again, so it is said now or never
        watch.say()
    if page is not None and (watch.new or not page.exists()):
        watch.write_page(page)
    if tracking is not None and watch.new:
        from grocery.cli.monitor.tracking import track

        track(tracking, params, watch.new, page)
    for sentence in watch.troubles:
        print(printable(f"error: monitor: {sentence}"), file=sys.stderr)
    if any(new.entry.alert for new in watch.new):
        raise SystemExit(ALERT)
    if watch.troubles:
        raise SystemExit(1)


class _Watch:
    """One run over the batches that are there."""

    def __init__(
        self, arguments: argparse.Namespace, params: MonitorParams, history: History
    ) -> None:
        self.arguments = arguments
        self.params = params
        self.history = history
        self.new: list[New] = []
        self.troubles: list[str] = []
        self._recorded = history.read()
        self._opened: Judge | None = None

    @property
    def judge(self) -> Judge:
        """The model, which is loaded when there is something new and not before."""
        if self._opened is None:
            self._opened = open_judge(self.arguments.model, self.params)
        return self._opened

    def look_at(self, origins: Sequence[Path]) -> None:
        """Judge and record the batches that are new; one that cannot be read stops no other."""
        from grocery.parallel import progress

        for origin in progress(origins, title="monitor", total=len(origins)):
            try:
                if incoming.has_settled(origin, self.arguments.settled) and self._is_new(origin):
                    self._judge(origin)
            except DataError as error:
                self.troubles.append(str(error))

    def _is_new(self, origin: Path) -> bool:
        digest, labels = incoming.fingerprint(origin, labelled=self.arguments.labelled)
        return not self._recorded.knows(digest, labels)

    def _judge(self, origin: Path) -> None:
        from grocery.inbox.history import latencies, same_model, utc
        from grocery.inbox.record import Taken, record
        from grocery.monitoring.speed import with_speed

        judge = self.judge
        taken_at = self.arguments.time
        if taken_at is None:
            taken_at = incoming.taken_at(origin)
        examined = judge.examine(origin, self.arguments)
        digest, labels = incoming.digests(examined.batch)  # of what was judged, to the byte
        timing, host = examined.timing, platform.node()
        taken = Taken(str(origin), digest, labels, utc(taken_at), utc(time.time()), host, timing)
        release = judge.release
        known = [*self._recorded.entries, *(new.entry for new in self.new)]
        before = same_model(known, release.reference.model_digest, release.reference_digest)
        earlier = latencies(before, host, self.params.min_batch)
        judgement = with_speed(examined.report.judgement, timing.latency_ms, earlier, self.params)
        examined = replace(examined, report=replace(examined.report, judgement=judgement))
        make = partial(
            record, taken=taken, report=examined.report, release=release, params=self.params
        )
        entry = self.history.append(make)
        if entry is not None:
            self.new.append(New(origin, examined, entry))

    def say(self) -> None:
        """Print what is new; with --quiet alerts only."""
        for number in self._recorded.damaged if self.new or not self.arguments.quiet else ():
            print(
                printable(
                    f"warning: monitor: line {number} of {self.history.path} is damaged and left "
                    "out; its batch is judged again when it is seen again"
                ),
                file=sys.stderr,
            )
        shown = [new for new in self.new if new.entry.alert or not self.arguments.quiet]
        say_unreadable(line for new in shown for line in new.examined.unreadable)
        if self.arguments.json:
            for new in shown:
                print(json.dumps(_document(new)))
        elif shown:
            print("\n".join(output.table([new.examined.report for new in shown])))
            if lines := [line for new in shown for line in _findings(new, self.params)]:
                print("", *lines, sep="\n")

    def write_page(self, page: Path) -> None:
        """Write the page: what is new, and how things went with this model."""
        from grocery.core.files import write_bytes
        from grocery.inbox.history import same_model
        from grocery.inbox.timeline import over_time
        from grocery.monitoring.report import render

        release = self.judge.release
        model, reference = release.reference.model_digest, release.reference_digest
        entries = same_model(self.history.read().entries, model, reference)
        reports = [new.examined.report for new in self.new]
        new = [new.entry for new in self.new]
        write_bytes(page, render(release.reference, reports, self.params, over_time(entries, new)))


def _document(new: New) -> dict[str, object]:
    """The batch as without a history, and what the history keeps of it."""
    from grocery.core.files import rounded

    kept = new.entry.model_dump(
        mode="json", exclude={"grocery_history", "confidence_counts", "class_counts"}
    )
    document: dict[str, object] = rounded(
        kept | output.document(new.origin, new.examined.report, new.examined.timing)
    )
    return document


def _findings(new: New, params: MonitorParams) -> list[str]:
    """Sentences about the batch, and about the sequence that it ends."""
    entry = new.entry
    if entry.kind == "labels":
        odd = [found.sentence for found in entry.by_labels if found.verdict != "ok"]
        said = f"labels for {entry.labelled} of its images, which were judged before."
        return [printable(f"{entry.batch}: {sentence}") for sentence in (said, *odd)]
    lines = output.findings(new.examined.report, params)
    if entry.sequence is not None:
        names = entry.sequence.batches
        lines.append(f"a sequence of {len(names)} batches is an alert: {names[0]} to {names[-1]}")
        lines += [signal.sentence for signal in entry.sequence.signals]
    return [printable(line) for line in lines]
