"""`grocery monitor`, as people and cron call it, on a real pipeline's batches and release."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
import termios
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pytest
import yaml
from PIL import Image

from conftest import Project, environment
from grocery.cli import main
from grocery.data.sources import open_source
from grocery.inbox.history import utc
from grocery.reference.reference import Reference
from grocery.shards import BATCH_SCHEMA, read_table, write_table
from grocery.synthetic.source import FLAWS

INCOMING = "data/prepared/incoming"


def monitor(
    project: Project, *arguments: str | Path, code: int = 0
) -> subprocess.CompletedProcess[str]:
    command = ["python", "-m", "grocery.cli", "monitor", *map(str, arguments)]
    done = project.run(*command, check=False)
    assert done.returncode == code, done.stderr
    return done


def documents(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def recorded(project: Project) -> dict[str, Any]:
    """What the stage said of the same batches."""
    batches: dict[str, Any] = json.loads((project.path / "metrics/monitor.json").read_text())
    return dict(batches["batches"])


def numbers(document: dict[str, Any]) -> dict[str, Any]:
    apart = ("batch", "incoming", "signals", "images_per_second", "latency_ms")
    return {k: v for k, v in document.items() if k not in apart}


def without_labels(found: dict[str, Any]) -> dict[str, Any]:
    """What does not hang on labels."""
    apart = {"accuracy", "accuracy_shift", "labels_shift"}
    return {name: value for name, value in found.items() if name not in apart}


def write_raw(project: Project, name: str, folder: Path, by_class: bool = False) -> Path:
    """Write the raw files of one of the dataset's batches, as a shop's cameras would."""
    for image in open_source(project.path / "data/raw/synthetic").incoming()[name]:
        assert image.label is not None
        file = folder / name / (image.label if by_class else "") / Path(image.path).name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(image.read())
    return folder / name


class TestVerdicts:
    def test_are_those_of_the_stage(self, built: Project) -> None:
        found = documents(monitor(built, INCOMING, "--json", code=2))
        assert [document["batch"] for document in found] == ["clean", "dim"]
        assert [document["incoming"] for document in found] == [
            f"{INCOMING}/clean.parquet",
            f"{INCOMING}/dim.parquet",
        ]
        assert {document["batch"]: numbers(document) for document in found} == recorded(built)
        points = json.loads((built.path / "metrics/monitor/batches.json").read_text())
        assert points == [
            {"batch": document["batch"]} | signal
            for document in found
            for signal in document["signals"]
        ]

    def test_a_table_for_people(self, built: Project) -> None:
        drawn = json.loads((built.path / "metrics/monitor/accuracy.json").read_text())
        rows = []
        for (name, batch), point in zip(recorded(built).items(), drawn, strict=True):
            assert (point["batch"], point["estimated"]) == (name, batch["estimated_accuracy"])
            estimate = f"{point['estimated']:.3f}"
            if point["estimated_low"] is not None:
                estimate += f" [{point['estimated_low']:.3f}, {point['estimated_high']:.3f}]"
            rows.append((batch, estimate, name))
        width = max(len("estimated accuracy"), *(len(estimate) for _, estimate, _ in rows))
        column = "estimated accuracy".rjust(width)
        expected = [f"verdict  images  unreadable  {column}  accuracy  batch"]
        for batch, estimate, name in rows:
            expected.append(
                f"{batch['verdict']:<7}  {batch['images']:>6}  {batch['unreadable']:>10}  "
                f"{estimate:>{width}}  {batch['accuracy']:8.3f}  {name}"
            )
        done = monitor(built, INCOMING, code=2)
        table, findings = done.stdout.split("\n\n")
        assert table.splitlines() == expected
        points = json.loads((built.path / "metrics/monitor/batches.json").read_text())
        odd = [f"{p['batch']}: {p['sentence']}" for p in points if p["verdict"] != "ok"]
        assert findings.splitlines() == odd != []
        assert done.stderr == ""

    def test_the_exit_code_says_whether_a_batch_is_an_alert(self, built: Project) -> None:
        clean, dim = f"{INCOMING}/clean.parquet", f"{INCOMING}/dim.parquet"
        assert monitor(built, clean).stdout.splitlines()[1].startswith("ok ")
        assert monitor(built, dim, clean, code=2).stdout.splitlines()[1].startswith("alert ")

    def test_thresholds_come_from_the_params(self, built: Project, tmp_path: Path) -> None:
        """The section alone is enough: where a model is used there need be no pipeline."""
        section = yaml.safe_load((built.path / "params.yaml").read_text())["monitor"]
        section |= {
            name: 1.0 for name in section if name.startswith("min_") and name != "min_batch"
        }
        patient = tmp_path / "patient.yaml"
        patient.write_text(yaml.safe_dump({"monitor": section}))
        command = (f"{INCOMING}/dim.parquet", "--json")
        before, after = (
            {signal["signal"]: signal for signal in dim["signals"]}
            for options in ((), ("--params", patient))
            for dim in documents(monitor(built, *command, *options, code=2))
        )
        alerts = {name for name, signal in before.items() if signal["verdict"] == "alert"}
        assert len(alerts) > 1
        for name in alerts - {"images"}:
            assert (after[name]["verdict"], after[name]["threshold"]) == ("watch", 1.0)
        assert after["images"]["verdict"] == "alert"  # its effect is 1, the largest

    def test_the_model_may_be_a_name_in_the_registry(self, project: Project) -> None:
        expected = documents(monitor(project, INCOMING, "--json", code=2))
        for tag in ("grocery-classifier@v1.0.0", "grocery-classifier#production#1"):
            project.run("git", "tag", "--annotate", tag, "-m", tag)
        shutil.rmtree(project.path / "models")
        named = ("--json", "--model", "production")
        found = documents(monitor(project, INCOMING, *named, code=2))
        assert [numbers(one) for one in found] == [numbers(one) for one in expected]
        assert [one["signals"] for one in found] == [one["signals"] for one in expected]


class TestFoldersOfImages:
    @pytest.mark.parametrize(("name", "code"), [("clean", 0), ("dim", 2)])
    def test_raw_files_give_what_the_pipelines_batch_gives(
        self, built: Project, tmp_path: Path, name: str, code: int
    ) -> None:
        expected = recorded(built)[name]
        flat = write_raw(built, name, tmp_path / "flat")
        (found,) = documents(monitor(built, flat, "--json", code=code))
        assert (found["batch"], found["incoming"]) == (name, str(flat))
        assert without_labels(numbers(found)) == without_labels(expected)
        assert found["accuracy"] is None

        sorted_by_hand = write_raw(built, name, tmp_path / "checked", by_class=True)
        (found,) = documents(monitor(built, sorted_by_hand, "--labelled", "--json", code=code))
        assert without_labels(numbers(found)) == without_labels(expected)
        assert found["accuracy"] == expected["accuracy"]
        (found,) = documents(monitor(built, sorted_by_hand, "--json", code=code))
        assert without_labels(numbers(found)) == without_labels(expected)
        assert found["accuracy"] is None

    def test_without_labels_the_table_has_no_such_column(
        self, built: Project, tmp_path: Path
    ) -> None:
        header, row = monitor(built, write_raw(built, "clean", tmp_path)).stdout.splitlines()
        assert header.split() == [
            "verdict",
            "images",
            "unreadable",
            "estimated",
            "accuracy",
            "batch",
        ]
        assert row.split()[:3] == ["ok", "24", "0"]

    def test_what_cannot_be_read_is_named_and_counted(self, built: Project, tmp_path: Path) -> None:
        folder = write_raw(built, "clean", tmp_path)
        first, second, *_ = sorted(folder.iterdir())
        first.write_bytes(FLAWS["truncated"](first.read_bytes()))
        second.write_bytes(FLAWS["bomb"](b""))
        done = monitor(built, folder, "--json")
        (found,) = documents(done)
        assert (found["images"], found["unreadable"]) == (22, 2)
        limit = yaml.safe_load((built.path / "params.yaml").read_text())["prepare"]["max_pixels"]
        assert done.stderr.splitlines() == [
            f"unreadable: {first} cannot be read as an image: truncated",
            f"unreadable: {second} cannot be read as an image: 2,500,000,000 pixels, more than "
            f"the {limit:,} allowed",
        ]

    def test_a_batch_of_rubbish_is_an_alert(self, built: Project, tmp_path: Path) -> None:
        for number in range(25):
            (tmp_path / f"{number}.jpg").write_bytes(FLAWS["text"](b""))
        done = monitor(built, tmp_path, code=2)
        assert done.stdout.splitlines()[1].split() == ["alert", "0", "25", "-", tmp_path.name]
        assert f"{tmp_path.name}: 25 of 25 files cannot be read" in done.stdout

    def test_too_few_images_are_said_to_be(self, built: Project, tmp_path: Path) -> None:
        folder = write_raw(built, "dim", tmp_path)
        for file in sorted(folder.iterdir())[3:]:
            file.unlink()
        said = monitor(built, folder).stdout
        assert said.splitlines()[1].startswith("too few  ")
        assert "dim: 3 readable images are too few to judge predictions by; 20 are needed." in said

    def test_sidecars_are_left_out_and_the_folder_may_be_a_link(
        self, built: Project, tmp_path: Path
    ) -> None:
        folder = write_raw(built, "clean", tmp_path)
        for name in (".DS_Store", "Thumbs.db", ".cache/1.jpg"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"no image")
        (tmp_path / "latest").symlink_to(folder)
        done = monitor(built, tmp_path / "latest", "--json")
        (found,) = documents(done)
        assert (found["batch"], found["images"], found["unreadable"]) == ("latest", 24, 0)
        assert done.stderr == ""

    def test_names_cannot_steer_the_terminal(self, built: Project, tmp_path: Path) -> None:
        evil = "\x1b[2J\n"
        folder = write_raw(built, "clean", tmp_path).rename(tmp_path / evil)
        (folder / evil).write_bytes(b"no image")
        done = monitor(built, folder)
        assert done.stdout.splitlines()[1].endswith("  ?[2J?")
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"unreadable: {tmp_path}/?[2J?/?[2J? cannot be read")


class TestReport:
    def test_is_the_stages_page(self, built: Project, tmp_path: Path) -> None:
        page = tmp_path / "new" / "drift.html"
        monitor(built, INCOMING, "--report", page, code=2)
        assert page.read_bytes() == (built.path / "metrics/monitor/index.html").read_bytes()

    def test_shows_a_folder_of_images(self, built: Project, tmp_path: Path) -> None:
        folder, page = write_raw(built, "dim", tmp_path), tmp_path / "drift.html"
        monitor(built, folder, "--report", page, code=2)
        shown = page.read_text()
        assert "<h1>1 of 1 batch in alert</h1>" in shown
        assert shown.count("<img") == 8


def batch_of(path: Path, jpegs: Sequence[bytes]) -> Path:
    columns = [["0" * 64] * len(jpegs), ["a.jpg"] * len(jpegs), [None] * len(jpegs), list(jpegs)]
    write_table(path, pa.table(columns, schema=BATCH_SCHEMA))
    return path


class TestBadInput:
    """One sentence, the exit code 1, and no verdict."""

    @pytest.fixture(autouse=True)
    def in_the_project(self, built: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(built.path)

    @pytest.fixture
    def refused(self, capsys: pytest.CaptureFixture[str]) -> Any:
        def call(*arguments: str | Path) -> str:
            with pytest.raises(SystemExit) as caught:
                main(["monitor", *map(str, arguments)])
            out, err = capsys.readouterr()
            assert (caught.value.code, out) == (1, "")
            sentence: str = err.splitlines()[-1]
            assert sentence.startswith("error: monitor: ")
            assert err.count("error: ") == 1
            return sentence

        return call

    def test_an_empty_folder(self, refused: Any, tmp_path: Path) -> None:
        assert refused(tmp_path).endswith(f"{tmp_path} holds no images")

    def test_nothing_there(self, refused: Any) -> None:
        assert "nowhere is not here; a batch is a folder" in refused(INCOMING, "nowhere")

    def test_a_file_that_is_no_batch(self, refused: Any, tmp_path: Path) -> None:
        assert "params.yaml is no batch" in refused("params.yaml")
        whole = Path(INCOMING, "clean.parquet").read_bytes()
        cut = tmp_path / "cut.parquet"
        cut.write_bytes(whole[:-100])
        assert f"{cut} cannot be read as a shard" in refused(INCOMING, cut)
        shard = next(Path("data/prepared/shards").glob("*.parquet"))
        write_table(cut, read_table(shard).drop_columns(["image"]))
        assert str(cut) in refused(cut)

    def test_damaged_and_hostile_images_in_a_parquet_batch(
        self, refused: Any, tmp_path: Path
    ) -> None:
        batch = batch_of(tmp_path / "batch.parquet", [b"no JPEG"] * 30)
        assert f"{batch}: a prepared image cannot be read" in refused(batch)
        stream = BytesIO()
        Image.new("L", (8, 8)).save(stream, "JPEG")
        jpeg = stream.getvalue()
        frame = jpeg.index(b"\xff\xc0") + 5  # height and width follow
        huge = jpeg[:frame] + b"\xff\xdc\xff\xdc" + jpeg[frame + 4 :]
        batch_of(batch, [huge] * 30)
        assert f"{batch}: a prepared image cannot be read: 4,290,250,000 pixels" in refused(batch)

    def test_a_folder_of_batches_and_images(self, refused: Any, tmp_path: Path) -> None:
        shutil.copy(Path(INCOMING, "clean.parquet"), tmp_path)
        (tmp_path / "1.jpg").touch()
        assert f"{tmp_path} holds Parquet files and others" in refused(tmp_path)

    def test_links_in_a_folder(self, built: Project, refused: Any, tmp_path: Path) -> None:
        folder = write_raw(built, "clean", tmp_path)
        (folder / "passwords.jpg").symlink_to("/etc/passwd")
        assert "passwords.jpg is a symbolic link" in refused(folder)

    def test_a_name_that_is_not_utf_8(self, built: Project, refused: Any, tmp_path: Path) -> None:
        folder = write_raw(built, "clean", tmp_path).rename(tmp_path / os.fsdecode(b"caf\xe9"))
        assert "is not UTF-8" in refused(folder)

    def test_labels_that_are_no_classes(self, built: Project, refused: Any, tmp_path: Path) -> None:
        flat = write_raw(built, "clean", tmp_path)
        assert f"folders in {flat} that are named after classes" in refused(flat, "--labelled")
        (tmp_path / "days").mkdir()
        flat.rename(tmp_path / "days/monday")
        assert "such as Cucumber; found: monday" in refused(tmp_path / "days", "--labelled")

    def test_a_model_that_is_not_there(self, refused: Any, tmp_path: Path) -> None:
        assert str(tmp_path) in refused(INCOMING, "--model", tmp_path)
        assert "no-such-model" in refused(INCOMING, "--model", "no-such-model")
        assert "production" in refused(INCOMING, "--model", "production")

    def test_a_model_without_its_reference(self, refused: Any, tmp_path: Path) -> None:
        release = shutil.copytree("models/release", tmp_path / "release")
        shutil.rmtree(release / "reference")
        assert "reference" in refused(INCOMING, "--model", release)

    def test_params_that_are_missing_or_wrong(self, refused: Any, tmp_path: Path) -> None:
        file = tmp_path / "thresholds.yaml"
        assert f"{file} is not here; name the file" in refused(INCOMING, "--params", file)
        assert "is not here" in refused(INCOMING, "--params", tmp_path)
        file.write_text("train: {}\n")
        assert f"{file}: monitor is missing" in refused(INCOMING, "--params", file)
        section = yaml.safe_load(Path("params.yaml").read_text())["monitor"]
        file.write_text(yaml.safe_dump({"monitor": section | {"significance": 3}}))
        assert "monitor.significance is 3, but" in refused(INCOMING, "--params", file)
        file.write_text(yaml.safe_dump({"monitor": section | {"min_bach": 3}}))
        assert "did you mean min_batch?" in refused(INCOMING, "--params", file)

    def test_a_report_that_cannot_be_written(self, refused: Any, tmp_path: Path) -> None:
        assert f"{tmp_path} is a folder" in refused(INCOMING, "--report", tmp_path)
        assert "'params.yaml'" in refused(INCOMING, "--report", "params.yaml/drift.html")

    def test_a_command_line_that_is_wrong(self, refused: Any) -> None:
        """Not 2, argparse's own code: to cron that would be an alert."""
        assert "unrecognized arguments: --jsno" in refused(INCOMING, "--jsno")
        assert "the following arguments are required: INCOMING" in refused()
        assert "--model: expected one argument" in refused(INCOMING, "--model")


