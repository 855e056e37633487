"""`grocery registry fetch`: a verified release, from wherever the registry can be reached."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from grocery.cli.registry.common import NAME, answer, argument, command

if TYPE_CHECKING:
    from grocery.registry.serving import Fetched


@command(
    "fetch",
    "get the release of a version or a stage, verified",
    NAME,
    argument(
        "--from",
        dest="source",
        metavar="PLACE",
        help="a clone, the address of a repository, or wandb (default: this clone)",
    ),
    argument("--out", metavar="FOLDER", help="copy it there; the folder must not be there yet"),
)
def fetch(arguments: argparse.Namespace) -> None:
    """Fetch a release and print its folder. Every byte is compared with the hash that git
    (or, with --from wandb, W&B) holds, and a file that no release has is refused:
    nothing in a release is ever executed. A release that was fetched before is verified
    again and used.

    examples:
      grocery registry fetch production
      grocery registry fetch v1.0.0 --out serving/model
      grocery registry fetch production --from https://example.org/team/grocery.git
      grocery registry fetch production --from wandb
    """
    from grocery.registry import serving

    if arguments.source == "wandb":
        found = serving.fetch_from_wandb(arguments.name)
    else:
        found = serving.fetch(arguments.name, arguments.source)
    folder = found.folder
    if arguments.out:
        folder = Path(arguments.out)
        _copy(found, folder)
    document = {"version": found.version, "md5": found.md5, "folder": str(folder)}
    answer(arguments, document, [str(folder)])


def _copy(found: Fetched, target: Path) -> None:
    """Copy a release, unless it is there already."""
    import shutil

    from grocery.contents import read_content
    from grocery.core.errors import RegistryError
    from grocery.core.files import replacing

    if target.exists():
        if target.is_dir() and read_content(target).md5 == found.md5:
            return
        raise RegistryError(f"{target} is there already, and is not this release; remove it first")
    with replacing(target) as (folder,):
        shutil.copytree(found.folder, folder, dirs_exist_ok=True)
