"""Judge the evaluated classifier, and package it as a self-contained release candidate.

Registering a version is not done here: that changes shared state, and a stage only makes bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from grocery.classifier.head import KIND as CLASSIFIER_KIND
from grocery.classifier.head import Head
from grocery.core.arrays import load_arrays
from grocery.core.errors import ModelError
from grocery.core.files import write_bytes, write_json
from grocery.core.params import RegisterParams
from grocery.core.stage import Report, reads, writes
from grocery.features.encoder import KIND as ENCODER_KIND
from grocery.features.encoder import Encoder
from grocery.images.preprocessing import Preprocessing
from grocery.reference.reference import Reference
from grocery.release.advice import advice
from grocery.release.card import model_card
from grocery.release.model import Model
from grocery.release.verdict import decide


@dataclass(frozen=True)
class Paths:
    """What the stage reads and writes; of the two metrics, `headline` is what is compared."""

    card: Path = reads("data/card")
    trained: Path = reads("metrics/train.json")
    measured: Path = reads("metrics/evaluate.json")
    evaluation: Path = reads("metrics/evaluation")
    encoder: Path = reads("models/encoder")
    classifier: Path = reads("models/classifier")
    reference: Path = reads("models/reference")
    release: Path = writes("models/release")
    metrics: Path = writes("metrics/register.json")
    headline: Path = writes("metrics/headline/register.json")


def run(params: RegisterParams, paths: Paths, report: Report) -> dict[str, Any]:
    """Write the release candidate with its verdict; a rejected one is written all the same.

    Everything that the release says of itself comes from what it was made of. Gives the metrics.
    """
    dataset = json.loads((paths.card / "card.json").read_bytes())
    trained, measured = (json.loads(p.read_bytes()) for p in (paths.trained, paths.measured))
    verdict = decide(params, measured, dataset, paths.evaluation / "per_class.csv")
    verdict["advice"] = advice(trained, measured, dataset, paths.evaluation, verdict["checks"])

    encoder_arrays, encoder = load_arrays(paths.encoder, ENCODER_KIND)
    head_arrays, classifier = load_arrays(paths.classifier, CLASSIFIER_KIND)
    reference = Reference.load(paths.reference)
    if reference.model_digest != classifier["sha256"]:
        raise ModelError(f"{paths.reference} was not made with {paths.classifier}; run evaluate")
    model = Model(
        Encoder.from_arrays(encoder_arrays, encoder["settings"], paths.encoder),
        Head.from_arrays(head_arrays, "head_"),
        classifier["classes"],
        classifier["coarse"],
        Preprocessing.of(encoder.get("preprocessing"), str(paths.encoder)),
    )
    made_with = {
        "data": {"source": dataset["source"]},
        "prepare": dataset["prepare"],
        "featurize": encoder["featurize"],
        "train": classifier["train"],
        "register": params.model_dump(),
    }
    model.save(paths.release)
    replace(reference, model_digest=model.digest).save(paths.release / "reference")
    write_json(paths.release / "verdict.json", verdict)
    text = model_card(
        made_with,
        dataset,
        measured,
        verdict,
        model.digest,
        networks=[network.settings() for network in model.encoder.backbones],
    )
    write_bytes(paths.release / "README.md", text.encode())
    result = {
        "accepted": verdict["accepted"],
        "checks_failed": sum(not check["passed"] for check in verdict["checks"]),
        "model_digest": model.digest,
        "dataset_digest": dataset["digest"],
    }
    write_json(paths.metrics, result)
    write_json(paths.headline, {"accepted": verdict["accepted"]})
    return result
