"""Three small stages that use every verb of tracking, run as the pipeline runs its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from conftest import ROOT, environment
from wandb_server import WandbServer

# What the data holds is an argument, so that a test can change it.
STAGES = """
import io, sys
from pathlib import Path
from PIL import Image
from grocery.settings import TrackingParams
from grocery.tracking import artifacts
from grocery.tracking.run import stage_run

timeout, upload, word, *stages = sys.argv[1:]
stages = stages or ["prepare", "train", "register"]
settings = TrackingParams(
    project="grocery",
    entity="",
    timeout=float(timeout),
    upload=upload,
    registry="wandb-registry-model/grocery-classifier",
)
shards, model, release = Path("shards"), Path("classifier"), Path("release")


def write(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def jpeg(colour):
    stream = io.BytesIO()
    Image.new("RGB", (16, 12), colour).save(stream, "JPEG")
    return stream.getvalue()


if "prepare" in stages:
    config = {"prepare": {"shards": 2}}
    with stage_run("prepare", settings=settings, config=config, tags=["synthetic"]) as run:
        write(shards, one="the same " * 1000, two=word * 1000)
        run.summary({"images": 3})
        run.table("quarantine", ["path", "reason"], [["a.jpg", "truncated"]])
        run.artifact(artifacts.DATASET, shards, {"images": 3})

if "train" in stages:
    inputs = {artifacts.DATASET: shards}
    config = {"train": {"alpha": 0.95, "scales": [1.5, 0.5]}}
    with stage_run("train", settings=settings, config=config, inputs=inputs) as run:
        for step in range(4):
            run.log({"residual": 1 / (step + 1)}, step=step)
        run.table("predictions", ["image", "label"], [[jpeg("red"), "apple"], [None, "pear"]])
        run.images("mistakes", [(jpeg("green"), "apple as pear")])
        run.confusion_matrix("confusion", [0, 1, 1], [0, 1, 0], ["apple", "pear"])
        run.histogram("confidence", [3, 5], [0.0, 0.5, 1.0])
        Path("page.html").write_text("<h1>Card</h1>")
        run.html("card", Path("page.html"))
        run.alert("Drift in batch noon", "darker than ever")
        run.summary({"accuracy": 0.9})
        write(model, weights=word)
        run.artifact(artifacts.CLASSIFIER, model, {"accuracy": 0.9})

if "register" in stages:
    inputs = {artifacts.CLASSIFIER: model}
    with stage_run("register", settings=settings, config={}, inputs=inputs) as run:
        write(release, weights=word, card=f"# {word}")
        run.artifact(artifacts.RELEASE, release, {"accepted": True})
        run.link(artifacts.RELEASE, release, alias="candidate")
"""


def variables(folder: Path, server: WandbServer | None, **changes: str) -> dict[str, str]:
    """The environment of a command in `folder`, which may know the server and its key."""
    known = environment(**(server.environment() if server else {}), **changes)
    if "WANDB_MODE" not in changes:
        del known["WANDB_MODE"]
    return known | {"PYTHONPATH": str(ROOT), "HOME": str(folder)}


def pipeline(
    folder: Path,
    server: WandbServer | None,
    *stages: str,
    timeout: float = 30,
    upload: str = "metadata",
    word: str = "red",
    **changes: str,
) -> subprocess.CompletedProcess[str]:
    """Run stages (all by default) in `folder`, tracking at the server."""
    folder.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-c", STAGES, str(timeout), upload, word, *stages],
        cwd=folder,
        env=variables(folder, server, **changes),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def offline(folder: Path, *stages: str, **changes: str) -> None:
    """Run stages that keep their runs."""
    silent(pipeline(folder, None, *stages, **{"WANDB_MODE": "offline"} | changes))


def synchronize(
    folder: Path, server: WandbServer | None, *options: str, **changes: str
) -> subprocess.CompletedProcess[str]:
    """Run `grocery sync` in `folder`."""
    return subprocess.run(
        [sys.executable, "-m", "grocery.cli", "sync", *options],
        cwd=folder,
        env=variables(folder, server, **changes),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def silent(done: subprocess.CompletedProcess[str]) -> None:
    """Require that a command went well and had nothing to say."""
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
