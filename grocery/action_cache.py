"""The action cache: a stage makes again only what would come out otherwise.

An action is a function, an item, and what decides what comes out: the item's content and the
parameters, the code of the function and of all our modules that it imports, the libraries, and the
numeric kernels. All that is hashed to a key, under which the value that the function gave and the
files that it wrote are remembered:

    actions/ab/KEY     JSON: the value, and the SHA-256 of each file
    files/cd/SHA-256   the file, a hard link of the one in the output

A file is read before it is given out again, so one that was damaged, or changed by hand in the
output that it is linked to, is made again. What is remembered appears whole or not at all, and
belongs to nobody, so experiments that run at once share it. It is no output: it lies in DVC's own
folder for what is never shared, may be removed at any time, and without it the bytes are the same.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from grocery.core.files import digest, write_bytes
from grocery.core.libraries import installed
from grocery.core.pin import KERNELS
from grocery.parallel import parallel_map

Item = TypeVar("Item")

# Bytes of files that are remembered; what was used longest ago is forgotten first.
MOST_BYTES = 8 * 2**30


@dataclass(frozen=True)
class Action(Generic[Item]):
    """One piece of work, such as a shard.

    Attributes
    ----------
    item
        What the function gets.
    inputs
        What decides, with the code, what comes out: contents and parameters as text. None for what
        is not to be remembered.
    files
        The files that the function writes.
    """

    item: Item
    inputs: Sequence[str] | None
    files: tuple[Path, ...] = ()


_FOLDER: ContextVar[Path | None] = ContextVar("action cache", default=None)


@contextmanager
def remembering(folder: Path | None) -> Iterator[None]:
    """Let `do` remember in a folder while the block runs; with None, and outside, nothing is."""
    token = _FOLDER.set(folder)
    try:
        yield
    finally:
        _FOLDER.reset(token)
        if folder is not None:
            _forget(folder, MOST_BYTES)


def do(
    function: Callable[[Item], Any],
    actions: Sequence[Action[Item]],
    *,
    title: str,
    link: bool = True,
    prefer: Literal["processes", "threads"] = "processes",
    few: int = 0,
) -> list[Any]:
    """Do the actions, but for those whose outcome is remembered, and give their values in order.

    Parameters
    ----------
    function
        A module-level function, or a `functools.partial` of one: an item to a value (JSON). It
        writes the files of its action. What a partial adds belongs to the actions' inputs.
    actions
        What to do.
    title, prefer
        See `grocery.parallel.parallel_map`.
    link
        False where the values alone are wanted: the files of what is remembered are not put there.
    few
        So few actions are done in this process, before others would have been started.
    """
    folder = _FOLDER.get()
    keys = _keys(function, actions)
    values = dict(_recalled(keys, actions, title=title, link=link))
    fresh = [n for n in range(len(actions)) if n not in values]
    made = parallel_map(
        partial(_make, function=function, folder=folder),
        [(keys[n], actions[n]) for n in fresh],
        title=title,
        prefer=prefer,
        workers=1 if len(fresh) <= few else None,
    )
    values.update(zip(fresh, made, strict=True))
    return [values[n] for n in range(len(actions))]


def recall(
    function: Callable[[Item], Any], actions: Sequence[Action[Item]], *, title: str
) -> list[bool]:
    """Put in place what is remembered of some actions; say of each whether it was."""
    known = dict(_recalled(_keys(function, actions), actions, title=title, link=True))
    return [n in known for n in range(len(actions))]


def _keys(function: Callable[[Item], Any], actions: Sequence[Action[Item]]) -> list[str | None]:
    if _FOLDER.get() is None:
        return [None] * len(actions)
    maker = _maker(function)
    return [None if a.inputs is None else digest_of([maker, *a.inputs]) for a in actions]


def _recalled(
    keys: Sequence[str | None], actions: Sequence[Action[Any]], *, title: str, link: bool
) -> Iterator[tuple[int, Any]]:
    """Number and value of each action that is remembered."""
    folder = _FOLDER.get()
    if folder is not None:
        tasks = list(zip(keys, actions, strict=True))
        look = partial(_recall, folder, link=link)
        found = parallel_map(look, tasks, title=title, prefer="threads")
        yield from ((n, known[0]) for n, known in enumerate(found) if known)


def digest_of(parts: Iterable[str]) -> str:
    """SHA-256 (hex) of some texts in order; no two lists of texts are alike."""
    found = hashlib.sha256()
    for part in parts:
        data = part.encode()
        found.update(len(data).to_bytes(8, "big"))
        found.update(data)
    return found.hexdigest()


def _make(
    task: tuple[str | None, Action[Item]],
    *,
    function: Callable[[Item], Any],
    folder: Path | None,
) -> Any:
    """Do an action and remember what came of it, wherever this runs."""
    key, action = task
    value = function(action.item)
    if folder is not None and key is not None:
        with suppress(OSError):  # what cannot be remembered is made again
            _remember(folder, key, value, action.files)
    return value


def _remember(folder: Path, key: str, value: Any, files: Sequence[Path]) -> None:
    hashes = [digest(path) for path in files]
    for path, sha256 in zip(files, hashes, strict=True):
        place = _place(folder, "files", sha256)
        if not (place.is_file() and digest(place) == sha256):
            _link(path, place)
    document = json.dumps({"value": value, "files": hashes})
    write_bytes(_place(folder, "actions", key), document.encode())


def _recall(folder: Path, task: tuple[str | None, Action[Any]], *, link: bool) -> tuple[Any] | None:
    """The value of an action that is remembered, whose files are put in place; else None."""
    key, action = task
    if key is None:
        return None
    place = _place(folder, "actions", key)
    try:
        document = json.loads(place.read_bytes())
        value, hashes = document["value"], document["files"]
        if link:
            kept = [_place(folder, "files", sha256) for sha256 in hashes]
            if [digest(file) for file in kept] != hashes:
                return None
            for file, path in zip(kept, action.files, strict=True):
                _link(file, path)
        os.utime(place)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (value,)


def _place(folder: Path, kind: str, name: str) -> Path:
    return folder / kind / name[:2] / name


def _link(path: Path, target: Path) -> None:
    """Give a file a second name, or a copy where it can have one name only.

    A hard link remains the same file to those that know files by inode and time, as DVC does.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial_name = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        try:
            os.link(path, partial_name)
        except OSError:  # a file system without hard links, or another one
            shutil.copyfile(path, partial_name)
        os.replace(partial_name, target)
    finally:
        partial_name.unlink(missing_ok=True)


