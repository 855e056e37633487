"""`grocery monitor`, as people and cron call it, on a real pipeline's batches and release."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import Project, once
from grocery.data.sources import open_source
from grocery.inbox.entries import utc
from grocery.reference.reference import Reference
from grocery.synthetic.source import FLAWS
from registry_project import Said, grocery, inside
from samples import jpeg, picture, put
from test_monitor import write_batch
from test_predict import on_a_terminal

NO_UTF8 = os.fsdecode(b"caf\xe9")
INCOMING = "data/prepared/incoming"
CLEAN, DIM = f"{INCOMING}/clean.parquet", f"{INCOMING}/dim.parquet"


def monitor(project: Project, *arguments: str | Path, code: int = 0) -> Said:
    """Run the command in a project."""
    said = grocery(project, "monitor", *map(str, arguments))
    assert said.code == code, said.err
    return said


def documents(said: Said) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said.out.splitlines()]


def recorded(built: Project) -> dict[str, Any]:
    """What the stage found of each batch, without what the pipeline did to it on purpose."""
    batches = json.loads((built.path / "metrics/monitor.json").read_text())["batches"]
    return {name: {k: v for k, v in b.items() if k != "drill"} for name, b in batches.items()}


def points(project: Project) -> list[dict[str, Any]]:
    """The signals as the stage has written them."""
    found: list[dict[str, Any]] = json.loads(
        (project.path / "metrics/monitor/batches.json").read_text()
    )
    return found


def without_labels(found: dict[str, Any]) -> dict[str, Any]:
    """What does not hang on labels."""
    apart = {"accuracy", "accuracy_shift", "labels_shift", "to_label"}
    return {name: value for name, value in found.items() if name not in apart}


@pytest.fixture(scope="module")
def raw(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The raw files of the dataset's batches, as a shop's cameras write them: flat, by class."""

    def make(folder: Path) -> None:
        for name, images in open_source(built.path / "data/raw/synthetic").incoming().items():
            for image in images:
                assert image.label is not None
                for where in (f"flat/{name}", f"by-class/{name}/{image.label}"):
                    put(folder / where, Path(image.path).name, image.read())

    return once(tmp_path_factory, "raw batches", make)


@pytest.fixture
def flat(raw: Path, tmp_path: Path) -> Path:
    """A folder of the raw files of the clean batch, free to change."""
    return Path(shutil.copytree(raw / "flat/clean", tmp_path / "clean"))


class TestVerdicts:
    def test_are_those_of_the_stage(self, built: Project, tmp_path: Path) -> None:
        """The page too; and dim images are an alert, of which the exit code tells."""
        page = tmp_path / "new" / "drift.html"
        found = documents(monitor(built, INCOMING, "--json", "--report", page, code=3))
        assert [document["batch"] for document in found] == ["clean", "dim"]
        assert [document["incoming"] for document in found] == [CLEAN, DIM]
        for document in found:
            assert recorded(built)[document["batch"]].items() <= document.items()
        assert points(built) == [
            {"batch": document["batch"]} | signal
            for document in found
            for signal in document["signals"]
        ]
        assert page.read_bytes() == (built.path / "metrics/monitor/index.html").read_bytes()

    def test_a_table_for_people(self, built: Project) -> None:
        drawn = json.loads((built.path / "metrics/monitor/accuracy.json").read_text())
        text = "{estimated:.3f} [{estimated_low:.3f}, {estimated_high:.3f}]"
        estimates = {
            one["batch"]: "-" if one["estimated"] is None else text.format_map(one) for one in drawn
        }
        width = max(map(len, estimates.values()))
        column = "estimated accuracy".rjust(width)
        expected = [f"verdict  images  unreadable  {column}  accuracy  batch"]
        for name, batch in reversed(recorded(built).items()):
            expected.append(
                f"{batch['verdict']:<7}  {batch['images']:>6}  {batch['unreadable']:>10}  "
                f"{estimates[name]:>{width}}  {batch['accuracy']:8.3f}  {name}"
            )
        said = monitor(built, DIM, CLEAN, code=3)
        table, findings = said.out.split("\n\n")
        assert table.splitlines() == expected
        odd = [f"{p['batch']}: {p['sentence']}" for p in points(built) if p["verdict"] != "ok"]
        said_of = [line for line in findings.splitlines() if "cannot be estimated" not in line]
        assert said_of == odd != []
        assert said.err == ""
        assert monitor(built, CLEAN).out.splitlines()[1].startswith("ok ")

    def test_thresholds_come_from_the_params(self, built: Project, tmp_path: Path) -> None:
        """The section alone is enough: where a model is used there need be no pipeline."""
        section = yaml.safe_load((built.path / "params.yaml").read_text())["monitor"]
        sizes = ("min_unknown_share", "min_estimated_drop", "min_accuracy_drop", "min_label_shift")
        patient = tmp_path / "patient.yaml"
        patient.write_text(yaml.safe_dump({"monitor": section | dict.fromkeys(sizes, 1.0)}))
        before = {p["signal"]: p["verdict"] for p in points(built) if p["batch"] == "dim"}
        (dim,) = documents(monitor(built, DIM, "--json", "--params", patient))
        after = {signal["signal"]: signal["verdict"] for signal in dim["signals"]}
        changed = {name for name in before if before[name] != after[name]}
        assert changed <= {name for name in before if before[name] == "alert"}
        assert len(changed) > 0
        assert {after[name] for name in changed} == {"watch"}


