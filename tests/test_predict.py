"""`grocery predict`, as people and programs call it, on a small real model."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
import termios
import threading
import tracemalloc
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import Project, environment
from grocery.cli import main
from grocery.release.model import Model
from registry_project import Said, grocery
from samples import jpeg, picture, put
from test_model import small_model

COMMAND = [sys.executable, "-m", "grocery.cli", "predict"]


@pytest.fixture(autouse=True)
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    """A model where the command looks for one, and images `0.png` to `3.png` beside it."""
    monkeypatch.chdir(tmp_path)
    small_model().save(Path("models/release"))
    for seed in range(4):
        picture(seed).save(f"{seed}.png")
    return Model.load("models/release")


def predict(*arguments: str) -> Said:
    return grocery(Project(Path.cwd()), "predict", *arguments)


def paths(said: Said) -> list[str]:
    """What was predicted, of output in JSON."""
    return [json.loads(line)["path"] for line in said.out.splitlines()]


def test_a_table_for_people(model: Model) -> None:
    expected = ["class  coarse     confidence  path"]
    for name, best in zip(("0.png", "3.png"), model.predict(["0.png", "3.png"]), strict=True):
        assert best.coarse is not None
        expected.append(f"{best.label:<5}  {best.coarse:<9}  {best.confidence:10.3f}  {name}")
    assert predict("0.png", "3.png") == Said(0, "\n".join([*expected, ""]), "")


def test_without_coarse_classes_the_table_has_no_such_column() -> None:
    replace(small_model(), coarse={}).save(Path("plain"))
    header, row = predict("0.png", "--model", "plain").out.splitlines()
    assert header == "class  confidence  path"
    assert len(row.split()) == 3
    assert predict("0.png", "--json", "--model", "plain").document["coarse"] is None


def test_json_for_programs(model: Model) -> None:
    said = predict("0.png", "3.png", "--json")
    assert [json.loads(line) for line in said.out.splitlines()] == [
        {
            "path": name,
            "class": best.label,
            "coarse": best.coarse,
            "confidence": round(best.confidence, 6),
        }
        for name, best in zip(("0.png", "3.png"), model.predict(["0.png", "3.png"]), strict=True)
    ]


def test_the_most_probable_classes(model: Model) -> None:
    for top, given in (("1", 1), ("2", 2), ("9", 3)):
        (ranking,) = model.rank([model.prepare("0.png")], int(top))
        document = predict("0.png", "--json", "--top", top).document
        assert [entry["class"] for entry in document["top"]] == [p.label for p in ranking]
        assert document["top"][0].items() <= document.items()
        rows = predict("0.png", "--top", top).out.splitlines()[1:]
        assert [row.split()[0] for row in rows] == [p.label for p in ranking]
        assert len(rows) == len(document["top"]) == given
    for top in ("0", "-1", "two", "1.5"):
        said = predict("0.png", f"--top={top}")
        assert said.code == 2
        assert f"{top!r} is not a whole number of at least 1" in said.err


def test_a_folder_gives_all_files_below_it_by_name() -> None:
    kinds = {"b.JPG": "JPEG", "a/2.webp": "WEBP", "a/10": "TIFF", "a/c/0.jfif": "JPEG", "z": "AVIF"}
    for name, kind in kinds.items():
        file = Path("shelf", name)
        file.parent.mkdir(parents=True, exist_ok=True)
        picture().save(file, kind)
    system = ("Thumbs.db", "a/.DS_Store", "@eaDir/b.jpg", "._b.JPG", ".ipynb_checkpoints/1.png")
    for name in (".hidden.png", "a/.cache/1.png", "README.txt", "a/labels.json", *system):
        put(Path("shelf"), name, b"no image")
    Path("shelf/a/b.jpg").write_bytes(jpeg(picture())[:-2])
    Path("photo").write_bytes(Path("0.png").read_bytes())
    said = predict("3.png", "shelf/", "photo", "--json")
    found = ["a/10", "a/2.webp", "a/b.jpg", "a/c/0.jfif", "b.JPG", "z"]
    assert paths(said) == ["3.png", *(f"shelf/{name}" for name in found), "photo"]
    bad = "error: predict: shelf/a/labels.json cannot be read as an image: not an image of a known"
    assert said.err.splitlines() == [
        "note: predict: shelf/.hidden.png is left out: hidden",
        "note: predict: shelf/README.txt is left out: about the images",
        "note: predict: shelf/a/.cache is left out: hidden",
        "note: predict: shelf/a/b.jpg: the end marker is missing",
        f"{bad} format",
    ]
    assert said.code == 1
    Path("shelf/a/labels.json").unlink()
    assert predict("shelf/").code == 0


def test_what_may_never_end_is_refused() -> None:
    Path("shelf").mkdir()
    os.mkfifo("pipe.jpg")
    os.mkfifo("shelf/pipe.jpg")
    Path("shelf/loop").symlink_to(Path("shelf").absolute())
    Path("shelf/zero.jpg").symlink_to("/dev/zero")
    Path("zero.jpg").symlink_to("/dev/zero")
    Path("link.png").symlink_to("0.png")  # named, and a link to a plain file
    said = predict("link.png", "pipe.jpg", "zero.jpg", "shelf", "--json")
    assert paths(said) == ["link.png"]
    special = "cannot be read as an image: no plain file, but a pipe or a device"
    assert said.err.splitlines() == [
        f"error: predict: pipe.jpg {special}",
        f"error: predict: zero.jpg {special}",
        "error: predict: shelf/loop is a symbolic link",
        "error: predict: shelf/pipe.jpg is neither a file nor a folder",
        "error: predict: shelf/zero.jpg is a symbolic link",
    ]


def test_what_cannot_be_read_is_named_and_the_others_are_predicted() -> None:
    Path("cut.jpg").write_bytes(jpeg(picture())[:900])
    Path("list.txt").write_text("milk, bread")
    Path("nothing.png").touch()
    Image.new("1", (1_000, 1_001)).save("bomb.png")
    Path("bare").mkdir()
    said = predict(
        *("0.png", "cut.jpg", "list.txt", "1.png", "nothing.png", "bomb.png", "bare"),
        *("gone.jpg", "0.png/x.jpg", "3.png", "--json"),
    )
    assert paths(said) == ["0.png", "1.png", "3.png"]
    assert said.code == 1
    start, reason = "error: predict:", "cannot be read as an image:"
    sentences = said.err.splitlines()
    assert sentences == [
        f"{start} cut.jpg {reason} truncated",
        f"{start} list.txt {reason} not an image of a known format",
        f"{start} nothing.png {reason} empty file",
        f"{start} bomb.png {reason} too many pixels: 1,001,000; prepare.max_pixels allows "
        "1,000,000",
        f"{start} bare holds no images",
        f"{start} gone.jpg cannot be read: No such file or directory",
        f"{start} 0.png/x.jpg cannot be read: Not a directory",
    ]
    assert predict("gone.jpg") == Said(1, "", f"{sentences[5]}\n")


def test_without_a_model() -> None:
    said = predict("0.png", "--model", "nowhere")
    assert (said.out, said.code) == ("", 1)
    assert said.sentence.startswith("error: predict: nowhere holds no grocery-model")


def test_names_cannot_steer_the_terminal() -> None:
    evil = "\x1b[2J\r\n.png"
    Path(evil).write_bytes(Path("0.png").read_bytes())
    said = predict(evil, f"no{evil}")
    assert said.out.splitlines()[1].endswith("  ?[2J??.png")
    assert said.sentence.startswith("error: predict: no?[2J??.png cannot be read")
    assert paths(predict(evil, "--json")) == [evil]


def test_names_that_an_output_cannot_show() -> None:
    """Bytes that are not UTF-8, and an output that knows ASCII alone: a real process."""
    foreign = os.fsdecode(b"caf\xe9.png")
    for name in (foreign, "pêche.png"):
        Path(name).write_bytes(Path("0.png").read_bytes())
    assert paths(predict(foreign, "--json")) == [foreign]
    ascii_alone = {"PYTHONIOENCODING": "ascii"}
    done = Project(Path.cwd()).run(*COMMAND, foreign, "pêche.png", env=ascii_alone)
    shown = [row.split()[-1] for row in done.stdout.splitlines()[1:]]
    assert (shown, done.stderr) == (["caf?.png", r"p\xeache.png"], "")


def test_the_first_results_come_before_the_last_image_is_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare, shown, before = Model.prepare, [], []

    def watched(self: Model, *arguments: str, **named: Any) -> bytes:
        shown.extend(capsys.readouterr().out.splitlines())
        before.append(len(shown))
        return prepare(self, *arguments, **named)

    loaded = Model.load(Path("models/release"))
    monkeypatch.setattr(Model, "load", lambda _: loaded)
    monkeypatch.setattr(Model, "prepare", watched)
    main(["predict", "--json", *["0.png"] * 8, "1.png"])
    assert before == [0] * 8 + [8]


def test_memory_does_not_grow_with_the_number_of_images(model: Model) -> None:
    side = 400
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(noise).save("noise.png", compress_level=0)
    how = replace(model.preprocessing, image_size=side, jpeg_quality=100)
    model = replace(model, preprocessing=how)
    model.save(Path("models/release"))
    size = len(model.prepare("noise.png"))
    assert size > 300_000

    def peak(images: int) -> int:
        tracemalloc.start()
        try:
            assert len(predict(*["noise.png"] * images).out.splitlines()) == images + 1
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)  # imports
    assert peak(24) - peak(8) < 4 * size


def test_a_reader_that_has_had_enough() -> None:
    process = subprocess.Popen(
        [*COMMAND, *["0.png"] * 30],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline().startswith("class")
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 141


def test_an_output_that_is_full() -> None:
    into_it = ("sh", "-c", 'exec "$@" > /dev/full', "sh", *COMMAND, "0.png")
    done = Project(Path.cwd()).run(*into_it, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: predict: No space left on device")
    assert done.stderr.count("\n") == 1


def on_a_terminal(*arguments: str) -> tuple[str, str]:
    """What a command writes to standard output, and to standard error where that is a terminal."""
    parent, child = pty.openpty()
    termios.tcsetwinsize(child, (0, 0))  # as of some who log in from afar
    shown: list[bytes] = []

    def listen() -> None:
        try:
            while data := os.read(parent, 4096):
                shown.append(data)
        except OSError:  # the other side is closed
            pass

    listener = threading.Thread(target=listen)
    listener.start()
    out = io.StringIO()
    with open(child, "w") as err, redirect_stdout(out), redirect_stderr(err), suppress(SystemExit):
        main(arguments)
    listener.join()
    os.close(parent)
    return out.getvalue(), b"".join(shown).decode()


def test_a_progress_bar_on_a_terminal_for_many_images() -> None:
    many = [*["0.png"] * 59, "gone.jpg"]
    output, shown = on_a_terminal("predict", *many)
    assert output == predict(*many).out
    assert "/60 [" in shown
    assert "\rerror: predict: gone.jpg cannot be read" in shown  # not in the middle of the bar
    assert on_a_terminal("predict", "0.png", "1.png")[1] == ""


def test_prediction_needs_little_more_than_numpy_and_pillow() -> None:
    code = (
        "import sys, grocery; assert 'numpy' not in sys.modules\n"
        "from grocery.cli import main; main(['predict', '0.png', '--json'])\n"
        "grocery.load_model('models/release').predict_proba([])\n"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = Project(Path.cwd()).run(sys.executable, "-c", code)
    prediction, modules = done.stdout.splitlines()
    assert json.loads(prediction)["path"] == "0.png"
    foreign = set(modules.split()) - set(sys.stdlib_module_names)
    assert {"numpy", "PIL", "safetensors", "grocery"} <= foreign
    heavy = {"sklearn", "scipy", "pandas", "pyarrow", "joblib", "pydantic", "ruamel", "yaml"}
    assert not foreign & (heavy | {"dvc", "dvclive", "wandb", "onnxruntime", "tqdm"})
