"""A release from the W&B registry: downloaded, and believed only if its bytes are what it says.

W&B's SDK writes each file below the folder that it is given, and a crafted list of files could name
others. So every name is looked at before anything is written. Nothing of what arrives is run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from typing import Any

from grocery.contents import read_content
from grocery.core.errors import TrackingError
from grocery.core.files import leads_out, replacing
from grocery.settings import TrackingParams
from grocery.tracking.client import open_client
from grocery.tracking.process import apart
from grocery.tracking.provenance import dvc_root
from grocery.tracking.remote import remote_objects
from grocery.tracking.sdk import one_line

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
    with TemporaryDirectory(prefix="grocery-wandb-") as scratch:
        got = Path(scratch) / "got"
        got.mkdir()

        def arrived() -> int:
            try:
                return sum(file.stat().st_size for file in got.rglob("*"))
            except FileNotFoundError:  # W&B has renamed it in this moment
                return -1

        (md5,) = apart(
            f"{__name__}:fetch",
            Path(scratch),
            3 * timeout,
            sign=arrived,
            **{"what": what, "entity": settings.entity, "folder": str(got), "timeout": timeout},
        )
        if read_content(got).md5 != md5:
            raise TrackingError(f"{what} is not what it says: its files are not {md5}; refused")
        with replacing(target) as (folder,):
            copytree(got, folder, dirs_exist_ok=True)
    return str(md5)


def fetch(what: str, entity: str, folder: str, timeout: float) -> Iterator[str]:
    """Download an artifact into a folder, and give DVC's hash of it, as it says itself.

    In the process that speaks with W&B.
    """
    client = open_client(timeout, entity)
    try:
        artifact = client.api.artifact(what)
        entries = artifact.manifest.entries
    except Exception as error:
        raise TrackingError(f"W&B does not give {what}: {one_line(error)}") from error
    md5 = artifact.metadata.get("md5")
    if not (isinstance(md5, str) and _HASH.fullmatch(md5)):
        raise TrackingError(f"{what} does not say which release it is; refused")
    _check(entries, what)
    for name in entries:
        try:
            artifact.get_entry(name).download(root=folder, skip_cache=True)
        except Exception as error:
            raise TrackingError(f"W&B does not give {name} of {what}: {one_line(error)}") from error
    yield md5


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
