"""Make the README's pictures from the pipeline's outputs, as they stand in this checkout.

    pip install vl-convert-python
    python docs/pictures.py docs/pictures

DVC's own plots are rendered, so a picture shows exactly what ``dvc plots show`` does.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import vl_convert
from PIL import Image

PLOTS = {"Confusion matrix": "confusion-matrix", "Reliability diagram": "reliability"}
SHEETS = {
    "data/card/contact-sheet.jpg": "contact-sheet",
    "metrics/evaluation/worst.jpg": "mistakes",
}
WIDEST = 1200
ROW = 12


def main(target: Path) -> None:
    """Write all pictures to `target`."""
    target.mkdir(parents=True, exist_ok=True)
    for plot, name in PLOTS.items():
        command = ["dvc", "plots", "show", plot, "--show-vega"]
        vega = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        spec = json.loads(vega)
        classes = len({row["actual"] for row in spec["data"]["values"] if "actual" in row})
        side = max(300, ROW * classes)  # so that the names of many classes do not overlap
        sized = next(part for part in parts(spec) if "width" in part)
        sized.update(width=side, height=side)
        (target / f"{name}.png").write_bytes(vl_convert.vegalite_to_png(spec, scale=1))
    for sheet, name in SHEETS.items():
        with Image.open(sheet) as image:
            image.thumbnail((WIDEST, 4 * WIDEST))
            image.save(target / f"{name}.jpg", quality=80)


def parts(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A Vega-Lite specification and the views it is made of."""
    yield spec
    for inner in [*filter(None, [spec.get("spec")]), *spec.get("layer", [])]:
        yield from parts(inner)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
