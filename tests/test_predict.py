"""`grocery predict`, as people and programs call it, on a small real model."""

import io
import json
import os
import pty
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

from conftest import Project
from grocery.cli import main
from grocery.release.model import Model
from registry_project import Said, grocery
from samples import jpeg, picture, put
from test_model import small_model

COMMAND = [sys.executable, "-m", "grocery.cli", "predict"]


@pytest.fixture(autouse=True)
def model(here: Path) -> Model:
    """A model where the command looks for one, and images `0.png` to `3.png` beside it."""
    small_model().save(Path("models/release"))
    for seed in range(4):
        picture(seed).save(f"{seed}.png")
    return Model.load("models/release")


def predict(*arguments: str) -> Said:
    return grocery(Project(Path.cwd()), "predict", *arguments)


def documents(said: Said) -> list[Any]:
    """What was said of each image, of output in JSON."""
    return [json.loads(line) for line in said.out.splitlines()]


def paths(said: Said) -> list[str]:
    return [document["path"] for document in documents(said)]


def test_a_table_for_people_and_json_for_programs(model: Model) -> None:
    table, expected = ["class  coarse     confidence  path"], []
    for name, best in zip(("0.png", "3.png"), model.predict(["0.png", "3.png"]), strict=True):
        table.append(f"{best.label:<5}  {best.coarse:<9}  {best.confidence:10.3f}  {name}")
        document = {"path": name, "class": best.label, "coarse": best.coarse}
        expected.append(document | {"confidence": round(best.confidence, 6)})
    assert predict("0.png", "3.png") == Said(0, "\n".join([*table, ""]), "")
    assert documents(predict("0.png", "3.png", "--json")) == expected

    replace(small_model(), coarse={}).save(Path("plain"))
    header, row = predict("0.png", "--model", "plain").out.splitlines()
    assert header == "class  confidence  path"
    assert len(row.split()) == 3
    assert predict("0.png", "--json", "--model", "plain").document["coarse"] is None


def test_the_most_probable_classes(model: Model) -> None:
    for top, given in (("1", 1), ("2", 2), ("9", 3)):
        (ranking,) = model.rank([model.prepare("0.png")], int(top))
        document = predict("0.png", "--json", "--top", top).document
        assert [entry["class"] for entry in document["top"]] == [p.label for p in ranking]
        assert document["top"][0].items() <= document.items()
        rows = predict("0.png", "--top", top).out.splitlines()[1:]
        assert [row.split()[0] for row in rows] == [p.label for p in ranking]
        assert len(rows) == given
    for top in ("0", "1.5"):
        said = predict("0.png", f"--top={top}")
        assert said.code == 2
        assert f"{top!r} is not a whole number of at least 1" in said.err


def test_a_folder_gives_all_files_below_it_by_name() -> None:
    """What is passed over, and what is never opened: test_sources.py."""
    for name in ("b.JPG", "a/2.jpeg", "a/10", "a/c/0.jfif", "z"):
        put(Path("shelf"), name, jpeg(picture()))
    for name in (".hidden.png", "a/.cache/1.png", "README.txt", "a/labels.json", "Thumbs.db"):
        put(Path("shelf"), name, b"no image")
    Path("shelf/a/b.jpg").write_bytes(jpeg(picture())[:-2])
    Path("shelf/loop").symlink_to(Path("shelf").absolute())
    Path("photo").write_bytes(Path("0.png").read_bytes())
    said = predict("3.png", "shelf/", "photo", "--json")
    found = ["a/10", "a/2.jpeg", "a/b.jpg", "a/c/0.jfif", "b.JPG", "z"]
    assert paths(said) == ["3.png", *(f"shelf/{name}" for name in found), "photo"]
    bad = "error: predict: shelf/a/labels.json cannot be read as an image: not an image of a known"
    assert said.err.splitlines() == [
        "note: predict: shelf/.hidden.png is left out: hidden",
        "note: predict: shelf/README.txt is left out: about the images",
        "note: predict: shelf/a/.cache is left out: hidden",
        "note: predict: shelf/a/b.jpg: the end marker is missing",
        f"{bad} format",
        "error: predict: shelf/loop is a symbolic link",
    ]
    assert said.code == 1
    for name in ("a/labels.json", "loop"):
        Path("shelf", name).unlink()
    assert predict("shelf/").code == 0


