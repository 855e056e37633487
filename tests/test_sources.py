"""The readers of raw datasets, and what they refuse."""

import os
from pathlib import Path
from unicodedata import normalize

import pytest
import yaml

from conftest import ROOT, call_stage, refusal
from grocery.core.errors import DataError
from grocery.core.params import DataParams
from grocery.data.folders import FolderSource
from grocery.data.grocery_store import LISTS, GroceryStoreSource
from grocery.data.sources import open_source
from grocery.images.raw import RawImage
from grocery.shards import SPLITS
from grocery.synthetic.source import SyntheticSource
from samples import put

CLASSES = """\
Class Name (str),Class ID (int),Coarse Class Name (str),Coarse Class ID (int)
Golden-Delicious,0,Apple,0
Granny-Smith,1,Apple,0
Oat-Milk,2,Milk,1
"""


def touch(folder: Path, *paths: str) -> Path:
    for path in paths:
        put(folder, path, path.encode())
    return folder


def store(folder: Path, **lists: str) -> Path:
    """A dataset in the Grocery Store layout, of one image a class and split."""
    touch(folder, *(f"{s}/{i}.jpg" for s in SPLITS for i in range(3)))
    for split in SPLITS:
        lines = "".join(f"{split}/{i}.jpg, {i}, {i // 2}\n" for i in range(3))
        (folder / f"{split}.txt").write_text(lists.get(split, lines))
    (folder / "classes.csv").write_text(lists.get("classes", CLASSES))
    return folder


def facts(images: list[RawImage]) -> list[tuple[str, str | None, str | None]]:
    return [(image.path, image.label, image.split) for image in images]


class TestChoice:
    def test_by_contents(self, tmp_path: Path) -> None:
        assert isinstance(open_source(ROOT / "data/raw/synthetic"), SyntheticSource)
        assert isinstance(open_source(store(tmp_path / "store")), GroceryStoreSource)
        assert isinstance(open_source(touch(tmp_path / "own", "a/1.jpg")), FolderSource)
        with pytest.raises(DataError, match="is not a folder"):
            open_source(tmp_path / "own/a/1.jpg")
        (tmp_path / "store/classes.csv").unlink()
        with pytest.raises(DataError, match=r"has train\.txt, .* but lacks classes\.csv"):
            open_source(tmp_path / "store")

    def test_a_missing_dataset_names_all_and_how_to_get_them(self, tmp_path: Path) -> None:
        (entry,) = yaml.safe_load((ROOT / "dvc.yaml").read_text())["datasets"]
        public = tmp_path / "grocery-store"
        get = f"dvc get {entry['url']} dataset --rev {entry['rev']} -o {public}"
        touch(tmp_path, "apples/a/1.jpg", "pears.dvc", ".gitignore", ".hidden/x")
        assert refusal(DataError, open_source, tmp_path / "fruit") == (
            f"{tmp_path / 'fruit'} is missing; data.source can be apples, "
            f"grocery-store (get it with: {get}), pears (get it with: dvc pull)"
        )


