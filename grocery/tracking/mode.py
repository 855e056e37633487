"""Online, offline or disabled; decided without a question and without the network."""

from __future__ import annotations

import os
import socket
from typing import Literal
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from grocery.core.errors import ParamsError, TrackingError

Mode = Literal["online", "offline", "disabled"]

OFFLINE = "the run is kept offline, for `grocery sync`"

# Longest wait for the server to accept a connection, in seconds.
KNOCK = 5.0

# What WANDB_MODE may say; the last two are W&B's older names.
MODES: dict[str, Mode] = {
    "online": "online",
    "offline": "offline",
    "disabled": "disabled",
    "run": "online",
    "dryrun": "offline",
}


def requested_mode() -> Mode | None:
    """What WANDB_MODE asks for, if anything; a ParamsError when it is not one of `MODES`."""
    asked = os.environ.get("WANDB_MODE")
    if asked and asked not in MODES:
        raise ParamsError(f"WANDB_MODE is {asked!r}, but it should be one of {', '.join(MODES)}")
    return MODES[asked] if asked else None


def check_server(url: str, *, timeout: float) -> None:
    """Knock at the server's door, since W&B's own tries would take the whole of its time-out.

    A TrackingError says that nothing answers there. Behind a proxy, which would answer for the
    server, nothing is tried.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme in getproxies() and not proxy_bypass(host):
        return
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((host, port), timeout=timeout).close()
    except OSError as error:  # a TimeoutError is one
        server, reason = f"{parts.scheme}://{host}:{port}", error.strerror or str(error)
        raise TrackingError(f"{server} cannot be reached ({reason or 'timed out'})") from None


def choose_mode() -> tuple[Mode, str]:
    """The mode of a run, and why it is not online although online was meant (or "").

    WANDB_MODE decides if it is set, then what `wandb offline` or `wandb disabled` left in W&B's
    settings; else the mode is online if a key for the server is configured (WANDB_API_KEY, netrc or
    W&B's settings), and offline if none is.
    """
    import wandb

    asked = requested_mode()
    mode = asked or MODES.get(wandb.setup().settings.mode, "offline")
    if mode != "online":
        return mode, ""
    try:
        if wandb.login(prompt=False, verify=False):
            return "online", ""
    except wandb.Error as error:
        return "offline", str(error)
    return "offline", "no API key is configured" if asked else ""
