"""The hash of a content is DVC's own."""

from __future__ import annotations

import hashlib

import pytest

from conftest import Project
from grocery.contents import read_content


def test_every_output_of_the_pipeline_has_the_hash_of_dvc_lock(project: Project) -> None:
    compared = 0
    for stage in project.lock().values():
        # Of code DVC leaves out what .dvcignore names, such as __pycache__.
        data = [dep for dep in stage.get("deps", []) if not dep["path"].startswith("grocery")]
        for item in stage["outs"] + data:
            content = read_content(project.path / item["path"])
            assert content.md5 == item["md5"], item["path"]
            assert sum(content.sizes.values()) == item["size"]
            compared += item["md5"].endswith(".dir")
    assert compared > 10, "too few folders to prove anything"
    with pytest.raises(FileNotFoundError):
        read_content(project.path / "nowhere")


def test_names_beyond_ascii_and_folders_in_folders(project: Project) -> None:
    folder = project.path / "kühl"
    (folder / "b").mkdir(parents=True)
    (folder / "b" / "Äpfel.txt").write_text("1")
    (folder / "b.txt").write_text("2")
    (folder / "empty").touch()
    project.run("dvc", "add", "--quiet", "kühl")
    text = (project.path / "kühl.dvc").read_text(encoding="utf-8")
    content = read_content(folder)
    assert f"md5: {content.md5}\n" in text
    assert list(content.files) == ["b.txt", "b/Äpfel.txt", "empty"]
    assert hashlib.md5(content.listing).hexdigest() + ".dir" == content.md5
