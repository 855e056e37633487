"""What a prediction costs: seconds to the first image, milliseconds for each further one.

    python benchmarks/predict.py
    python benchmarks/predict.py photo1.jpg photo2.jpg --model models/release

Every figure is the median of real processes, from the start of Python to its exit; the commands
take turns, so that a busy machine slows them alike. Further images cost the difference between a
process that predicts all of them and one that predicts the first.

The peer is what a release usually is: the same features in front of scikit-learn's own
LogisticRegression, with the same coefficients, so its predictions must be the same too. The floor,
Python with numpy and Pillow and nothing done, is what no program that reads images can avoid.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import truediv
from pathlib import Path
from statistics import median

from grocery.core.errors import one_sentence
from grocery.shards import images_of, read_columns, shard_paths

SHARDS = Path("data/prepared/shards")

FLOOR = ["-c", "import numpy, PIL.Image"]
GROCERY = ["-m", "grocery.cli", "predict", "--model"]
SKLEARN = [
    "-c",
    """
import sys
import stages
import grocery
import numpy as np
from sklearn.linear_model import LogisticRegression
from grocery.images.decoding import pixels

model = grocery.load_model(sys.argv[1])
head = LogisticRegression()
head.classes_ = np.array(model.classes)
head.coef_ = model.head.coefficients / model.head.temperature
head.intercept_ = model.head.intercept / model.head.temperature
for path in sys.argv[2:]:
    features = model.encoder([pixels(model.prepare(path))])
    (row,) = head.predict_proba(features)
    row = (1 - model.head.smoothing) * row + model.head.smoothing / len(row)
    best = row.argmax()
    print(head.classes_[best], f"{row[best]:.3f}", path, sep="\\t", flush=True)
""",
]


@dataclass
class Command:
    """A command, and what its processes took."""

    name: str
    arguments: list[str]
    images: Sequence[str] = ()
    seconds: list[float] = field(default_factory=list)
    mebibytes: list[float] = field(default_factory=list)

    def run(self) -> str:
        """Run it once; keep its time and memory, and return what it printed."""
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *self.arguments, *self.images], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.seconds.append(time.perf_counter() - start)
        self.mebibytes.append(usage.ru_maxrss / 1024)
        if process.returncode:
            raise SystemExit(f"{self.name} exited {process.returncode}")
        return printed


def main() -> None:
    """Run every command in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("images", nargs="*", help="image files (default: prepared test images)")
    parser.add_argument("--model", default="models/release")
    parser.add_argument("--count", type=int, default=50, help="prepared test images to take")
    parser.add_argument("--rounds", type=int, default=9, help="processes of each command")
    arguments = parser.parse_args()
    with one_sentence("benchmark"), tempfile.TemporaryDirectory() as folder:
        images = arguments.images or prepared_images(Path(folder), arguments.count)
        if len(images) < 2:
            raise SystemExit("two images are needed, or more")
        measure(images, arguments.model, arguments.rounds)


def prepared_images(folder: Path, count: int) -> list[str]:
    """Cut test images from the prepared shards, those with the smallest hashes."""
    facts = read_columns(SHARDS, ["image_id", "split"]).to_pylist()
    chosen = sorted(row["image_id"] for row in facts if row["split"] == "test")[:count]
    for image_id, jpeg in images_of(shard_paths(SHARDS), set(chosen)).items():
        (folder / f"{image_id}.jpg").write_bytes(jpeg)
    return [str(folder / f"{image_id}.jpg") for image_id in chosen]


def measure(images: Sequence[str], model: str, rounds: int) -> None:
    """Run the commands in turns, compare what they say, and print the table."""
    floor = Command("Python, numpy, Pillow", FLOOR)
    ours, theirs = (
        [Command(name, [*arguments, model], some) for some in (images[:1], images)]
        for name, arguments in (("grocery predict", GROCERY), ("scikit-learn's head", SKLEARN))
    )
    for _ in range(rounds):
        floor.run()
        rows, lines = ([command.run() for command in pair][-1] for pair in (ours, theirs))
        labels = [line.split("\t")[0] for line in lines.splitlines()]
        for row, label in zip(rows.splitlines()[1:], labels, strict=True):
            if not row.startswith(f"{label} "):
                raise SystemExit(f"scikit-learn predicts {label}, and not {row}")
    print(f"| {'':<21} | first image, s | further image, ms | peak MiB, {len(images):>3} images |")
    print(f"|{'-' * 23}|---------------:|------------------:|---------------------:|")
    print(f"| {floor.name:<21} | {median(floor.seconds):14.2f} | {'':17} | {'':20} |")
    for pair in (theirs, ours):
        first, further, peak = figures(*pair)
        print(f"| {pair[0].name:<21} | {first:14.2f} | {further:17.1f} | {peak:20.0f} |")
    first, further, peak = map(truediv, figures(*theirs), figures(*ours))
    print(f"| {'ratio':<21} | {first:14.2f} | {further:17.2f} | {peak:20.2f} |")


def figures(one: Command, all_: Command) -> tuple[float, float, float]:
    """Seconds for the first image, milliseconds for each further one, and peak memory in MiB."""
    first = median(one.seconds)
    further = (median(all_.seconds) - first) / (len(all_.images) - 1)
    return first, 1000 * further, median(all_.mebibytes)


if __name__ == "__main__":
    main()