class TestFoldersOfImages:
    def test_raw_files_give_what_the_pipelines_batch_gives(
        self, built: Project, raw: Path, tmp_path: Path
    ) -> None:
        expected, page = recorded(built), tmp_path / "drift.html"
        folders = [raw / "flat" / name for name in expected]
        found = documents(monitor(built, *folders, "--json", "--report", page, code=3))
        for one, folder in zip(found, folders, strict=True):
            assert (one["batch"], one["incoming"]) == (folder.name, str(folder))
            assert without_labels(expected[folder.name]).items() <= one.items()
            assert one["accuracy"] is None
        assert "<h1>1 of 2 batches in alert</h1>" in page.read_text()
        assert page.read_text().count("<img") == 2 * 8

        checked = raw / "by-class/clean"
        (labelled,) = documents(monitor(built, checked, "--labelled", "--json"))
        assert expected["clean"].items() <= labelled.items()
        (one,) = documents(monitor(built, checked, "--json"))
        assert without_labels(expected["clean"]).items() <= one.items()
        assert one["accuracy"] is None

    def test_what_cannot_be_read_is_counted_and_sidecars_are_left_out(
        self, built: Project, flat: Path, tmp_path: Path
    ) -> None:
        """In a folder that may be a link."""
        first, second, *_ = (file.name for file in sorted(flat.iterdir()))
        (flat / first).write_bytes(FLAWS["truncated"]((flat / first).read_bytes()))
        (flat / second).write_bytes(FLAWS["bomb"](b""))
        for name in (".DS_Store", "Thumbs.db", "@eaDir/1.jpg", ".cache/1.jpg", "README"):
            put(flat, name, b"no image")
        latest = tmp_path / "latest"
        latest.symlink_to(flat)
        said = monitor(built, latest, "--json")
        (found,) = documents(said)
        assert (found["batch"], found["images"], found["unreadable"]) == ("latest", 22, 2)
        limit = yaml.safe_load((built.path / "params.yaml").read_text())["prepare"]["max_pixels"]
        reason = "cannot be read as an image:"
        assert said.err.splitlines() == [
            f"left out: {latest}/.cache: hidden",
            f"left out: {latest}/README: about the images",
            f"unreadable: {latest}/{first} {reason} truncated",
            f"unreadable: {latest}/{second} {reason} too many pixels: 2,500,000,000; "
            f"prepare.max_pixels allows {limit:,}",
        ]

    def test_a_batch_of_rubbish_is_an_alert(self, built: Project, tmp_path: Path) -> None:
        for number in range(25):
            (tmp_path / f"{number}.jpg").write_bytes(FLAWS["text"](b""))
        out = monitor(built, tmp_path, code=3).out
        header, row = (line.split() for line in out.splitlines()[:2])
        # Without labels there is no column of them.
        assert header == ["verdict", "images", "unreadable", "estimated", "accuracy", "batch"]
        assert row == ["alert", "0", "25", "-", tmp_path.name]
        assert f"{tmp_path.name}: 25 of 25 files cannot be read" in out

    def test_names_cannot_steer_the_terminal(self, built: Project, tmp_path: Path) -> None:
        evil = "\x1b[2J\n"
        (tmp_path / evil).mkdir()
        (tmp_path / evil / evil).write_bytes(b"no image")
        said = monitor(built, tmp_path / evil)
        assert said.out.splitlines()[1].endswith("  ?[2J?")
        (line,) = said.err.splitlines()
        assert line.startswith(f"unreadable: {tmp_path}/?[2J?/?[2J? cannot be read")


