"""Tracking: what reaches W&B's log, and that nothing W&B does reaches the stage."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from grocery.classifier.curves import curves_in
from grocery.contents import read_content
from grocery.core.files import replacing
from grocery.tracking import artifacts, shown
from grocery.tracking.mode import choose_mode
from grocery.tracking.opening import opening_of
from grocery.tracking.outbox import all_outboxes
from grocery.tracking.run import StageRun, stage_run
from grocery.tracking.sdk import supported
from wandb_log import of_kind, records
from wandb_pipeline import jpeg, settings, show
from wandb_server import KEY

REFUSED = "http://127.0.0.1:9"  # nothing listens on the discard port


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty project of a user who never heard of W&B."""
    for name in os.environ:
        if name.startswith(("WANDB_", "DVC_", "NETRC")):
            monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    (tmp_path / "project").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "project")
    yield tmp_path / "project"
    if wbauth := sys.modules.get("wandb.sdk.lib.wbauth"):
        wbauth.unauthenticate_session(update_settings=False)


def folder(name: str, **files: bytes) -> Path:
    """A folder of a stage, with these files."""
    path = Path(name)
    path.mkdir(exist_ok=True)
    for file, data in files.items():
        (path / file).write_bytes(data)
    return path


def speak(run: StageRun) -> None:
    """Use every verb once."""
    show(run)
    run.uses(artifacts.DATASET, folder("shards", pixels=b"red"))
    run.artifact(artifacts.CLASSIFIER, folder("classifier", card=b"{}"), {"classes": 2})
    run.link(artifacts.CLASSIFIER, alias="candidate")


def only_run(project: Path, pattern: str = "offline-run-*") -> Path:
    (folder,) = (project / "wandb").glob(pattern)
    return folder


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a stage's code in a process of its own, without a terminal."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


STAGE = """
import sys
from pathlib import Path
from grocery.settings import TrackingParams
from grocery.tracking.artifacts import CLASSIFIER, DATASET
from grocery.tracking.run import stage_run
settings = TrackingParams(
    project="grocery", entity="", timeout=30, upload="metadata", registry=""
)
shards, model = Path("shards.txt"), Path("model.txt")
shards.write_text("red")
with stage_run("train", settings=settings, config={}, inputs={DATASET: shards}) as run:
    run.log({"residual": 0.5}, step=0)
    model.write_text("weights")
    run.artifact(CLASSIFIER, model, {})
print("wandb" in sys.modules)
"""


