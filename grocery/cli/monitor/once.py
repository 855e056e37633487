"""`grocery monitor` without a history: judge what is named, remember nothing."""

from __future__ import annotations

import argparse
import sys

from grocery.cli.monitor import incoming, judging, output
from grocery.cli.terminal import FOUND
from grocery.core.errors import printable
from grocery.core.files import write_bytes
from grocery.monitoring.report import render
from grocery.parallel import progress


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    params = judging.read_thresholds(arguments.params)
    found = incoming.find_batches(arguments.incoming, each=arguments.each)
    origins = [origin for origin in found if incoming.has_settled(origin, arguments.settled)]
    judging.check_report(arguments.report)
    judge = judging.open_judge(arguments.model, params, fetch=arguments.fetch)
    watched = progress(origins, title="monitor", total=len(origins))
    batches = [judge.examine(origin, arguments) for origin in watched]

    # Nothing is printed earlier: it would run into the progress bars.
    judging.say_unreadable(batches)
    for origin in sorted(set(found) - set(origins)):
        sentence = f"{origin} changed less than {arguments.settled:g} s ago; it is left out"
        print(printable(f"not settled: {sentence}"), file=sys.stderr)
    if arguments.report is not None:
        reports = [batch.report for batch in batches]
        write_bytes(arguments.report, render(judge.release.reference, reports, params))
    output.show(batches, params, in_json=arguments.json)
    if any(batch.alert for batch in batches):
        raise SystemExit(FOUND)
