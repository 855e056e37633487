"""Reader of the public Grocery Store dataset's layout, with its splits and coarse classes."""

from __future__ import annotations

import csv
from pathlib import Path, PurePosixPath

from grocery.core.errors import DataError
from grocery.data.folders import INCOMING, RawFolder, class_name, files_of
from grocery.images.raw import RawImage
from grocery.shards import SPLITS

LISTS = {split: f"{split}.txt" for split in SPLITS}
CLASSES = "classes.csv"


class GroceryStoreSource(RawFolder):
    """The layout of the public Grocery Store dataset, with its splits and coarse classes.

    A line of ``train.txt``, ``val.txt`` or ``test.txt`` is ``path, class id, coarse class id``;
    ``classes.csv`` names both ids. Images that no line names are left out.
    """

    def images(self) -> list[RawImage]:
        """All images, sorted by path.

        Raises
        ------
        DataError
            For a line or a name that is not allowed; says where.
        """
        classes = self._classes()
        files = {path for path in files_of(self.folder) if not path.startswith(f"{INCOMING}/")}
        images: dict[str, RawImage] = {}
        for split, name in LISTS.items():
            for number, line in enumerate(_lines(self.folder / name), start=1):
                if not line.strip():
                    continue
                where = f"{self.folder / name}, line {number}"
                path, ids = _parsed(line, where)
                if ids not in classes:
                    raise DataError(f"{where}: {CLASSES} has no class with the ids {ids}")
                if path in images:
                    raise DataError(f"{where}: {path!r} was listed before")
                if path not in files:
                    raise DataError(f"{where}: {path!r} is missing")
                label, coarse = classes[ids]
                images[path] = RawImage(path, label, coarse, split, self.folder / path)
        if not images:
            raise DataError(f"{self.folder} lists no images")
        return [images[path] for path in sorted(images)]

    def _classes(self) -> dict[tuple[int, int], tuple[str, str]]:
        """Names of fine and coarse class by their ids."""
        path = self.folder / CLASSES
        classes: dict[tuple[int, int], tuple[str, str]] = {}
        labels: set[str] = set()
        try:
            rows = list(csv.DictReader(_lines(path)))
        except csv.Error as error:
            raise DataError(f"{path} cannot be read as CSV: {error}") from error
        for number, row in enumerate(rows, start=2):
            where = f"{path}, line {number}"
            try:
                ids = int(row["Class ID (int)"]), int(row["Coarse Class ID (int)"])
                fine, coarse = row["Class Name (str)"], row["Coarse Class Name (str)"]
                names = class_name(fine.strip()), class_name(coarse.strip())
            except (KeyError, TypeError, ValueError, AttributeError):
                names = ("", "")
            if not all(names):
                raise DataError(
                    f"{where}: needs Class Name (str), Class ID (int), Coarse Class Name (str) "
                    "and Coarse Class ID (int)"
                )
            if ids in classes or names[0] in labels:
                raise DataError(f"{where}: {names[0]!r} or its ids {ids} were listed before")
            classes[ids] = names
            labels.add(names[0])
        return classes


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text") from error


def _parsed(line: str, where: str) -> tuple[str, tuple[int, int]]:
    """Path and (class id, coarse class id) of a line."""
    try:
        name, fine, coarse = line.rsplit(",", 2)
        ids = int(fine), int(coarse)
    except ValueError:
        raise DataError(f"{where}: {line!r} is not 'path, class id, coarse class id'") from None
    path = PurePosixPath(name.strip())
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{where}: {name.strip()!r} leads out of the dataset")
    return path.as_posix(), ids
