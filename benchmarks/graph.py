"""The similarity graph and label spreading against scikit-learn, and how they grow.

    python benchmarks/graph.py --points 25000 100000 1000000

It needs FAISS: `make extras` installs it.

The points are a mixture of Gaussians on the unit sphere in 64 dimensions, 81 classes of three
clusters each; 3 % are labelled. Up to `--peer-points` points, scikit-learn's
LabelSpreading(kernel="knn") learns from the same points; the two take turns, each time in a new
process, and the medians are compared. Seconds are those of the fit, imports and reading left out;
memory is the peak resident set of the process.

Both sides join 10 neighbours (scikit-learn counts the point itself, so it is given 11) and spread
with scikit-learn's defaults: alpha 0.2, at most 30 iterations, and a tolerance of 0.001, which
scikit-learn takes of the sum over all points and ours of the mean; both converge before the 30.
They differ in what they are: scikit-learn's edges all weigh the same and go one way, and its
neighbours are exact; ours weigh the cosine similarity to the third power and go both ways.
scikit-learn runs with the kernels and threads of its choice, ours with the pinned ones.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import runpy
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

# As grocery/core/pin.py sets them; importing it here would set them for scikit-learn as well.
KERNELS = runpy.run_path(str(Path(__file__).parents[1] / "grocery" / "core" / "pin.py"))["KERNELS"]

DIMENSIONS, CLASSES, CLUSTERS = 64, 81, 3
LABELED = 0.03
NEIGHBORS, ALPHA, ITERATIONS = 10, 0.2, 30
TOLERANCE = 1e-3  # of the mean over the points; scikit-learn's is of the sum
SAMPLE = 1000  # points whose neighbours are also searched exactly


def main() -> None:
    """Measure and print a table, or be one of the measured processes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--points", type=int, nargs="+", default=[25_000, 100_000, 1_000_000])
    parser.add_argument("--runs", type=int, default=5, help="fits a side where there are two")
    parser.add_argument("--peer-points", type=int, default=25_000)
    parser.add_argument("--noise", type=float, default=0.16, help="spread of a cluster")
    parser.add_argument("--measure", choices=sorted(FITS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measured(FITS[arguments.measure], arguments.folder)))
        return
    if not importlib.util.find_spec("faiss"):
        raise SystemExit("this benchmark needs FAISS: make extras")
    print("| points | fit by | seconds | accuracy | recall of neighbours | peak GiB | ratio |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for count in arguments.points:
        with tempfile.TemporaryDirectory() as folder:
            draw(Path(folder), count, arguments.noise)
            compare(Path(folder), count, arguments.runs, peer=count <= arguments.peer_points)


def draw(folder: Path, count: int, noise: float) -> None:
    """Write points (n, 64), their classes (n,) and which labels are known (n,)."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CLASSES * CLUSTERS, DIMENSIONS))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    cluster = rng.integers(len(centres), size=count)
    points = rng.standard_normal((count, DIMENSIONS), dtype=np.float32)
    points = points * np.float32(noise) + centres.astype(np.float32)[cluster]
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    np.save(folder / "points.npy", points)
    np.save(folder / "classes.npy", cluster % CLASSES)
    np.save(folder / "known.npy", rng.random(count) < LABELED)


def compare(folder: Path, count: int, runs: int, *, peer: bool) -> None:
    """Print the rows of one number of points."""
    sides = ["scikit-learn", "grocery"] if peer else ["grocery"]
    results: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(runs if peer else 1):
        for side in sides:
            results[side].append(in_a_process(side, folder))
    recall = in_a_process("recall", folder)["result"]
    seconds = {side: median(run["seconds"] for run in results[side]) for side in sides}
    for side in sides:
        accuracy = results[side][0]["result"]
        peak = max(run["peak"] for run in results[side])
        of_neighbours = f"{recall:.4f}" if side == "grocery" else "1"
        ratio = f"{seconds['scikit-learn'] / seconds[side]:.1f}" if peer else ""
        print(
            f"| {count:,} | {side} | {seconds[side]:.2f} | {accuracy:.4f} | {of_neighbours} "
            f"| {peak:.2f} | {ratio} |",
            flush=True,
        )


def in_a_process(name: str, folder: Path) -> dict[str, float]:
    """Measure by itself, so that kernels, threads and peak memory are its own."""
    command = [sys.executable, __file__, "--measure", name, "--folder", str(folder)]
    environment = dict(os.environ) if name == "scikit-learn" else os.environ | KERNELS
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def measured(fit: Callable[..., Any], folder: Path) -> dict[str, float]:
    """Seconds and peak memory in GiB of a fit, and the result that it returns."""
    points, classes, known = (np.load(folder / f"{n}.npy") for n in ("points", "classes", "known"))
    prepared = fit(points, np.where(known, classes, -1))
    start = time.perf_counter()
    found = prepared()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    result = found if isinstance(found, float) else float((found == classes)[~known].mean())
    return {"seconds": seconds, "peak": peak, "result": result}


def by_scikit_learn(points: NDArray[Any], labels: NDArray[Any]) -> Callable[[], NDArray[Any]]:
    """LabelSpreading on unweighted neighbours."""
    from sklearn.semi_supervised import LabelSpreading

    warnings.simplefilter("ignore")  # that it stops at max_iter
    model = LabelSpreading(
        kernel="knn", n_neighbors=NEIGHBORS + 1, alpha=ALPHA, max_iter=ITERATIONS, n_jobs=-1
    )

    def fit() -> NDArray[Any]:
        found: NDArray[Any] = model.fit(points, labels).transduction_
        return found

    return fit


def by_grocery(points: NDArray[Any], labels: NDArray[Any]) -> Callable[[], NDArray[Any]]:
    """Our graph and label spreading."""
    import faiss  # noqa: F401  (the search imports it when it needs it: not part of the fit)

    from grocery.semi_supervised.label_propagation import LabelSpreading

    model = LabelSpreading(
        n_neighbors=NEIGHBORS, alpha=ALPHA, class_balance=False, max_iter=ITERATIONS, tol=TOLERANCE
    )

    def fit() -> NDArray[Any]:
        seeds = np.zeros((len(labels), CLASSES), np.float32)
        seeds[labels >= 0, labels[labels >= 0]] = 1
        for _, distributions in model.walk(model.graph(points), seeds):
            last = distributions
        found: NDArray[Any] = last.argmax(axis=1)
        return found

    return fit


def recall_of_neighbours(points: NDArray[Any], labels: NDArray[Any]) -> Callable[[], float]:
    """Share of the exact neighbours of a sample of points that the graph's search finds."""
    from grocery.semi_supervised.graph import nearest

    def fit() -> float:
        sample = np.random.default_rng(1).choice(len(points), SAMPLE, replace=False)
        found, _ = nearest(points, n_neighbors=NEIGHBORS)
        exact, _ = nearest(points[sample], points, n_neighbors=NEIGHBORS + 1, search="exact")
        others = np.array([row[row != i][:NEIGHBORS] for row, i in zip(exact, sample, strict=True)])
        return float((found[sample][:, :, None] == others[:, None, :]).any(axis=1).mean())

    return fit


FITS: dict[str, Callable[..., Any]] = {
    "scikit-learn": by_scikit_learn,
    "grocery": by_grocery,
    "recall": recall_of_neighbours,
}

if __name__ == "__main__":
    main()