def test_a_progress_bar_on_a_terminal_only(built: Project, tmp_path: Path) -> None:
    folder = write_raw(built, "clean", tmp_path)
    assert monitor(built, folder).stderr == ""
    parent, child = pty.openpty()
    termios.tcsetwinsize(child, (24, 80))
    done = subprocess.run(
        [sys.executable, "-m", "grocery.cli", "monitor", str(folder)],
        cwd=built.path,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=child,
        text=True,
        check=True,
    )
    os.close(child)
    shown = b""
    try:
        while data := os.read(parent, 4096):
            shown += data
    except OSError:  # the other side is closed
        pass
    os.close(parent)
    assert done.stdout == monitor(built, folder).stdout
    assert b"clean: " in shown
    assert b"/24 [" in shown


@pytest.fixture
def elsewhere(built: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be in a folder of no pipeline, with a release, the params, and a batch called clean."""
    for name in ("params.yaml", "models"):
        (tmp_path / name).symlink_to(built.path / name)
    write_raw(built, "clean", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class TestHistory:
    """What cron calls, again and again, on an inbox that fills."""

    @pytest.fixture
    def inbox(self, built: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(built.path)
        write_raw(built, "clean", tmp_path / "inbox").rename(tmp_path / "inbox/monday")
        return tmp_path / "inbox"

    @pytest.fixture
    def watch(
        self, inbox: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> Callable[..., tuple[int, str, str]]:
        """Run the command on the inbox: its exit code, and what it says on both outputs."""

        def call(*arguments: str | Path) -> tuple[int, str, str]:
            history = ("--history", tmp_path / "history.jsonl", "--each")
            settled = () if "--settled" in arguments else ("--settled", "0")
            code: Any = 0
            try:
                main(["monitor", *map(str, (inbox, *history, *settled, *arguments))])
            except SystemExit as error:
                code = error.code
            return (code, *capsys.readouterr())

        return call

    @staticmethod
    def lines(tmp_path: Path) -> list[dict[str, Any]]:
        text = (tmp_path / "history.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def test_each_batch_is_judged_once(
        self, built: Project, inbox: Path, watch: Any, tmp_path: Path
    ) -> None:
        code, out, err = watch()
        assert (code, err) == (0, "")
        assert out.splitlines()[1].split()[0] == "ok"
        assert watch() == (0, "", "")
        write_raw(built, "dim", inbox)
        code, out, _ = watch()
        assert code == 2
        assert [line.split()[-1] for line in out.splitlines()[1:2]] == ["dim"]
        assert "monday" not in out
        assert watch() == (0, "", "")
        (inbox / "dim").rename(inbox / "another-name")
        assert watch() == (0, "", "")
        assert [line["batch"] for line in self.lines(tmp_path)] == ["monday", "dim"]

    def test_what_a_line_says(self, built: Project, watch: Any, tmp_path: Path) -> None:
        (document,) = [json.loads(line) for line in watch("--json")[1].splitlines()]
        (line,) = self.lines(tmp_path)
        expected = recorded(built)["clean"]
        for said in (document, line):
            assert said["estimated_accuracy"] == pytest.approx(
                expected["estimated_accuracy"], abs=1e-6
            )
            assert (said["verdict"], said["images"]) == (expected["verdict"], expected["images"])
            assert (said["kind"], said["sequence"], said["version"]) == ("batch", None, None)
        newest = max(file.stat().st_mtime for file in (tmp_path / "inbox/monday").iterdir())
        assert line["time"] == utc(newest)
        assert line["judged"] >= line["time"]
        release = json.loads((built.path / "models/release/reference/reference.json").read_text())
        assert release["model_digest"] == line["model"]

    def test_a_batch_without_model_is_left_alone(self, watch: Any) -> None:
        """When nothing is new, nothing is loaded."""
        assert watch()[0] == 0
        assert watch("--model", "no-such-model") == (0, "", "")

    def test_quiet_says_alerts_only(self, built: Project, inbox: Path, watch: Any) -> None:
        assert watch("--quiet") == (0, "", "")
        write_raw(built, "dim", inbox)
        (inbox / "tuesday").mkdir()
        shutil.copy(next((inbox / "monday").iterdir()), inbox / "tuesday")
        code, out, err = watch("--quiet")
        assert (code, err) == (2, "")
        assert "dim" in out
        assert "tuesday" not in out

    def test_what_is_still_being_written_waits(self, watch: Any, tmp_path: Path) -> None:
        assert watch("--settled", "3600") == (0, "", "")
        assert self.lines(tmp_path) == []
        assert watch("--settled", "0")[1] != ""

    def test_labels_that_come_later(
        self, built: Project, inbox: Path, watch: Any, tmp_path: Path
    ) -> None:
        assert watch("--labelled")[0] == 0  # a flat folder has none yet
        shutil.rmtree(inbox / "monday")
        write_raw(built, "clean", inbox, by_class=True).rename(inbox / "monday")
        code, out, _ = watch("--labelled")
        assert code == 0
        assert "monday: labels for 24 of its images" in out
        assert watch("--labelled") == (0, "", "")
        assert watch() == (0, "", "")
        batch, labels = self.lines(tmp_path)
        assert (batch["kind"], batch["accuracy"], labels["kind"]) == ("batch", None, "labels")
        accuracy = recorded(built)["clean"]["accuracy"]
        assert labels["accuracy"] == pytest.approx(accuracy, abs=1e-6)

    def test_a_machine_that_has_become_slow(
        self, built: Project, inbox: Path, watch: Any, tmp_path: Path
    ) -> None:
        """A history of the same batch, which a much faster machine of that name has judged."""
        watch()
        (judged,) = self.lines(tmp_path)
        assert judged["images_per_second"] > 0
        shutil.rmtree(inbox / "monday")
        file = next(tmp_path.rglob("history.jsonl"))
        lines = [
            judged | {"digest": f"{n:064x}", "latency_ms": judged["latency_ms"] / (1000 + n)}
            for n in range(5)
        ]
        file.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
        write_raw(built, "clean", inbox)
        code, out, _ = watch()
        assert code == 0  # it says nothing of the images
        assert out.splitlines()[1].startswith("watch")
        assert "clean: Predicting an image takes " in out
        signals = {found["signal"]: found for found in self.lines(tmp_path)[-1]["signals"]}
        assert signals["speed"]["verdict"] == "watch"
        assert signals["speed"]["effect"] > 0.9

    def test_a_sequence_of_small_batches_becomes_an_alert(
        self, built: Project, inbox: Path, watch: Any, tmp_path: Path
    ) -> None:
        """Twelve dim images a day are too few to be judged."""
        shutil.rmtree(inbox / "monday")
        dim = sorted(write_raw(built, "dim", tmp_path).iterdir())
        for day, first in (("1", 0), ("2", 12)):
            (inbox / day).mkdir()
            for file in dim[first : first + 12]:
                file.rename(inbox / day / file.name)
        code, out, _ = watch("--report", tmp_path / "page.html")
        assert code == 2
        assert [line.split()[:2] for line in out.splitlines()[1:3]] == [["too", "few"]] * 2
        assert "a sequence of 2 batches is an alert: 1 to 2" in out
        assert "Over the last 2 batches, 24 images: " in out
        first, second = self.lines(tmp_path)
        assert first["sequence"] is None
        assert second["sequence"]["batches"] == ["1", "2"]
        page = (tmp_path / "page.html").read_text()
        assert "<h1>A sequence of batches in alert</h1>" in page

    def test_the_page_stays_until_something_is_new(
        self, built: Project, inbox: Path, watch: Any, tmp_path: Path
    ) -> None:
        page = tmp_path / "page.html"
        watch("--report", page)
        first = page.read_bytes()
        assert b"Over time" in first
        watch("--report", page)
        assert page.read_bytes() == first
        write_raw(built, "dim", inbox)
        watch("--report", page)
        assert page.read_text().count('<ol class="strip"><li class="ok"') == 1
        assert "2 batches with this model" in page.read_text()
        page.unlink()
        watch("--report", page)
        assert "No new batches" in page.read_text()

    def test_a_broken_batch_keeps_no_other_from_being_judged(
        self, inbox: Path, watch: Any, tmp_path: Path
    ) -> None:
        (inbox / "a-empty").mkdir()
        (inbox / "b.parquet").write_bytes(b"no Parquet")
        code, out, err = watch()
        assert code == 1
        assert out.splitlines()[1].endswith("monday")
        empty, broken = err.splitlines()
        assert empty == f"error: monitor: {inbox}/a-empty holds no images"
        assert f"{inbox}/b.parquet cannot be read" in broken
        assert [line["batch"] for line in self.lines(tmp_path)] == ["monday"]

    def test_an_alert_counts_more_than_a_broken_batch(
        self, built: Project, inbox: Path, watch: Any
    ) -> None:
        (inbox / "empty").mkdir()
        write_raw(built, "dim", inbox)
        assert watch()[0] == 2

    def test_a_history_that_was_cut_off(self, inbox: Path, watch: Any, tmp_path: Path) -> None:
        watch()
        file = tmp_path / "history.jsonl"
        file.write_bytes(file.read_bytes()[:-20])
        code, out, err = watch()
        assert code == 0
        assert out.splitlines()[1].endswith("monday")
        (line,) = err.splitlines()
        assert line.startswith(f"warning: monitor: line 1 of {file} is damaged and left out")
        assert watch("--quiet") == (0, "", "")

    def test_the_time_of_a_batch(self, inbox: Path, watch: Any, tmp_path: Path) -> None:
        watch("--time", "2026-11-23T18:00:00+02:00")
        assert self.lines(tmp_path)[0]["time"] == "2026-11-23T16:00:00Z"
        (inbox / "other").mkdir()
        code, out, err = watch("--time", "2026-11-24")
        assert (code, out) == (1, "")
        assert "--time is the time of one batch, and there are 2" in err

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["--quiet"], "--quiet goes with --history"),
            (["--time", "2026-11-23"], "--time goes with --history"),
            (["--time", "noon", "--history", "x"], "noon should be a time such as"),
            (["--settled", "-1"], "-1 should be a number of seconds"),
            (["--history", "."], "history.jsonl is a folder"),
            (["--history", "params.yaml"], "is no history of grocery monitor"),
            (["--history", "params.yaml/x"], "'params.yaml"),
            (["--history", "/dev/full"], "neither a file nor a folder"),
            (["--each"], "is in no batch; with --each every folder"),
        ],
    )
    def test_bad_input(
        self,
        elsewhere: Path,
        capsys: pytest.CaptureFixture[str],
        arguments: list[str],
        sentence: str,
    ) -> None:
        (elsewhere / "history.jsonl").mkdir()
        folder = elsewhere / "clean"
        with pytest.raises(SystemExit) as caught:
            main(["monitor", str(folder), *arguments])
        out, err = capsys.readouterr()
        assert (caught.value.code, out) == (1, "")
        assert sentence in err.splitlines()[-1]

    def test_a_reference_of_another_model(self, built: Project, watch: Any, tmp_path: Path) -> None:
        release = shutil.copytree(built.path / "models/release", tmp_path / "release")
        reference = Reference.load(release / "reference")
        replace(reference, model_digest="0" * 64).save(release / "reference")
        code, out, err = watch("--model", release)
        assert (code, out) == (1, "")
        assert "the reference is of model 000000000000" in err
        assert self.lines(tmp_path) == []

    def test_a_model_from_the_registry_leaves_its_version(
        self, project: Project, tmp_path: Path
    ) -> None:
        """In a real process, from a fetched production model."""
        for tag in ("grocery-classifier@v1.0.0", "grocery-classifier#production#1"):
            project.run("git", "tag", "--annotate", tag, "-m", tag)
        shutil.rmtree(project.path / "models")
        named = ("--model", "production", "--history", f"{tmp_path}/kept/", "--quiet")
        said = monitor(project, INCOMING, *named, code=2).stdout
        assert "dim" in said
        assert monitor(project, INCOMING, *named).stdout == ""
        text = (tmp_path / "kept/history.jsonl").read_text()
        assert [json.loads(line)["version"] for line in text.splitlines()] == ["v1.0.0"] * 2


class TestTracking:
    def test_a_run_of_its_own_offline(self, project: Project, tmp_path: Path) -> None:
        command = ["python", "-m", "grocery.cli", "monitor", INCOMING, "--track"]
        history = ["--history", str(tmp_path / "history.jsonl")]
        done = project.run(*command, *history, check=False, env={"WANDB_MODE": "offline"})
        assert (done.returncode, done.stderr) == (2, "")
        (run,) = (project.path / "wandb").glob("offline-run-*")
        data = next(run.glob("*.wandb")).read_bytes()
        for expected in (b"monitoring", b"shift/confidence", b"Drift in batch dim"):
            assert expected in data

    def test_nothing_new_is_no_run(self, project: Project, tmp_path: Path) -> None:
        clean = f"{INCOMING}/clean.parquet"
        history = ("--history", tmp_path / "history.jsonl")
        monitor(project, clean, *history)
        command = ["python", "-m", "grocery.cli", "monitor", clean, "--track"]
        done = project.run(*command, *map(str, history), env={"WANDB_MODE": "offline"})
        assert (done.stdout, done.stderr) == ("", "")
        assert not list((project.path / "wandb").glob("offline-run-*"))


class TestDrill:
    def test_is_handed_its_arguments(self, monkeypatch: pytest.MonkeyPatch) -> None:
        called: list[tuple[list[str], str]] = []
        module = ModuleType("grocery.cli.drill")
        module.main = lambda argv, prog: called.append((argv, prog))  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "grocery.cli.drill", module)
        main(["monitor", "drill", "--seed", "1"])
        assert called == [(["--seed", "1"], "grocery monitor drill")]

    def test_a_folder_of_that_name(
        self, elsewhere: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (elsewhere / "clean").rename(elsewhere / "drill")
        main(["monitor", "./drill"])
        assert capsys.readouterr().out.splitlines()[1].endswith("  drill")
