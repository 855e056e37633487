"""Draw DVC's plots and the sheets of pictures from the outputs in this checkout, without a network.

    pip install vl-convert-python
    python docs/pictures.py docs/pictures

DVC's own plots are rendered, so a picture shows exactly what ``dvc plots show`` does.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

import vl_convert
from PIL import Image

PLOTS = {
    "Confusion matrix": "confusion-matrix",
    "Reliability diagram": "reliability",
    "Recall of each class": "recall",
}
SHEETS = {
    "data/card/contact-sheet.jpg": "contact-sheet",
    "metrics/evaluation/worst.jpg": "mistakes",
}
WIDEST = 1200


def main() -> None:
    """Write all pictures to a folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    target = parser.parse_args().folder
    target.mkdir(parents=True, exist_ok=True)
    for plot, name in PLOTS.items():
        command = ["dvc", "plots", "show", plot, "--show-vega"]
        vega = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        (target / f"{name}.png").write_bytes(vl_convert.vegalite_to_png(vega, scale=1))
    for sheet, name in SHEETS.items():
        with Image.open(sheet) as image:
            image.thumbnail((WIDEST, 4 * WIDEST))
            image.save(target / f"{name}.jpg", quality=80)


if __name__ == "__main__":
    main()
