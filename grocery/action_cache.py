"""The action cache: a stage makes again only what would come out otherwise.

An action is a function, an item, and what decides what comes out: the item's content and the
parameters, the code of the function and of all our modules that it imports, the libraries, and the
numeric kernels. All that is hashed to a key, under which the value that the function gave and the
files that it wrote are remembered:

    actions/ab/KEY     JSON: the value, the SHA-256 of each file, and that of all this
    files/cd/SHA-256   the file, a hard link of the one in the output until DVC copies that

A file is read before it is given out again, so one that was damaged, or changed by hand in the
output that it is linked to, is made again. What is remembered appears whole or not at all, and
belongs to nobody, so experiments that run at once share it. It is no output: it lies in DVC's own
folder for what is never shared, may be removed at any time, and without it the bytes are the same.
Whatever is wrong with it costs time only: no stage fails for it.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Generic, Literal

from grocery.core.files import digest, write_bytes
from grocery.core.libraries import installed
from grocery.core.pin import KERNELS
from grocery.core.threads import thread_map
from grocery.parallel import Item, parallel_map

# Bytes that are remembered; what was used longest ago is forgotten first.
MOST_BYTES = 8 * 2**30

BEGUN = time.time_ns()  # the code in memory is no newer
_SOURCE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Action(Generic[Item]):
    """One piece of work, such as a shard, that writes `files`.

    The texts of `inputs` decide, with the code, what comes out: digests of contents, and
    parameters. None is for what is not to be remembered.
    """

    item: Item
    inputs: Sequence[str] | None
    files: tuple[Path, ...] = ()


_Task = tuple[str | None, Action[Any]]  # and its key

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
    before: Callable[[Sequence[Item]], None] = lambda items: None,
) -> list[Any]:
    """Do the actions, but for those whose outcome is remembered, and give their values in order.

    Parameters
    ----------
    function
        A module-level function, or a `functools.partial` of one: an item to a value (JSON). It
        writes the files of its action. What a partial adds belongs to the actions' inputs.
    title, prefer
        See `grocery.parallel.parallel_map`.
    link
        False where the values alone are wanted: the files of what is remembered are not put there.
    few
        So few actions are done in this process, before others would have been started.
    before
        Is called with the items of the actions that are not remembered, before they are done.
    """
    tasks = _tasks(function, actions)
    values = _recalled(tasks, link=link)
    fresh = [n for n in range(len(tasks)) if n not in values]
    before([actions[n].item for n in fresh])
    made = parallel_map(
        partial(_make, function=function, folder=_FOLDER.get(), begun=BEGUN),
        [tasks[n] for n in fresh],
        title=title,
        prefer=prefer,
        workers=1 if len(fresh) <= few else None,
    )
    values.update(zip(fresh, made, strict=True))
    return [values[n] for n in range(len(tasks))]


def _tasks(function: Callable[[Item], Any], actions: Sequence[Action[Item]]) -> list[_Task]:
    """The actions, each with its key, or None where nothing is to be remembered."""
    maker = _maker(function, BEGUN) if _FOLDER.get() else None
    return [
        (None if maker is None or a.inputs is None else digest_of_texts([maker, *a.inputs]), a)
        for a in actions
    ]


def _recalled(tasks: Sequence[_Task], *, link: bool) -> dict[int, Any]:
    """Value of each action that is remembered, by number."""
    folder = _FOLDER.get()
    if folder is None:
        return {}
    look = partial(_recall, folder, link=link)
    with thread_map() as in_threads:  # here: the files lie here, whoever works
        found = in_threads(look, tasks)
    return {n: known[0] for n, known in enumerate(found) if known}


def digest_of_texts(parts: Iterable[str]) -> str:
    """SHA-256 (hex) of some texts in order; no two lists of texts are alike."""
    found = hashlib.sha256()
    for part in parts:
        data = part.encode(errors="surrogatepass")  # a path need not be UTF-8
        found.update(len(data).to_bytes(8, "big"))
        found.update(data)
    return found.hexdigest()


def _make(task: _Task, *, function: Callable[[Any], Any], folder: Path | None, begun: int) -> Any:
    """Do an action and remember what came of it, wherever this runs."""
    key, action = task
    for path in action.files:  # half a recall may have left somebody's file here: never write to it
        path.unlink(missing_ok=True)
    value = json.loads(json.dumps(function(action.item)))  # as it will be recalled
    # A worker may have imported code that was changed after the key was made.
    if folder is not None and key is not None and _code(function, begun) is not None:
        with suppress(OSError):  # what cannot be remembered is made again
            _remember(folder, key, value, action.files)
    return value


def _remember(folder: Path, key: str, value: Any, files: Sequence[Path]) -> None:
    hashes = [digest(path) for path in files]
    for path, sha256 in zip(files, hashes, strict=True):
        place = _place(folder, "files", sha256)
        if not (place.is_file() and digest(place) == sha256):
            _link(path, place)
    document = {"value": value, "files": hashes, "seal": _seal(key, value, hashes)}
    write_bytes(_place(folder, "actions", key), json.dumps(document).encode())


def _recall(folder: Path, task: _Task, *, link: bool) -> tuple[Any] | None:
    """The value of an action that is remembered, whose files are put in place; else None."""
    key, action = task
    if key is None:
        return None
    place = _place(folder, "actions", key)
    try:
        document = json.loads(place.read_bytes())
        value, hashes = document["value"], document["files"]
        if document["seal"] != _seal(key, value, hashes):
            return None
        with suppress(OSError):  # it may be somebody else's
            os.utime(place)
        if link:
            kept = [_place(folder, "files", sha256) for sha256 in hashes]
            if [digest(file) for file in kept] != hashes:
                return None
            for file, path in zip(kept, action.files, strict=True):
                _link(file, path)
    except Exception:  # whatever it is, the action can be done
        return None
    return (value,)


def _seal(key: str, value: Any, hashes: Sequence[str]) -> str:
    return digest_of_texts([key, json.dumps(value), *hashes])


def _place(folder: Path, kind: str, name: str) -> Path:
    return folder / kind / name[:2] / name


def _link(path: Path, target: Path) -> None:
    """Put the same file in a place, whole."""
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
    """Remove what was used longest ago until the rest takes no more than `most_bytes`.

    What no action names goes first, such as what a killed process has left.
    """
    with suppress(Exception):  # somebody else tidies up too; the next stage tries again
        found = {path: path.stat() for path in folder.glob("*/*/*")}
        room = most_bytes
        if sum(stat.st_size for stat in found.values()) <= room:
            return
        kept: set[Path] = set()
        actions = [path for path in found if path.parts[-3] == "actions"]
        for place in sorted(actions, key=lambda path: -found[path].st_mtime_ns):
            wanted = {place}
            with suppress(Exception):  # damaged
                hashes = json.loads(place.read_bytes())["files"]
                wanted |= {_place(folder, "files", sha256) for sha256 in hashes} & found.keys()
            room -= sum(found[path].st_size for path in wanted - kept)
            if room < 0:
                break
            kept |= wanted
        for path in found.keys() - kept:
            path.unlink(missing_ok=True)


def _maker(function: Callable[..., Any], begun: int) -> str | None:
    """Digest of what makes bytes, beside the inputs: code, libraries, kernels and Python."""
    code = _code(function, begun)
    if code is None:
        return None
    wished = (f"{name} {os.environ.get(name)}" for name in sorted(KERNELS))
    return digest_of_texts([*code, repr(machine()), *wished])


def _code(function: Callable[..., Any], begun: int) -> list[str] | None:
    """The function's name, and names and texts of the modules that it is made of.

    None when they cannot be read or have changed since `begun`, in nanoseconds since 1970: what is
    in memory, here or in a worker, may be something else.
    """
    while isinstance(function, partial):
        function = function.func
    parts = [function.__qualname__]
    try:
        for name, file in sorted(sources(function.__module__).items()):
            parts += [name, file.read_text(encoding="utf-8")]
            if file.stat().st_ctime_ns > begun:
                return None
    except (OSError, SyntaxError, ValueError):
        return None
    return parts


def sources(module: str) -> dict[str, Path]:
    """Files by name of a module and of all modules of this library that it imports, anywhere."""
    found: dict[str, Path] = {}
    todo = [module]
    while todo:
        name = todo.pop()
        if name not in found:
            found[name] = _file(name)
            todo += _imports(found[name])
    return found


@cache
def _imports(file: Path) -> list[str]:
    """Which modules of this library a module names."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    parents = {name.rsplit(".", n)[0] for name in names for n in range(name.count(".") + 1)}
    return sorted(n for n in parents if n.split(".")[0] == "grocery" and _file(n).is_file())


