"""Describe the dataset: its digest, counts and quality, for machines and for people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grocery.card.contact_sheet import choose, contact_sheet, thumbnails
from grocery.card.numbers import dataset_card, read_report, read_rows
from grocery.card.page import MOST_SUSPECTS, note, pictures_per_class, render
from grocery.card.suspects import find_suspects
from grocery.core.files import write_bytes, write_json
from grocery.core.params import VersionParams
from grocery.core.stage import Report, reads, writes
from grocery.shards import shard_paths


@dataclass(frozen=True)
class Paths:
    """What the stage reads and writes."""

    shards: Path = reads("data/prepared/shards")
    report: Path = reads("data/prepared/report.json")
    card: Path = writes("data/card")
    metrics: Path = writes("metrics/data.json")


def run(params: VersionParams, paths: Paths, report: Report) -> dict[str, Any]:
    """Write the dataset card as ``card.json``, ``index.html`` and ``contact-sheet.jpg``.

    Gives its key figures.
    """
    shards = shard_paths(paths.shards)
    prepared = read_report(paths.report)
    rows = read_rows(shards)
    suspects = find_suspects(
        shards,
        labelled=len(rows) - rows.column("label").null_count,
        neighbors=params.suspect_neighbors,
        agreement=params.suspect_agreement,
    )
    document = dataset_card(rows, prepared, suspects)
    classes = document["classes"]
    shown = choose(rows, pictures_per_class(len(classes), params.contact_sheet_images))
    doubtful = {i for s in suspects[:MOST_SUSPECTS] for i in (s.image_id, *s.witnesses)}
    pictures = thumbnails(shards, doubtful.union(*shown.values()))
    notes = {name: note(row) for name, row in classes.items()}

    write_json(paths.card / "card.json", document)
    write_bytes(paths.card / "index.html", render(document, shown, pictures))
    write_bytes(paths.card / "contact-sheet.jpg", contact_sheet(shown, notes, pictures))
    figures = {
        "images": document["images"],
        "classes": len(classes),
        "labeled": document["labeled"],
        "unlabeled": document["unlabeled"],
        "quarantined": len(document["quarantined"]),
        "duplicates": sum(len(entry["dropped"]) for entry in document["duplicates"]),
        "near_duplicates_across_splits": document["near_duplicates"]["across_splits"],
        "suspected_labels": len(suspects),
    }
    write_json(paths.metrics, figures)
    return figures | {"digest": document["digest"]}
