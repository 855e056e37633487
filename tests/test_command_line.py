"""What a person types, at the command line and at the model: it works, or says what to type."""

import io
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import grocery as package
from conftest import HOME, ROOT, Project, refusal
from grocery.cli.terminal import print_json
from grocery.core.errors import DataError, GroceryError
from grocery.data.sources import open_source
from grocery.inbox.history import History
from grocery.registry.state import State
from grocery.registry.tags import ARTIFACT
from grocery.settings import load, with_values
from grocery.shards import read_columns, write_table
from registry_project import Said, grocery
from samples import picture
from test_model import small_model

PIXELS = np.asarray(picture())
README = (ROOT / "README.md").read_text()


NO_IMAGES: list[tuple[Any, str]] = [
    (PIXELS / 255, "image 1 is an array (48, 64, 3) of float64"),
    (np.stack([PIXELS]) / 255, "image 1 is an array (48, 64, 3) of float64"),
    (PIXELS[:, :, 0], "image 1 is an array (48, 64) of uint8"),
    (PIXELS[:0], "image 1 is an array (0, 64, 3) of uint8"),
    (PIXELS.transpose(2, 0, 1), "image 1 is an array (3, 48, 64) of uint8"),
    (np.array(None), "image 1 is an array () of object"),
    (None, "image 1 is of type NoneType"),
    ([picture(), []], "image 2 is of type list"),
    (io.BytesIO(), "image 1 is of type BytesIO"),
    ("photo\0.png", r"'photo\x00.png' is no path"),
    ("\ud800.png", r"'\ud800.png' is no path"),
]


def test_what_the_model_predicts(here: Path) -> None:
    """One image is a list of one, and several are predicted in turn."""
    picture().save("photo.png")
    model = small_model()
    expected = model.predict([Path("photo.png")])
    assert len(expected) == 1
    bottom_up = np.flip(np.flip(PIXELS).copy())  # in another order in memory
    data = Path("photo.png").read_bytes()
    for one in ("photo.png", Path("photo.png"), data, picture(), PIXELS, bottom_up):
        assert model.predict(one) == model.predict([one]) == expected
    several: list[Any] = [["photo.png", PIXELS], iter([picture(), "photo.png"])]
    for many in (*several, np.stack([PIXELS, PIXELS]), np.array(["photo.png", "photo.png"])):
        assert model.predict(many) == expected * 2
    assert model.predict(np.array([])) == model.predict(()) == []


@pytest.mark.parametrize(("images", "said"), NO_IMAGES)
def test_what_is_no_image_is_told_what_one_is(images: Any, said: str) -> None:
    assert refusal(DataError, small_model().predict, images) == (
        f"{said}; an image is a path, the bytes of a file, a Pillow image, or an array "
        "(height, width, 3) of uint8 in RGB"
    )


