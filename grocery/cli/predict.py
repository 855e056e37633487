"""`grocery predict`: the classes of images, in a stream."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grocery.cli.command import argument, command
from grocery.cli.terminal import count, in_project, print_json
from grocery.core.errors import DataError, printable
from grocery.images.finding import HARMLESS, walk

if TYPE_CHECKING:
    from tqdm import tqdm

    from grocery.release.model import Model, Prediction

_BATCH = 8  # images predicted together: few, so that the first results come early
_LONG = 50  # from this many images on, a progress bar is worth its import


@command(
    "predict",
    "say what is on images",
    argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="an image file, or a folder: all files below it, whatever their names end in",
    ),
    argument(
        "--model",
        metavar="MODEL",
        help="a folder, or a name in the registry: production, staging or a version such as "
        "v1.2.0 (default: models/release of the project)",
    ),
    argument("--json", action="store_true", help="one JSON object a line, for programs"),
    argument("--top", type=count, metavar="K", help="the K most probable classes (default: 1)"),
)
def predict(arguments: argparse.Namespace) -> None:
    """Predict the class of images with a released model.
    The results come in the order of the arguments, each as soon as it is known.

    With --json every image is one line with a JSON object (JSON Lines): path, class,
    coarse (null where there are no coarse classes) and confidence; with --top K also
    top, the list of the K most probable classes, each with the last three.

    A file that cannot be read is named on standard error; the others are predicted
    all the same, and the exit code is 1. Hidden files and a README in a folder are
    left out and named, and so is a file whose damage costs no pixel, which is no error;
    what a system leaves behind is passed over.

    examples:
      grocery predict photo.jpg
      grocery predict shelf/ --top 3       all images below the folder, by name
      grocery predict shelf/ --json | jq 'select(.confidence < 0.5) | .path'
    """
    from grocery.registry.serving import load_model

    model = load_model(arguments.model or in_project("models/release", or_name="--model"))
    text = _table(model)
    bar = _progress_bar(arguments.images)
    failed = False
    for result in _results(model, image_files(arguments.images), arguments.top or 1):
        if isinstance(result, DataError):
            kind = "note" if isinstance(result, Noted) else "error"
            failed = failed or kind == "error"
            say = bar.write if bar else print
            say(printable(f"{kind}: predict: {result}"), file=sys.stderr)
        elif arguments.json:
            print_json(_document(*result, top=arguments.top))
        else:
            print(text(*result), flush=True)
        if bar:
            bar.update()
    if bar:
        bar.close()
    if failed:
        raise SystemExit(1)


class Noted(DataError):
    """What is no error: a file that is not looked at, or that is damaged and read all the same."""


def image_files(names: Iterable[str]) -> Iterator[str | DataError]:
    """The files that the arguments name: each file itself, and all files below each folder.

    A folder's files come in the order of their names, folder by folder. What is not looked at
    (`grocery.images.finding`), a folder that cannot be read and one that holds no image give an
    error in their place.
    """
    for name in names:
        if not os.path.isdir(name):
            yield name
            continue
        images = 0
        for path, reason in walk(Path(name)):
            file = os.path.join(name, "" if path == "." else path)
            if reason in HARMLESS:
                yield Noted(f"{file} is left out: {reason}")
                continue
            images += 1
            yield DataError(f"{file} {reason}") if reason else file
        if not images:
            yield DataError(f"{name} holds no images")


def _results(
    model: Model, files: Iterator[str | DataError], top: int
) -> Iterator[tuple[str, list[Prediction]] | DataError]:
    """The path of each image with its best classes, or why it cannot be read."""
    while batch := list(islice(files, _BATCH)):
        prepared = []
        for file in batch:
            if isinstance(file, DataError):
                yield file
                continue
            notes: list[str] = []
            try:
                prepared.append((file, model.prepare(file, note=notes.append)))
            except DataError as error:
                yield error
            yield from (Noted(f"{file}: {note}") for note in notes)
        rankings = model.rank([jpeg for _, jpeg in prepared], top)
        for (path, _), ranking in zip(prepared, rankings, strict=True):
            yield path, ranking


def _progress_bar(names: Sequence[str]) -> tqdm[Any] | None:
    """A bar on standard error, where that is a terminal on which no results appear."""
    if not sys.stderr.isatty() or sys.stdout.isatty():
        return None
    total = sum(1 for _ in image_files(names))
    if total < _LONG:
        return None
    from tqdm import tqdm

    width, height = os.get_terminal_size(sys.stderr.fileno())  # 0 where it does not know
    return tqdm(None, "predict", total, False, ncols=width or 80, nrows=height or 24, unit="image")


def _document(path: str, ranking: Sequence[Prediction], *, top: int | None) -> dict[str, Any]:
    """An object for one image, best class first."""
    classes = [
        {"class": p.label, "coarse": p.coarse, "confidence": round(p.confidence, 6)}
        for p in ranking
    ]
    return {"path": path, **classes[0]} | ({"top": classes} if top else {})


def _table(model: Model) -> Callable[[str, Sequence[Prediction]], str]:
    """Gives the lines of one image after the other, one per class, below a header.

    The path is the last column, since the widths of the others are known beforehand.
    """
    columns = [["class", *model.classes]]
    if model.coarse:
        columns.append(["coarse", *model.coarse.values()])
    widths = [max(map(len, names)) for names in columns]
    header = [("class", "coarse", "confidence", "path")]

    def text(path: str, ranking: Sequence[Prediction]) -> str:
        rows = [*header, *((p.label, p.coarse or "", f"{p.confidence:.3f}", path) for p in ranking)]
        header.clear()
        return "\n".join(map(line, rows))

    def line(row: tuple[str, str, str, str]) -> str:
        *names, confidence, path = map(printable, row)
        # Without coarse classes there is one width.
        cells = [name.ljust(width) for name, width in zip(names, widths, strict=False)]
        return "  ".join([*cells, confidence.rjust(len("confidence")), path])

    return text
