"""Judge the evaluated classifier, and package it as a self-contained release candidate.

Registering a version is not done here: that changes shared state, and a stage only makes bytes.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from grocery.classifier.head import KIND as CLASSIFIER_KIND
from grocery.classifier.head import Head
from grocery.core.arrays import load_arrays
from grocery.core.errors import ModelError, one_sentence
from grocery.core.files import replacing, write_bytes, write_json, write_metrics
from grocery.evaluation.reference import Reference
from grocery.features.backbone import BACKBONE
from grocery.features.encoder import KIND as ENCODER_KIND
from grocery.features.encoder import Encoder
from grocery.images.preprocessing import Preprocessing
from grocery.release.card import model_card
from grocery.release.model import Model
from grocery.release.verdict import judge
from grocery.settings import Params, load
from grocery.tracking import artifacts
from grocery.tracking.run import stage_run

CARD = Path("data/card/card.json")
EVALUATION = Path("metrics/evaluate.json")
PER_CLASS = Path("metrics/evaluation/per_class.csv")
ENCODER = Path("models/encoder")
CLASSIFIER = Path("models/classifier")
REFERENCE = Path("models/reference")
RELEASE = Path("models/release")
METRICS = Path("metrics/register.json")

HEADLINE = ("accepted",)  # the columns of `dvc exp show`


def run(
    params: Params,
    *,
    card: Path,
    evaluation: Path,
    per_class: Path,
    encoder: Path,
    classifier: Path,
    reference: Path,
    release: Path,
    metrics: Path,
) -> dict[str, Any]:
    """Write the release candidate with its verdict; a rejected one is written all the same."""
    dataset = json.loads(card.read_bytes())
    measured = json.loads(evaluation.read_bytes())
    verdict = judge(params.register_, measured, dataset, per_class)

    encoder_arrays, settings = load_arrays(encoder, ENCODER_KIND)
    head_arrays, description = load_arrays(classifier, CLASSIFIER_KIND)
    statistics = Reference.load(reference)
    if statistics.model_digest != description["sha256"]:
        raise ModelError(f"{reference} was not made with {classifier}; run evaluate again")
    how = params.prepare
    model = Model(
        Encoder.from_arrays(encoder_arrays, settings, encoder / BACKBONE),
        Head.from_arrays(head_arrays, "head_"),
        description["classes"],
        description["coarse"],
        Preprocessing(how.image_size, how.jpeg_quality, how.max_pixels),
    )

    with replacing(release) as folder:
        model.save(folder)
        replace(statistics, model_digest=model.digest).save(folder / "reference")
        write_json(folder / "verdict.json", verdict)
        text = model_card(params, dataset, measured, verdict, model.digest)
        write_bytes(folder / "README.md", text.encode())
        result = {
            "accepted": verdict["accepted"],
            "checks_failed": sum(not check["passed"] for check in verdict["checks"]),
            "model_digest": model.digest,
            "dataset_digest": dataset["digest"],
        }
        write_metrics(metrics, result, HEADLINE)  # last: a failure replaces nothing
    return result


def main() -> None:
    """Run the stage on the paths of dvc.yaml."""
    with one_sentence("register"):
        params = load()
        with stage_run(
            "register",
            settings=params.tracking,
            config={"register": params.register_.model_dump()},
            inputs={
                artifacts.CARD: CARD.parent,
                artifacts.EVALUATION: PER_CLASS.parent,
                artifacts.ENCODER: ENCODER,
                artifacts.CLASSIFIER: CLASSIFIER,
                artifacts.REFERENCE: REFERENCE,
            },
            tags=[params.data.source],
        ) as tracked:
            result = run(
                params,
                card=CARD,
                evaluation=EVALUATION,
                per_class=PER_CLASS,
                encoder=ENCODER,
                classifier=CLASSIFIER,
                reference=REFERENCE,
                release=RELEASE,
                metrics=METRICS,
            )
            tracked.summary(result)
            verdict = json.loads((RELEASE / "verdict.json").read_bytes())
            columns = ["name", "value", "side", "limit", "passed"]
            rows = [[check[column] for column in columns] for check in verdict["checks"]]
            tracked.table("verdict", columns, rows)
            measured = json.loads(EVALUATION.read_bytes())
            tracked.artifact(artifacts.RELEASE, RELEASE, measured | result)
            if result["accepted"]:
                tracked.link(artifacts.RELEASE, RELEASE, alias="candidate")


if __name__ == "__main__":
    main()
