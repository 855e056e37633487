"""`grocery monitor`, as people and cron call it, on a real pipeline's batches and release."""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import ROOT, Project, once
from grocery.data.sources import open_source
from grocery.inbox.entries import utc
from grocery.reference.reference import Reference
from grocery.synthetic.source import FLAWS
from registry_project import Said, grocery
from samples import jpeg, picture, put
from test_monitor import write_batch
from test_predict import documents

NO_UTF8 = os.fsdecode(b"caf\xe9")
INCOMING = "data/prepared/incoming"
CLEAN, DIM = f"{INCOMING}/clean.parquet", f"{INCOMING}/dim.parquet"


def monitor(project: Project, *arguments: str | Path, code: int = 0) -> Said:
    """Run the command in a project."""
    said = grocery(project, "monitor", *map(str, arguments))
    assert said.code == code, said.err
    return said


def recorded(built: Project) -> dict[str, Any]:
    """What the stage found of each batch, without what the pipeline did to it on purpose."""
    batches = json.loads((built.path / "metrics/monitor.json").read_text())["batches"]
    return {name: {k: v for k, v in b.items() if k != "drill"} for name, b in batches.items()}


def params_file(folder: Path, **changes: float) -> Path:
    """With thresholds alone, some of them changed."""
    section = yaml.safe_load((ROOT / "params.yaml").read_text())["monitor"] | changes
    (folder / "thresholds.yaml").write_text(yaml.safe_dump({"monitor": section}))
    return folder / "thresholds.yaml"