def test_an_offline_run_holds_all_that_the_stage_said(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = folder("data", shard=b"pixels")
    config = {"train": {"alpha": 0.95, "scales": [1.0, 0.5]}}
    inputs = {"raw": data, artifacts.FEATURES: folder("features", numbers=b"1 2 3")}
    with stage_run(
        "train", settings=settings(), config=config, inputs=inputs, tags=["synthetic"]
    ) as run:
        speak(run)
    assert capfd.readouterr() == ("", "")

    done = only_run(project)
    found = records(done)
    (start,) = of_kind(found, "run")
    assert (start.project, start.job_type, start.display_name) == ("grocery", "train", "train")
    assert list(start.tags) == ["synthetic"]
    written = {item.key: json.loads(item.value_json) for item in start.config.update}
    assert written["train"] == config["train"]
    assert written["inputs"] == {
        "raw": read_content(data).md5,
        "features": read_content(Path("features")).md5,
    }

    rows = [
        {item.nested_key[0] if item.nested_key else item.key: item.value_json for item in row.item}
        for row in of_kind(found, "history")
    ]
    assert [json.loads(row["residual"]) for row in rows] == [1.0, 0.5, 1 / 3, 0.25]
    assert [json.loads(row["_step"]) for row in rows] == [0, 1, 2, 3]
    assert {"predictions", "worst mistakes", "card"} <= rows[-1].keys()
    summary = {
        item.key or item.nested_key[0]: item.value_json
        for update in of_kind(found, "summary")
        for item in update.update
    }
    assert json.loads(summary["accuracy"]) == 0.9
    assert [alert.title for alert in of_kind(found, "alert")] == ["Drift in batch noon"]
    assert [end.exit_code for end in of_kind(found, "exit")] == [0]

    pictures = sorted((done / "files/media/images").rglob("*.jpg"))
    assert {picture.read_bytes() for picture in pictures} == {jpeg("green")}

    (classifier,) = (one for one in of_kind(found, "artifact") if one.name == "classifier")
    md5 = read_content(Path("classifier")).md5
    assert set(classifier.aliases) == {"latest", f"md5-{md5}"}
    assert json.loads(classifier.metadata) == {"classes": 2, "files": 1, "bytes": 2, "md5": md5}

    # What cannot be said offline.
    (outbox,) = all_outboxes(project / "wandb")
    assert outbox.run_folder == done
    assert done.name.endswith(outbox.run()["id"])
    assert [(entry["do"], entry["output"]) for entry in outbox.pending().values()] == [
        ("uses", artifacts.FEATURES),
        ("uses", artifacts.DATASET),
        ("link", artifacts.CLASSIFIER),
    ]
    folder("shards", pixels=b"blue")
    shards, features = (outbox.listing(name) for name in ("dataset", "features"))
    assert features == read_content(Path("features")).listing
    assert json.loads(shards) == [{"md5": hashlib.md5(b"red").hexdigest(), "relpath": "pixels"}]


@pytest.mark.parametrize("output", [artifacts.CLASSIFIER, artifacts.DATASET])
def test_changed_content_alone_makes_another_artifact(output: artifacts.Output) -> None:
    def digest(data: bytes) -> str:
        path = folder("out", data=data)
        content, here = read_content(path), Path.cwd()
        made = artifacts.described(output, path, content, {}, upload="metadata", root=here)
        return str(made.digest)

    assert digest(b"red") == digest(b"red") != digest(b"blue")


def test_the_group_is_the_commit(project: Path) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "--quiet"], check=True)
    (project / "params.yaml").write_text("1")
    subprocess.run(["git", "add", "params.yaml"], check=True)
    subprocess.run(["git", *identity, "commit", "--quiet", "-m", "1"], check=True)
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip()
    (project / "params.yaml").write_text("2")
    opening, warnings = opening_of("train", settings(), config={}, inputs={}, tags=[])
    assert opening["group"] == commit[:7]
    assert opening["git"] == {"commit": commit, "dirty": True}
    assert warnings == []


