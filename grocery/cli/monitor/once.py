"""`grocery monitor` without a history: judge what is named, remember nothing."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from grocery.cli.monitor import incoming, output
from grocery.cli.monitor.judging import (
    check_report,
    open_judge,
    read_thresholds,
    say_unreadable,
)
from grocery.core.errors import printable

ALERT = 2  # exit code


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from grocery.core.files import rounded, write_bytes
    from grocery.monitoring.report import render
    from grocery.parallel import progress

    params = read_thresholds(Path(arguments.params))
    found = incoming.find_batches(arguments.incoming, each=arguments.each)
    origins = [origin for origin in found if incoming.has_settled(origin, arguments.settled)]
    page = check_report(arguments.report)
    judge = open_judge(arguments.model, params)

    reports, timings, unreadable = [], [], []
    for origin in progress(origins, title="monitor", total=len(origins)):
        examined = judge.examine(origin, arguments)
        reports.append(examined.report)
        timings.append(examined.timing)
        unreadable += examined.unreadable

    # Nothing is printed earlier: it would run into the progress bars.
    say_unreadable(unreadable)
    for origin in sorted(set(found) - set(origins)):
        sentence = f"{origin} changed less than {arguments.settled:g} s ago; it is left out"
        print(printable(f"not settled: {sentence}"), file=sys.stderr)
    if page is not None:
        write_bytes(page, render(judge.release.reference, reports, params))
    if arguments.json:
        for origin, report, timing in zip(origins, reports, timings, strict=True):
            print(json.dumps(rounded(output.document(origin, report, timing))))
    elif reports:
        print("\n".join(output.table(reports)))
        if lines := [line for report in reports for line in output.findings(report, params)]:
            print("", *lines, sep="\n")
    if any(report.judgement.verdict == "alert" for report in reports):
        raise SystemExit(ALERT)