@pytest.fixture(scope="module")
def raw(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files as a shop's cameras write them, flat and by class: of the dataset's batches, and usual.

    The usual ones are held-out images themselves: of what is drawn by chance, the clean batch too,
    nobody knows on which side of a threshold it falls.
    """

    def make(folder: Path) -> None:
        for name, images in open_source(built.path / "data/raw/synthetic").incoming().items():
            for image in images:
                put(folder / f"by-class/{name}/{image.label}", Path(image.path).name, image.read())
        grocery(built, "data", "samples", str(folder / "by-class/usual"))
        by_class = folder / "by-class"
        for file in by_class.rglob("*.jpg"):
            name, _, path = file.relative_to(by_class).parts
            put(folder / "flat" / name, path, file.read_bytes())

    return once(tmp_path_factory, "raw batches", make)


@pytest.fixture
def flat(raw: Path, tmp_path: Path) -> Path:
    """A folder of 24 usual files, free to change."""
    return Path(shutil.copytree(raw / "flat/usual", tmp_path / "usual"))


class TestVerdicts:
    def test_are_those_of_the_stage(self, built: Project, tmp_path: Path) -> None:
        """The page too; and dim images are an alert, of which the exit code tells."""
        page = tmp_path / "new" / "drift.html"
        found = documents(monitor(built, INCOMING, "--json", "--report", page, code=3))
        assert [document["incoming"] for document in found] == [CLEAN, DIM]
        for document in found:
            assert recorded(built)[document["batch"]].items() <= document.items()
        written = json.loads((built.path / "metrics/monitor/batches.json").read_text())
        assert written == [{"batch": one["batch"]} | s for one in found for s in one["signals"]]
        assert page.read_bytes() == (built.path / "metrics/monitor/index.html").read_bytes()

    def test_a_table_for_people(self, built: Project) -> None:
        found = documents(monitor(built, DIM, CLEAN, "--json", code=3))
        said = monitor(built, DIM, CLEAN, code=3)
        table, findings = (part.splitlines() for part in said.out.split("\n\n"))
        assert len({line.rindex("  ") for line in table}) == 1  # columns are aligned
        titles, *rows = (re.split("  +", line) for line in table)
        assert "/".join(titles) == "verdict/images/unreadable/estimated accuracy/accuracy/batch"
        odd = []
        for row, one in zip(rows, found, strict=True):
            name, accuracy = one["batch"], f"{one['accuracy']:.3f}"
            assert row[:3] == [one["verdict"], str(one["images"]), str(one["unreadable"])]
            assert row[4:] == [accuracy, name]
            assert (row[3] == "-") == (one["estimated_accuracy"] is None)
            odd += [f"{name}: {s['sentence']}" for s in one["signals"] if s["verdict"] != "ok"]
        low, high = found[1]["estimate_interval"]
        assert rows[1][3] == f"{found[1]['estimated_accuracy']:.3f} [{low:.3f}, {high:.3f}]"
        assert [line for line in findings if "cannot be estimated" not in line] == odd != []

    def test_thresholds_come_from_params(self, built: Project, flat: Path, tmp_path: Path) -> None:
        """The section alone is enough: where a model is used there need be no pipeline."""
        for number in range(12):
            put(flat, f"{number}.jpg", FLAWS["text"](b""))
        patient = params_file(tmp_path, max_unreadable=0.5)
        monitor(built, flat, code=3)
        monitor(built, flat, "--params", patient, code=0)


class TestFoldersOfImages:
    def test_raw_files_are_judged_alike(self, built: Project, raw: Path, tmp_path: Path) -> None:
        page = tmp_path / "drift.html"
        for where, options in (
            ("flat", ("--report", page)),
            ("by-class", ()),
            ("by-class", ("--labelled",)),
        ):
            folders = [raw / where / name for name in recorded(built)]
            for one in documents(monitor(built, *folders, "--json", *options, code=3)):
                expected = recorded(built)[one["batch"]]
                assert one["incoming"] == str(raw / where / one["batch"])
                if "--labelled" not in options:
                    assert one["accuracy"] is None
                    for name in ("accuracy", "accuracy_shift", "labels_shift", "to_label"):
                        expected.pop(name, None)
                assert expected.items() <= one.items()
        assert page.read_text().count("<img") == 2 * 8

    def test_a_folder_that_is_no_class_is_told(
        self, built: Project, raw: Path, tmp_path: Path
    ) -> None:
        """Its images are mistakes; a misspelt name would look like a worse model."""
        batch = Path(shutil.copytree(raw / "by-class/usual", tmp_path / "usual"))
        lemons = (batch / "Lemon").rename(batch / "Lemno")
        said = grocery(built, "monitor", str(batch), "--labelled")
        many = f"{len([*lemons.iterdir()])} of its images count as mistakes"
        what = "Lemno is no class of the model (did you mean Lemon?)"
        assert said.err == f"noted: {batch}: {what}; {many}\n"

    def test_unreadable_ones_are_counted(self, built: Project, flat: Path, tmp_path: Path) -> None:
        """In a folder that may be a link; sidecars of systems are left out."""
        first, second, *_ = (file.name for file in sorted(flat.iterdir()))
        (flat / first).write_bytes(FLAWS["truncated"]((flat / first).read_bytes()))
        (flat / second).write_bytes(FLAWS["bomb"](b""))
        for name in (".DS_Store", "Thumbs.db", "@eaDir/1.jpg", ".cache/1.jpg", "README"):
            put(flat, name, b"no image")
        latest = tmp_path / "latest"
        latest.symlink_to(flat)
        said = monitor(built, latest, "--json")
        (found,) = documents(said)
        assert (found["batch"], found["unreadable"]) == ("latest", 2)
        assert found["images"] + found["copies"] == 22
        limit = yaml.safe_load((built.path / "params.yaml").read_text())["prepare"]["max_pixels"]
        reason = "cannot be read as an image:"
        assert said.err.splitlines() == [
            f"left out: {latest}/.cache: hidden",
            f"left out: {latest}/README: about the images",
            f"unreadable: {latest}/{first} {reason} truncated",
            f"unreadable: {latest}/{second} {reason} too many pixels: 2,500,000,000; "
            f"prepare.max_pixels allows {limit:,}",
        ]

    def test_rubbish_is_an_alert_and_steers_nothing(self, built: Project, tmp_path: Path) -> None:
        evil = "\x1b[2J\n"
        for number in range(25):
            put(tmp_path / evil, f"{number}{evil}", FLAWS["text"](b""))
        said = monitor(built, tmp_path / evil, code=3)
        header, row = (line.split() for line in said.out.splitlines()[:2])
        # Without labels there is no column of them.
        assert header == ["verdict", "images", "unreadable", "estimated", "accuracy", "batch"]
        assert row == ["alert", "0", "25", "-", "?[2J?"]
        assert "?[2J?: 25 of 25 files cannot be read" in said.out
        for line in said.err.splitlines():
            assert line.startswith(f"unreadable: {tmp_path}/?[2J?/")


@pytest.fixture(scope="module")
def odd(built: Project, raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A folder of no pipeline, with all that people may name by mistake."""
    folder = tmp_path_factory.mktemp("odd")
    shutil.copy2(built.path / "params.yaml", folder)
    (folder / "data").symlink_to(built.path / "data")
    (folder / "flat").symlink_to(raw / "flat/clean")
    for name in ("empty", "link"):
        (folder / name).mkdir()
    photo = next((raw / "flat/clean").iterdir()).read_bytes()
    for name in ("days/Lemno/1.jpg", "mixed/1.jpg", f"{NO_UTF8}/1.jpg"):
        put(folder, name, photo)
    (folder / "link/passwords.jpg").symlink_to("/etc/passwd")
    for name in ("cut.parquet", "mixed/cut.parquet"):
        put(folder, name, (built.path / CLEAN).read_bytes()[:-100])
    whole = jpeg(picture())
    frame = whole.index(b"\xff\xc0") + 5  # height and width follow
    huge = whole[:frame] + b"\xff\xdc\xff\xdc" + whole[frame + 4 :]
    write_batch(folder / "huge.parquet", [huge] * 30)

    release = shutil.copytree(built.path / "models/release", folder / "models/release")
    other = shutil.copytree(release, folder / "other")
    reference = Reference.load(other / "reference")
    replace(reference, model_digest="0" * 64).save(other / "reference")

    (folder / "none.yaml").write_text("train: {}\n")
    params_file(folder, min_bach=3)
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
            ("huge.parquet", "huge.parquet: a prepared image cannot be read: too many pixels"),
            ("link", "passwords.jpg is a symbolic link"),
            (NO_UTF8, "is not UTF-8"),
            ("flat --labelled", "folders in flat that are named after classes"),
            ("days --labelled", "such as Cucumber; found: Lemno (did you mean Lemon?)"),
            (f"{INCOMING} --model no-such-model", "no-such-model"),
            (f"{INCOMING} --model other", "the reference is of model 000000000000"),
            (f"{INCOMING} --params no.yaml", "no.yaml is not here; name the file"),
            (f"{INCOMING} --params none.yaml", "none.yaml: monitor is missing"),
            (f"{INCOMING} --params thresholds.yaml", "did you mean min_batch?"),
            (f"{INCOMING} --history params.yaml", "is no history of grocery monitor"),
            ("flat --each", "is in no batch; with --each every folder"),
            (f"{INCOMING} --time 2026-11-24 --history x", "of one batch, and there are 2"),
            # argparse's own code, which is not that of an alert
            ("", "the following arguments are required: INCOMING"),
            (f"{INCOMING} --jsno", "unrecognized arguments: --jsno"),
            (f"{INCOMING} --quiet", "--quiet goes with --history"),
            (f"{INCOMING} --time noon --history x", "noon should be a time such as"),
            (f"{INCOMING} --settled -1", "-1 should be a number of seconds"),
            *(
                (f"{INCOMING} --history x --notify {address}", "be an address that begins with")
                for address in ("file:///x", "hooks/s3cret", "http://", "http://me:s3cret@h:port/")
            ),
        ],
    )
    def test_is_one_sentence_no_verdict(self, odd: Project, arguments: str, sentence: str) -> None:
        said = grocery(odd, "monitor", *arguments.split())
        last = said.err.splitlines()[-1]
        assert (said.out, said.err.count("error: ")) == ("", 1)
        code = 2 if last.startswith("grocery monitor: error: ") else 1
        assert (said.code, last.startswith("error: monitor: ")) == (code, code == 1)
        assert sentence in last
        assert "s3cret" not in last

    def test_an_inbox_may_be_empty(self, odd: Project) -> None:
        said = grocery(odd, "monitor", "empty", "--each")
        assert said == Said(0, "", "nothing to judge: no batch is in empty\n")

    def test_stops_no_other_batch(self, built: Project, raw: Path, tmp_path: Path) -> None:
        """And a page that cannot be written costs no verdict."""
        put(tmp_path, "cut.parquet", (built.path / CLEAN).read_bytes()[:-100])
        (tmp_path / ".part.parquet").touch()
        said = monitor(built, tmp_path, raw / "flat/usual", "--report", tmp_path, code=1)
        assert said.out.splitlines()[1].startswith("ok ")
        left_out, broken, page = said.err.splitlines()
        assert left_out == f"left out: {tmp_path}/.part.parquet: it is in no batch"
        assert f"{tmp_path}/cut.parquet cannot be read" in broken
        assert page.startswith(f"error: monitor: {tmp_path} is a folder")
        history = ("--history", tmp_path / "history.jsonl")
        said = monitor(built, DIM, "--report", "params.yaml/drift.html", *history, code=3)
        assert said.out.splitlines()[1].startswith("alert")
        assert said.sentence.startswith("error: monitor: ")
        assert "params.yaml" in said.sentence