def _forget(folder: Path, most_bytes: int) -> None:
    """Remove what was used longest ago until the files take no more than `most_bytes`."""
    with suppress(OSError):  # somebody else tidies up too
        sizes = {p.name: p.stat().st_size for p in folder.glob("files/*/*") if p.name[0] != "."}
        excess = sum(sizes.values()) - most_bytes
        if excess <= 0:
            return
        newest = sorted(folder.glob("actions/*/*"), key=lambda p: -p.stat().st_mtime_ns)
        room = most_bytes
        for place in newest:
            with suppress(ValueError, KeyError):
                hashes = json.loads(place.read_bytes())["files"]
                room -= sum(sizes.pop(sha256, 0) for sha256 in hashes)
                if room < 0:
                    for sha256 in hashes:
                        _place(folder, "files", sha256).unlink(missing_ok=True)
                    place.unlink(missing_ok=True)
        for sha256 in sizes:  # which no action names
            _place(folder, "files", sha256).unlink(missing_ok=True)


def _maker(function: Callable[..., Any]) -> str:
    """Digest of what makes bytes, beside the inputs: code, libraries, kernels and Python."""
    while isinstance(function, partial):
        function = function.func
    return digest_of(
        [
            function.__qualname__,
            *(part for name, text in sorted(sources(function.__module__)) for part in (name, text)),
            *(f"{name} {number}" for name, number in installed().items()),
            *(f"{name} {os.environ.get(name)}" for name in sorted(KERNELS)),
            sys.version,
        ]
    )


def sources(module: str) -> Iterator[tuple[str, str]]:
    """Name and source of a module, and of all modules of this library that it imports, anywhere."""
    seen: set[str] = set()
    todo = [module]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        text, imported = _source(name)
        yield name, text
        todo += imported


@cache
def _source(module: str) -> tuple[str, tuple[str, ...]]:
    """A module's source, and which modules of this library it names."""
    file = getattr(sys.modules.get(module), "__file__", None) or _file(module)
    text = Path(file or "").read_text(encoding="utf-8")
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    parents = {name.rsplit(".", n)[0] for name in names for n in range(name.count(".") + 1)}
    ours = sorted(name for name in parents if name.split(".")[0] == "grocery" and _file(name))
    return text, tuple(ours)


def _file(module: str) -> str | None:
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:  # a class or a function of a module
        return None
    return spec.origin if spec else None


def values_of(parameters: Mapping[str, Any]) -> str:
    """Parameters as the text of an action's input."""
    return json.dumps(parameters, sort_keys=True)