def test_a_queued_experiment_is_a_group_and_leaves_its_runs_in_the_project(
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.chdir(tmp_path / "temporary")
    monkeypatch.setenv("DVC_ROOT", str(project))
    monkeypatch.setenv("DVC_EXP_NAME", "icky-pugs")
    monkeypatch.setenv("WANDB_PROJECT", "shelf/1")  # no name of a project
    monkeypatch.setenv("WANDB_ENTITY", "team")
    monkeypatch.setenv("WANDB_TAGS", f"mine,{'long' * 20}")
    with stage_run("train", settings=settings(), config={}):
        pass
    assert list((tmp_path / "temporary").iterdir()) == []
    (start,) = of_kind(records(only_run(project)), "run")
    assert (start.run_group, start.project, start.entity) == ("icky-pugs", "shelf-1", "team")
    assert list(start.tags) == ["long" * 16, "mine"]
    (said,) = capfd.readouterr().err.splitlines()
    assert "the project 'shelf/1' is 'shelf-1' in W&B" in said


def test_an_error_of_the_stage_passes_through_a_failed_run(project: Path) -> None:
    def fail() -> None:
        with stage_run("train", settings=settings(), config={}) as run:
            run.log({"residual": 1.0}, step=0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [end.exit_code for end in of_kind(records(only_run(project)), "exit")] == [1]


def test_one_broken_thing_costs_one_line_and_nothing_else(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with stage_run("train", settings=settings(), config={}) as run:
        run.images("broken", [(b"not a picture", ""), (b"nor this", "")])
        run.images("broken too", [(b"not a picture", "")])
        run.summary({"classes": {"apple"}})
        run.summary({"accuracy": 0.9})
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("warning: W&B: it is not told of one summary (a set is ")
    assert err.count("\n") == 1
    found = records(only_run(project))
    assert of_kind(found, "summary")
    assert [end.exit_code for end in of_kind(found, "exit")] == [0]


NETRC = f"machine api.wandb.ai\n  login user\n  password {KEY}\n"
NETRC_OTHER = NETRC.replace("api.wandb.ai", "127.0.0.1:9")
OTHER = {"WANDB_BASE_URL": REFUSED}


@pytest.mark.parametrize(
    ("environment", "netrc", "saved", "expected"),
    [
        ({}, "", "", ("offline", "")),
        ({"WANDB_API_KEY": KEY}, "", "", ("online", "")),
        ({}, NETRC, "", ("online", "")),
        (OTHER, NETRC, "", ("offline", "")),
        (OTHER, NETRC_OTHER, "", ("online", "")),
        ({}, "", f"api_key = {KEY}", ("online", "")),
        ({}, NETRC, "mode = offline", ("offline", "")),
        ({}, NETRC, "mode = disabled", ("disabled", "")),
        ({"WANDB_MODE": "offline"}, NETRC, "", ("offline", "")),
        ({"WANDB_MODE": "dryrun"}, NETRC, "", ("offline", "")),
        ({"WANDB_MODE": "disabled"}, NETRC, "", ("disabled", "")),
        ({"WANDB_MODE": "online"}, NETRC, "", ("online", "")),
        ({"WANDB_MODE": "run"}, NETRC, "mode = offline", ("online", "")),
        ({"WANDB_MODE": "online"}, "", "", ("offline", "no API key is configured")),
        ({"WANDB_API_KEY": "short"}, "", "", ("offline", "WANDB_API_KEY invalid")),
    ],
)
def test_mode(
    environment: dict[str, str],
    netrc: str,
    saved: str,
    expected: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import wandb

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if netrc:
        (Path.home() / ".netrc").write_text(netrc)
    if saved:
        folder("wandb", settings=f"[default]\n{saved}\n".encode())
    wandb.setup(wandb.Settings(silent=True))
    try:
        mode, reason = choose_mode()
    finally:
        wandb.teardown()
    assert (mode, reason[: len(expected[1])]) == expected
    assert bool(reason) == bool(expected[1])


def test_a_wrong_mode_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "ofline")
    result = python(STAGE)
    assert result.returncode == 0
    assert result.stderr == (
        "warning: W&B: WANDB_MODE is 'ofline', but it should be one of online, offline, disabled, "
        "run, dryrun; the stage is not tracked\n"
    )


def test_nothing_is_asked_even_on_a_terminal(project: Path) -> None:
    master, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", STAGE],
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parent.parent),
            "WANDB_MODE": "online",
            "WANDB_BASE_URL": REFUSED,
        },
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    try:
        assert process.wait(timeout=30) == 0
        seen = os.read(master, 10_000).decode()
    finally:
        process.kill()
        os.close(master)
    assert seen.splitlines() == [
        "warning: W&B: no API key is configured; the run is kept offline, for `grocery sync`",
        "False",
    ]


def test_disabled_starts_and_writes_nothing(project: Path) -> None:
    result = python(STAGE, WANDB_MODE="disabled")
    assert (result.stdout, result.stderr) == ("False\n", "")
    assert sorted(path.name for path in project.iterdir()) == ["model.txt", "shards.txt"]


def test_importing_the_interface_imports_neither_wandb_nor_dvclive() -> None:
    result = python(
        "import sys, grocery.tracking.run, grocery.classifier.curves\n"
        "print(sorted({'wandb', 'dvclive', 'dvc', 'pandas'} & sys.modules.keys()))"
    )
    assert result.stdout == "[]\n"


def test_a_refused_connection_turns_into_an_offline_run(
    project: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", REFUSED)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_SERVICE", "3-1-unix-/nowhere")  # somebody else's process
    with stage_run("train", settings=settings(), config={}) as run:
        speak(run)
    assert capfd.readouterr() == (  # known at once, without W&B's own tries
        "",
        f"warning: W&B: {REFUSED} cannot be reached (Connection refused); the run is kept offline, "
        "for `grocery sync`\n",
    )
    found = records(only_run(project, "*run-*-*"))
    assert len(of_kind(found, "history")) == 4
    assert any(artifact.name == "classifier" for artifact in of_kind(found, "artifact"))
    assert [outbox.kept for outbox in all_outboxes(project / "wandb")] == [True]
    everything = [path for path in project.parent.rglob("*") if path.is_file()]
    assert everything
    assert [path for path in everything if KEY.encode() in path.read_bytes()] == []
    outside = [path for path in (project.parent / "home").rglob("*") if path.is_file()]
    assert outside == []


def test_a_folder_that_cannot_be_made_costs_one_line(
    project: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "file").touch()
    monkeypatch.setenv("WANDB_DIR", str(project / "file" / "below"))
    with stage_run("train", settings=settings(), config={}) as run:
        speak(run)
    _, err = capfd.readouterr()
    assert err.count("\n") == 1
    assert err.endswith("the stage is not tracked\n")


def test_a_full_disk_costs_one_line(project: Path) -> None:
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))\n"
    result = python(full + STAGE)
    assert (result.returncode, result.stdout) == (0, "False\n")
    assert result.stderr.startswith("warning: W&B: ")
    assert result.stderr.count("\n") == 1