class TestCommands:
    @pytest.fixture
    def said(self, tmp_path: Path) -> Callable[..., Said]:
        return partial(grocery, Project(tmp_path))

    def test_without_one_they_are_listed(self, said: Callable[..., Said]) -> None:
        """All that the README names are among them."""
        for group in ([], ["registry"], ["data"]):
            listed = said(*group)
            assert (listed.code, listed.out) == (2, "")
            names = re.findall(r"^ {4}([a-z-]+)\s+\S", listed.err, re.MULTILINE)
            assert len(names) > 1
            for name in names:
                helped = said(*group, name, "--help")
                assert helped.code == 0
                assert f"grocery {' '.join([*group, name])}" in helped.out
            assert group or set(names) >= set(re.findall(r"(?:`|\$ )grocery ([a-z]+)", README))

    def test_the_version_and_one_table_of_exit_codes(self, said: Callable[..., Said]) -> None:
        wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
        assert said("--version") == Said(0, f"grocery {wanted}\n", "")
        assert package.__version__ == wanted
        table = re.findall(r"^  (\d+) +(.+(?:\n {7}.+)*)", said("--help").out, re.MULTILINE)
        assert [code for code, _ in table] == ["0", "1", "2", "3", "130", "141"]
        rows = [f"| {code} | {' '.join(meaning.split())} |" for code, meaning in table]
        assert "\n".join(rows) in (ROOT / "docs/commands.md").read_text()

    def test_json_is_a_line_of_ascii_without_nan(self, capsys: pytest.CaptureFixture[str]) -> None:
        print_json({"a": [float("nan"), float("-inf")], "é": (1.5, "\ud800")})
        assert capsys.readouterr().out == '{"a": [null, null], "\\u00e9": [1.5, "\\ud800"]}\n'

    def test_a_mistyped_word_is_offered_the_near_one(self, said: Callable[..., Said]) -> None:
        for typed, near in {
            "predcit photo.jpg": "predict",
            "registry promot v1.0.0": "promote",
            "registry register --bump minr": "minor",
            "--verison": "--version",
            "predict photo.jpg --tpo 3": "--top",
            "sweep sweep.yaml --cuont=3": "--count",
        }.items():
            refused = said(*typed.split())
            assert (refused.code, refused.out) == (2, "")
            assert refused.err.endswith(f" (did you mean {near}?)\n")

    @pytest.mark.parametrize("command", ["report", "data samples x", "predict x", "monitor x"])
    def test_in_no_project(self, said: Callable[..., Said], command: str) -> None:
        found = said(*command.split())
        assert found.code == 1
        assert re.search("no project is here, whose .* is needed; go to a clone", found.sentence)
        assert ("--model" in found.sentence) is command.endswith(("predict x", "monitor x"))

    def test_what_markdown_alone_compares_with(self, said: Callable[..., Said]) -> None:
        refused = said("report", "--against", "HEAD")
        assert (refused.code, refused.out) == (2, "")
        assert refused.err.endswith("--against goes with --markdown\n")


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda _: with_values(load(ROOT / "params.yaml"), {"train.alhpa": 1}), "u mean alpha?)"),
        (lambda raw: open_source(raw / "grocery-stor"), "missing (did you mean grocery-store?)"),
        (lambda _: package.load_model("prodution"), "the registry (did you mean production?)"),
        (lambda _: State({}, [], [], {}).find("stagin"), "or stage (did you mean staging?)"),
    ],
)
def test_a_near_name_is_offered(ask: Callable[[Path], object], said: str, tmp_path: Path) -> None:
    assert said in refusal(GroceryError, ask, tmp_path)


def test_what_the_readme_has_typed_leaves_git_clean() -> None:
    folders = {f"{name}/" for name in re.findall(r"grocery [^`#\n]*?(\w+)/(?=[\s`])", README)}
    assert {"shelf/", "inbox/"} <= folders
    folders |= {"monitor/", "sweeps/", "wandb/", "dvc_plots/", "docs/.ipynb_checkpoints/"}
    ignored = Project(ROOT).run("git", "check-ignore", *sorted(folders))
    assert set(ignored.stdout.split()) == folders


def test_samples_and_their_prediction_as_the_readme_says(built: Project, tmp_path: Path) -> None:
    """Test images, the same ones each time, below their classes."""
    typed = re.findall(r"^\$ grocery ([^#\n]*\bshelf/[^#\n]*)", README, re.MULTILINE)
    typed = [line for line in typed if "production" not in line]
    assert typed[0].split() == ["data", "samples", "shelf/"]
    assert [line.split()[0] for line in typed] == ["data", "predict"]
    shelf = tmp_path / "shelf"
    for line in typed:
        said = grocery(built, *shlex.split(line.replace("shelf/", str(shelf))))
        assert (said.code, said.err) == (0, "")
    right = [row.split()[0] in row.split()[-1] for row in said.out.splitlines()[1::3]]
    assert len(right) == 24
    assert sum(right) > 12

    again, fewer = (grocery(built, "data", "samples", str(shelf), f"--count={n}") for n in (24, 3))
    assert again == Said(0, f"24 test images are in {shelf}\n", "")
    assert fewer.sentence.startswith(f"error: data samples: {shelf}/")
    assert fewer.sentence.endswith("none of these 3 images; name a folder with nothing else in it")
    refused = grocery(built, "data", "samples", str(ROOT / "README.md"))
    assert refused.sentence == f"error: data samples: {ROOT}/README.md is a file; name a folder"
    columns = ["image_id", "label", "split", "image"]
    rows = read_columns(built.path / "data/prepared/shards", columns).to_pylist()
    known = {f"{row['label']}/{row['image_id'][:8]}.jpg": row for row in rows}
    files = list(shelf.rglob("*.jpg"))
    assert len(files) == 24
    for file in files:
        row = known[file.relative_to(shelf).as_posix()]
        assert (row["split"], row["image"]) == ("test", file.read_bytes())


