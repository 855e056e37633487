"""A release from the W&B registry: downloaded, and believed only if its bytes are what it says.

W&B's SDK writes each file below the folder that it is given, and a crafted list of files could name
others. So every name is looked at before anything is written. Nothing of what arrives is run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from concurrent.futures import wait
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

from grocery.contents import read_content
from grocery.core.errors import TrackingError
from grocery.core.files import leads_out, replacing
from grocery.settings import TrackingParams
from grocery.tracking.client import open_client
from grocery.tracking.mode import Result, started
from grocery.tracking.provenance import dvc_root
from grocery.tracking.remote import remote_objects
from grocery.tracking.session import contained, kill_service, one_line

_HASH = re.compile(r"[0-9a-f]{32}\.dir")
_OBJECT = "[0-9a-f]{2}/[0-9a-f]{30}"  # of the DVC remote, as this project refers to it


def download_release(settings: TrackingParams, name: str, target: Path, timeout: float) -> str:
    """Download a release from the W&B registry, and give DVC's hash of it, that of the bytes.

    Whether the version is the one that git means by the name, W&B cannot say: compare the hash.

    The `name` is a version or a stage, an alias in the registry. The folder `target` is replaced
    when all has arrived. `timeout` is the longest wait for an answer or for the next bytes, in
    seconds.

    Raises
    ------
    TrackingError
        When W&B cannot be reached or has no such version, and when its files would lie elsewhere,
        come from elsewhere, or are not what it says. `target` is left as it was.
    """
    if not settings.registry:
        raise TrackingError("there is no W&B registry: tracking.registry in params.yaml is empty")
    what = f"{settings.registry}:{name}"
    with (
        TemporaryDirectory(prefix="grocery-wandb-") as scratch,
        contained(Path(scratch)),
        open_client(timeout, settings.entity) as client,
    ):
        try:
            artifact = client.api.artifact(what)
            entries = within(timeout, lambda: artifact.manifest.entries)
        except Exception as error:
            raise TrackingError(f"W&B does not give {what}: {one_line(error)}") from error
        md5 = artifact.metadata.get("md5")
        if not (isinstance(md5, str) and _HASH.fullmatch(md5)):
            raise TrackingError(f"{what} does not say which release it is; refused")
        _check(entries, what)
        with replacing(target) as (folder,):
            for file in entries:
                _fetch(artifact.get_entry(file), folder, what, timeout)
            if read_content(folder).md5 != md5:
                raise TrackingError(f"{what} is not what it says: its files are not {md5}; refused")
    return md5


def _fetch(entry: Any, folder: Path, what: str, timeout: float) -> None:
    def arrived() -> int:
        try:
            return sum(file.stat().st_size for file in folder.rglob("*"))
        except FileNotFoundError:  # W&B has renamed it in this moment
            return -1

    try:
        within(timeout, lambda: entry.download(root=str(folder), skip_cache=True), arrived)
    except Exception as error:
        said = one_line(error)
        raise TrackingError(f"W&B does not give {entry.path} of {what}: {said}") from error


def _check(entries: Mapping[str, Any], what: str) -> None:
    """Refuse files that would be written, or read, where no release lies."""
    for name, entry in entries.items():
        if leads_out(name) or str(entry.path) != name:
            raise TrackingError(
                f"{what} holds the file name {name!r}, which leads out of it; refused"
            )
    references = {name: str(entry.ref) for name, entry in entries.items() if entry.ref is not None}
    objects = remote_objects(dvc_root()) if references else None
    for name, reference in references.items():
        if not (objects and re.fullmatch(f"{re.escape(objects)}/{_OBJECT}", reference)):
            raise TrackingError(
                f"{what} takes {name} from {reference!r}, which is not in the DVC remote of this "
                "project; refused"
            )


def within(
    seconds: float, work: Callable[[], Result], sign: Callable[[], object] = lambda: None
) -> Result:
    """Do what W&B's own code gives no bound for, and give up when nothing comes of it.

    It is done in another thread, which is left behind when it does not come to an end. `seconds` is
    the longest time for which a `sign` of life, such as a number of bytes, may stay the same.

    Raises
    ------
    TrackingError
        When nothing came of it in time. W&B's process is ended then.
    """
    result = started(work)
    last, since = sign(), monotonic()
    while not wait([result], min(0.5, seconds)).done:
        if (now := sign()) != last:
            last, since = now, monotonic()
        elif monotonic() - since > seconds:
            kill_service()
            raise TrackingError(f"no answer within {seconds:g} s")
    return result.result()
