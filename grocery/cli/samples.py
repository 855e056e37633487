"""`grocery data samples`: some test images as files, to try the other commands on."""

from __future__ import annotations

import argparse
from pathlib import Path

from grocery.cli.command import argument, command
from grocery.cli.terminal import count, in_project
from grocery.core.errors import DataError, printable


@command(
    "data samples",
    "write some test images, to try the other commands on",
    argument("folder", type=Path, metavar="FOLDER", help="where to; with nothing else in it"),
    argument(
        "--count", type=count, default=24, metavar="N", help="how many (default: %(default)s)"
    ),
)
def samples(arguments: argparse.Namespace) -> None:
    """Write test images of the prepared dataset into a folder, each below the name of its
    class. They are drawn by their content: the same ones each time.

    examples:
      grocery data samples shelf/
      grocery predict shelf/
      grocery monitor shelf/ --labelled
    """
    from grocery.core.files import write_bytes
    from grocery.images.finding import walk
    from grocery.shards import images_of, read_columns, shard_paths

    shards = in_project("data/prepared/shards")
    rows = read_columns(shards, ["image_id", "label", "split"]).to_pylist()
    labels = {row["image_id"]: row["label"] for row in rows if row["split"] == "test"}
    files: dict[str, Path] = {}
    for image_id in list(labels)[: arguments.count]:
        label = labels[image_id]
        if Path(label).name != label or label in ("", ".."):
            raise DataError(f"the class {label!r} cannot be the name of a folder")
        files[image_id] = arguments.folder / label / f"{image_id[:8]}.jpg"
    if arguments.folder.is_file():
        raise DataError(f"{arguments.folder} is a file; name a folder")
    for path, passed_over in walk(arguments.folder):
        if passed_over is None and (file := arguments.folder / path) not in files.values():
            why = f"is none of these {len(files)} images; name a folder with nothing else in it"
            raise DataError(f"{file} {why}")
    for image_id, jpeg in images_of(shard_paths(shards), list(files)).items():
        write_bytes(files[image_id], jpeg)
    print(printable(f"{len(files)} test images are in {arguments.folder}"))