def test_what_cannot_be_read_is_named_and_the_others_are_predicted() -> None:
    Path("cut.jpg").write_bytes(jpeg(picture())[:900])
    Image.new("1", (1_000, 1_001)).save("bomb.png")
    Path("bare").mkdir()
    os.mkfifo("pipe.jpg")
    Path("zero.jpg").symlink_to("/dev/zero")
    Path("link.png").symlink_to("1.png")  # named, and a link to a plain file
    said = predict(
        *("0.png", "cut.jpg", "pipe.jpg", "zero.jpg", "link.png", "bomb.png", "bare"),
        *("gone.jpg", "0.png/x.jpg", "3.png", "--json"),
    )
    assert paths(said) == ["0.png", "link.png", "3.png"]
    assert said.code == 1
    start, reason = "error: predict:", "cannot be read as an image:"
    sentences = said.err.splitlines()
    assert sentences == [
        f"{start} cut.jpg {reason} truncated",
        f"{start} pipe.jpg {reason} no plain file, but a pipe or a device",
        f"{start} zero.jpg {reason} no plain file, but a pipe or a device",
        f"{start} bomb.png {reason} too many pixels: 1,001,000; prepare.max_pixels allows "
        "1,000,000",
        f"{start} bare holds no images",
        f"{start} gone.jpg cannot be read: No such file or directory",
        f"{start} 0.png/x.jpg cannot be read: Not a directory",
    ]
    assert predict("gone.jpg") == Said(1, "", f"{sentences[5]}\n")
    nowhere = predict("0.png", "--model", "nowhere")
    assert (nowhere.out, nowhere.code) == ("", 1)
    assert nowhere.sentence.startswith(f"{start} nowhere is neither a folder nor a name in")


def test_names_that_an_output_cannot_show() -> None:
    """Codes for the terminal, bytes that are not UTF-8, and an output that knows ASCII alone."""
    evil, foreign = "\x1b[2J\r\n.png", os.fsdecode(b"caf\xe9.png")
    for name in (evil, foreign, "pêche.png"):
        Path(name).write_bytes(Path("0.png").read_bytes())
    said = predict(evil, f"no{evil}")
    assert said.out.splitlines()[1].endswith("  ?[2J??.png")
    assert said.sentence.startswith("error: predict: no?[2J??.png cannot be read")
    assert paths(predict(evil, foreign, "--json")) == [evil, foreign]
    ascii_alone = {"PYTHONIOENCODING": "ascii"}
    done = Project(Path.cwd()).run(*COMMAND, foreign, "pêche.png", env=ascii_alone)
    shown = [row.split()[-1] for row in done.stdout.splitlines()[1:]]
    assert (shown, done.stderr) == (["caf?.png", r"p\xeache.png"], "")


def test_the_first_results_come_before_the_last_image_is_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare, shown, before = Model.prepare, [], []

    def watched(self: Model, *arguments: Any, **named: Any) -> bytes:
        shown.extend(capsys.readouterr().out.splitlines())
        before.append(len(shown))
        return prepare(self, *arguments, **named)

    loaded = Model.load(Path("models/release"))
    monkeypatch.setattr(Model, "load", lambda _: loaded)
    monkeypatch.setattr(Model, "prepare", watched)
    main(["predict", "--json", *["0.png"] * 8, "1.png"])
    assert before == [0] * 8 + [8]


@pytest.mark.parametrize(
    ("into", "code", "said"),
    [
        ('"$@" | head -n 1; exit ${PIPESTATUS[0]}', 141, ""),
        ('exec "$@" > /dev/full', 1, "error: predict: No space left on device"),
    ],
    ids=["a reader that has had enough", "a disk that is full"],
)
def test_an_output_that_takes_no_more(into: str, code: int, said: str) -> None:
    command = ("bash", "-c", into, "bash", *COMMAND, *["0.png"] * 100)
    done = Project(Path.cwd()).run(*command, check=False)
    assert done.returncode == code
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == (said != "")


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
    assert len(output.splitlines()) == 60
    assert "/60 [" in shown
    assert "\rerror: predict: gone.jpg cannot be read" in shown  # not in the middle of the bar
    assert on_a_terminal("predict", "0.png", "1.png")[1] == ""


def test_prediction_needs_little_more_than_numpy_and_pillow() -> None:
    code = (
        "import sys, grocery; from grocery.cli import build_parser, main\n"
        "build_parser().format_help(); assert not {'numpy', 'PIL'} & set(sys.modules)\n"
        "main(['predict', '0.png', '--json'])\n"
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
