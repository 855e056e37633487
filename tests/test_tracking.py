"""Tracking: how a run is named, and that nothing W&B does reaches the stage."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import ROOT, Project
from grocery.classifier.curves import curves_in
from grocery.contents import read_content
from grocery.core.files import replacing
from grocery.tracking.mode import choose_mode
from grocery.tracking.opening import opening_of
from grocery.tracking.outbox import all_outboxes
from grocery.tracking.provenance import project_root
from grocery.tracking.run import stage_run
from grocery.tracking.sdk import supported
from wandb_pipeline import RUN, inside, on_a_terminal, settings, write
from wandb_server import WandbServer
from wandb_server_http import KEY

# Nothing listens on the discard port; and W&B's process is somebody else's.
OTHER = {"WANDB_BASE_URL": "http://127.0.0.1:9"}
REFUSED = OTHER | {"WANDB_API_KEY": KEY, "WANDB_SERVICE": "3-1-unix-/nowhere"}


@pytest.fixture(autouse=True)
def project(tmp_path: Path) -> Iterator[Path]:
    """An empty project, and home, of a user who never heard of W&B."""
    with inside(tmp_path / "project"):
        yield tmp_path / "project"


def test_a_queued_experiment_is_a_group_and_leaves_its_runs_in_the_project(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = Project(tmp_path / "temporary")
    params = write(f"{temporary.path}", params="1") / "params"
    temporary.run("git", "init", "--quiet")
    temporary.commit("What the experiment changes")
    params.write_text("2")
    monkeypatch.chdir(temporary.path)
    monkeypatch.setenv("DVC_ROOT", str(project))
    monkeypatch.setenv("DVC_EXP_NAME", "icky-pugs")
    monkeypatch.setenv("WANDB_PROJECT", "shelf/1")  # no name of a project
    monkeypatch.setenv("WANDB_ENTITY", "team")
    monkeypatch.setenv("WANDB_TAGS", f"mine,{'long' * 20}")
    about, warnings = opening_of("train", settings(), config={}, inputs={}, tags=[])
    assert (about["group"], about["project"], about["entity"]) == ("icky-pugs", "shelf-1", "team")
    assert about["tags"] == ["long" * 16, "mine"]
    assert sorted(warnings) == [
        "the project 'shelf/1' is 'shelf-1' in W&B",
        f"the tag '{'long' * 20}' is '{'long' * 16}' in W&B",
    ]
    commit = temporary.run("git", "rev-parse", "HEAD").stdout.strip()
    assert about["git"] == {"commit": commit, "dirty": True}
    assert project_root() == project


def test_what_is_broken_costs_one_line(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """And an error of the stage passes through."""
    raw = write("raw", photo="pixels")

    def fail() -> None:
        with stage_run("train", settings=settings(), config={}, inputs={"raw": raw}) as run:
            run.images("broken", [(b"not a picture", ""), (b"nor this", "")])
            run.images("broken too", [(b"not a picture", "")])
            run.summary({"classes": {"apple"}})
            run.summary({"accuracy": 0.9})
            raise ZeroDivisionError

    with WandbServer() as server, inside(project, server):
        with pytest.raises(ZeroDivisionError):
            fail()
        told = server.state()["runs"][RUN + "train"]
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("warning: W&B: it is not told of one summary (a set is ")
    assert err.count("\n") == 1
    assert "image" in err.partition(";")[2], err
    assert (told["state"], told["exit_code"], told["summary"]["accuracy"]) == ("failed", 1, 0.9)
    assert told["config"]["inputs"] == {"raw": read_content(raw).md5}


NETRC = f"machine api.wandb.ai\n  login user\n  password {KEY}\n"
NETRC_OTHER = NETRC.replace("api.wandb.ai", "127.0.0.1:9")


@pytest.mark.parametrize(
    ("variables", "netrc", "saved", "expected"),
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
def test_mode(variables: dict[str, str], netrc: str, saved: str, expected: tuple[str, str]) -> None:
    import wandb

    if netrc:
        (Path.home() / ".netrc").write_text(netrc)
    if saved:
        write("wandb", settings=f"[default]\n{saved}\n")
    with inside(Path.cwd(), None, **variables):
        wandb.setup(wandb.Settings(silent=True))
        try:
            mode, reason = choose_mode()
        finally:
            wandb.teardown()
    assert (mode, reason[: len(expected[1])]) == expected
    assert bool(reason) == bool(expected[1])


STAGE = """
import sys
from wandb_pipeline import run_stages, settings
run_stages(settings(), "red", ["train"])
print("wandb" in sys.modules)
"""
FULL_DISK = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))"
MODES = "online, offline, disabled, run, dryrun"
NOT_TRACKED = "; the stage is not tracked"
KEPT = "; the run is kept offline, for `grocery sync`"


@pytest.mark.parametrize(
    ("before", "environment", "warning"),
    [
        ("", {"WANDB_MODE": "disabled"}, ""),
        ("", {"WANDB_MODE": "online"}, f"no API key is configured{KEPT}"),
        ("", {"WANDB_MODE": "ofline"}, f"WANDB_MODE is 'ofline', .* one of {MODES}{NOT_TRACKED}"),
        ("", {"WANDB_DIR": "/dev/null/below"}, f".*Not a directory.*{NOT_TRACKED}"),
        ("", REFUSED, rf"http://127.0.0.1:9 cannot be reached \(Connection refused\){KEPT}"),
        (FULL_DISK, {}, f".*No space left.*{NOT_TRACKED}"),
    ],
    ids=["disabled", "no key", "a wrong mode", "no folder", "refused", "a full disk"],
)
def test_what_stands_against_tracking_costs_one_line_and_nothing_is_asked(
    before: str, environment: dict[str, str], warning: str, project: Path
) -> None:
    exit_code, seen = on_a_terminal(project, None, "-c", before + STAGE, **environment)
    assert exit_code == 0
    *warnings, imported = seen.splitlines()
    assert imported == "False", "W&B is in a process of its own"
    assert len(warnings) == bool(warning)
    assert all(re.fullmatch(f"warning: W&B: {warning}", said) for said in warnings)
    classifier = project / "classifier"
    assert (classifier / "weights").read_text() == "red"
    left = [path for path in project.rglob("*") if path.is_file() and path.parent != classifier]
    assert [path for path in left if KEY.encode() in path.read_bytes()] == []
    expected = {"page.html", "wandb"} if warning.endswith(KEPT) else {"page.html"}
    assert {path.relative_to(project).parts[0] for path in left} == expected


def test_importing_the_interface_imports_neither_wandb_nor_dvclive() -> None:
    code = (
        "import sys, grocery.tracking.run, grocery.classifier.curves\n"
        "print(sorted({'wandb', 'dvclive', 'dvc', 'pandas'} & sys.modules.keys()))"
    )
    assert Project(ROOT).run(sys.executable, "-c", code).stdout == "[]\n"


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
    waits = "run trial waits for `grocery sync` already"
    assert capfd.readouterr().err == f"warning: W&B: {waits}{NOT_TRACKED}\n"


def test_a_setting_that_wandb_no_longer_has_costs_that_setting_alone() -> None:
    assert supported({"silent": True, "renamed_in_a_newer_one": 1}) == {"silent": True}


def draw(folder: Path) -> dict[str, str]:
    with replacing(folder) as (partial,), curves_in(partial) as curves:
        for step in range(3):
            curves.step({"residual": 1 / (step + 1), "val_accuracy": step / 7})
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def test_curves_are_tables_that_dvc_plots_and_depend_on_the_values_alone(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    git = Project(project)
    git.run("git", "init", "--quiet")  # and no commit yet
    files = draw(project / "curves")
    residual, accuracy = "plots/metrics/residual.tsv", "plots/metrics/val_accuracy.tsv"
    assert list(files) == ["metrics.json", residual, accuracy]
    assert files[residual] == "step\tresidual\n0\t1.0\n1\t0.5\n2\t0.3333333333333333\n"
    last = {"residual": 1 / 3, "val_accuracy": 2 / 7, "step": 2}
    assert json.loads(files["metrics.json"]) == last
    assert sorted(path.name for path in project.iterdir()) == [".git", "curves"]
    assert git.run("git", "status", "--porcelain").stdout == "?? curves/\n"
    monkeypatch.setenv("DVCLIVE_RESUME", "1")
    monkeypatch.setenv("DVC_EXP_NAME", "icky-pugs")
    monkeypatch.setenv("DVC_STUDIO_TOKEN", "token")
    assert draw(project / "curves") == files
    assert capfd.readouterr() == ("", "")
