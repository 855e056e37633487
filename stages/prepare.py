"""Turn raw images into clean, de-duplicated, split shards, and incoming images into batches."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from grocery.compute import engine, parallel_map
from grocery.data.build import Decoded, decode_shard, finish_shard, hash_files
from grocery.data.cleaning import clean, refuse_bad, summarise
from grocery.data.duplicates import Copies, exact_copies
from grocery.data.incoming import write_batch, write_drills
from grocery.data.raw import RawImage, Source
from grocery.data.shards import shard_name, shard_of
from grocery.data.sources import open_source
from grocery.data.splits import check_labels
from grocery.errors import one_sentence
from grocery.files import replacing, write_json
from grocery.params import PrepareParams, load
from grocery.reuse import Memory, maker
from grocery.tracking import artifacts
from grocery.tracking.run import stage_run

RAW = Path("data/raw")
SHARDS = Path("data/prepared/shards")
INCOMING = Path("data/prepared/incoming")
REPORT = Path("data/prepared/report.json")

_CHUNK = 256  # files a task when hashing


def run(
    source: Path,
    params: PrepareParams,
    *,
    shards: Path,
    incoming: Path,
    report: Path,
    workers: int,
    memory: Memory | None = None,
) -> dict[str, int]:
    """Write the dataset's shards, the incoming batches, and a report of what was done to the data.

    An image that an earlier shard holds, made in the same way, is not decoded again (see
    `grocery.reuse`).

    Parameters
    ----------
    source
        Folder of the raw dataset.
    params
        The parameters of this stage.
    shards, incoming, report
        Folder of the shards, folder of the batches, and JSON file; replaced when all went well.
    workers
        Number of processes, see `grocery.compute.parallel_map`.
    memory
        What is known of the shards that are there already; nothing by default.

    Returns
    -------
    dict
        Counts of images, classes, and what was left out.
    """
    memory = memory or Memory()
    decoding = maker([params.image_size, params.jpeg_quality, params.max_pixels])
    raw = open_source(source)
    files = raw.images()
    check_labels([file.label for file in files], [file.split for file in files])
    with replacing(shards) as folder, replacing(incoming) as batches:
        decoded = folder / "decoded"
        decoded.mkdir()
        copies = _without_copies(files, workers)
        earlier = _earlier(memory, decoding, shards, params)
        found = _decode(copies, params, earlier, decoded, workers)
        refuse_bad(copies, found, params.max_bad_ratio)

        outcome = clean(copies, found, params)
        kept = {name: earlier.shards[name] for name in found.as_before}
        _finish(outcome.splits, params, kept, decoded, folder, workers=workers)
        shutil.rmtree(decoded)

        arrived = _write_incoming(raw, params, folder, batches, workers)
        document = summarise(copies, found, outcome) | {"incoming": arrived}
        write_json(report, document)
    for name in _names(params):
        memory.note(shards / name, decoding)
    memory.remember(decoding, found.reasons)
    memory.save()
    counts: dict[str, int] = document["counts"]
    return counts


def _without_copies(files: Sequence[RawImage], workers: int) -> list[Copies]:
    """Hash all files and group them by content."""
    chunks = [files[start : start + _CHUNK] for start in range(0, len(files), _CHUNK)]
    hashed = parallel_map(hash_files, chunks, workers=workers, title="hash")
    return exact_copies(files, [image_id for chunk in hashed for image_id in chunk])


@dataclass(frozen=True)
class _Earlier:
    """What need not be decoded again: shards by name, and why other images cannot be read."""

    shards: Mapping[str, Path]
    reasons: Mapping[str, str]


def _earlier(memory: Memory, decoding: str, shards: Path, params: PrepareParams) -> _Earlier:
    paths = {name: shards / name for name in _names(params)}
    known = {name: path for name, path in paths.items() if memory.made(path, decoding)}
    return _Earlier(known, memory.notes(decoding))


def _decode(
    copies: Sequence[Copies], params: PrepareParams, earlier: _Earlier, folder: Path, workers: int
) -> Decoded:
    """Decode every image once, a shard a task, but for those that are known from earlier."""
    members: list[list[Copies]] = [[] for _ in range(params.shards)]
    for group in copies:
        members[shard_of(group.image_id, params.shards)].append(group)
    tasks = [
        (
            name,
            groups,
            earlier.shards.get(name),
            {g.image_id: why for g in groups if (why := earlier.reasons.get(g.image_id))},
        )
        for name, groups in zip(_names(params), members, strict=True)
    ]
    work = partial(decode_shard, params=params, folder=folder)
    total = Decoded()
    for part in parallel_map(work, tasks, workers=workers, title="decode"):
        total.hashes.update(part.hashes)
        total.reasons.update(part.reasons)
        total.as_before.update(part.as_before)
    return total


def _names(params: PrepareParams) -> list[str]:
    return [shard_name(i, params.shards) for i in range(params.shards)]


def _finish(
    splits: dict[str, str],
    params: PrepareParams,
    kept: Mapping[str, Path],
    decoded: Path,
    folder: Path,
    *,
    workers: int,
) -> None:
    """Write the shards with their splits; all of them, even if empty."""
    members: list[dict[str, str]] = [{} for _ in range(params.shards)]
    for image_id, split in splits.items():
        members[shard_of(image_id, params.shards)][image_id] = split
    tasks = [
        (name, splits, kept.get(name)) for name, splits in zip(_names(params), members, strict=True)
    ]
    work = partial(finish_shard, decoded=decoded, output=folder)
    for _ in parallel_map(work, tasks, workers=workers, title="write"):
        pass


def _write_incoming(
    raw: Source, params: PrepareParams, shards: Path, batches: Path, workers: int
) -> dict[str, Any]:
    """Write the dataset's own batches or, if it has none, drills; say what is in them."""
    own = sorted(raw.incoming().items())
    if not own:
        sizes = write_drills(shards, params=params, folder=batches)
        return {name: {"images": size, "quarantined": []} for name, size in sizes.items()}
    work = partial(write_batch, params=params, folder=batches)
    bad = parallel_map(work, own, workers=workers, title="incoming")
    return {
        name: {"images": len(images), "quarantined": quarantined}
        for (name, images), quarantined in zip(own, bad, strict=True)
    }


def main() -> None:
    """Run the stage on the dataset that params.yaml names."""
    with one_sentence("prepare"):
        params = load()
        source = RAW / params.data.source
        with (
            stage_run(
                "prepare",
                settings=params.tracking,
                config={"data": params.data.model_dump(), "prepare": params.prepare.model_dump()},
                inputs={"raw": source},
                tags=[params.data.source],
            ) as tracked,
            engine(params.compute.backend, params.compute.address),
        ):
            counts = run(
                source,
                params.prepare,
                shards=SHARDS,
                incoming=INCOMING,
                report=REPORT,
                workers=params.compute.workers,
                memory=Memory.of_stage("prepare"),
            )
            tracked.summary(counts)
            document = json.loads(REPORT.read_bytes())
            rows = [[entry["path"], entry["reason"]] for entry in document["quarantined"]]
            tracked.table("quarantine", ["path", "reason"], rows)
            settings = {"source": params.data.source} | params.prepare.model_dump()
            tracked.artifact(artifacts.DATASET, SHARDS, settings | counts)
            batches = {name: batch["images"] for name, batch in document["incoming"].items()}
            tracked.artifact(artifacts.INCOMING, INCOMING, {"batches": batches})


if __name__ == "__main__":
    main()
