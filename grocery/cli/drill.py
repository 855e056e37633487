"""`grocery monitor drill`: how often the monitor is wrong, on held-out images with known shifts."""

from __future__ import annotations

import argparse
from pathlib import Path

from grocery.cli.command import argument, command
from grocery.cli.terminal import count, in_project, print_json

_OF_PROJECT = {"type": Path, "metavar": "FOLDER"}


@command(
    "monitor drill",
    "say how often the monitor is wrong",
    argument("--release", **_OF_PROJECT, help="the model (default: models/release)"),
    argument(
        "--shards",
        **_OF_PROJECT,
        help="shards of the dataset that it was trained on (default: data/prepared/shards)",
    ),
    argument(
        "--batches",
        type=count,
        default=100,
        metavar="N",
        help="batches a shift, strength and size; twice as many without a shift (default: 100)",
    ),
    argument(
        "--sizes",
        type=count,
        nargs="+",
        default=[25, 50, 100, 200],
        metavar="N",
        help="images a batch (default: 25 50 100 200)",
    ),
    argument(
        "--only",
        action="append",
        metavar="SHIFT",
        help="leave the other shifts out, such as --only relabelling --only 'unknown product'; the "
        "batches are those of the whole drill (default: all)",
    ),
    argument(
        "--images",
        type=count,
        default=800,
        metavar="N",
        help="shift at most N images (default: 800)",
    ),
    argument(
        "--workers", type=count, default=0, metavar="N", help="processes (default: one per core)"
    ),
    argument(
        "--params",
        type=Path,
        metavar="FILE",
        help="YAML file whose section `monitor` holds the thresholds (default: the project's)",
    ),
    argument("--json", action="store_true", help="one JSON array, for programs"),
)
def drill(arguments: argparse.Namespace) -> None:
    """Draw batches from a dataset's held-out images, as they are and with known shifts,
    judge them as incoming batches are judged, and say how often the monitor raises an
    alert (with exact 95 % intervals), what the shift costs in points of accuracy, and
    how far the estimated accuracy is off.

    For each batch the held-out images are divided again: the reference is made of one
    half, the batch is drawn from the other. The unknown product is a class that the
    head was not fitted on: for it heads are fitted on the training images here.
    """
    from grocery.cli.monitor.judging import read_thresholds
    from grocery.core.errors import DataError
    from grocery.core.files import rounded
    from grocery.drill import report
    from grocery.drill.drawing import conditions
    from grocery.drill.drill import left_out_classes, run_drill
    from grocery.drill.held_out import heads_without, held_out, labelled_images
    from grocery.parallel import sharing
    from grocery.release.model import Model

    params = read_thresholds(arguments.params or in_project("params.yaml"))
    shards = arguments.shards or in_project("data/prepared/shards")
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
    model = Model.load(arguments.release or in_project("models/release"))
    available = len(labelled_images(shards, "test"))
    if available and sizes[-1] > 3 * available // 4:
        raise DataError(
            f"--sizes has {sizes[-1]}, but {shards} holds {available} labelled test "
            "images, and a batch takes three quarters of them at most"
        )
    batches = arguments.batches
    with sharing(arguments.workers):
        images = held_out(model, shards, images=arguments.images, shifts=only)
        left_out = left_out_classes(images) if "unknown product" in only else []
        heads = {"": model.head} | heads_without(model, shards, left_out)
        results = run_drill(images, heads, model.classes, wanted, batches=batches, params=params)
    rows = report.summary(results)
    if arguments.json:
        print_json(rounded(rows))
    else:
        print(report.markdown(rows))
        print(report.estimates(rows), end="")