@pytest.mark.parametrize("label", ["..", "../up", "a/b", ""])
def test_the_class_of_a_sample_leads_out_of_no_folder(label: str, tmp_path: Path) -> None:
    row = {"image_id": "0" * 64, "label": label, "split": "test", "image": b"x"}
    shards = tmp_path / "data/prepared/shards"
    shards.mkdir(parents=True)
    write_table(shards / "shard-00000-of-00001.parquet", pa.Table.from_pylist([row]))
    said = grocery(Project(tmp_path), "data", "samples", "shelf")
    assert said.code == 1
    assert said.sentence.endswith(f"the class {label!r} cannot be the name of a folder")
    assert not (tmp_path / "shelf").exists()


def test_commands_work_from_any_folder_of_the_project(project: Project) -> None:
    picture().save(project.path / "photo.jpg")
    for typed in (
        "predict ROOT/photo.jpg",
        "monitor ROOT/data/prepared/incoming/clean.parquet",
        "data diff",
        "data samples ROOT/samples --count 3",
        "report",
    ):
        below = grocery(Project(project.path / "docs"), *typed.replace("ROOT", "..").split())
        above = grocery(project, *typed.replace("ROOT", ".").split())
        assert (below.code, below.err) == (0, ""), typed
        assert below.out.replace("../", "") == above.out.replace("./", "")


def test_the_line_for_cron_runs_and_asks_the_git_remote(project: Project) -> None:
    """That of docs/monitoring.md, in the environment that cron gives."""
    text = (ROOT / "docs/monitoring.md").read_text()
    (line,) = re.findall(r"```crontab\n(.*)\n```", text)
    command = line.split(maxsplit=5)[5].replace("/home/me/groceries", str(project.path))
    command = command.replace("--each", "--each --settled 0")  # cron would come again
    assert "%" not in command  # which cron takes for the end of the line
    launcher = project.path / ".venv/bin/grocery"
    launcher.parent.mkdir(parents=True)
    launcher.write_text(f'#!/bin/sh\nexec {sys.executable} -m grocery.cli "$@"\n')
    launcher.chmod(0o755)
    # Production is at the git remote, and this clone has not heard of it.
    project.run("git", "clone", "--quiet", "--bare", ".", "../origin.git")
    project.run("git", "remote", "add", "origin", "../origin.git")
    origin = project.path.parent / "origin.git"
    for tag in (f"{ARTIFACT}@v1.0.0", f"{ARTIFACT}#production#1"):
        project.run("git", "-C", str(origin), "tag", "--annotate", tag, "-m", tag)
    shutil.rmtree(project.path / "models")  # the release is fetched
    inbox, batches = project.path / "inbox", project.path / "data/prepared/incoming"
    inbox.mkdir()
    (inbox / "notes.txt").touch()  # no alert, so no mail

    shutil.copy(batches / "dim.parquet", inbox)
    given = [f"HOME={HOME}", "LOGNAME=me", "SHELL=/bin/sh", "PATH=/usr/bin:/bin"]
    shell = ("/usr/bin/env", "-i", *given, "/bin/sh", "-c", command)
    found = Project(Path(HOME)).run(*shell, check=False)
    assert (found.returncode, found.stderr) == (3, "")
    assert found.stdout.splitlines()[1].startswith("alert")
    assert (project.path / "monitor/index.html").is_file()

    origin.rename(origin.with_suffix(".away"))
    shutil.copy(batches / "clean.parquet", inbox)
    words = shlex.split(command.partition("/grocery ")[2])
    lost = grocery(project, *words)
    assert (lost.code, lost.out) == (0, "")
    (warning,) = lost.err.splitlines()
    assert warning.startswith("warning: monitor: the tags of 'origin' cannot be fetched (fata")
    assert warning.endswith("); those of this clone count")
    entries = History(project.path / "monitor").read().entries
    versions = [(entry.batch, entry.version) for entry in entries]
    assert versions == [("dim", "v1.0.0"), ("clean", "v1.0.0")]
    assert grocery(project, *words) == Said(0, "", "")
