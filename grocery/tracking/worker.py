"""The process that speaks with W&B: ``python -m grocery.tracking.worker``.

``track RUN [MODE SECONDS]`` makes the W&B run of an outbox from what the stage says, while it says
it; the exit code is 0 when all of it is where it should be. ``call MODULE:FUNCTION`` gives what a
generator function yields. See `grocery.tracking.process`, which starts it. It ends when the other
side is gone.
"""

from __future__ import annotations

import faulthandler
import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from time import monotonic, sleep
from typing import Any, cast

from grocery.core.errors import GroceryError
from grocery.tracking.arrived import missing
from grocery.tracking.mode import KNOCK, OFFLINE, Mode, check_server, choose_mode, requested_mode
from grocery.tracking.outbox import Outbox, decode
from grocery.tracking.sdk import begin, one_line, set_up
from grocery.tracking.verbs import NotStored, OpenRun, perform

# Variables that stand in the line that opens a run.
SAID = ("WANDB_PROJECT", "WANDB_TAGS", "WANDB_RUN_GROUP", "WANDB_NAME", "WANDB_JOB_TYPE")


def main() -> None:
    """Do what the command line says; the other side of the line is standard input."""
    role, what, *forced = sys.argv[1:]
    line = socket.socket(fileno=0)
    if role == "call":
        for message in call(what, json.loads(line.makefile("rb").readline())):
            line.sendall(json.dumps(message).encode() + b"\n")
        os._exit(0)  # W&B would wait for what is still to be sent
    outbox = Outbox(Path(what))
    try:
        track(outbox, line, *forced)
    except Exception as error:
        outbox.notes.add({"failed": one_line(error)})
        os._exit(1)


def call(name: str, arguments: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What a function yields, and how it ends."""
    module, _, function = name.partition(":")
    try:
        for said in getattr(import_module(module), function)(**arguments):
            yield said if isinstance(said, dict) and "within" in said else {"said": said}
        yield {"end": True}
    except Exception as error:
        text = str(error) if isinstance(error, GroceryError) else one_line(error)
        yield {"error": text, "kind": type(error).__name__}


def track(outbox: Outbox, line: socket.socket, forced: str = "", seconds: str = "") -> None:
    """Make a run from what its outbox says, and what is still said."""
    opening = outbox.run()
    timeout = float(seconds or opening["timeout"])
    mode = _mode(outbox, opening, line, forced, timeout)
    if mode == "disabled":
        outbox.notes.add({"disabled": True})
        return
    run = begin(outbox, opening, mode)
    on = OpenRun(outbox, run, None)
    code = None
    for number, message in enumerate(follow(outbox.said.path, line)):
        if message.get("do") == "end":
            code = message["code"]
        else:
            perform(on, number, message)
    if code is None:  # the stage was killed, and nobody else bounds what follows
        faulthandler.dump_traceback_later(timeout, exit=True)
    on.stored()
    outbox.notes.add({"made": "steps", "last": on.last_step, "summary": sorted(on.figures)})
    run.finish(exit_code=1 if code is None else code)
    if mode == "online":
        end = monotonic() + timeout / 2
        while (lacks := missing(on.api, outbox)) and not on.failed and monotonic() < end:
            sleep(0.5)  # servers may take a moment to show what they have taken in
        if lacks:
            why = f" ({'; '.join(on.warned)})" if on.warned else ""
            raise NotStored(f"W&B has not taken in {', '.join(lacks)}{why}")
        outbox.notes.add({"arrived": True})
        if code is None and not outbox.pending():
            outbox.discard()
        os._exit(0)  # the server has all, so W&B has nothing left to do


def _mode(
    outbox: Outbox, opening: dict[str, Any], line: socket.socket, forced: str, timeout: float
) -> Mode:
    """Start W&B, and decide; a run that is made again is told its mode."""
    requested_mode()  # a wrong one would make W&B's own settings fail, in many words
    for name in SAID:  # W&B would take them as they are, also where it allows no such value
        os.environ.pop(name, None)
    wanted: dict[str, Any] = {"init_timeout": timeout, "finish_timeout": timeout}
    if opening["sweep"]:  # W&B takes a sweep's run from here, not from its init()
        wanted |= {**opening["sweep"], "project": opening["project"]}
        wanted |= {"entity": opening["entity"]} if opening["entity"] else {}
    settings = set_up(**wanted, stop_fn=lambda: line.send(b"stop"))
    mode, reason = (cast("Mode", forced), "") if forced else choose_mode()
    if reason:
        outbox.notes.add({"warn": f"{reason}; {OFFLINE}"})
    if mode == "online":
        check_server(settings.base_url, timeout=min(KNOCK, timeout))
    return mode


def follow(path: Path, line: socket.socket) -> Iterator[dict[str, Any]]:
    """What was said and what is said from now on, until the end or the other side is gone."""
    more = True
    with path.open("rb") as stream:
        while True:
            place = stream.tell()
            text = stream.readline()
            if text.endswith(b"\n"):
                message = decode(text)
                yield message
                if message.get("do") == "end":
                    return
                continue
            stream.seek(place)
            if not more:
                return
            more = bool(line.recv(1 << 16))


if __name__ == "__main__":
    main()
