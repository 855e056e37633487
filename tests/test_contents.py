"""The hash of a content is DVC's own."""

import hashlib

import pytest

from conftest import Project
from grocery.contents import read_content


def test_the_hash_of_a_content_is_dvcs_own(project: Project) -> None:
    """Of every output, and of names beyond ASCII, folders in folders and empty files."""
    for stage in project.lock().values():
        for item in stage["outs"]:
            content = read_content(project.path / item["path"])
            assert content.md5 == item["md5"], item["path"]
            assert sum(content.sizes.values()) == item["size"]
    folder = project.path / "kühl"
    (folder / "b").mkdir(parents=True)
    (folder / "b" / "Äpfel.txt").write_text("1")
    (folder / "b.txt").write_text("2")
    (folder / "empty").touch()
    project.run("dvc", "add", "--quiet", "kühl")
    content = read_content(folder)
    assert f"md5: {content.md5}\n" in (project.path / "kühl.dvc").read_text(encoding="utf-8")
    assert list(content.files) == ["b.txt", "b/Äpfel.txt", "empty"]
    assert hashlib.md5(content.listing).hexdigest() + ".dir" == content.md5
    with pytest.raises(FileNotFoundError):
        read_content(project.path / "nowhere")
