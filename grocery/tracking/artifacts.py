"""The pipeline's outputs as W&B artifacts: one artifact an output, found by DVC's own hash.

What an artifact holds depends on the content alone, so that whoever records it, the stage that made
it or one that reads it, W&B sees the same artifact and makes no second version.
"""

from __future__ import annotations

import tempfile
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from grocery.contents import Content
from grocery.core.errors import TrackingError
from grocery.tracking.remote import remote_objects

if TYPE_CHECKING:
    import wandb

Upload = Literal["metadata", "files", "reference"]


@dataclass(frozen=True)
class Output:
    """An output of the pipeline that is an artifact, with W&B's name and type of it."""

    path: str  # in dvc.yaml
    name: str
    type: str
    bulky: bool = False  # W&B gets a copy of the files only when `tracking.upload` says so


DATASET = Output("data/prepared/shards", "dataset", "dataset", bulky=True)
INCOMING = Output("data/prepared/incoming", "incoming", "dataset", bulky=True)
CARD = Output("data/card", "dataset-card", "dataset-card")
ENCODER = Output("models/encoder", "encoder", "encoder", bulky=True)  # the release holds it too
FEATURES = Output("data/features", "features", "features", bulky=True)
CLASSIFIER = Output("models/classifier", "classifier", "model")
REFERENCE = Output("models/reference", "reference", "evaluation")
EVALUATION = Output("metrics/evaluation", "evaluation", "evaluation")
RELEASE = Output("models/release", "release", "model")
MONITORING = Output("metrics/monitor", "monitoring", "report")

_DATA = (DATASET, INCOMING, CARD, FEATURES)
_MODELS = (ENCODER, CLASSIFIER, RELEASE)
_MEASURED = (REFERENCE, EVALUATION, MONITORING)
OUTPUTS = {output.path: output for output in (*_DATA, *_MODELS, *_MEASURED)}


def alias_of(md5: str) -> str:
    """Alias of the artifact of exactly this content, by the hash that stands in dvc.lock."""
    return f"md5-{md5}"


def listed(output: Output, md5: str, listing: bytes) -> wandb.Artifact:
    """An artifact that holds the list of the output's files and their hashes, and no file."""
    import wandb

    artifact = wandb.Artifact(output.name, output.type, metadata={"md5": md5})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "manifest.json"
        file.write_bytes(listing)
        artifact.add_file(str(file), skip_cache=True)  # W&B takes a copy
    return artifact


def described(
    output: Output,
    path: Path,
    content: Content,
    metadata: Mapping[str, Any],
    *,
    upload: Upload,
    root: Path,
    settled: bool = True,
) -> wandb.Artifact:
    """The artifact of an output that lies at `path` and holds `content`.

    `metadata` can be queried without a download; `md5`, `files` (a number) and `bytes` are added.

    What is to `upload`: ``metadata``, of bulky outputs the list of files, of others the files;
    ``files``, the files; ``reference``, where they are in the remote of the DVC repository `root`,
    or the list of files if it has none. Files that are not `settled`, which may change until the
    artifact is sent, are copied now.
    """
    import wandb

    total = {"files": len(content.files), "bytes": sum(content.sizes.values())}
    objects = remote_objects(root) if upload == "reference" else None
    artifact = wandb.Artifact(output.name, output.type)
    if objects is not None:
        for name, md5 in content.files.items():
            _refer(artifact, name, md5, content.sizes[name], objects)
    elif upload == "reference" or (output.bulky and upload == "metadata"):
        artifact = listed(output, content.md5, content.listing)
    else:
        policy: Literal["immutable", "mutable"] = "immutable" if settled else "mutable"
        for name in content.files:
            file = path / name if path.is_dir() else path
            artifact.add_file(str(file), name=name, skip_cache=True, policy=policy)
    artifact.metadata = {**metadata, **total, "md5": content.md5}
    return artifact


def copied(output: Output, note: Mapping[str, Any], folder: Path) -> wandb.Artifact:
    """The artifact that was made before, of the copies of its files that W&B keeps below `folder`.

    A TrackingError says that they are gone.
    """
    import wandb

    artifact = wandb.Artifact(output.name, output.type, metadata=note["metadata"])
    for name, copy in note["copies"].items():
        if not (folder / copy).is_file():
            raise TrackingError(f"{output.path} has changed since, and {name} of it is not kept")
        artifact.add_file(str(folder / copy), name=name, skip_cache=True, policy="immutable")
    if artifact.digest != note["digest"]:
        raise TrackingError(f"{output.path} has changed since, and its files are not kept")
    return artifact


def _refer(artifact: Any, name: str, md5: str, size: int, objects: str) -> None:
    """Refer to an object of the remote, which DVC may push later.

    `Artifact.add_reference` would look at a file or an object in S3, and fails while it is not
    there; at an address in the web it does not look. The digest is what W&B compares when it
    downloads: of a local file the MD5 in base 64, of an object in S3 the ETag, which is the MD5 in
    hex unless the object was sent in parts.
    """
    (entry,) = artifact.add_reference("https://later.invalid", name=name, checksum=False)
    local = objects.startswith("file:")
    entry.ref = f"{objects}/{md5[:2]}/{md5[2:]}"
    entry.digest = b64encode(bytes.fromhex(md5)).decode() if local else md5
    entry.size = size
    entry.extra = {} if local else {"etag": md5}
