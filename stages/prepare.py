"""Turn raw images into clean, de-duplicated, split shards, and incoming images into batches."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from grocery import action_cache
from grocery.action_cache import Action
from grocery.core.files import write_json
from grocery.core.params import PrepareParams
from grocery.core.stage import Report, reads, writes
from grocery.data.build import (
    Decoded,
    Finish,
    Shard,
    decode_shard,
    finish_shard,
    image_ids_of,
    preprocessing_of,
    shards_of,
    written_down,
)
from grocery.data.cleaning import clean, refuse_bad, summarise
from grocery.data.duplicates import exact_copies
from grocery.data.incoming import write_batch, write_drills
from grocery.data.sources import open_source
from grocery.data.splits import check_labels
from grocery.images.preprocessing import Preprocessing
from grocery.images.raw import Source
from grocery.parallel import parallel_map

_FEW = 2  # shards that are decoded before processes would have been started


@dataclass(frozen=True)
class Paths:
    """What the stage reads and writes."""

    chosen: Path = reads("data/source.txt")  # it is there when the raw data are
    raw: Path = reads("data/raw/${data.source}")
    shards: Path = writes("data/prepared/shards")
    incoming: Path = writes("data/prepared/incoming")
    report: Path = writes("data/prepared/report.json")


def run(params: PrepareParams, paths: Paths, report: Report) -> dict[str, Any]:
    """Write the dataset's shards, the incoming batches, and a report of what was done to the data.

    Gives the counts of images, classes, and what was left out.
    """
    source = open_source(paths.raw)
    images = source.images()
    check_labels([image.label for image in images], [image.split for image in images])
    scratch = paths.shards / "scratch"
    scratch.mkdir()
    files = written_down(images, scratch / "drawn")
    preprocessing = preprocessing_of(params)
    image_ids, unread = image_ids_of(files, preprocessing.file_limit)
    copies = exact_copies(files, image_ids)
    shards = shards_of([one for one in copies if one.image_id not in unread], params.shards)

    found = _decode(shards, preprocessing, scratch, link=False)
    found.reasons.update(unread)
    refuse_bad(copies, found, params.max_bad_ratio)
    outcome = clean(copies, found, params)
    _finish(shards, outcome.splits, preprocessing, scratch, paths.shards)
    shutil.rmtree(scratch)

    arrived = _write_incoming(source, params, paths.shards, paths.incoming)
    document = summarise(copies, found, outcome) | {
        "source": paths.raw.name,
        "prepare": params.model_dump(),
        "incoming": arrived,
        "left_out": [{"path": p, "reason": why} for p, why in sorted(source.left_out().items())],
    }
    write_json(paths.report, document)
    counts: dict[str, Any] = document["counts"]
    return counts


def _decode(
    shards: Sequence[Shard], preprocessing: Preprocessing, folder: Path, *, link: bool
) -> Decoded:
    """Decode the images of shards into a folder; what is known is put there only with `link`."""
    actions = [
        Action((shard, preprocessing, file), shard.facts(preprocessing), (file,))
        for shard in shards
        for file in [folder / shard.name]
    ]
    total = Decoded()
    for found in action_cache.do(decode_shard, actions, title="decode", link=link, few=_FEW):
        total.add(found)
    return total


def _finish(
    shards: Sequence[Shard],
    splits: Mapping[str, str],
    preprocessing: Preprocessing,
    decoded: Path,
    output: Path,
) -> None:
    """Write all shards with the splits of their images, even if they are empty."""
    actions = []
    for shard in shards:
        own = {g.image_id: splits[g.image_id] for g in shard.copies if g.image_id in splits}
        task = (decoded / shard.name, own, preprocessing, output / shard.name)
        inputs = [*shard.facts(preprocessing), *(f"{i} {split}" for i, split in own.items())]
        actions.append(Action(task, inputs, task[-1:]))

    def decode(tasks: Sequence[Finish]) -> None:
        absent = {file.name for file, *_ in tasks if not file.is_file()}
        wanted = [shard for shard in shards if shard.name in absent]
        _decode(wanted, preprocessing, decoded, link=True)

    action_cache.do(finish_shard, actions, title="write", prefer="threads", before=decode)


def _write_incoming(
    source: Source, params: PrepareParams, shards: Path, batches: Path
) -> dict[str, Any]:
    """Write the dataset's own batches or, if it has none, drills; say what is in them."""
    own = sorted(source.incoming().items())
    if not own:
        sizes = write_drills(shards, params=params, folder=batches)
        return {name: {"images": size, "quarantined": []} for name, size in sizes.items()}
    work = partial(write_batch, params=params, folder=batches)
    done = parallel_map(work, own, title="incoming")
    return {
        name: {"images": len(images), **said}
        for (name, images), said in zip(own, done, strict=True)
    }
