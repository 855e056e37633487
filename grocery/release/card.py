"""The model card: what a release is, what it was made from, and what it may be used for.

Mitchell et al., "Model cards for model reporting" (FAT* 2019).
"""

from __future__ import annotations

import html
import re
from typing import Any

import yaml

from grocery.settings import Params

_SECTIONS = ("data", "prepare", "featurize", "train", "register")


def model_card(
    params: Params,
    dataset: dict[str, Any],
    measured: dict[str, Any],
    verdict: dict[str, Any],
    digest: str,
) -> str:
    """The card as Markdown; a pure function of what the pipeline measured.

    Parameters
    ----------
    params
        All parameters; the sections that made the model are shown.
    dataset, measured, verdict
        The dataset card, the test metrics, and what `grocery.release.verdict.judge` said.
    digest
        The model's digest.
    """
    baseline = measured["baseline"]
    metrics = "\n".join(
        f"| {name} | {measured[name]:.3f} | {baseline[name]:.3f} |"
        for name in (
            "accuracy",
            "macro_f1",
            "top5_accuracy",
            "coarse_accuracy",
            "calibration_error",
        )
        if name in measured
    )
    checks = "\n".join(
        f"| {_plain(check['name'])} | {check['value']:.3f} | {check['side']} {check['limit']:g} "
        f"| {'passed' if check['passed'] else '**failed**'} |"
        for check in verdict["checks"]
    )
    everything = params.model_dump(by_alias=True)
    shown = yaml.safe_dump({name: everything[name] for name in _SECTIONS}, sort_keys=False)
    classes = ", ".join(_plain(name) for name in sorted(dataset["classes"]))
    return f"""# Grocery classifier: release candidate, {_word(verdict)}

| | |
|---|---|
| model | `{digest}` |
| dataset | `{dataset["digest"]}` ({params.data.source}) |
| algorithm | {params.train.algorithm}, {params.train.labeled_ratio:.0%} of the training labels |

## Test metrics

{measured["images"]} images that were used for nothing else. The baseline is the same classifier
fitted on the labelled images only.

| metric | model | labelled only |
|---|---|---|
{metrics}

## Verdict: {_word(verdict)}

| check | value | limit | |
|---|---|---|---|
{checks}

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
