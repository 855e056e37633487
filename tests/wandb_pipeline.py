"""Three small stages that use every verb of tracking, and `grocery sync`, at the tests' server.

They run in this process, which has imported W&B already, except where the process is the point.
"""

import io
import os
import pty
import shutil
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from conftest import ROOT, environment
from grocery.cli import main
from grocery.settings import TrackingParams
from grocery.tracking import artifacts
from grocery.tracking.process import end_whole
from grocery.tracking.run import StageRun, stage_run
from registry_project import Said, listening, standing_in
from running import wait_for
from wandb_server import WandbServer

STAGES = ("prepare", "train", "register")
RUN = "team/grocery/-/"  # entity/project/group: there is no repository, so no group
REGISTRY = "wandb-registry-model/grocery-classifier"


def settings(timeout: float = 120, upload: Any = "metadata") -> TrackingParams:
    return TrackingParams(
        project="grocery", entity="", timeout=timeout, upload=upload, registry=REGISTRY
    )


def jpeg(colour: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (16, 12), colour).save(stream, "JPEG")
    return stream.getvalue()


def write(folder: str, **files: str) -> Path:
    """A folder of a stage, with these files."""
    path = Path(folder)
    path.mkdir(exist_ok=True)
    for name, text in files.items():
        (path / name).write_text(text)
    return path


def show(run: StageRun) -> None:
    """Use every verb that shows something."""
    for step in range(4):
        run.log({"residual": 1 / (step + 1), "accuracy": step / 4}, step=step)
    run.table("predictions", ["image", "label"], [[jpeg("red"), "apple"], [None, "pear"]])
    run.images("worst mistakes", [(jpeg("green"), "apple as pear")])
    run.confusion_matrix("confusion", [0, 1, 1], [0, 1, 0], ["apple", "pear"])
    run.histogram("confidence", [3, 5], [0.0, 0.5, 1.0])
    Path("page.html").write_text("<h1>Card</h1>")
    run.html("card", Path("page.html"))
    run.alert("Drift in batch noon", "darker than ever")
    run.summary({"accuracy": 0.9})


def run_stages(tracking: TrackingParams, word: str, stages: Sequence[str]) -> None:
    """Run stages in the working directory; what their data holds depends on a word."""
    shards, model, release = Path("shards"), Path("classifier"), Path("release")
    if "prepare" in stages:
        config: dict[str, Any] = {"prepare": {"shards": 2}}
        with stage_run("prepare", settings=tracking, config=config, tags=["synthetic"]) as run:
            write("shards", one="the same " * 1000, two=word * 1000)
            run.summary({"images": 3})
            run.table("quarantine", ["path", "reason"], [["a.jpg", "truncated"]])
            run.artifact(artifacts.DATASET, shards, {"images": 3})
    if "train" in stages:
        config = {"train": {"alpha": 0.95, "scales": [1.5, 0.5]}}
        inputs: dict[Any, Path] = {artifacts.DATASET: shards}
        with stage_run("train", settings=tracking, config=config, inputs=inputs) as run:
            show(run)
            write("classifier", weights=word)
            run.artifact(artifacts.CLASSIFIER, model, {"accuracy": 0.9})
    if "register" in stages:
        inputs = {artifacts.CLASSIFIER: model}
        with stage_run("register", settings=tracking, config={}, inputs=inputs) as run:
            write("release", weights=word, card=f"# {word}")
            run.artifact(artifacts.RELEASE, release, {"accepted": True})
            run.link(artifacts.RELEASE, alias="candidate")


def variables(folder: Path, server: WandbServer | None, **changes: str) -> dict[str, str]:
    """The environment of a command in `folder`, which may know the server and its key."""
    own = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "HOME": str(folder)}
    known = environment(**own | (server.environment() if server else {}) | changes)
    if "WANDB_MODE" not in changes:
        del known["WANDB_MODE"]
    return known