class TestFolders:
    def test_classes(self, tmp_path: Path) -> None:
        """A class may be called as files are that are skipped."""
        touch(tmp_path, "pear/1.JPG", "pear/deep/er/2", "apple/x.bmp", "unlabeled/u.png")
        touch(tmp_path, "License/1.jpg", "readme.md/2.jpg", "pear/LICENSE", "pear/notes.txt")
        touch(tmp_path, "README.md", "labels.csv", ".DS_Store", "pear/Thumbs.db", "pear/Icon\r")
        touch(tmp_path, ".git/config", "__MACOSX/a/1.jpg")
        assert facts(FolderSource(tmp_path).images()) == [
            ("License/1.jpg", "License", None),
            ("apple/x.bmp", "apple", None),
            ("pear/1.JPG", "pear", None),
            ("pear/deep/er/2", "pear", None),
            ("pear/notes.txt", "pear", None),
            ("readme.md/2.jpg", "readme.md", None),
            ("unlabeled/u.png", None, None),
        ]

    def test_splits(self, tmp_path: Path) -> None:
        touch(tmp_path, "train/pear/1.jpg", "test/pear/2.jpg", "val/pear/3.jpg", "unlabelled/u.jpg")
        touch(tmp_path, "train/unlabeled/v.jpg")
        assert facts(FolderSource(tmp_path).images()) == [
            ("test/pear/2.jpg", "pear", "test"),
            ("train/pear/1.jpg", "pear", "train"),
            ("train/unlabeled/v.jpg", None, "train"),
            ("unlabelled/u.jpg", None, "train"),
            ("val/pear/3.jpg", "pear", "val"),
        ]

    def test_incoming(self, tmp_path: Path) -> None:
        touch(tmp_path, "a/1.jpg", "incoming/w1/x.jpg", "incoming/w2/pear/y.jpg", "incoming/README")
        source = FolderSource(tmp_path)
        assert [image.path for image in source.images()] == ["a/1.jpg"]
        batches = source.incoming()
        assert {name: facts(images) for name, images in batches.items()} == {
            "w1": [("incoming/w1/x.jpg", None, None)],
            "w2": [("incoming/w2/pear/y.jpg", "pear", None)],
        }
        for path in ("incoming/x.jpg", "incoming/week 1/x.jpg"):
            with pytest.raises(DataError, match=f"{path} lies in no batch"):
                FolderSource(touch(tmp_path / path, path)).incoming()

    @pytest.mark.parametrize(
        ("paths", "sentence"),
        [
            (["README.md"], "holds no images"),
            (["x.jpg", "a/1.jpg"], "x.jpg lies in no class"),
            (["train/x.jpg", "test/a/1.jpg"], "x.jpg lies in no class"),
            (["train/a/1.jpg", "b/a/2.jpg"], "'b/a/2.jpg' must lie in train, val"),
            (["train/a/1.jpg", "test/unlabeled/2.jpg"], "2.jpg has no label; test needs one"),
            *(
                ([f"{folder}/a/1.jpg", "train/pear/2.jpg"], f"{folder} differs .* name '{name}'")
                for folder, name in {
                    **{"Train": "train", "VAL": "val", "testing": "test", "Incoming": "incoming"},
                    **{"unLabelled": "unlabelled", "train/Unlabeled": "unlabeled"},
                }.items()
            ),
            (["Test/a/1.jpg", "pear/1.jpg"], "Test differs .* name 'test'"),
        ],
    )
    def test_refused(self, tmp_path: Path, paths: list[str], sentence: str) -> None:
        with pytest.raises(DataError, match=sentence):
            FolderSource(touch(tmp_path, *paths)).images()

    def test_one_class_however_its_accents_are_composed(self, tmp_path: Path) -> None:
        composed, apart = (normalize(form, "Café") for form in ("NFC", "NFD"))
        touch(tmp_path, f"train/{composed}/1.jpg", f"test/{apart}/2.jpg", "train/Tea/3.jpg")
        images = FolderSource(tmp_path).images()
        assert {image.label for image in images} == {composed, "Tea"}
        assert all(image.read() for image in images)

    @pytest.mark.parametrize("link", ["a/link.jpg", "link", "a/deep/.hidden", "incoming"])
    def test_links_are_refused(self, tmp_path: Path, link: str) -> None:
        folder = touch(tmp_path / "raw", "a/1.jpg", "b/1.jpg", "a/deep/2.jpg")
        (folder / link).symlink_to(touch(tmp_path / "outside", "secret.jpg"))
        with pytest.raises(DataError, match=f"{link} is a symbolic link"):
            FolderSource(folder).images()
        if link == "incoming":
            with pytest.raises(DataError, match="incoming is a symbolic link"):
                FolderSource(folder).incoming()


@pytest.mark.parametrize("name", ["", "recipe.yaml", "classes.csv", "train.txt"])
def test_neither_a_dataset_nor_what_describes_it_is_a_link(tmp_path: Path, name: str) -> None:
    folder = store(tmp_path / "raw")
    if name != "recipe.yaml":  # whose link leads nowhere
        (folder / name).rename(tmp_path / "outside")
    (folder / name).symlink_to(tmp_path / "outside")
    with pytest.raises(DataError, match=f"{name or 'raw'} is a symbolic link"):
        open_source(folder)


