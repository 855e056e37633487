"""Turn raw images into clean, de-duplicated, split shards, and incoming images into batches."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from grocery.compute import parallel_map
from grocery.data.build import Decoded, decode_shard, finish_shard, hash_files
from grocery.data.duplicates import Copies, exact_copies, near_duplicate_groups
from grocery.data.incoming import write_batch, write_drills
from grocery.data.raw import RawImage, Source
from grocery.data.shards import SPLITS, shard_name, shard_of
from grocery.data.sources import open_source
from grocery.data.splits import assign, check_labels, check_splits, leaks
from grocery.errors import DataError, one_sentence
from grocery.files import replacing, write_json
from grocery.params import PrepareParams, load

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
) -> dict[str, Any]:
    """Write the dataset's shards, the incoming batches, and a report of what was done to the data.

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

    Returns
    -------
    dict
        Counts of images, classes, and what was left out.
    """
    raw = open_source(source)
    files = raw.images()
    check_labels([file.label for file in files], [file.split for file in files])
    with replacing(shards) as folder, replacing(incoming) as batches:
        decoded = folder / "decoded"
        decoded.mkdir()
        copies = _without_copies(files, workers)
        found = _decode(copies, params, decoded, workers)
        _refuse_bad(copies, found.reasons, len(files), params.max_bad_ratio)

        readable = [group for group in copies if group.image_id in found.hashes]
        outcome = _split(readable, found.hashes, params)
        check_splits(
            sorted({file.label for file in files if file.label is not None}),
            [group.kept.label for group in outcome.kept],
            list(outcome.splits.values()),
            [group.kept.split for group in readable],
        )
        _finish(outcome.splits, params, decoded, folder, workers)
        shutil.rmtree(decoded)

        arrived = _write_incoming(raw, params, folder, batches, workers)
        document = _report(len(files), copies, found, outcome) | {"incoming": arrived}
        write_json(report, document)
    counts: dict[str, Any] = document["counts"]
    return counts


@dataclass(frozen=True)
class Outcome:
    """What was decided about the readable images.

    Attributes
    ----------
    kept
        Those that stay.
    splits
        Their splits by image id, in the same order.
    groups
        Near duplicates, before any was dropped.
    leaked
        Those dropped, each with the near duplicate in another split that stays.
    """

    kept: list[Copies]
    splits: dict[str, str]
    groups: list[list[Copies]]
    leaked: list[tuple[Copies, Copies, str]]


def _without_copies(files: Sequence[RawImage], workers: int) -> list[Copies]:
    """Hash all files and group them by content."""
    chunks = [files[start : start + _CHUNK] for start in range(0, len(files), _CHUNK)]
    hashed = parallel_map(hash_files, chunks, workers=workers, title="hash")
    return exact_copies(files, [image_id for chunk in hashed for image_id in chunk])


def _decode(copies: Sequence[Copies], params: PrepareParams, folder: Path, workers: int) -> Decoded:
    """Decode every image once, a shard a task."""
    members: list[list[Copies]] = [[] for _ in range(params.shards)]
    for group in copies:
        members[shard_of(group.image_id, params.shards)].append(group)
    tasks = [(shard_name(i, params.shards), members[i]) for i in range(params.shards)]
    work = partial(decode_shard, params=params, folder=folder)
    total = Decoded()
    for part in parallel_map(work, tasks, workers=workers, title="decode"):
        total.hashes.update(part.hashes)
        total.reasons.update(part.reasons)
    return total


def _quarantined(copies: Sequence[Copies], reasons: dict[str, str]) -> list[dict[str, str]]:
    """Path and reason of every unreadable file, copies included."""
    bad = [
        {"path": file.path, "reason": reasons[group.image_id]}
        for group in copies
        if group.image_id in reasons
        for file in group.files
    ]
    return sorted(bad, key=lambda entry: entry["path"])


def _refuse_bad(
    copies: Sequence[Copies], reasons: dict[str, str], files: int, max_bad_ratio: float
) -> None:
    """Stop when more files than allowed, or all, cannot be read."""
    bad = _quarantined(copies, reasons)
    if len(bad) < files and len(bad) <= max_bad_ratio * files:
        return
    named = "; ".join(f"{entry['path']} ({entry['reason']})" for entry in bad[:10])
    more = f"; and {len(bad) - 10} more" if len(bad) > 10 else ""
    limit = "" if len(bad) == files else f", more than prepare.max_bad_ratio {max_bad_ratio} allows"
    raise DataError(f"{len(bad)} of {files} files cannot be read{limit}: {named}{more}")


def _split(readable: Sequence[Copies], hashes: dict[str, str], params: PrepareParams) -> Outcome:
    """Find near duplicates, assign splits, and drop what would leak from one into another."""
    groups = near_duplicate_groups(
        [hashes[group.image_id] for group in readable], max_bits=params.near_duplicate_bits
    )
    splits = assign(
        [group.image_id for group in readable],
        [group.kept.label for group in readable],
        [group.kept.split for group in readable],
        groups,
        val_ratio=params.val_ratio,
        test_ratio=params.test_ratio,
    )
    dropped = leaks(splits, groups)
    kept = [i for i in range(len(readable)) if i not in dropped]
    return Outcome(
        kept=[readable[i] for i in kept],
        splits={readable[i].image_id: splits[i] for i in kept},
        groups=[[readable[i] for i in group] for group in groups],
        leaked=[(readable[i], readable[of], splits[of]) for i, of in sorted(dropped.items())],
    )


def _finish(
    splits: dict[str, str], params: PrepareParams, decoded: Path, folder: Path, workers: int
) -> None:
    """Write the shards with their splits; all of them, even if empty."""
    members: list[dict[str, str]] = [{} for _ in range(params.shards)]
    for image_id, split in splits.items():
        members[shard_of(image_id, params.shards)][image_id] = split
    tasks = [(shard_name(i, params.shards), members[i]) for i in range(params.shards)]
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


def _report(
    files: int, copies: Sequence[Copies], found: Decoded, outcome: Outcome
) -> dict[str, Any]:
    """Everything that was done to the data, by path."""
    quarantined = _quarantined(copies, found.reasons)
    duplicates = [
        {"kept": group.kept.path, "dropped": [file.path for file in group.dropped]}
        | ({"labels": group.labels} if len(group.labels) > 1 else {})
        for group in copies
        if group.dropped and group.image_id in found.hashes
    ]
    near = []
    for group in outcome.groups:
        labels = sorted({image.kept.label for image in group if image.kept.label is not None})
        conflict = {"labels": labels} if len(labels) > 1 else {}
        near.append({"paths": [image.kept.path for image in group]} | conflict)
    leaked = [
        {"path": image.kept.path, "reason": f"near duplicate of {of.kept.path} in {split}"}
        for image, of, split in outcome.leaked
    ]
    splits: dict[str, dict[str, Any]] = {}
    for split in SPLITS:
        labels = [
            group.kept.label for group in outcome.kept if outcome.splits[group.image_id] == split
        ]
        classes = Counter(label for label in labels if label is not None)
        splits[split] = {
            "images": len(labels),
            "unlabeled": labels.count(None),
            "classes": dict(sorted(classes.items())),
        }
    counts = {
        "files": files,
        "images": len(outcome.kept),
        "classes": len({group.kept.label for group in outcome.kept} - {None}),
        "unlabeled": sum(group.kept.label is None for group in outcome.kept),
        "quarantined": len(quarantined),
        "duplicates": sum(len(entry["dropped"]) for entry in duplicates),
        "label_conflicts": sum("labels" in entry for entry in [*duplicates, *near]),
        "near_duplicates": sum(len(entry["paths"]) for entry in near),
        "near_duplicate_groups": len(near),
        "leaked": len(leaked),
    } | {split: splits[split]["images"] for split in SPLITS}
    return {
        "counts": counts,
        "quarantined": quarantined,
        "duplicates": duplicates,
        "near_duplicates": near,
        "leaked": leaked,
        "splits": splits,
    }


def main() -> None:
    """Run the stage on the dataset that params.yaml names."""
    with one_sentence("prepare"):
        params = load()
        run(
            RAW / params.data.source,
            params.prepare,
            shards=SHARDS,
            incoming=INCOMING,
            report=REPORT,
            workers=params.compute.workers,
        )


if __name__ == "__main__":
    main()