@contextmanager
def inside(folder: Path, server: WandbServer | None = None, **changes: str) -> Iterator[None]:
    """In `folder`, with that environment; what W&B remembers of a key is forgotten in the end."""
    folder.mkdir(exist_ok=True)
    with standing_in(folder, variables(folder, server, **changes)):
        try:
            yield
        finally:
            if wbauth := sys.modules.get("wandb.sdk.lib.wbauth"):
                wbauth.unauthenticate_session(update_settings=False)


@contextmanager
def asking(server: WandbServer, folder: Path) -> Iterator[Any]:
    """W&B's own client of the server, for what people do to it by hand."""
    with inside(folder, server, WANDB_SILENT="true", WANDB_ERROR_REPORTING="false"):
        import wandb

        try:
            yield wandb.Api()
        finally:
            wandb.teardown()


@dataclass
class World:
    """A folder whose stages were tracked at a server. Copy both; do not change them."""

    folder: Path
    server: WandbServer

    @contextmanager
    def copy(self, folder: Path) -> Iterator["World"]:
        """Both as they are, free to change."""
        shutil.copytree(self.folder, folder, symlinks=True)
        with self.server.copy() as server:
            yield World(folder, server)


def uses(server: WandbServer, run: str) -> list[str]:
    """The artifacts that a run has used."""
    return list(server.state()["runs"][RUN + run]["uses"])


def versions(server: WandbServer, name: str) -> dict[str, Any]:
    """The versions of an artifact."""
    return dict(server.state()["artifacts"][f"team/grocery/{name}"]["versions"])


def links(server: WandbServer) -> list[set[str]]:
    """The aliases of each link in the registry."""
    found = server.state()["links"].get(f"example-groceries/{REGISTRY}", {})
    return [set(link["aliases"]) for link in found.values()]


def pipeline(
    folder: Path,
    server: WandbServer | None,
    *stages: str,
    timeout: float = 120,
    upload: str = "metadata",
    word: str = "red",
    **changes: str,
) -> Said:
    """Run stages (all by default) in `folder`, tracking at the server."""
    with inside(folder, server, **changes), listening() as said:
        run_stages(settings(timeout, upload), word, stages or STAGES)
    return said


def offline(folder: Path, *stages: str, **options: Any) -> None:
    """Run stages that keep their runs."""
    silent(pipeline(folder, None, *stages, **{"WANDB_MODE": "offline", **options}))


def synchronize(folder: Path, server: WandbServer | None, *options: str) -> Said:
    """Run `grocery sync` in `folder`."""
    with inside(folder, server), listening() as said:
        main(["sync", *options])
    return said


def begin(
    folder: Path,
    server: WandbServer | None,
    *command: str,
    env: Mapping[str, str] | None = None,
    **streams: Any,
) -> subprocess.Popen[str]:
    """Begin a Python command in `folder`, as a process group of its own."""
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env=variables(folder, server, **(env or {})),
        text=True,
        start_new_session=True,
        **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        | streams,
    )


def on_a_terminal(
    folder: Path, server: WandbServer | None, *command: str, **env: str
) -> tuple[int, str]:
    """Run a Python command in `folder` on a terminal; its exit code, and what is seen there."""
    ours, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), terminal)
    process = begin(folder, server, *command, env={"TERM": "xterm", **env}, **streams)
    os.close(terminal)
    try:
        code = process.wait(120)
    finally:
        kill(process)
    seen = b""
    with suppress(OSError):  # it is so when all has been read
        while data := os.read(ours, 4096):
            seen += data
    os.close(ours)
    return code, seen.decode()


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a process and all that it has started, unless it has ended."""
    end_whole(process)
    process.communicate()


def killed(start: Callable[[], subprocess.Popen[str]], server: WandbServer, after: int) -> bool:
    """Begin a process, and kill it when a request hangs `after` so many; whether one did."""
    seen = len(server.requests)
    server.fail("hang", after=after)
    process = start()
    wait_for(
        lambda: process.poll() is not None or "hang" in {r.status for r in server.requests[seen:]}
    )
    alive = process.poll() is None
    kill(process)
    server.heal()
    return alive


def silent(done: Said) -> None:
    """Require that a command went well and had nothing to say."""
    assert (done.code, done.out, done.err) == (0, "", "")
