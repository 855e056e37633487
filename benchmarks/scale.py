"""What a large dataset of small images costs: shards against a folder of files, and one change.

    WANDB_MODE=disabled python benchmarks/scale.py --images 100000 --shards 1024
    WANDB_MODE=disabled python benchmarks/scale.py --images 100000 --shards 256 --only dvc
    WANDB_MODE=disabled python benchmarks/scale.py --images 100000 --size 224 --only change
    WANDB_MODE=disabled python benchmarks/scale.py --images 5000 --shards 64 --only workers

In a scratch project: DVC's commands on the prepared shards against the same on the plain folder of
raw files, which is how image datasets are mostly kept; then a build from scratch against a build
after one image was replaced, and what that moves to the remote. The parameters are this project's,
but for the image size, so that a hundred thousand images fit into minutes.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import yaml
from joblib import Parallel, delayed
from PIL import Image
from pipeline import children

CLASSES = 20
ROOT = Path(__file__).parent.parent


def main() -> None:
    """Make the project, measure, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=100_000, metavar="N")
    parser.add_argument("--shards", type=int, default=1024, metavar="N", help="a power of two")
    parser.add_argument("--size", type=int, default=64, metavar="PIXELS", help="of raw images too")
    parser.add_argument("--workers", type=int, default=0, metavar="N")
    parser.add_argument(
        "--only",
        action="append",
        choices=["dvc", "change", "nothing", "workers"],
        help="one of the parts, may be given again; workers runs only when it is asked for",
    )
    parser.add_argument("--folder", help="where to work; by default a temporary folder")
    arguments = parser.parse_args()
    only = arguments.only or ["dvc", "nothing", "change"]
    if arguments.folder is not None:
        Path(arguments.folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        project = Path(folder) / "project"
        make_project(project, arguments)
        stages = ("prepare",) if only == ["dvc"] else ("version", "featurize")
        scratch, peaks = measured(project, "dvc", "repro", *stages)
        print(
            f"{arguments.images} images of {arguments.size} pixels, {arguments.shards} shards, "
            f"{scratch:.1f} s from scratch"
        )
        print("peak memory:", ", ".join(f"{n / 2**20:.0f} MiB {who}" for who, n in peaks.items()))
        print(flush=True)
        if "dvc" in only:
            compare_dvc(Path(folder), project)
        if "nothing" in only:
            change_nothing(Path(folder), project)
        if "change" in only:
            change_one(project, scratch, arguments.size)
        if "workers" in only:
            compare_workers(project)


def make_project(project: Path, arguments: argparse.Namespace) -> None:
    """A clone of this project whose dataset is a folder of small images."""
    images, size = arguments.images, arguments.size
    run(ROOT, "git", "clone", "--quiet", str(ROOT), str(project))
    raw = project / "data/raw/many"
    Parallel(n_jobs=-1)(
        delayed(write_images)(raw / f"class-{k:02d}", k, range(k, images, CLASSES), size)
        for k in range(CLASSES)
    )
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["data"]["source"] = "many"
    params["prepare"] |= {
        "shards": arguments.shards,
        "image_size": size,
        "near_duplicate_bits": 0,
    }
    params["compute"]["workers"] = arguments.workers
    params["tracking"]["project"] = "scale"
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    run(project, "git", "commit", "--quiet", "--all", "--message", "Many images")
    run(project, "dvc", "remote", "add", "--force", "--default", "storage", "../storage")


def write_images(folder: Path, label: int, numbers: range, size: int) -> None:
    """Smooth noise around a colour of the class's own."""
    folder.mkdir(parents=True)
    for number in numbers:
        (folder / f"{number:07d}.jpg").write_bytes(picture(label, number, size))


def picture(label: int, number: int, size: int) -> bytes:
    """One square JPEG."""
    rng = np.random.default_rng([label, number])
    noise = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    noise[2:4, 2:4] = [(label * 37) % 256, (label * 91) % 256, (label * 53) % 256]
    stream = io.BytesIO()
    Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC).save(stream, "JPEG")
    return stream.getvalue()


def compare_dvc(folder: Path, project: Path) -> None:
    """DVC's commands on the shards and on the raw files, each in a repository of its own."""
    print("| | a folder of files, s | shards, s | ratio |\n|---|---|---|---|")
    files = dvc_seconds(folder / "files", project / "data/raw/many")
    shards = dvc_seconds(folder / "shards", project / "data/prepared/shards")
    for name, seconds in files.items():
        print(f"| {name} | {seconds:.1f} | {shards[name]:.1f} | {seconds / shards[name]:.1f} |")
    print(flush=True)


