"""`grocery monitor` without a history: judge what is named, remember nothing."""

from __future__ import annotations

import argparse

from grocery.cli.monitor import incoming, judging, output
from grocery.core.files import write_bytes
from grocery.monitoring.report import render
from grocery.parallel import progress


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    params = judging.read_thresholds(arguments.params)
    found, strays = incoming.find_batches(arguments.incoming, each=arguments.each)
    origins = [origin for origin in found if incoming.has_settled(origin, arguments.settled)]
    judging.check_report(arguments.report)
    judge = judging.open_judge(arguments.model, params, fetch=arguments.fetch)
    watched = progress(origins, title="monitor", total=len(origins))
    batches: list[judging.Examined] = []
    troubles: list[str] = []
    for origin in watched:
        with judging.kept_apart(troubles):
            batches.append(judge.examine(origin, arguments))

    # Nothing is printed earlier: it would run into the progress bars.
    judging.say_not_read(batches, strays)
    judging.say_unsettled(sorted(set(found) - set(origins)), arguments.settled)
    if arguments.report is not None and (batches or not troubles):
        reports = [batch.report for batch in batches]
        release = judge.release
        page = render(release.reference, reports, params, advice=release.advice)
        write_bytes(arguments.report, page)
    output.show(batches, params, in_json=arguments.json)
    judging.end(batches, troubles)