@pytest.fixture(scope="module")
def odd(built: Project, raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A folder of no pipeline, with all that people may name by mistake."""
    folder = tmp_path_factory.mktemp("odd")
    shutil.copy2(built.path / "params.yaml", folder)
    (folder / "data").symlink_to(built.path / "data")
    (folder / "flat").symlink_to(raw / "flat/clean")
    for name in ("empty", "metrics/history.jsonl", "link", "mixed", "days/Lemno", NO_UTF8):
        (folder / name).mkdir(parents=True)
    photo = next((raw / "flat/clean").iterdir())
    for name in ("days/Lemno/1.jpg", "mixed/1.jpg", f"{NO_UTF8}/1.jpg"):
        shutil.copy(photo, folder / name)
    (folder / "link/passwords.jpg").symlink_to("/etc/passwd")
    (folder / "cut.parquet").write_bytes((built.path / CLEAN).read_bytes()[:-100])
    shutil.copy(folder / "cut.parquet", folder / "mixed")
    whole = jpeg(picture())
    frame = whole.index(b"\xff\xc0") + 5  # height and width follow
    huge = whole[:frame] + b"\xff\xdc\xff\xdc" + whole[frame + 4 :]
    write_batch(folder / "huge.parquet", [huge] * 30)
    write_batch(folder / "rubbish.parquet", [b"no JPEG"] * 30)

    release = shutil.copytree(built.path / "models/release", folder / "models/release")
    other = shutil.copytree(release, folder / "other")
    reference = Reference.load(other / "reference")
    replace(reference, model_digest="0" * 64).save(other / "reference")
    shutil.copytree(release, folder / "bare", ignore=shutil.ignore_patterns("reference"))

    section = yaml.safe_load((built.path / "params.yaml").read_text())["monitor"]
    (folder / "none.yaml").write_text("train: {}\n")
    for name, change in (("large.yaml", {"significance": 3}), ("typo.yaml", {"min_bach": 3})):
        (folder / name).write_text(yaml.safe_dump({"monitor": section | change}))
    return Project(folder)


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            ("empty", "empty holds no images"),
            (f"{INCOMING} nowhere", "nowhere is not here; a batch is a folder"),
            ("params.yaml", "params.yaml is no batch"),
            ("cut.parquet", "cut.parquet cannot be read as a shard"),
            ("mixed", "mixed holds Parquet files and others"),
            ("rubbish.parquet", "rubbish.parquet: a prepared image cannot be read"),
            ("huge.parquet", "huge.parquet: a prepared image cannot be read: too many pixels"),
            ("link", "passwords.jpg is a symbolic link"),
            (NO_UTF8, "is not UTF-8"),
            ("flat --labelled", "folders in flat that are named after classes"),
            ("days --labelled", "such as Cucumber; found: Lemno (did you mean Lemon?)"),
            (f"{INCOMING} --model empty", "empty"),
            (f"{INCOMING} --model no-such-model", "no-such-model"),
            (f"{INCOMING} --model other", "the reference is of model 000000000000"),
            (f"{INCOMING} --model other --history x", "the reference is of model 000000000000"),
            (f"{INCOMING} --model bare", "reference"),
            (f"{INCOMING} --params no.yaml", "no.yaml is not here; name the file"),
            (f"{INCOMING} --params empty", "is not here"),
            (f"{INCOMING} --params none.yaml", "none.yaml: monitor is missing"),
            (f"{INCOMING} --params large.yaml", "monitor.significance is 3, but"),
            (f"{INCOMING} --params typo.yaml", "did you mean min_batch?"),
            (f"{INCOMING} --history metrics", "history.jsonl is a folder"),
            (f"{INCOMING} --history params.yaml", "is no history of grocery monitor"),
            (f"{INCOMING} --history params.yaml/x", "'params.yaml"),
            (f"{INCOMING} --history /dev/full", "neither a file nor a folder"),
            ("flat --each", "is in no batch; with --each every folder"),
            # argparse's own code, which is not that of an alert
            ("", "the following arguments are required: INCOMING"),
            (f"{INCOMING} --jsno", "unrecognized arguments: --jsno"),
            (f"{INCOMING} --model", "--model: expected one argument"),
            (f"{INCOMING} --quiet", "--quiet goes with --history"),
            (f"{INCOMING} --time 2026-11-23", "--time goes with --history"),
            (f"{INCOMING} --time noon --history x", "noon should be a time such as"),
            (f"{INCOMING} --settled -1", "-1 should be a number of seconds"),
        ],
    )
    def test_is_one_sentence_and_no_verdict(
        self, odd: Project, arguments: str, sentence: str
    ) -> None:
        said = grocery(odd, "monitor", *arguments.split())
        last = said.err.splitlines()[-1]
        assert (said.out, said.err.count("error: ")) == ("", 1)
        code = 2 if last.startswith("grocery monitor: error: ") else 1
        assert (said.code, last.startswith("error: monitor: ")) == (code, code == 1)
        assert sentence in last
        history = odd.path / "x"
        assert not history.exists() or not history.read_text()

    def test_keeps_no_other_batch_from_being_judged(self, built: Project, tmp_path: Path) -> None:
        (tmp_path / "cut.parquet").write_bytes((built.path / CLEAN).read_bytes()[:-100])
        (tmp_path / ".part.parquet").touch()
        said = monitor(built, tmp_path, CLEAN, code=1)
        assert said.out.splitlines()[1].startswith("ok ")
        assert f"{tmp_path}/cut.parquet cannot be read" in said.err
        assert f"left out: {tmp_path}/.part.parquet: it is in no batch\n" in said.err

    def test_a_page_that_cannot_be_written(self, built: Project, tmp_path: Path) -> None:
        """It costs neither the verdicts nor what the exit code says of them, nor the history."""
        history = ("--history", tmp_path / "history.jsonl")
        for place, memory in ((str(tmp_path), history), ("params.yaml/drift.html", ())):
            said = monitor(built, DIM, "--report", place, *memory, code=3)
            assert said.out.splitlines()[1].startswith("alert")
            (sentence,) = said.err.splitlines()
            assert sentence.startswith("error: monitor: ")
            assert place.removesuffix("/drift.html") in sentence
        assert monitor(built, CLEAN, "--report", tmp_path, code=1).out


def test_a_progress_bar_on_a_terminal_only(built: Project, raw: Path) -> None:
    folder = raw / "flat/clean"
    said = monitor(built, folder)
    with inside(built.path):
        output, shown = on_a_terminal("monitor", str(folder))
    assert (output, said.err) == (said.out, "")
    assert "clean: " in shown
    assert "/24 [" in shown


class TestHistory:
    """What cron calls, again and again, on an inbox that fills."""

    @pytest.fixture
    def inbox(self, flat: Path, tmp_path: Path) -> Path:
        (tmp_path / "inbox").mkdir()
        flat.rename(tmp_path / "inbox/monday")
        return tmp_path / "inbox"

    @pytest.fixture
    def dim(self, raw: Path, inbox: Path) -> Callable[[], Path]:
        """Call it, and a batch of dim images arrives."""
        return lambda: Path(shutil.copytree(raw / "flat/dim", inbox / "dim"))

    @pytest.fixture
    def watch(
        self, built: Project, inbox: Path, tmp_path: Path
    ) -> Callable[..., tuple[int, str, str]]:
        """Run the command on the inbox: its exit code, and what it says on both outputs."""

        def call(*arguments: str | Path) -> tuple[int, str, str]:
            history = ("--history", tmp_path / "history.jsonl", "--each")
            settled = () if "--settled" in arguments else ("--settled", "0")
            said = grocery(built, "monitor", *map(str, (inbox, *history, *settled, *arguments)))
            return said.code, said.out, said.err

        return call

    @staticmethod
    def lines(tmp_path: Path) -> list[dict[str, Any]]:
        """Of batches; not those that say what was announced."""
        text = (tmp_path / "history.jsonl").read_text()
        return [line for line in map(json.loads, text.splitlines()) if line["kind"] != "announced"]

    def test_each_batch_is_judged_once(
        self,
        inbox: Path,
        dim: Any,
        watch: Any,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        later = (
            f"not settled: {inbox}/monday changed less than 3600 s ago; it is left for the next "
        )
        assert watch("--settled", "3600") == (0, "", f"{later}time\n")
        assert watch("--settled", "3600", "--quiet") == (0, "", "")
        assert self.lines(tmp_path) == []
        broken = inbox / "a-broken.parquet"
        broken.write_bytes(b"no Parquet")  # it keeps no other from being judged
        foreign = inbox / os.fsdecode(b"caf\xe9")
        foreign.mkdir()
        code, out, err = watch()
        assert (code, out.splitlines()[1].split()[0]) == (1, "ok")
        assert f"{broken} cannot be read" in err
        assert "is not UTF-8" in err
        broken.unlink()
        foreign.rmdir()
        assert watch() == (0, "", "")
        with monkeypatch.context() as patch:  # it is known without being read, or a model loaded
            patch.delattr("grocery.inbox.incoming.fingerprint")
            assert watch("--model", tmp_path) == (0, "", "")
        dim()
        code, out, _ = watch()
        assert code == 3
        assert [line.split()[-1] for line in out.splitlines()[1:2]] == ["dim"]
        assert "monday" not in out
        (inbox / "dim").rename(inbox / "another-name")
        assert watch() == (0, "", "")
        assert [line["batch"] for line in self.lines(tmp_path)] == ["monday", "dim"]

    def test_what_lies_in_an_inbox_stops_nothing(self, inbox: Path, watch: Any) -> None:
        """Neither what systems leave there, nor what should not lie there, which is named."""
        for name in ("Thumbs.db", ".DS_Store", "@eaDir/x", "#recycle/x", "notes.txt", ".part/x"):
            put(inbox, name, b"no image")
        os.mkfifo(inbox / "pipe.parquet")
        code, out, err = watch()
        assert (code, "monday" in out) == (0, True)
        assert err.splitlines() == [
            f"left out: {inbox / name}: it is in no batch"
            for name in (".part", "notes.txt", "pipe.parquet")
        ]
        assert watch("--quiet") == (0, "", "")

    @pytest.mark.parametrize(
        ("model", "said"),
        [("production", "no version is in production"), ("no-model", "no-model is not here")],
    )
    def test_a_model_that_is_not_there_is_said_before_a_batch(
        self, watch: Any, model: str, said: str
    ) -> None:
        for more in ((), ("--quiet", "--settled", "3600")):
            code, out, err = watch("--model", model, *more)
            assert (code, out) == (1, "")
            assert err.startswith(f"error: monitor: {said}")

    def test_quiet_says_alerts_only(self, inbox: Path, dim: Any, watch: Any) -> None:
        """And an alert counts more than a broken batch."""
        assert watch("--quiet") == (0, "", "")
        dim()
        (inbox / "tuesday").mkdir()
        shutil.copy(next((inbox / "monday").iterdir()), inbox / "tuesday")
        (inbox / "wednesday").mkdir()
        code, out, err = watch("--quiet")
        assert (code, err) == (3, f"error: monitor: {inbox}/wednesday holds no images\n")
        assert "dim" in out
        assert "tuesday" not in out

    def test_what_a_line_says_and_labels_that_come_later(
        self, built: Project, raw: Path, inbox: Path, watch: Any, tmp_path: Path
    ) -> None:
        expected = recorded(built)["clean"]
        newest = max(file.stat().st_mtime for file in (inbox / "monday").iterdir())
        code, out, _ = watch("--labelled", "--json")  # a flat folder has none yet
        assert code == 0
        (document,), (batch,) = map(json.loads, out.splitlines()), self.lines(tmp_path)
        assert without_labels(expected).items() <= document.items()
        said = {"kind": "batch", "sequence": None, "version": None, "accuracy": None}
        said |= {name: expected[name] for name in ("verdict", "images")}
        assert said.items() <= document.items()
        assert said.items() <= batch.items()
        assert batch["judged"] >= batch["time"] == utc(newest)
        release = built.path / "models/release/reference/reference.json"
        assert batch["model"] == json.loads(release.read_text())["model_digest"]

        shutil.rmtree(inbox / "monday")
        shutil.copytree(raw / "by-class/clean", inbox / "monday")
        code, out, _ = watch("--labelled")
        assert code == 0
        assert "monday: labels for 24 of its images" in out
        assert watch("--labelled") == (0, "", "")
        assert watch() == (0, "", "")
        _, labels = self.lines(tmp_path)
        assert labels["kind"] == "labels"
        assert labels["accuracy"] == pytest.approx(expected["accuracy"], abs=1e-6)

    def test_a_machine_that_has_become_slow(
        self, raw: Path, inbox: Path, watch: Any, tmp_path: Path
    ) -> None:
        """A history of the same batch, which a much faster machine of that name has judged."""
        watch()
        (judged,) = self.lines(tmp_path)
        assert judged["images_per_second"] > 0
        lines = [
            judged
            | {
                "digest": f"{n:064x}",
                "files": None,
                "latency_ms": judged["latency_ms"] / (1000 + n),
            }
            for n in range(5)
        ]
        text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
        (tmp_path / "history.jsonl").write_text(text)
        code, out, _ = watch()
        assert code == 0  # it says nothing of the images
        assert out.splitlines()[1].startswith("watch")
        assert "monday: Predicting an image takes " in out
        signals = {found["signal"]: found for found in self.lines(tmp_path)[-1]["signals"]}
        assert signals["speed"]["verdict"] == "watch"
        assert signals["speed"]["effect"] > 0.9

    def test_a_sequence_of_small_batches_is_judged_together(
        self, built: Project, inbox: Path, dim: Any, watch: Any, tmp_path: Path
    ) -> None:
        """Twelve dim images a day are too few to be judged."""
        section = yaml.safe_load((built.path / "params.yaml").read_text())["monitor"]
        bold = tmp_path / "bold.yaml"
        bold.write_text(yaml.safe_dump({"monitor": section | {"significance": 0.1}}))
        shutil.rmtree(inbox / "monday")
        arrived = dim().rename(tmp_path / "dim")
        for number, file in enumerate(sorted(arrived.iterdir())):
            day = inbox / str(1 + number // 12)
            day.mkdir(exist_ok=True)
            file.rename(day / file.name)
        code, out, _ = watch("--report", tmp_path / "page.html", "--params", bold)
        assert code == 0
        assert [line.split()[:2] for line in out.splitlines()[1:3]] == [["too", "few"]] * 2
        assert "1: 12 readable images are too few to judge predictions by; 20 are needed." in out
        assert "a sequence of 2 batches is to be watched: 1 to 2" in out
        assert "Over the last 2 batches, 24 images: " in out
        first, second = self.lines(tmp_path)
        assert first["sequence"] is None
        assert second["sequence"]["batches"] == ["1", "2"]
        page = (tmp_path / "page.html").read_text()
        assert "<h1>No alert in the latest 2 batches</h1>" in page

    def test_the_page_stays_until_something_is_new(
        self, dim: Any, watch: Any, tmp_path: Path
    ) -> None:
        page = tmp_path / "page.html"
        watch("--report", page)
        first = page.read_bytes()
        assert b"Over time" in first
        watch("--report", page)
        assert page.read_bytes() == first
        dim()
        watch("--report", page)
        assert page.read_text().count('<ol class="strip"><li class="ok"') == 1
        assert page.read_text().count("<h2>monday ") == 1  # though it is no longer new
        assert "2 batches with this model" in page.read_text()
        page.unlink()
        watch("--report", page)
        assert "<h1>1 of the latest 2 batches in alert</h1>" in page.read_text()

    def test_the_time_of_a_batch_and_a_line_that_was_cut_off(
        self, inbox: Path, watch: Any, tmp_path: Path
    ) -> None:
        watch("--time", "2026-11-23T18:00:00+02:00")
        assert self.lines(tmp_path)[0]["time"] == "2026-11-23T16:00:00Z"
        file = tmp_path / "history.jsonl"
        file.write_bytes(file.read_bytes()[:-20])  # it is judged again
        code, out, err = watch()
        assert code == 0
        assert out.splitlines()[1].endswith("monday")
        (line,) = err.splitlines()
        assert line.startswith(f"warning: monitor: line 1 of {file} is damaged and left out")
        assert watch("--quiet") == (0, "", "")
        (inbox / "other").mkdir()
        code, out, err = watch("--time", "2026-11-24")
        assert (code, out) == (1, "")
        assert "--time is the time of one batch, and there are 2" in err


def test_a_run_of_its_own_offline(project: Project, tmp_path: Path) -> None:
    """With what was found; and nothing new is no run."""
    arguments = ["monitor", INCOMING, "--track", "--history", str(tmp_path / "history.jsonl")]
    offline = {"WANDB_MODE": "offline"}
    said = grocery(project, *arguments, **offline)
    assert (said.code, said.err) == (3, "")
    (run,) = (project.path / "wandb").glob("offline-run-*")
    data = next(run.glob("*.wandb")).read_bytes()
    for expected in (b"monitoring", b"shift/confidence", b"Drift in batch dim"):
        assert expected in data
    assert grocery(project, *arguments, **offline) == Said(0, "", "")
    assert list((project.path / "wandb").glob("offline-run-*")) == [run]


def test_a_folder_of_the_drills_name(built: Project, flat: Path, tmp_path: Path) -> None:
    for name in ("params.yaml", "models"):
        (tmp_path / name).symlink_to(built.path / name)
    flat.rename(tmp_path / "drill")
    assert monitor(Project(tmp_path), "./drill").out.splitlines()[1].endswith("  drill")