def dvc_seconds(repository: Path, data: Path) -> dict[str, float]:
    """Seconds of each command, start-up included."""
    repository.mkdir()
    run(repository, "git", "init", "--quiet")
    run(repository, "dvc", "init", "--quiet")
    run(repository, "dvc", "remote", "add", "--default", "storage", str(repository / "../remote"))
    target = repository / "data"
    shutil.copytree(data, target)
    seconds = {"dvc add": timed(repository, "dvc", "add", "data")}
    seconds["dvc status"] = timed(repository, "dvc", "status")
    seconds["dvc push"] = timed(repository, "dvc", "push")
    shutil.rmtree(target)
    seconds["dvc checkout"] = timed(repository, "dvc", "checkout")
    shutil.rmtree(repository / "../remote")
    shutil.rmtree(repository)
    return seconds


def change_nothing(folder: Path, project: Path) -> None:
    """`dvc repro` when nothing has changed, against `dvc status` in a repository without data."""
    empty = folder / "empty"
    empty.mkdir()
    run(empty, "git", "init", "--quiet")
    run(empty, "dvc", "init", "--quiet")
    repro = median(timed(project, "dvc", "repro", "version", "featurize") for _ in range(3))
    status = median(timed(empty, "dvc", "status") for _ in range(3))
    print(
        f"`dvc repro` with nothing to do: {repro:.1f} s; `dvc status` without data: {status:.1f} s"
    )
    print(flush=True)


def compare_workers(project: Path) -> None:
    """The stages by themselves, from scratch, with one worker and with two."""
    print("| | 1 worker, s | 2 workers, s | efficiency |\n|---|---|---|---|")
    params = yaml.safe_load((project / "params.yaml").read_text())
    for stage in ("prepare", "featurize"):
        seconds = {}
        for workers in (1, 2):
            params["compute"]["workers"] = workers
            (project / "params.yaml").write_text(yaml.safe_dump(params))
            command = [sys.executable, "-m", "grocery.runner", stage]
            seconds[workers] = median(timed(project, *command, reuse="no") for _ in range(3))
        share = 100 * seconds[1] / (2 * seconds[2])
        print(f"| {stage} | {seconds[1]:.1f} | {seconds[2]:.1f} | {share:.0f} % |", flush=True)


def change_one(project: Path, scratch: float, size: int) -> None:
    """Replace one image: what `dvc repro` and `dvc push` then cost."""
    storage = project.parent / "storage"
    run(project, "dvc", "push", "prepare", "version", "featurize")
    before = {path for path in storage.rglob("*") if path.is_file()}
    stored = sum(path.stat().st_size for path in before)
    first = next((project / "data/raw/many/class-00").iterdir())
    first.write_bytes(picture(0, 10**9, size))
    changed, _ = measured(project, "dvc", "repro", "version", "featurize")
    run(project, "dvc", "push", "prepare", "version", "featurize")
    moved = sum(p.stat().st_size for p in storage.rglob("*") if p.is_file() and p not in before)
    print("| | from scratch | after one change | share |\n|---|---|---|---|")
    print(f"| `dvc repro`, s | {scratch:.1f} | {changed:.1f} | {100 * changed / scratch:.1f} % |")
    share = 100 * moved / stored
    print(f"| `dvc push`, MB | {stored / 1e6:.1f} | {moved / 1e6:.2f} | {share:.2f} % |")


def measured(project: Path, *command: str) -> tuple[float, dict[str, int]]:
    """Seconds of a command, and the peak resident bytes of stages and of their workers."""
    begun = time.perf_counter()
    process = psutil.Popen(command, cwd=project, stdout=subprocess.DEVNULL)
    peaks = {"a stage": 0, "a worker": 0}
    while process.poll() is None:
        for child in children(process):
            try:
                line = child.cmdline()
                who = "a worker" if any("loky" in word for word in line) else "a stage"
                peaks[who] = max(peaks[who], child.memory_info().rss)
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        time.sleep(0.1)
    if process.returncode:
        sys.exit(f"{' '.join(command)} exited {process.returncode}")
    return time.perf_counter() - begun, peaks


def timed(folder: Path, *command: str, reuse: str = "") -> float:
    """Seconds of a command."""
    begun = time.perf_counter()
    run(folder, *command, reuse=reuse)
    return time.perf_counter() - begun


def run(folder: Path, *command: str, reuse: str = "") -> None:
    """Run a command, quietly, or stop."""
    environment = os.environ | {"GROCERY_REUSE": reuse}
    subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)


if __name__ == "__main__":
    main()
