"""What `grocery monitor` does: without a history it remembers nothing, with one it is for cron."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from functools import partial

from grocery.cli.monitor import output
from grocery.cli.terminal import FOUND
from grocery.core.documents import Section, read_document
from grocery.core.errors import DataError, ParamsError, printable
from grocery.core.params import MonitorParams
from grocery.inbox import incoming, judging, timeline
from grocery.inbox.entries import Entry
from grocery.inbox.history import History
from grocery.inbox.judging import Judged
from grocery.inbox.watch import Watch
from grocery.monitoring.report import render
from grocery.parallel import progress
from grocery.settings import TrackingParams


class _Settings(Section, extra="ignore"):
    tracking: TrackingParams


def once(arguments: argparse.Namespace) -> None:
    """Judge what is named, and remember nothing."""
    params = judging.read_thresholds(arguments.params)
    found, strays = incoming.find_batches(arguments.incoming, each=arguments.each)
    origins = [origin for origin in found if incoming.has_settled(origin, arguments.settled)]
    judge = judging.open_judge(arguments.model, params, fetch=arguments.fetch)
    batches: list[Judged] = []
    troubles: list[str] = []
    for origin in progress(origins, title="monitor", total=len(origins)):
        with judging.kept_apart(troubles, str(origin)):
            labelled, flat = arguments.labelled, arguments.each
            batches.append(judge.examine(origin, labelled=labelled, flat=flat)[0])

    # Nothing is printed earlier: it would run into the progress bars.
    _warn([*strays, *(sentence for batch in batches for sentence in batch.not_read)])
    _warn(_unsettled(sorted(set(found) - set(origins)), arguments.settled))
    if not found:
        _warn([f"nothing to judge: no batch is in {', '.join(arguments.incoming)}"])
    if arguments.report is not None and (batches or not troubles):
        reports = [batch.report for batch in batches]
        with judging.kept_apart(troubles, str(arguments.report)):
            page = render(judge.release.reference, reports, params, advice=judge.release.advice)
            timeline.write(arguments.report, page)
    output.show(batches, params, in_json=arguments.json)
    _end(batches, troubles)


def watch(arguments: argparse.Namespace) -> None:
    """Judge what is new, remember it, and announce alerts until they were."""
    params = judging.read_thresholds(arguments.params)
    tracking = None
    if arguments.track:
        tracking = read_document(arguments.params, _Settings, ParamsError).tracking
    origins, strays = incoming.find_batches(arguments.incoming, each=arguments.each)
    if arguments.time is not None and len(origins) > 1:
        raise DataError(f"--time is the time of one batch, and there are {len(origins)}")
    history = History(arguments.history)
    history.check()
    history.read()  # what is no history is refused before any work
    judging.check_model(arguments.model, fetch=arguments.fetch)
    open_judge = partial(judging.open_judge, arguments.model, params, fetch=arguments.fetch)
    with history.at_work() as alone:
        run = Watch(history, open_judge, params, alone=alone)
        try:
            run.look_at(
                origins,
                settled=arguments.settled,
                labelled=arguments.labelled,
                flat=arguments.each,
                moment=arguments.time,
            )
        finally:
            _tell(arguments, run, params, strays, tracking)
    _end(run.new, run.troubles)


def _tell(
    arguments: argparse.Namespace,
    run: Watch,
    params: MonitorParams,
    strays: Sequence[str],
    tracking: TrackingParams | None,
) -> None:
    """Write the page, print what is new, tell W&B and the receiver; then it was announced."""
    page, before = arguments.report, len(run.troubles)
    if page is not None:
        with judging.kept_apart(run.troubles, str(page)):
            run.write_page(page)
    written = page if len(run.troubles) == before else None
    _say(arguments, run, params, strays)
    sys.stdout.flush()
    before = len(run.troubles)
    if tracking is not None and run.new:
        from grocery.inbox.announcing import track

        with judging.kept_apart(run.troubles, "W&B"):
            track(tracking, params, run.new, written)
    if len(run.troubles) > before:
        return

    def deliver(entry: Entry) -> None:
        if arguments.notify is not None:
            arguments.notify.deliver(entry, written)

    run.announce(deliver)


def _say(
    arguments: argparse.Namespace,
    run: Watch,
    params: MonitorParams,
    strays: Sequence[str],
) -> None:
    """Print what is new; with --quiet alerts only."""
    shown = [one for one in run.new if one.alert or not arguments.quiet]
    if run.new or not arguments.quiet:
        why = "is damaged and left out; its batch is judged again when it is seen again"
        lines = [f"line {number} of {run.history.path}" for number in run.damaged]
        _warn(f"warning: monitor: {line} {why}" for line in lines)
    _warn(sentence for batch in shown for sentence in batch.not_read)
    output.show(shown, params, in_json=arguments.json)
    if not arguments.quiet:
        _warn(strays)
        _warn(_unsettled(run.unsettled, arguments.settled))
        if not (run.new or run.unsettled or run.troubles) and sys.stderr.isatty():
            _warn([f"nothing new: no batch that {run.history.path} lacks"])


def _end(batches: Sequence[Judged], troubles: Sequence[str]) -> None:
    """Say what was wrong, and end with the exit code of what was found."""
    _warn(f"error: monitor: {sentence}" for sentence in troubles)
    if any(batch.alert for batch in batches):
        raise SystemExit(FOUND)
    if troubles:
        raise SystemExit(1)


def _unsettled(origins: Iterable[object], seconds: float) -> list[str]:
    """Sentences about batches that may be still on their way."""
    changed = f"changed less than {seconds:g} s ago; it is left for the next time"
    return [f"not settled: {origin} {changed}" for origin in origins]


def _warn(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        print(printable(sentence), file=sys.stderr)
