"""`grocery monitor`: have incoming images drifted away from what a model knows?"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from grocery.errors import DataError, ParamsError, printable

if TYPE_CHECKING:
    from grocery.model import Model
    from grocery.monitoring.batches import Batch
    from grocery.monitoring.report import BatchReport
    from grocery.params import MonitorParams

_ALERT = 2  # exit code


class _Parser(argparse.ArgumentParser):
    """Exits with 1 where argparse would with 2, which is the word for an alert here."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse unknown arguments here, or the parser above would, with 2."""
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return namespace, unknown

    def error(self, message: str) -> NoReturn:
        """Print the usage and one sentence."""
        self.print_usage(sys.stderr)
        self.exit(1, f"error: monitor: {printable(message)}\n")


def add_parser(parsers: Any) -> None:
    """Add the command."""
    listed = parsers.add_parser("monitor", help="say whether incoming images have drifted")
    parser = parsers.choices["monitor"] = _Parser(
        prog=listed.prog,
        description=(
            "Judge batches of incoming images with a released model: do its confidences, the\n"
            "classes that it predicts and the share of unreadable files still look like those of\n"
            "the held-out images that were recorded with it?\n"
            "\n"
            "verdicts:\n"
            "  ok        chance alone explains what is found\n"
            "  watch     chance is an unlikely explanation, but it is not an alert\n"
            "  alert     unlikely even for that many tests, and large enough to matter\n"
            "  too few   there are too few readable images to judge predictions by\n"
            "\n"
            "The estimated accuracy is the mean confidence. It needs no label, and holds as long\n"
            "as the model's probabilities are calibrated."
        ),
        epilog=(
            "exit code:\n"
            "  0   no batch is an alert\n"
            "  1   something is wrong; it is said on standard error, and no verdict is given\n"
            "  2   at least one batch is an alert\n"
            "\n"
            "A file that cannot be read is named on standard error and counted; it is no error.\n"
            "\n"
            "With --json every batch is one line with a JSON object (JSON Lines): batch (its\n"
            "name), incoming (its path), what metrics/monitor.json has of a batch, and signals,\n"
            "the list of the tests that were made.\n"
            "\n"
            "examples:\n"
            "  grocery monitor shelf/\n"
            "  grocery monitor monday/ tuesday/ --model production --report drift.html\n"
            "  grocery monitor checked/ --labelled      also the accuracy that was realised\n"
            "  grocery monitor data/prepared/incoming   the pipeline's own batches\n"
            "  grocery monitor shelf/ --json | jq 'select(.verdict == \"alert\")'\n"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "incoming",
        nargs="+",
        metavar="INCOMING",
        help=(
            "a folder of images: one batch, all files below it, hidden ones left out; or a "
            "Parquet batch as the stage prepare writes it; or a folder of Parquet batches"
        ),
    )
    parser.add_argument(
        "--model",
        default="models/release",
        metavar="NAME",
        help=(
            "a folder, or a name in the registry: production, staging or a version "
            "(default: %(default)s)"
        ),
    )
    parser.add_argument(
        "--labelled",
        action="store_true",
        help=(
            "the folders in a folder of images are named after the true classes, for the "
            "accuracy that was realised (a Parquet batch brings its labels)"
        ),
    )
    parser.add_argument(
        "--params",
        default="params.yaml",
        metavar="FILE",
        help="YAML file whose section `monitor` holds the thresholds (default: %(default)s)",
    )
    parser.add_argument(
        "--report",
        metavar="FILE",
        help="also write a page for people: one HTML file, which needs nothing else",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line, for programs")
    parser.set_defaults(run=_run, command="monitor")


def _run(arguments: argparse.Namespace) -> None:
    from grocery.compute import progress
    from grocery.files import rounded, write_bytes
    from grocery.model import load_model
    from grocery.monitoring.batches import examine, numbers, signals
    from grocery.monitoring.reference import Reference
    from grocery.monitoring.report import render
    from grocery.registry.serving import open_release

    params = _thresholds(Path(arguments.params))
    origins = _origins(arguments.incoming)
    if arguments.report is not None and Path(arguments.report).is_dir():
        raise DataError(f"{arguments.report} is a folder; --report wants the name of a file")
    release = open_release(arguments.model)
    model = load_model(release)
    reference = Reference.load(release / "reference")
    reference.check_fits(model.classes, model.digest)

    reports, unreadable = [], []
    for origin in progress(origins, title="monitor", total=len(origins)):
        batch, sentences = _read(origin, model, arguments.labelled)
        unreadable += sentences
        reports.append(examine(batch, model=model, reference=reference, params=params)[0])

    # Nothing is printed earlier: it would run into the progress bars.
    for sentence in unreadable:
        print(printable(f"unreadable: {sentence}"), file=sys.stderr)
    if arguments.report is not None:
        write_bytes(Path(arguments.report), render(reference, reports, params))
    if arguments.json:
        for origin, report in zip(origins, reports, strict=True):
            head = {"batch": report.name, "incoming": str(origin)}
            document = head | numbers(report) | {"signals": signals(report)}
            print(json.dumps(rounded(document)))
    else:
        print("\n".join([*_table(reports), *_findings(reports, params)]))
    if any(report.judgement.verdict == "alert" for report in reports):
        raise SystemExit(_ALERT)


def _thresholds(file: Path) -> MonitorParams:
    """Read the section `monitor` alone: where a model is used there need be no pipeline."""
    from grocery import params
    from grocery.documents import Section, read_document

    class Thresholds(Section, extra="ignore"):
        monitor: params.MonitorParams

    if not file.is_file():
        raise ParamsError(
            f"{file} is not here; name the file whose section monitor holds the thresholds "
            "with --params"
        )
    return read_document(file, Thresholds, ParamsError).monitor


def _origins(names: Sequence[str]) -> list[Path]:
    """The batches that the arguments name: Parquet files, and folders of images."""
    origins = [origin for name in names for origin in _batches(Path(name))]
    for origin in origins:
        try:
            str(origin).encode()
        except UnicodeEncodeError:  # neither the report nor Parquet could name it
            raise DataError(f"the name {str(origin)!r} is not UTF-8; rename it") from None
    return origins


def _batches(incoming: Path) -> list[Path]:
    if incoming.is_dir():
        shown = [path for path in incoming.iterdir() if not path.name.startswith(".")]
        tables = [path for path in shown if path.suffix == ".parquet"]
        if tables and len(tables) < len(shown):
            raise DataError(
                f"{incoming} holds Parquet files and others; a folder of images is one batch, "
                "and a folder of Parquet batches holds nothing else"
            )
        return sorted(tables) or [incoming]
    if not incoming.exists():
        raise DataError(f"{incoming} is not here; a batch is a folder of images or a Parquet file")
    if incoming.suffix != ".parquet":
        raise DataError(
            f"{incoming} is no batch; one is a folder of images, or a Parquet file as the stage "
            "prepare writes it"
        )
    return [incoming]


def _read(origin: Path, model: Model, labelled: bool) -> tuple[Batch, list[str]]:
    """Read a batch, and say what of it cannot be read."""
    from grocery.monitoring.batches import read_batch

    if origin.is_dir():
        return _read_folder(origin, model, labelled)
    batch = read_batch(origin)
    missing = [p for p, jpeg in zip(batch.paths, batch.jpegs, strict=True) if jpeg is None]
    return batch, [f"{path} in {origin}: it was so when the batch was made" for path in missing]


def _read_folder(folder: Path, model: Model, labelled: bool) -> tuple[Batch, list[str]]:
    """Prepare the images of a folder as the pipeline prepares a batch, in the order of their paths.

    The folder itself may be a symbolic link; one in it is refused, since it may lead anywhere.
    """
    from grocery.compute import progress
    from grocery.data.folders import walk
    from grocery.monitoring.batches import Batch

    paths = sorted(walk(folder.resolve()))
    if not paths:
        raise DataError(f"{folder} holds no images")
    labels = _labels(folder, paths, model.classes) if labelled else [None] * len(paths)
    image_ids: list[str] = []
    jpegs: list[bytes | None] = []
    unreadable = []
    for path in progress(paths, title=printable(folder.name), total=len(paths)):
        file, data, jpeg = folder / path, b"", None
        try:
            data = file.read_bytes()
            jpeg = model.prepare(data, str(file))
        except OSError as error:
            unreadable.append(f"{file} cannot be read: {error.strerror}")
        except DataError as error:
            unreadable.append(str(error))
        image_ids.append(hashlib.sha256(data).hexdigest())
        jpegs.append(jpeg)
    name = Path(os.path.abspath(folder)).name  # of "." too
    return Batch(name, folder, image_ids, paths, labels, jpegs), unreadable


def _labels(folder: Path, paths: Sequence[str], classes: Sequence[str]) -> list[str | None]:
    """The first folder of each path; at least one must be a class, or they are something else."""
    labels = [path.split("/")[0] if "/" in path else None for path in paths]
    if not set(labels) & set(classes):
        found = ", ".join(sorted({label for label in labels if label})[:5]) or "none"
        raise DataError(
            f"--labelled wants folders in {folder} that are named after classes of the model, "
            f"such as {classes[0]}; found: {found}"
        )
    return labels


def _table(reports: Sequence[BatchReport]) -> list[str]:
    """Aligned lines; the realised accuracy is a column only where there are labels."""
    rows = [["verdict", "images", "unreadable", "estimated accuracy", "accuracy", "batch"]]
    for report in reports:
        judgement = report.judgement
        counts = [str(judgement.images), str(judgement.unreadable)]
        accuracies = [_share(judgement.estimated_accuracy), _share(judgement.accuracy)]
        rows.append([judgement.verdict, *counts, *accuracies, printable(report.name)])
    if all(report.judgement.accuracy is None for report in reports):
        rows = [[*row[:4], row[5]] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    return ["  ".join(_aligned(row, widths)) for row in rows]


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """The verdict to the left, numbers to the right; the name is as long as it is."""
    verdict, *figures, name = row
    right = [cell.rjust(width) for cell, width in zip(figures, widths[1:], strict=True)]
    return [verdict.ljust(widths[0]), *right, name]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _findings(reports: Sequence[BatchReport], params: MonitorParams) -> list[str]:
    """A line for each signal that is not ok, and for each batch that is too small."""
    lines = []
    for report in reports:
        judgement = report.judgement
        sentences = [signal.sentence for signal in judgement.signals if signal.verdict != "ok"]
        if judgement.images < params.min_batch:
            sentences.append(
                f"{judgement.images} readable images are too few to judge predictions by; "
                f"{params.min_batch} are needed."
            )
        lines += [printable(f"{report.name}: {sentence}") for sentence in sentences]
    return ["", *lines] if lines else []