def test_the_first_stage_names_odd_files(here: Path) -> None:
    def refused(sentence: str) -> None:
        with pytest.raises(DataError, match=sentence):
            call_stage("source", DataParams(source="mine"))

    refused(r"^data/raw/mine is missing; data\.source can be ")
    folder = touch(Path("data/raw/mine"), "a/1.jpg", "b/1.jpg")
    odd = folder / "a/odd"
    odd.symlink_to("nowhere")
    refused(f"{odd} is a symbolic link")
    odd.unlink()
    os.mkfifo(odd)
    refused(f"{odd} is neither a file nor a folder")
    odd.rename(folder / os.fsdecode(b"a/caf\xe9.jpg"))
    refused("is not UTF-8")
    (folder / os.fsdecode(b"a/caf\xe9.jpg")).unlink()
    assert call_stage("source", DataParams(source="mine")) == {"source": "mine"}


BAD_LINES = [
    ("train/0.jpg 0 0", "train.txt, line 2: 'train/0.jpg 0 0' is not 'path, class id"),
    ("train/0.jpg, zero, 0", "train.txt, line 2: .* is not 'path, class id"),
    ("train/0.jpg, 7, 0", r"train.txt, line 2: classes.csv has no class with the ids \(7, 0\)"),
    ("train/0.jpg, 0, 1", r"train.txt, line 2: classes.csv has no class with the ids \(0, 1\)"),
    ("../secret.jpg, 0, 0", "train.txt, line 2: '../secret.jpg' leads out of the dataset"),
    ("/etc/passwd, 0, 0", "train.txt, line 2: '/etc/passwd' leads out of the dataset"),
    ("train/9.jpg, 0, 0", "train.txt, line 2: 'train/9.jpg' is missing"),
    ("train/1.jpg, 1, 0", "train.txt, line 2: 'train/1.jpg' was listed before"),
]
BAD_CLASSES = [
    ("name,id\nApple,0\n", "classes.csv, line 2: needs Class Name"),
    (CLASSES + "Pear,x,Pear,2\n", "classes.csv, line 5: needs Class Name"),
    (CLASSES + "P" * 140_000 + ",3,Pear,2\n", "classes.csv cannot be read as CSV: field"),
    (CLASSES + "Pear,2,Pear,1\n", "classes.csv, line 5: 'Pear' or its ids"),
    (CLASSES + "Oat-Milk,3,Milk,1\n", "classes.csv, line 5: 'Oat-Milk' or its ids"),
]


class TestGroceryStore:
    def test_reads_names_and_splits(self, tmp_path: Path) -> None:
        images = GroceryStoreSource(store(tmp_path)).images()
        assert [image.path for image in images] == sorted(image.path for image in images)
        second = ("test/1.jpg", "Granny-Smith", "Apple", "test", tmp_path / "test/1.jpg")
        assert (len(images), images[1]) == (9, RawImage(*second))
        assert GroceryStoreSource(tmp_path).incoming() == {}
        touch(tmp_path, "train/9.jpg")
        about = dict.fromkeys(["classes.csv", *LISTS.values()], "about the images")
        assert GroceryStoreSource(tmp_path).left_out() == about | {"train/9.jpg": "not listed"}

        touch(tmp_path, "train/a, b.jpg")  # a path may hold a comma, and the list an empty line
        (tmp_path / "train.txt").write_text("train/a, b.jpg, 2, 1\n\n")
        assert "train/a, b.jpg" in [image.path for image in GroceryStoreSource(tmp_path).images()]

    @pytest.mark.parametrize(
        ("lists", "sentence"),
        [
            *(({"train": f"train/1.jpg, 1, 0\n{line}\n"}, said) for line, said in BAD_LINES),
            *(({"classes": text}, said) for text, said in BAD_CLASSES),
            (dict.fromkeys(SPLITS, ""), "lists no images"),
        ],
    )
    def test_bad_lists(self, tmp_path: Path, lists: dict[str, str], sentence: str) -> None:
        touch(tmp_path, "secret.jpg")
        with pytest.raises(DataError, match=sentence):
            GroceryStoreSource(store(tmp_path / "raw", **lists)).images()
