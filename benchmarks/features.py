"""Fisher features in images a second against scikit-image and a plain prototype, and their memory.

    python benchmarks/features.py
    python benchmarks/features.py --cores 2 --rounds 3

Every figure is the median of real processes that take turns, so that a busy machine slows them
alike. The clock runs while `parallel_map` shares out shards of JPEG bytes, as in the pipeline;
imports, the start of the workers and the fit of the vocabularies are left out. Processor time tells
whether the cores were busy with something else: without, a core does 1000 / it images a second.
Memory (MiB) is the peak resident set of the largest worker. A worker has one thread; ours has the
pinned kernels, the peers have those of their choice.

- scikit-image: SIFT at its defaults, then `fisher_vector` with 128 components, which make its
  vector as long as ours is by default. The project does not need it: `pip install scikit-image`.
- plain prototype: our Fisher vector, with our vocabulary, in the numpy and scikit-learn that one
  would write first (below). That the vectors are the same is checked before anything is measured.
- grocery: our descriptor, with the settings of params.yaml.
- grocery, whole step: `encode_shard`, which is the descriptor, PCA and the file of features. The
  matrix of the PCA is random and has the pipeline's size, since a real one takes thousands of
  images to fit; neither speed nor memory depends on its values.

The images are 224 x 224: prepared ones where the checkout has enough, else drawn by the recipe.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from grocery.core.arrays import load_arrays, save_arrays
from grocery.core.errors import one_sentence
from grocery.core.pin import KERNELS
from grocery.features.encoder import KIND, Encoder
from grocery.features.fisher import FisherVector, Grid
from grocery.features.fit_encoder import encode_shard, fit_encoder, fit_sample
from grocery.features.projection import Projection
from grocery.images.decoding import canonical, pixels
from grocery.parallel import parallel_map
from grocery.settings import Params, load
from grocery.shards import IMAGE_SCHEMA, read_table, shard_name, shard_paths, write_table
from grocery.synthetic.source import SyntheticSource, draw

PREPARED, RECIPE = Path("data/prepared/shards"), Path("data/raw/synthetic")
SIZE, IMAGES = 224, 1000
HOW_PREPARED = {"image_size": SIZE, "jpeg_quality": 92, "max_pixels": 50_000_000}
SMALL, MEDIUM, LARGE = 8, 100, 500  # images a shard
FITTED_ON, SIFT_FITTED_ON = 200, 60  # images: enough for a vocabulary, whose fit is not measured
SIFT_COMPONENTS = 128
ALIKE = 0.999  # cosine; rounding may turn a window whose two directions are equally bright

SKIMAGE, PROTOTYPE, GROCERY = "scikit-image", "plain prototype", "grocery"
WHOLE_STEP = "grocery, whole step"
PEERS = (SKIMAGE, PROTOTYPE)
# Images that keep one core busy for some seconds.
SIDES = {SKIMAGE: 3 * SMALL, PROTOTYPE: 8 * SMALL, GROCERY: 25 * SMALL, WHOLE_STEP: 25 * SMALL}

Pixels = NDArray[np.uint8]
Doubles = NDArray[np.float64]
Descriptor = Callable[[Pixels], NDArray[Any]]
Task = Callable[[Path], None]


@dataclass
class Row:
    """A line of a table: a side, what it is given, and what was measured.

    Attributes
    ----------
    speeds
        Images a second of each process, by the clock on the wall.
    milliseconds
        Processor time an image.
    mebibytes
        Peak resident set of the largest worker.
    """

    side: str
    cores: int
    images: int
    shard: int = SMALL
    speeds: list[float] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    mebibytes: list[float] = field(default_factory=list)

    def run(self, folder: Path) -> None:
        """Measure once, by itself, so that kernels, threads and peak memory are its own."""
        kernels = KERNELS
        if self.side in PEERS:
            kernels = {key: n for key, n in KERNELS.items() if key.endswith("_NUM_THREADS")}
            kernels |= {"GROCERY_KERNELS": "native"}
        free = {key: value for key, value in os.environ.items() if key not in KERNELS}
        numbers = [str(number) for number in (self.cores, self.images, self.shard)]
        command = [sys.executable, __file__, "--measure", self.side, str(folder), *numbers]
        done = subprocess.run(
            command, check=False, stdout=subprocess.PIPE, text=True, env=free | kernels
        )
        if done.returncode:
            raise SystemExit(f"{self.side} exited {done.returncode}")
        seconds, busy, mebibytes = json.loads(done.stdout)
        self.speeds.append(self.images / seconds)
        self.milliseconds.append(1000 * busy / self.images)
        self.mebibytes.append(mebibytes)


def main() -> None:
    """Measure and print two tables, or be one of the measured processes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2], choices=[1, 2, 3, 4])
    parser.add_argument("--rounds", type=int, default=5, help="processes of each row")
    parser.add_argument("--measure", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with one_sentence("benchmark"), tempfile.TemporaryDirectory() as name:
        if arguments.measure:
            side, folder, *numbers = arguments.measure
            print(json.dumps(measured(side, Path(folder), *map(int, numbers))))
        else:
            compare(Path(name), arguments.cores, arguments.rounds)


def compare(folder: Path, cores: Sequence[int], rounds: int) -> None:
    """Run every row in turns, and print both tables."""
    prepare(folder, load())
    sides = [side for side in SIDES if side != SKIMAGE or importlib.util.find_spec("skimage")]
    speeds = [Row(side, count, SIDES[side] * count) for count in cores for side in sides]
    sizes = ((200, MEDIUM), (IMAGES, MEDIUM), (IMAGES, LARGE))
    memories = [Row(WHOLE_STEP, 2, images, shard) for images, shard in sizes]
    for _ in range(rounds):
        for row in (*speeds, *memories):
            row.run(folder)
    print(
        f"\n| features by | cores | images/s at {SIZE} px | grocery / it | CPU ms an image | MiB |"
    )
    print("|---|---:|---:|---:|---:|---:|")
    ours = {row.cores: median(row.speeds) for row in speeds if row.side == GROCERY}
    for row in speeds:
        speed, cpu, peak = map(median, (row.speeds, row.milliseconds, row.mebibytes))
        ratio = f"{ours[row.cores] / speed:.1f}" if row.side in PEERS else ""
        print(f"| {row.side} | {row.cores} | {speed:.1f} | {ratio} | {cpu:.1f} | {peak:.0f} |")
    if SKIMAGE not in sides:
        print("\nscikit-image is left out; to have it measured as well: pip install scikit-image")
    print("\n| images, whole step | images a shard | MiB |\n|---:|---:|---:|")
    for row in memories:
        print(f"| {row.images} | {row.shard} | {median(row.mebibytes):.0f} |")


# --- What the processes share --------------------------------------------------------------------


def prepare(folder: Path, params: Params) -> None:
    """Write shards of several sizes, and all that is fitted, to a folder."""
    jpegs = images(params.prepare.jpeg_quality)
    for size in (SMALL, MEDIUM, LARGE):
        write_shards(folder, jpegs, size)
    settings = params.featurize.model_copy(update={"encoder": "fisher", "fit_images": FITTED_ON})
    shards = shard_paths(folder / str(MEDIUM))
    fit_encoder(
        shards,
        params=settings,
        backbones=[],
        sample=fit_sample(shards, settings),
        scratch=folder / "sample",
        folder=folder,
    )
    arrays, description = load_arrays(folder, KIND)
    fitted = Encoder.from_arrays(arrays, description["settings"], folder)
    assert isinstance(fitted.projection, Projection)  # of one encoder, not of several
    shape = len(fitted.projection.mean), settings.fisher.dimensions
    drawn = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    projection = Projection(fitted.projection.mean, drawn, np.ones(shape[1], np.float32))
    for encoder, name in ((fitted, "fitted"), (replace(fitted, projection=projection), "whole")):
        save_arrays(folder, KIND, encoder.arrays(), encoder.settings, name)
    some = [pixels(jpeg) for jpeg in jpegs[:SIFT_FITTED_ON]]
    check_prototype(folder, some[:SMALL])
    if importlib.util.find_spec("skimage"):
        warnings.simplefilter("ignore")  # that it stops at max_iter
        how = {"covariance_type": "diag", "random_state": 0}
        points = [sift(image) for image in some]
        found = skimage_feature().learn_gmm(points, n_modes=SIFT_COMPONENTS, gm_args=how)
        np.savez(folder / "sift", found.weights_, found.means_, found.covariances_)


def images(quality: int) -> list[bytes]:
    """Square images as JPEG bytes; say where they are from."""
    found: list[bytes] = []
    for shard in sorted(PREPARED.glob("shard-*")):
        for jpeg in read_table(shard, ["image"]).column("image").to_pylist():
            with Image.open(io.BytesIO(jpeg)) as image:
                if image.size == (SIZE, SIZE):
                    found.append(jpeg)
        if len(found) >= IMAGES:
            print(f"{IMAGES} images of {PREPARED}", flush=True)
            return found[:IMAGES]
    print(f"{IMAGES} images drawn by {RECIPE}", flush=True)
    recipe = SyntheticSource(RECIPE).recipe.model_copy(update={"size": SIZE})
    classes = list(recipe.classes)
    drawn = (draw(recipe, classes[i % len(classes)], f"{i}.jpg") for i in range(IMAGES))
    return [canonical(image, size=SIZE, quality=quality) for image in drawn]


def write_shards(folder: Path, jpegs: Sequence[bytes], size: int) -> None:
    """Write shards of `size` images, and that none of their raw vectors is known."""
    facts = {"path": "", "split": "train", "phash": ""}
    rows = [facts | {"image_id": hashlib.sha256(j).hexdigest(), "image": j} for j in jpegs]
    shards, known = folder / str(size), folder / "known"
    for new in (shards, known):
        new.mkdir(exist_ok=True)
    count = len(rows) // size
    for index in range(count):
        name = shard_name(index, count)
        some = rows[index * size : (index + 1) * size]
        write_table(shards / name, pa.Table.from_pylist(some, schema=IMAGE_SCHEMA), HOW_PREPARED)
        np.save(known / name.replace("parquet", "ids"), np.empty(0, "S64"))
        np.save(known / name.replace("parquet", "raw"), np.empty((0, 1), np.float32))


def check_prototype(folder: Path, some: Sequence[Pixels]) -> None:
    """Stop unless the prototype gives our vectors."""
    ours, plain = our_descriptor(folder), prototype(folder)
    least = min(float(ours(image) @ plain(image)) for image in some)
    print(f"cosine of the prototype's vectors and ours: at least {least:.5f}", flush=True)
    if least < ALIKE:
        raise SystemExit(f"the prototype computes something else: {ALIKE} is needed")


# --- What is measured ----------------------------------------------------------------------------


def measured(
    side: str, folder: Path, cores: int, images: int, shard: int
) -> tuple[float, float, float]:
    """Seconds and processor seconds of `images`, and the largest worker's peak memory in MiB."""
    work = partial(working, task=task_of(side, folder))
    small, shards = (shard_paths(folder / str(size)) for size in (SMALL, shard))
    started: set[int] = set()
    while len(started) < cores:
        started |= {who for who, *_ in parallel_map(work, small[:cores], workers=cores, title="")}
    start = time.perf_counter()
    done = list(parallel_map(work, shards[: images // shard], workers=cores, title=""))
    seconds = time.perf_counter() - start
    return seconds, sum(busy for _, busy, _ in done), max(peak for *_, peak in done)


def working(shard: Path, *, task: Task) -> tuple[int, float, float]:
    """Do the task; return the worker's id, processor seconds, and its peak memory so far."""
    start = time.process_time()
    task(shard)
    busy = time.process_time() - start
    # Not getrusage, whose peak is at least that of the process which started this one.
    status = Path("/proc/self/status").read_text()
    return os.getpid(), busy, int(status.split("VmHWM:")[1].split()[0]) / 1024


def task_of(side: str, folder: Path) -> Task:
    """What a side does with a shard."""
    if side == WHOLE_STEP:
        encoder = our_encoder(folder, "whole")
        return partial(encode, encoder=encoder, folder=folder)
    descriptors: dict[str, Callable[[Path], Descriptor]] = {
        SKIMAGE: scikit_image,
        PROTOTYPE: prototype,
        GROCERY: our_descriptor,
    }
    return partial(describe, descriptor=descriptors[side](folder))


def encode(shard: Path, *, encoder: Encoder, folder: Path) -> None:
    """Write a shard's features."""
    encode_shard((shard, folder / shard.name), encoder=encoder, scratch=folder / "known")


def describe(shard: Path, *, descriptor: Descriptor) -> None:
    """Describe a shard's images, one at a time."""
    for jpeg in read_table(shard, ["image"]).column("image"):
        descriptor(pixels(jpeg.as_py()))


def our_encoder(folder: Path, name: str) -> Encoder:
    """The encoder that was fitted, or that with the whole PCA."""
    return Encoder.from_arrays(*load_arrays(folder, KIND, name), folder)


def our_descriptor(folder: Path) -> FisherVector:
    """The Fisher vector, without the PCA behind it."""
    descriptor = our_encoder(folder, "fitted").describe
    assert isinstance(descriptor, FisherVector)
    return descriptor


# --- The peers -----------------------------------------------------------------------------------


def skimage_feature() -> Any:
    """The optional module, which has no types."""
    return importlib.import_module("skimage.feature")


def scikit_image(folder: Path) -> Descriptor:
    """SIFT and fisher_vector of scikit-image."""
    with np.load(folder / "sift.npz", allow_pickle=False) as fitted:
        mixture = as_scikit_learn(*fitted.values())
    return lambda image: skimage_feature().fisher_vector(sift(image), mixture, improved=True)


def sift(image: Pixels) -> NDArray[Any]:
    """SIFT descriptors (n, 128) of an image."""
    detector = skimage_feature().SIFT()
    try:
        detector.detect_and_extract(np.asarray(Image.fromarray(image).convert("L")))
    except RuntimeError:  # it raises where it finds none
        return np.zeros((1, 128))
    found: NDArray[Any] = detector.descriptors
    return found


def as_scikit_learn(*fitted: NDArray[Any]) -> Any:
    """A GaussianMixture of weights (k,), means (k, d) and variances (k, d)."""
    from sklearn.mixture import GaussianMixture

    weights, means, variances = (array.astype(np.float64) for array in fitted)
    mixture = GaussianMixture(len(weights), covariance_type="diag")
    mixture.weights_, mixture.means_, mixture.covariances_ = weights, means, variances
    mixture.precisions_cholesky_ = 1 / np.sqrt(variances)
    return mixture


def prototype(folder: Path) -> Descriptor:
    """The plain prototype, with our vocabulary."""
    ours = our_descriptor(folder)
    fitted = ours.mixture.weights, ours.mixture.means, ours.mixture.variances
    mixture = as_scikit_learn(*fitted)
    return partial(plain_fisher_vector, grid=ours.grid, projection=ours.projection, mixture=mixture)


def plain_fisher_vector(
    image: Pixels, *, grid: Grid, projection: Projection, mixture: Any
) -> Doubles:
    """Fisher vector as one would first write it: a plain prototype in numpy and scikit-learn."""
    points = np.concatenate([plain_windows(image, grid, scale) for scale in grid.scales])
    points = (points - projection.mean) @ projection.components / projection.scale
    posterior = mixture.predict_proba(points)
    mass = posterior.sum(axis=0)[:, None]
    first, second = posterior.T @ points, posterior.T @ points**2
    weights, means, variances = mixture.weights_[:, None], mixture.means_, mixture.covariances_
    by_mean = (first - mass * means) / np.sqrt(weights * variances)
    by_variance = second - 2 * means * first + mass * (means**2 - variances)
    by_variance /= variances * np.sqrt(2 * weights)
    vector = np.concatenate([by_mean, by_variance]).ravel() / len(points)
    vector = np.sign(vector) * np.sqrt(np.abs(vector))
    normalised: Doubles = vector / np.linalg.norm(vector)
    return normalised


def plain_windows(image: Pixels, grid: Grid, scale: float) -> Doubles:
    """Windows (n, 102) of an image at one scale."""
    size = [max(round(side * scale), 4 * grid.cell) for side in (image.shape[1], image.shape[0])]
    rgb = np.asarray(Image.fromarray(image).resize((size[0], size[1]))) / 255
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    colours = np.stack([red - green, red + green - 2 * blue, red + green + blue], axis=-1)
    colours *= np.array([grid.chroma, grid.chroma, 1]) / np.sqrt([2, 6, 3])
    rows, columns = size[1] // grid.cell, size[0] // grid.cell
    colours = colours[: rows * grid.cell, : columns * grid.cell]
    cells = colours.reshape(rows, grid.cell, columns, grid.cell, 3)
    cells = np.concatenate([cells.mean(axis=(1, 3)), cells.std(axis=(1, 3))], axis=-1)
    windows = np.lib.stride_tricks.sliding_window_view(cells, (4, 4), axis=(0, 1))
    windows = windows.reshape(-1, 6, 4, 4)
    average = windows.mean(axis=(2, 3), keepdims=True)
    windows = windows - average
    windows /= np.sqrt((windows[:, :3] ** 2).sum(axis=(1, 2, 3), keepdims=True) + 0.01)
    if grid.align:
        offsets = np.array([-1.5, -0.5, 0.5, 1.5])
        rightward = (windows[:, 2] * offsets).sum(axis=(1, 2))[:, None, None, None]
        downward = (windows[:, 2] * offsets[:, None]).sum(axis=(1, 2))[:, None, None, None]
        windows = np.where(rightward < 0, windows[:, :, :, ::-1], windows)
        windows = np.where(downward < 0, windows[:, :, ::-1], windows)
        turn = np.abs(rightward) < np.abs(downward)
        windows = np.where(turn, windows.transpose(0, 1, 3, 2), windows)
    return np.concatenate([windows.reshape(-1, 96), average.reshape(-1, 6)], axis=1)


if __name__ == "__main__":
    main()
