"""Turn raw images into clean, de-duplicated, split shards, and incoming images into batches."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from grocery.core.errors import one_sentence
from grocery.core.files import replacing, same_file, write_json
from grocery.core.params import PrepareParams
from grocery.data.build import Decoded, Held, decode_shard, finish_shard, hash_files, held
from grocery.data.cleaning import clean, refuse_bad, summarise
from grocery.data.duplicates import Copies, exact_copies
from grocery.data.incoming import write_batch, write_drills
from grocery.data.raw import RawImage, Source
from grocery.data.sources import open_source
from grocery.data.splits import check_labels
from grocery.fingerprints import Fingerprints
from grocery.parallel import engine, parallel_map
from grocery.reuse import Memory, maker, remembered_in
from grocery.settings import load
from grocery.shards import shard_name, shard_of
from grocery.tracking import artifacts
from grocery.tracking.run import stage_run

RAW = Path("data/raw")
SHARDS = Path("data/prepared/shards")
INCOMING = Path("data/prepared/incoming")
REPORT = Path("data/prepared/report.json")

_CHUNK = 256  # files a task when hashing
_FEW = 64  # images that are decoded in one process


def run(
    source: Path,
    params: PrepareParams,
    *,
    shards: Path,
    incoming: Path,
    report: Path,
    workers: int,
    memory: Memory | None = None,
    fingerprints: Fingerprints | None = None,
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
        Number of processes, see `grocery.parallel.parallel_map`.
    memory
        What is known of the shards that are there already; nothing by default.
    fingerprints
        What is known of the raw files; nothing by default.

    Returns
    -------
    dict
        Counts of images, classes, and what was left out.
    """
    memory, fingerprints = memory or Memory(), fingerprints or Fingerprints()
    decoding = maker([params.image_size, params.jpeg_quality, params.max_pixels])
    raw = open_source(source)
    files = raw.images()
    check_labels([file.label for file in files], [file.split for file in files])
    with replacing(shards) as folder, replacing(incoming) as batches:
        decoded = folder / "decoded"
        decoded.mkdir()
        copies = _without_copies(files, fingerprints, workers)
        earlier = _earlier(memory, decoding, shards, params, copies)
        found = _decode(copies, params, earlier, decoded, workers)
        refuse_bad(copies, found, params.max_bad_ratio)

        outcome = clean(copies, found, params)
        made = _finish(outcome.splits, params, earlier, decoded, folder, workers=workers)
        shutil.rmtree(decoded)

        arrived = _write_incoming(raw, params, folder, batches, workers)
        document = summarise(copies, found, outcome) | {"incoming": arrived}
        write_json(report, document)
    for name in made:
        memory.note(shards / name, decoding)
    memory.remember(decoding, found.reasons)
    memory.save()
    fingerprints.save()
    counts: dict[str, int] = document["counts"]
    return counts


def _without_copies(
    files: Sequence[RawImage], fingerprints: Fingerprints, workers: int
) -> list[Copies]:
    """Hash all files, but for those whose hash is known, and group them by content."""
    looked = [fingerprints.look(file.file) if file.file else (None, None) for file in files]
    fresh = [file for file, (_, known) in zip(files, looked, strict=True) if known is None]
    chunks = [fresh[start : start + _CHUNK] for start in range(0, len(fresh), _CHUNK)]
    hashed = parallel_map(hash_files, chunks, workers=workers, title="hash")
    fresh_ids = iter([image_id for chunk in hashed for image_id in chunk])
    image_ids = [known or next(fresh_ids) for _, known in looked]
    for file, (signs, _), image_id in zip(files, looked, image_ids, strict=True):
        if file.file:
            fingerprints.learn(file.file, signs, image_id)
    return exact_copies(files, image_ids)


@dataclass(frozen=True)
class _Earlier:
    """What need not be decoded again.

    Attributes
    ----------
    shards, held
        Earlier shards that were made in the same way, and what they hold, by name.
    reasons
        Why other images cannot be read, by image id.
    """

    shards: Mapping[str, Path]
    held: Mapping[str, Held]
    reasons: Mapping[str, str]

    def of(self, name: str) -> Path | None:
        """The earlier shard that holds just the images that it should hold now."""
        return self.shards[name] if name in self.held and self.held[name].same else None


def _earlier(
    memory: Memory, decoding: str, shards: Path, params: PrepareParams, copies: Sequence[Copies]
) -> _Earlier:
    known = {name: shards / name for name in _names(params) if memory.made(shards / name, decoding)}
    reasons = memory.notes(decoding)
    readable = _by_shard([group for group in copies if group.image_id not in reasons], params)
    return _Earlier(known, {n: held(readable[n], path) for n, path in known.items()}, reasons)


def _by_shard(copies: Sequence[Copies], params: PrepareParams) -> dict[str, list[Copies]]:
    """The images of each shard by its name; all names, in order."""
    names = _names(params)
    members: dict[str, list[Copies]] = {name: [] for name in names}
    for group in copies:
        members[names[shard_of(group.image_id, params.shards)]].append(group)
    return members


def _decode(
    copies: Sequence[Copies], params: PrepareParams, earlier: _Earlier, folder: Path, workers: int
) -> Decoded:
    """Decode every image once, a shard a task, but for those that are known from earlier."""
    total, tasks, fresh = Decoded(), [], 0
    for name, groups in _by_shard(copies, params).items():
        reasons = {g.image_id: why for g in groups if (why := earlier.reasons.get(g.image_id))}
        before = earlier.held[name].hashes if name in earlier.held else {}
        if earlier.of(name):
            total.hashes.update(before)
            total.reasons.update(reasons)
        else:
            tasks.append((name, groups, earlier.shards.get(name), reasons))
            fresh += sum(g.image_id not in before and g.image_id not in reasons for g in groups)
    work = partial(decode_shard, params=params, folder=folder)
    # Few images are decoded before processes would have been started.
    workers = workers if fresh >= _FEW else 1
    for part in parallel_map(work, tasks, workers=workers, title="decode"):
        total.hashes.update(part.hashes)
        total.reasons.update(part.reasons)
    return total


def _names(params: PrepareParams) -> list[str]:
    return [shard_name(i, params.shards) for i in range(params.shards)]


def _finish(
    splits: dict[str, str],
    params: PrepareParams,
    earlier: _Earlier,
    decoded: Path,
    folder: Path,
    *,
    workers: int,
) -> list[str]:
    """Write the shards with their splits, all of them, even if empty; name those that are new."""
    names = _names(params)
    members: dict[str, dict[str, str]] = {name: {} for name in names}
    for image_id, split in splits.items():
        members[names[shard_of(image_id, params.shards)]][image_id] = split
    tasks = []
    for name, own in members.items():
        before = earlier.of(name)
        if before and earlier.held[name].splits == own:
            same_file(before, folder / name)
        else:
            tasks.append((name, own, before))
    work = partial(finish_shard, decoded=decoded, output=folder)
    for _ in parallel_map(work, tasks, workers=workers, title="write", prefer="threads"):
        pass
    return [name for name, _, _ in tasks]


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
                fingerprints=Fingerprints(remembered_in("raw-files.parquet")),
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