def test_a_sweeps_run_that_waits_is_not_mixed_with_a_second(
    project: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    monkeypatch.setenv("WANDB_RUN_ID", "trial")
    for accuracy in (0.9, 0.1):
        with stage_run("train", settings=settings(), config={}) as run:
            run.summary({"accuracy": accuracy})
    (waiting,) = all_outboxes(project / "wandb")
    assert [m["values"] for m in waiting.messages() if m["do"] == "summary"] == [{"accuracy": 0.9}]
    assert capfd.readouterr().err == (
        "warning: W&B: run trial waits for `grocery sync` already; the stage is not tracked\n"
    )


def test_classes_and_counts_are_metadata() -> None:
    images = [("train", "pear"), ("test", "pear"), ("train", "apple"), ("train", "pear")]
    assert shown.per_class([*images, ("noon", None)]) == {
        "class_names": ["apple", "pear"],
        "images_per_class": {"train": [1, 2], "test": [0, 1], "noon": [0, 0]},
    }


def test_a_setting_that_wandb_no_longer_has_costs_that_setting_alone() -> None:
    assert supported({"silent": True, "renamed_in_a_newer_one": 1}) == {"silent": True}


def draw(folder: Path) -> dict[str, bytes]:
    with replacing(folder) as (partial,), curves_in(partial) as curves:
        for step in range(3):
            curves.step({"residual": 1 / (step + 1), "val_accuracy": step / 7})
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_curves_are_tables_that_dvc_plots(project: Path) -> None:
    files = draw(project / "curves")
    assert sorted(files) == [
        "metrics.json",
        "plots/metrics/residual.tsv",
        "plots/metrics/val_accuracy.tsv",
    ]
    assert files["plots/metrics/residual.tsv"] == (
        b"step\tresidual\n0\t1.0\n1\t0.5\n2\t0.3333333333333333\n"
    )
    assert json.loads(files["metrics.json"]) == {
        "residual": 1 / 3,
        "val_accuracy": 2 / 7,
        "step": 2,
    }


def test_curves_depend_on_nothing_but_the_values_and_leave_the_repository_alone(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["git", "init", "--quiet"], check=True)  # and no commit yet
    first = draw(project / "curves")
    assert sorted(path.name for path in project.iterdir()) == [".git", "curves"]
    status = subprocess.check_output(["git", "status", "--porcelain"], text=True)
    assert status == "?? curves/\n"
    (project / "second").mkdir()
    (project / "second" / "plots").write_text("left over")
    monkeypatch.setenv("DVCLIVE_RESUME", "1")
    monkeypatch.setenv("DVC_EXP_NAME", "icky-pugs")
    monkeypatch.setenv("DVC_STUDIO_TOKEN", "token")
    assert draw(project / "second") == first
    assert draw(project / "second") == first
    assert capfd.readouterr() == ("", "")


def test_an_interrupted_stage_keeps_the_earlier_curves(project: Path) -> None:
    earlier = draw(project / "curves")

    def interrupted() -> None:
        with replacing(project / "curves") as (partial,), curves_in(partial) as curves:
            curves.step({"residual": 0.1})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert sorted(path.name for path in project.iterdir()) == ["curves"]
    assert (project / "curves/metrics.json").read_bytes() == earlier["metrics.json"]
