"""What made each file of an output, remembered, so that a stage makes only what has changed.

A stage is a pure function to bytes, so a file whose inputs, parameters, code and kernels are as
they were need not be made again. The stage's earlier outputs lie where they are (DVC leaves them
when they ``persist``); what made them is remembered here, by the hash of their content. A file is
kept only if its content still has a hash that is remembered, so one that was damaged, or changed by
hand, is made anew. What is remembered is no output: without it everything is made from scratch, and
the bytes are the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, Self

from grocery.core.files import digest, same_file, write_bytes
from grocery.core.pin import KERNELS

# Their versions may change bytes.
_LIBRARIES = ("numpy", "scipy", "pillow", "pyarrow")
# What is remembered of one stage; the oldest is forgotten first.
_MOST = 100_000


class Memory:
    """What made the files that a stage has written, by their content.

    Parameters
    ----------
    file
        Where it is remembered; None for nowhere, so that nothing is known.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._makers: dict[str, str] = {}
        self._notes: dict[str, dict[str, str]] = {}
        if file is None:
            return
        try:
            document = json.loads(file.read_bytes())
            if isinstance(document, dict):
                self._makers = _strings(document.get("makers"))
                notes = document.get("notes")
                self._notes = {
                    maker: _strings(found)
                    for maker, found in (notes.items() if isinstance(notes, dict) else ())
                }
        except (OSError, ValueError):
            pass  # nothing is known, and everything is made

    @classmethod
    def of_stage(cls, stage: str) -> Self:
        """A stage's memory, see `remembered_in`."""
        return cls(remembered_in(f"made-by-{stage}.json"))

    def made(self, file: Path, maker: str) -> bool:
        """Whether a file is there, whole, and what `maker` makes."""
        if not self._makers:
            return False
        try:
            key = digest(file)
        except OSError:
            return False
        if self._makers.get(key) != maker:
            return False
        self._makers[key] = self._makers.pop(key)  # to the end, among the newest
        return True

    def keep(self, file: Path, target: Path, maker: str) -> bool:
        """Put a file that `maker` has made in place of making it again; False if there is none."""
        if not self.made(file, maker):
            return False
        same_file(file, target)
        return True

    def note(self, file: Path, maker: str) -> None:
        """Remember who has made a file."""
        key = digest(file)
        self._makers.pop(key, None)  # to the end, among the newest
        self._makers[key] = maker

    def notes(self, maker: str) -> Mapping[str, str]:
        """What was remembered with `remember`."""
        return self._notes.get(maker, {})

    def remember(self, maker: str, notes: Mapping[str, str]) -> None:
        """Remember small results that are no files, in place of earlier ones."""
        self._notes = {maker: dict(notes)} if notes else {}

    def save(self) -> None:
        """Write all this down. Call it when the files are in their place."""
        if self._file is None:
            return
        newest = dict(list(self._makers.items())[-_MOST:])
        document = {"makers": newest, "notes": self._notes}
        write_bytes(self._file, json.dumps(document).encode())


def remembered_in(name: str) -> Path | None:
    """A file in DVC's own folder for what is never shared; None if nothing is to be reused.

    An experiment in a temporary folder uses that of its project. With ``GROCERY_REUSE=no`` in the
    environment nothing is known, and everything is made from scratch.
    """
    if os.environ.get("GROCERY_REUSE") == "no":
        return None
    return Path(os.environ.get("DVC_ROOT") or ".") / ".dvc" / "tmp" / "grocery" / name


def digest_of(parts: Iterable[str | bytes]) -> str:
    """SHA-256 (hex) of some parts in order; no two lists of parts are alike."""
    found = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else part.encode()
        found.update(len(data).to_bytes(8, "big"))
        found.update(data)
    return found.hexdigest()


def maker(parameters: Any) -> str:
    """Digest of what makes files here, beside their inputs.

    That is the source of all our modules that this process has loaded, but for those that share out
    the work and change no byte, the libraries' versions, the kernels, and `parameters` (JSON).
    """
    modules = sorted(
        (name, _file(module))
        for name, module in sys.modules.items()
        if name.split(".")[0] in ("grocery", "stages", "__main__")
        and not f"{name}.".startswith("grocery.cluster.")
        and _file(module)
    )
    return digest_of(
        [
            *(part for name, file in modules for part in (name, Path(file).read_bytes())),
            *(f"{library} {version(library)}" for library in _LIBRARIES),
            *(f"{name} {os.environ.get(name)}" for name in sorted(KERNELS)),
            sys.version,
            json.dumps(parameters, sort_keys=True),
        ]
    )


def _file(module: ModuleType) -> str:
    return getattr(module, "__file__", None) or ""


def _strings(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        return {}
    return {key: item for key, item in value.items() if isinstance(item, str)}
