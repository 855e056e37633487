"""W&B's client for what is said outside of a run; in the process that speaks with W&B."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from grocery.core.errors import TrackingError
from grocery.tracking.artifacts import alias_of
from grocery.tracking.mode import KNOCK, check_server
from grocery.tracking.process import NotNow
from grocery.tracking.sdk import one_line, set_up

if TYPE_CHECKING:
    import wandb


@dataclass(frozen=True)
class Client:
    """W&B's client, which has found its server."""

    api: wandb.Api  # each question and change waits for an answer no longer than was asked
    url: str  # of the server
    entity: str  # who asks


def open_client(timeout: float, entity: str = "") -> Client:
    """W&B's client.

    `timeout` is the longest wait for one answer, in seconds; `entity` who asks, empty for the
    account's default. WANDB_ENTITY wins. No key, or no such server, is a NotNow.
    """
    import wandb

    os.environ["WANDB_MODE"] = "online"  # to send is to be online, whatever was set before
    try:
        url = set_up(mode="online").base_url
        if not wandb.login(prompt=False, verify=False):
            raise NotNow("no W&B key is configured: `wandb login`, or set WANDB_API_KEY")
        check_server(url, timeout=min(timeout, KNOCK))
        named = os.environ.get("WANDB_ENTITY") or entity
        api = wandb.Api({"entity": named} if named else None, timeout=ceil(timeout))
        if not (known := named or api.default_entity):
            raise NotNow(f"W&B at {url} knows no such user")
    except TrackingError as error:
        raise NotNow(str(error)) from error
    except Exception as error:
        raise NotNow(f"W&B cannot be asked: {one_line(error)}") from error
    return Client(api, url, known)


def record(artifact: wandb.Artifact, md5: str, *, entity: str, project: str, root: Path) -> None:
    """Record an artifact that no tracked stage has, by a run named ``sync`` that reads it."""
    import wandb

    recorder = wandb.init(
        entity=entity, project=project, name="sync", job_type="sync", dir=str(root)
    )
    try:
        recorder.use_artifact(artifact, aliases=[alias_of(md5)])
    except BaseException:  # not a `with` block: it would print the traceback
        with suppress(Exception):
            recorder.finish(exit_code=1)
        raise
    recorder.finish()


def raise_refusals(refusals: Sequence[str]) -> None:
    """Raise a TrackingError with the first of them, if there are any."""
    if refusals:
        more = f" (and {len(refusals) - 1} more)" if len(refusals) > 1 else ""
        raise TrackingError(refusals[0] + more)