def _file(module: str) -> Path:
    """Where a module's source lies; no file when it is none, but a name in a module."""
    loaded = getattr(sys.modules.get(module), "__file__", None)
    place = _SOURCE.joinpath(*module.split("."))
    package = place / "__init__.py"
    return Path(loaded) if loaded else package if package.is_file() else Path(f"{place}.py")


def machine() -> dict[str, str]:
    """What decides bytes beside code and inputs, by a name that people understand.

    The kernels are asked of the libraries themselves: the environment says what somebody wished
    for, and a library that was loaded before the wish was made does not know of it.
    """
    import numpy as np
    import pyarrow as pa
    from PIL import features
    from threadpoolctl import threadpool_info

    simd = np.show_config(mode="dicts")["SIMD Extensions"]  # those in use, not those at its build
    # numpy's and scipy's; FAISS brings one too, which no work that is shared out uses.
    blas = {
        f"{pool.get('architecture')} in {pool['num_threads']} thread(s)"
        for pool in threadpool_info()
        if pool["user_api"] == "blas" and "faiss" not in pool["filepath"]
    }
    return {
        "Python": platform.python_version(),
        **installed(),
        "numpy's kernels": " ".join(simd.get("baseline", []) + simd.get("found", [])),
        "the BLAS": ", ".join(sorted(blas)),
        "Arrow's kernels": pa.runtime_info().simd_level,
        "the C library": " ".join(platform.libc_ver()),
        "Pillow's JPEG library": features.version("libjpeg_turbo") or features.version("jpg") or "",
    }


def values_of(parameters: Mapping[str, Any]) -> str:
    """Parameters as the text of an action's input."""
    return json.dumps(parameters, sort_keys=True)
