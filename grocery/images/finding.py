"""Which files of a folder are looked at: one rule for datasets, inboxes and folders to predict.

Every plain file is tried, whatever its name ends in. What a system, a file server or a tool leaves
behind is passed over in silence; whatever else is not looked at is named, with the reason.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

LINK = "is a symbolic link"
HARMLESS = HIDDEN, ABOUT = "hidden", "about the images"

_SYSTEM = re.compile(
    r"\.DS_Store|\._.*|__MACOSX|\.AppleDouble|\.localized|\.Spotlight-V100|\.Trashes|\.fseventsd"
    r"|\.TemporaryItems|(eh)?thumbs(_\w+)?\.db|desktop\.ini|\$RECYCLE\.BIN"
    r"|System Volume Information|@eaDir|#recycle|#snapshot|lost\+found|\.Trash(-\d+)?|\.nfs\w+"
    r"|Icon\r|\.directory|\.nomedia|\.?picasa\.ini|\.thumbnails|\.ipynb_checkpoints"
    r"|\.(git|dvc)(ignore|attributes|keep|modules)?|\.keep",
    re.IGNORECASE,
)
# Files about a dataset. A folder of such a name is a class.
_ABOUT = re.compile(r"(readme|licen[cs]e)(\.(md|rst|txt))?", re.IGNORECASE)


def is_system(name: str) -> bool:
    """Whether a file or folder of this name is a system's or a tool's own."""
    return _SYSTEM.fullmatch(name) is not None


def walk(folder: Path, below: str = "") -> Iterator[tuple[str, str | None]]:
    """Yield all that lies below a folder, and why it is not looked at; None for what is.

    Paths are relative, with forward slashes; they come by name, folder by folder. Links are not
    followed. Empty folders do not show: DVC and git do not keep them. A reason that is not
    `HARMLESS` is what a sentence says of the path.
    """
    waiting: list[tuple[str, os.DirEntry[str] | None]] = [(below, None)]  # the last comes next
    while waiting:
        path, entry = waiting.pop()
        if entry is not None and entry.is_symlink():
            yield path, LINK
        elif entry is not None and entry.name.startswith("."):
            yield path, HIDDEN
        elif entry is None or entry.is_dir(follow_symlinks=False):
            try:
                with os.scandir(folder / path) as entries:
                    found = sorted(entries, key=lambda entry: entry.name, reverse=True)
            except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
                yield path or ".", f"cannot be read: {error.strerror}"
                continue
            shown = (entry for entry in found if not is_system(entry.name))
            waiting += [(f"{path}/{each.name}".removeprefix("/"), each) for each in shown]
        elif not entry.is_file(follow_symlinks=False):
            yield path, "is neither a file nor a folder"
        else:
            yield path, ABOUT if _ABOUT.fullmatch(entry.name) else None
