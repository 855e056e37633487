"""`grocery monitor --history`: judge what is new, and remember it. Made for cron."""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

from grocery.cli.monitor import incoming, judging, output
from grocery.cli.monitor.judging import Examined, Judge
from grocery.core.documents import Section, read_document
from grocery.core.errors import DataError, ParamsError, printable
from grocery.core.files import write_bytes
from grocery.core.params import MonitorParams
from grocery.inbox.history import Entry, History, latencies, same_model, utc
from grocery.inbox.record import Taken, record
from grocery.inbox.timeline import over_time
from grocery.monitoring.report import render
from grocery.monitoring.speed import with_speed
from grocery.parallel import progress
from grocery.settings import TrackingParams


class _Settings(Section, extra="ignore"):
    tracking: TrackingParams


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    params = judging.read_thresholds(arguments.params)
    tracking = None
    if arguments.track:
        tracking = read_document(arguments.params, _Settings, ParamsError).tracking
    origins, strays = incoming.find_batches(arguments.incoming, each=arguments.each)
    if arguments.time is not None and len(origins) > 1:
        raise DataError(f"--time is the time of one batch, and there are {len(origins)}")
    page = arguments.report
    judging.check_report(page)
    history = History(arguments.history)
    history.check()

    watch = _Watch(arguments, params, history, strays)
    judging.check_model(arguments.model, fetch=arguments.fetch)
    try:
        watch.look_at(origins)
    finally:  # what is recorded is not looked at again, so it is said now or never
        watch.say()
    if page is not None and (watch.new or not page.exists()):
        watch.write_page(page)
    if tracking is not None and watch.new:
        from grocery.cli.monitor.tracking import track

        track(tracking, params, watch.new, page)
    judging.end(watch.new, watch.troubles)


class _Watch:
    """One run over the batches that are there."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        params: MonitorParams,
        history: History,
        strays: Sequence[str],
    ) -> None:
        self.arguments = arguments
        self.params = params
        self.history = history
        self.strays = strays
        self.new: list[Examined] = []
        self.unsettled: list[Path] = []
        self.troubles: list[str] = []
        self._recorded = history.read()

    @cached_property
    def judge(self) -> Judge:
        """The model, which is loaded when there is something new and not before."""
        return judging.open_judge(self.arguments.model, self.params, fetch=self.arguments.fetch)

    def look_at(self, origins: Sequence[Path]) -> None:
        """Judge and record the batches that are new; one that cannot be read stops no other."""
        for origin in progress(origins, title="monitor", total=len(origins)):
            if incoming.has_settled(origin, self.arguments.settled):
                with judging.kept_apart(self.troubles):
                    self._judge(origin)
            else:
                self.unsettled.append(origin)

    def _judge(self, origin: Path) -> None:
        found = incoming.fingerprint(origin, labelled=self.arguments.labelled)
        if self._recorded.knows(*found):
            return
        taken_at = self.arguments.time
        if taken_at is None:
            taken_at = incoming.taken_at(origin)
        examined = self.judge.examine(origin, self.arguments)
        batch, timing, host = examined.batch, examined.timing, platform.node()
        # Of what was judged, to the byte.
        digest, labels = incoming.digests(batch.image_ids, batch.labels)
        taken = Taken(str(origin), digest, labels, utc(taken_at), utc(time.time()), host, timing)
        new = [one.entry for one in self.new if one.entry is not None]
        before = self._comparable([*self._recorded.entries, *new])
        earlier = latencies(before, host, self.params.min_batch)
        judgement = with_speed(examined.report.judgement, timing.latency_ms, earlier, self.params)
        report = replace(examined.report, judgement=judgement)
        release = self.judge.release
        make = partial(record, taken=taken, report=report, release=release, params=self.params)
        entry = self.history.append(make)
        if entry is not None:
            self.new.append(replace(examined, report=report, entry=entry))

    def _comparable(self, entries: Sequence[Entry]) -> list[Entry]:
        release = self.judge.release
        return same_model(entries, release.reference.model_digest, release.reference_digest)

    def say(self) -> None:
        """Print what is new; with --quiet alerts only."""
        for number in self._recorded.damaged if self.new or not self.arguments.quiet else ():
            sentence = (
                f"line {number} of {self.history.path} is damaged and left out; its batch is "
                "judged again when it is seen again"
            )
            print(printable(f"warning: monitor: {sentence}"), file=sys.stderr)
        shown = [new for new in self.new if new.alert or not self.arguments.quiet]
        judging.say_not_read(shown, self.strays if self.new or not self.arguments.quiet else ())
        output.show(shown, self.params, in_json=self.arguments.json)
        if not self.arguments.quiet:
            judging.say_unsettled(self.unsettled, self.arguments.settled)
            if not (self.new or self.unsettled or self.troubles) and sys.stderr.isatty():
                print(f"nothing new: no batch that {self.history.path} lacks", file=sys.stderr)

    def write_page(self, page: Path) -> None:
        """Write the page: what is new, and how things went with this model."""
        entries = self._comparable(self.history.read().entries)
        past = over_time(entries, [new.entry for new in self.new if new.entry is not None])
        reports = [new.report for new in self.new]
        release = self.judge.release
        html = render(release.reference, reports, self.params, past, release.advice)
        write_bytes(page, html)
