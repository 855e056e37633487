"""The model card: what a release is, what it was made from, and what it may be used for.

Mitchell et al., "Model cards for model reporting" (FAT* 2019).
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml


def model_card(
    params: Mapping[str, Any],
    dataset: dict[str, Any],
    measured: dict[str, Any],
    verdict: dict[str, Any],
    digest: str,
    *,
    networks: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The card as Markdown; a pure function of what the pipeline measured.

    Parameters
    ----------
    params
        The sections of params.yaml that made the model, `train` among them.
    dataset, measured, verdict
        The dataset card, the test metrics, and what `grocery.release.verdict.decide` said, with
        the ``advice`` of `grocery.release.advice.advice`.
    digest
        The model's.
    networks
        The settings of the pretrained networks in its encoder, see `Backbone.settings`.
    """
    baseline = measured["baseline"]
    names = "accuracy macro_f1 top5_accuracy coarse_accuracy calibration_error"
    metrics = "\n".join(
        f"| {name} | {measured[name]:.3f} | {baseline[name]:.3f} |"
        for name in names.split()
        if name in measured
    )
    checks = "\n".join(
        f"| {_plain(check['name'])} | {check['value']:.3f} | {check['side']} {check['limit']:g} "
        f"| {'passed' if check['passed'] else '**failed**'} |"
        for check in verdict["checks"]
    )
    low, high = measured["accuracy_interval"]
    advised = (
        "\n".join(f"- {_plain(sentence)}" for sentence in verdict["advice"])
        or "Nothing stands out."
    )
    shown = yaml.safe_dump(dict(params), sort_keys=False)
    train = params["train"]
    pretrained = "".join(
        f"- Pretrained network {_plain(network.get('origin', 'of unknown origin'))}; "
        f"licence {_plain(network.get('licence', 'not said'))}; ONNX `{network['sha256']}`\n"
        for network in networks
    )
    classes = ", ".join(_plain(name) for name in sorted(dataset["classes"]))
    return f"""# Grocery classifier: release candidate, {_word(verdict)}

- Model `{digest}`
- Dataset {_plain(dataset["source"])}, `{dataset["digest"]}`
- Algorithm {train["algorithm"]}, with {100 * train["labeled_ratio"]:g} % of the training labels
{pretrained}
## Test metrics

{measured["images"]} images that were used for nothing else: accuracy lies between {low:.3f} and
{high:.3f} (95 % confidence). The baseline is the same classifier
fitted on the labelled images only.

| metric | model | labelled only |
|---|---|---|
{metrics}

## Verdict: {_word(verdict)}

| check | value | limit | |
|---|---|---|---|
{checks}

## What to do next

{advised}

## Intended use

Naming the product on a photograph of one kind of grocery, for the {len(dataset["classes"])} classes
below. It knows no other product: an unknown one gets the name of the class it looks most like, so
act on the confidence, and watch the monitor. It has not been measured on other cameras, stores or
packagings than those of the dataset. It is not meant for decisions about food safety or allergies.

Classes: {classes}.

## Parameters

```yaml
{shown}```
"""


def _plain(text: str) -> str:
    """Keep a name from the data from being read as HTML or Markdown, and on its line."""
    line = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*|\[\]])", r"\\\1", line)


def _word(verdict: dict[str, Any]) -> str:
    return "accepted" if verdict["accepted"] else "rejected"
