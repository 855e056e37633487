"""Describe the dataset: its digest, counts and quality, for machines and for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grocery.card.contact_sheet import choose, contact_sheet, thumbnails
from grocery.card.numbers import dataset_card, read_report, read_rows
from grocery.card.page import MOST_SUSPECTS, pictures_a_class, render
from grocery.card.suspects import find_suspects
from grocery.contents import read_content
from grocery.core.errors import DataError, one_sentence
from grocery.core.files import replacing, write_bytes, write_json
from grocery.core.params import VersionParams
from grocery.dataset_diff import diff_rows, rows_at
from grocery.parallel import engine
from grocery.reuse import Memory
from grocery.settings import load
from grocery.shards import shard_paths
from grocery.tracking import artifacts
from grocery.tracking.provenance import git
from grocery.tracking.run import stage_run

SHARDS = Path("data/prepared/shards")
REPORT = Path("data/prepared/report.json")
CARD = Path("data/card")
METRICS = Path("metrics/data.json")


def run(
    params: VersionParams,
    *,
    near_duplicate_bits: int,
    shards: Path,
    report: Path,
    card: Path,
    metrics: Path,
    workers: int,
    memory: Memory | None = None,
) -> dict[str, Any]:
    """Write the dataset card as ``card.json``, ``index.html`` and ``contact-sheet.jpg``.

    Parameters
    ----------
    params
        The parameters of this stage.
    near_duplicate_bits
        What prepare calls a near duplicate; here it is checked that none spans splits.
    shards, report
        Folder of the prepared shards, and prepare's report.
    card, metrics
        Folder of the card, and JSON file of its key figures; replaced when all went well.
    workers
        Number of processes, see `grocery.parallel.parallel_map`.
    memory
        What was found in parts of the dataset that have not changed; nothing by default.

    Returns
    -------
    dict
        The key figures.
    """
    paths = shard_paths(shards)
    found = read_report(report)
    rows = read_rows(paths, workers=workers)
    suspects = find_suspects(
        paths,
        labelled=len(rows) - rows.column("label").null_count,
        neighbors=params.suspect_neighbors,
        agreement=params.suspect_agreement,
        workers=workers,
        memory=memory,
    )
    document = dataset_card(rows, found, suspects, near_duplicate_bits=near_duplicate_bits)

    classes = document["classes"]
    shown = choose(rows, pictures_a_class(len(classes), params.contact_sheet_images))
    doubtful = {i for s in suspects[:MOST_SUSPECTS] for i in (s.image_id, *s.witnesses)}
    pictures = thumbnails(paths, doubtful.union(*shown.values()))
    notes = {name: _note(row) for name, row in classes.items()}
    with replacing(card) as folder:
        write_json(folder / "card.json", document)
        write_bytes(folder / "index.html", render(document, shown, pictures))
        write_bytes(folder / "contact-sheet.jpg", contact_sheet(shown, notes, pictures))

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
    write_json(metrics, figures)
    return figures | {"digest": document["digest"]}


def _note(row: dict[str, Any]) -> str:
    """The line below a class's name on the contact sheet."""
    total = f"{row['train'] + row['val'] + row['test']:,} images"
    return f"{row['coarse']}, {total}" if row["coarse"] else total


def main() -> None:
    """Run the stage on the paths of dvc.yaml."""
    with one_sentence("version"):
        params = load()
        with (
            stage_run(
                "version",
                settings=params.tracking,
                config={
                    "version": params.version.model_dump(),
                    "prepare": params.prepare.model_dump(),
                },
                inputs={artifacts.DATASET: SHARDS},
                tags=[params.data.source],
            ) as tracked,
            engine(params.compute.backend, params.compute.address),
        ):
            tracked.summary(lambda: {"changes": changes_since("HEAD")})
            result = run(
                params.version,
                near_duplicate_bits=params.prepare.near_duplicate_bits,
                shards=SHARDS,
                report=REPORT,
                card=CARD,
                metrics=METRICS,
                workers=params.compute.workers,
                memory=Memory.of_stage("version"),
            )
            tracked.summary(result)
            tracked.html("dataset card", CARD / "index.html")
            sheet = (CARD / "contact-sheet.jpg").read_bytes()
            tracked.images("contact sheet", [(sheet, "contact sheet")])
            tracked.artifact(artifacts.CARD, CARD, result)


def changes_since(revision: str) -> dict[str, int]:
    """Number of changes of each kind since a commit; empty where it holds no dataset to read."""
    try:
        now = rows_at(None)
        if read_content(SHARDS).md5 in git("show", f"{revision}:./dvc.lock"):
            return diff_rows(now, now).counts()  # to read the revision takes a second
        return diff_rows(rows_at(revision), now).counts()
    except (DataError, OSError):  # without shards the stage itself says so
        return {}


if __name__ == "__main__":
    main()