class Inbox:
    """What cron watches, again and again: a folder that fills, with a history beside it."""

    def __init__(self, built: Project, raw: Path, beside: Path) -> None:
        self.built, self.raw, self.beside = built, raw, beside
        self.folder, self.history = beside / "inbox", beside / "history.jsonl"

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Of batches; not those that say what was announced."""
        lines = map(json.loads, self.history.read_text().splitlines())
        return [line for line in lines if line["kind"] != "announced"]

    def arrives(self, batch: str, name: str) -> Path:
        return Path(shutil.copytree(self.raw / batch, self.folder / name))

    def watch(self, *arguments: str | Path) -> Said:
        settled = () if "--settled" in arguments else ("--settled", "0")
        words = (self.folder, "--each", "--history", self.history, *settled, *arguments)
        return grocery(self.built, "monitor", *map(str, words))


class TestHistory:
    @pytest.fixture
    def inbox(self, built: Project, raw: Path, tmp_path: Path) -> Inbox:
        """With one usual batch."""
        inbox = Inbox(built, raw, tmp_path)
        inbox.arrives("flat/usual", "monday")
        return inbox

    def test_each_batch_is_judged_once(self, inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
        later = "changed less than 3600 s ago; it is left for the next time\n"
        hurried = inbox.watch("--settled", "3600")
        assert hurried == Said(0, "", f"not settled: {inbox.folder}/monday {later}")
        assert inbox.watch("--settled", "3600", "--quiet") == Said(0, "", "")
        for model, why in (
            ("production", "no version is in production"),
            ("no/model", "no/model is not here"),
        ):
            missing = inbox.watch("--settled", "3600", "--quiet", "--model", model)
            assert (missing.code, missing.out) == (1, "")
            assert missing.err.startswith(f"error: monitor: {why}")
        assert inbox.lines == []
        broken, foreign = inbox.folder / "a-broken.parquet", inbox.folder / NO_UTF8
        broken.write_bytes(b"no Parquet")  # it keeps no other from being judged
        foreign.mkdir()
        said = inbox.watch()
        assert (said.code, said.out.splitlines()[1].split()[0]) == (1, "ok")
        assert f"{broken} cannot be read" in said.err
        assert "is not UTF-8" in said.err
        broken.unlink()
        foreign.rmdir()
        assert inbox.watch() == Said(0, "", "")
        with monkeypatch.context() as patch:  # it is known without being read, or a model loaded
            patch.delattr("grocery.inbox.incoming.fingerprint")
            assert inbox.watch("--model", inbox.beside) == Said(0, "", "")
        dim = inbox.arrives("flat/dim", "dim")
        said = inbox.watch()
        assert (said.code, said.out.splitlines()[1].split()[-1]) == (3, "dim")
        assert "monday" not in said.out
        dim.rename(inbox.folder / "another-name")
        assert inbox.watch() == Said(0, "", "")
        assert [line["batch"] for line in inbox.lines] == ["monday", "dim"]

    def test_litter_in_an_inbox_stops_nothing_and_quiet_says_alerts(self, inbox: Inbox) -> None:
        """What systems leave there is passed over; what should not lie there is named."""
        for name in ("Thumbs.db", ".DS_Store", "@eaDir/x", "#recycle/x", "notes.txt", ".part/x"):
            put(inbox.folder, name, b"no image")
        os.mkfifo(inbox.folder / "pipe.parquet")
        said = inbox.watch()
        assert (said.code, "monday" in said.out) == (0, True)
        assert said.err.splitlines() == [
            f"left out: {inbox.folder / name}: it is in no batch"
            for name in (".part", "notes.txt", "pipe.parquet")
        ]
        inbox.arrives("flat/dim", "dim")
        photo = next((inbox.folder / "monday").iterdir()).read_bytes()
        put(inbox.folder, "tuesday/1.jpg", photo)  # too few images for an alert
        (inbox.folder / "wednesday").mkdir()
        said = inbox.watch("--quiet")
        assert said.code == 3  # an alert counts more than a broken batch
        assert said.err == f"error: monitor: {inbox.folder}/wednesday holds no images\n"
        assert ("dim" in said.out, "tuesday" in said.out) == (True, False)

    def test_a_line_and_later_labels(self, built: Project, raw: Path, inbox: Inbox) -> None:
        monday = inbox.folder / "monday"
        (expected,) = documents(monitor(built, raw / "by-class/usual", "--labelled", "--json"))
        newest = max(file.stat().st_mtime for file in monday.iterdir())
        (document,) = documents(inbox.watch("--labelled", "--json"))  # there are none yet
        assert document["signals"] == [
            one for one in expected["signals"] if one["signal"] not in ("accuracy", "labels")
        ]
        (batch,) = inbox.lines
        said = {"kind": "batch", "sequence": None, "version": None, "accuracy": None}
        said |= {name: expected[name] for name in ("verdict", "images")}
        for one in (document, batch):
            assert said.items() <= one.items()
        assert batch["judged"] >= batch["time"] == utc(newest)
        release = built.path / "models/release/reference/reference.json"
        assert batch["model"] == json.loads(release.read_text())["model_digest"]

        shutil.rmtree(monday)
        inbox.arrives("by-class/usual", "monday")
        again = inbox.watch("--labelled")
        assert again.code == 0
        assert f"monday: labels for {expected['images']} of its images" in again.out
        assert inbox.watch("--labelled") == inbox.watch() == Said(0, "", "")
        _, labels = inbox.lines
        assert labels["kind"] == "labels"
        assert labels["accuracy"] == pytest.approx(expected["accuracy"], abs=1e-6)

    def test_a_machine_that_has_become_slow(self, inbox: Inbox) -> None:
        """A history of the same batch, which a much faster machine of that name has judged.

        Its last line was cut off.
        """
        inbox.watch("--time", "2026-11-23T18:00:00+02:00")
        (judged,) = inbox.lines
        assert judged["time"] == "2026-11-23T16:00:00Z"
        assert judged["images_per_second"] > 0
        fast = judged | {"files": None, "latency_ms": judged["latency_ms"] / 1000}
        several = [fast | {"digest": f"{number:064x}"} for number in range(5)]
        lines = [json.dumps(one, separators=(",", ":")) for one in [*several, judged]]
        inbox.history.write_text("\n".join(lines)[:-20])
        said = inbox.watch()
        assert said.code == 0  # it says nothing of the images
        assert said.err.startswith(f"warning: monitor: line 6 of {inbox.history} is damaged and")
        assert said.out.splitlines()[1].startswith("watch")
        assert "monday: Predicting an image takes " in said.out
        judged = json.loads(inbox.history.read_text().splitlines()[-1])
        (speed,) = (one for one in judged["signals"] if one["signal"] == "speed")
        assert (speed["verdict"], speed["effect"] > 0.9) == ("watch", True)
        assert inbox.watch("--quiet") == Said(0, "", "")

    def test_a_sequence_of_small_batches_is_judged_together(self, inbox: Inbox) -> None:
        """Twelve dim images a day are too few to be judged."""
        shutil.rmtree(inbox.folder / "monday")
        for number, file in enumerate(sorted((inbox.raw / "flat/dim").iterdir())):
            put(inbox.folder, f"{1 + number // 12}/{file.name}", file.read_bytes())
        page, bold = inbox.beside / "page.html", params_file(inbox.beside, significance=0.1)
        said = inbox.watch("--report", page, "--params", bold)
        assert said.code == 0
        assert [line.split()[:2] for line in said.out.splitlines()[1:3]] == [["too", "few"]] * 2
        for sentence in (
            "1: 12 readable images are too few to judge predictions by; 20 are needed.",
            "a sequence of 2 batches is to be watched: 1 to 2",
            "Over the last 2 batches, 24 images: ",
        ):
            assert sentence in said.out
        first, second = inbox.lines
        assert first["sequence"] is None
        assert second["sequence"]["batches"] == ["1", "2"]
        assert "<h1>No alert in the latest 2 batches</h1>" in page.read_text()

    def test_the_page_stays_until_something_is_new(self, inbox: Inbox) -> None:
        page = inbox.beside / "page.html"
        inbox.watch("--report", page)
        first = page.read_text()
        assert "Over time" in first
        inbox.watch("--report", page)
        assert page.read_text() == first
        inbox.arrives("flat/dim", "dim")
        inbox.watch("--report", page)
        assert page.read_text().count('<ol class="strip"><li class="ok"') == 1
        assert page.read_text().count("<h2>monday ") == 1  # though it is no longer new
        assert "2 batches with this model" in page.read_text()
        page.unlink()
        inbox.watch("--report", page)
        assert "<h1>1 of the latest 2 batches in alert</h1>" in page.read_text()


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
