"""`grocery monitor drill`: how often the monitor is wrong, on held-out images with known shifts."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from grocery.cli.command import of_project
from grocery.cli.monitor.judging import read_thresholds
from grocery.cli.terminal import count, print_json, standard_output
from grocery.core.errors import DataError, one_sentence
from grocery.core.files import rounded
from grocery.drill import report
from grocery.drill.drawing import conditions
from grocery.drill.drill import left_out_classes, run_drill
from grocery.drill.held_out import heads_without, held_out, labelled_images
from grocery.parallel import sharing
from grocery.release.model import Model


def main(argv: Sequence[str], prog: str) -> None:
    """Run the drill; `prog` is what the usage calls the command."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description=(
            "Draw batches from a dataset's held-out images, as they are and with known shifts,\n"
            "judge them as incoming batches are judged, and say how often the monitor raises an\n"
            "alert (with exact 95 % intervals), what the shift costs in points of accuracy, and\n"
            "how far the estimated accuracy is off."
        ),
        epilog=(
            "For each batch the held-out images are divided again: the reference is made of one\n"
            "half, the batch is drawn from the other. The unknown product is a class that the\n"
            "head was not fitted on: for it heads are fitted on the training images here.\n"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--release",
        type=Path,
        default=Path(of_project("models/release")),
        metavar="FOLDER",
        help="the model (default: %(default)s)",
    )
    parser.add_argument(
        "--shards",
        type=Path,
        default=Path(of_project("data/prepared/shards")),
        metavar="FOLDER",
        help="shards of the dataset that it was trained on (default: %(default)s)",
    )
    parser.add_argument(
        "--batches",
        type=count,
        default=100,
        metavar="N",
        help=(
            "batches a shift, strength and size; twice as many without a shift "
            "(default: %(default)s)"
        ),
    )
    parser.add_argument(
        "--sizes",
        type=count,
        nargs="+",
        default=[25, 50, 100, 200],
        metavar="N",
        help="images a batch (default: 25 50 100 200)",
    )
    parser.add_argument(
        "--only",
        action="append",
        metavar="SHIFT",
        help=(
            "leave the other shifts out, such as --only relabelling --only 'unknown product'; the "
            "batches are those of the whole drill (default: all)"
        ),
    )
    parser.add_argument(
        "--images",
        type=count,
        default=800,
        metavar="N",
        help="held-out images that are shifted, at most (default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="processes; 0 means one per core (default: %(default)s)",
    )
    parser.add_argument(
        "--params",
        type=Path,
        default=Path(of_project("params.yaml")),
        metavar="FILE",
        help="YAML file whose section `monitor` holds the thresholds (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON array, for programs")
    arguments = parser.parse_args(argv)
    with one_sentence("monitor drill"), standard_output(), sharing(arguments.workers):
        _run(arguments)


def _run(arguments: argparse.Namespace) -> None:
    params = read_thresholds(arguments.params)
    sizes = sorted(set(arguments.sizes))
    if sizes[0] < params.min_batch:
        raise DataError(
            f"--sizes has {sizes[0]}, but batches of fewer than {params.min_batch} images "
            "(monitor.min_batch) are not judged"
        )
    wanted = conditions(sizes)
    names = list(dict.fromkeys(condition.shift for condition in wanted))
    if unknown := sorted(set(arguments.only or ()) - set(names)):
        raise DataError(f"--only has {unknown[0]!r}; there are {', '.join(map(repr, names))}")
    only = arguments.only or names
    wanted = [condition for condition in wanted if condition.shift in only]
    model = Model.load(arguments.release)
    available = len(labelled_images(arguments.shards, "test"))
    if available and sizes[-1] > 3 * available // 4:
        raise DataError(
            f"--sizes has {sizes[-1]}, but {arguments.shards} holds {available} labelled test "
            "images, and a batch takes three quarters of them at most"
        )
    images = held_out(model, arguments.shards, images=arguments.images, shifts=only)
    left_out = left_out_classes(images) if "unknown product" in only else []
    heads = {"": model.head} | heads_without(model, arguments.shards, left_out)
    batches = arguments.batches
    results = run_drill(images, heads, model.classes, wanted, batches=batches, params=params)
    rows = report.summary(results)
    if arguments.json:
        print_json(rounded(rows))
    else:
        print(report.markdown(rows))
        print(report.estimates(rows), end="")
