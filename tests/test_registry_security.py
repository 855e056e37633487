"""Fetching a release never runs code, leaves its folder, or trusts bytes that git does not name.

The attacks are what somebody with write access to the DVC remote and to git could do: consistent
objects, commits and tags, see `registry_forged`.
"""

import json
import os
import pickle
import shutil
import struct
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import grocery as library
from conftest import Project
from grocery.contents import read_content
from grocery.core.errors import ModelError, RegistryError
from grocery.registry.records import RELEASE
from grocery.registry.store import open_store
from registry_forged import VERSION, Forge, md5_of, one_version
from registry_project import World, git, grocery, inside, output_at, put_back
from samples import put


@pytest.fixture(scope="module")
def forge(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Forge:
    """A world that many attacks share: they only add to it, and its outside must stay as it is."""
    return one_version(built, tmp_path_factory)


@pytest.fixture
def apart(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Forge:
    """A copy, free to change."""
    return one_version(built, tmp_path_factory)


def kept(world: World) -> list[str]:
    """What lies in the user's cache folder of releases, whole or not."""
    folder = world.folder / "cache/grocery/releases"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def refusal(world: World) -> str:
    """The sentence with which `fetch` refuses `VERSION`; it leaves nothing behind."""
    before = kept(world)
    sentence = world.refused("fetch", VERSION)
    assert kept(world) == before
    return sentence


@dataclass
class Trap:
    """Unpickling it makes a file."""

    marker: Path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


class TestCode:
    def test_a_pickle_is_never_loaded(self, forge: Forge, tmp_path: Path) -> None:
        marker = tmp_path / "marker"
        trap = pickle.dumps(Trap(marker))
        forge.version(forge.store_folder(forge.with_arrays(trap)))
        assert "the release cannot be used" in refusal(forge)
        predicted = grocery(forge.project, "predict", "photo.png", "--model", VERSION)
        assert (predicted.code, predicted.out) == (1, "")
        assert "model.safetensors is damaged" in predicted.sentence
        with inside(forge.project.path), pytest.raises(RegistryError, match="is damaged"):
            library.load_model(VERSION)
        assert not marker.exists()
        pickle.loads(trap)  # the trap is a real one
        assert marker.exists()

    @pytest.mark.parametrize("name", ["sub/__init__.py", "model.json.PY", "noext", "model.pkl"])
    def test_a_file_that_no_release_has(self, forge: Forge, name: str) -> None:
        forge.version(forge.store_folder(forge.release() | {name: b"import os"}))
        sentence = refusal(forge)
        assert f"the release holds the file {name!r}" in sentence
        assert "none of which is code; refused" in sentence

    def test_a_file_instead_of_a_folder(self, forge: Forge) -> None:
        forge.version(forge.store(b"#!/bin/sh"))
        assert "none of which is code; refused" in refusal(forge)

    def test_another_model_than_the_tag_says(self, forge: Forge) -> None:
        """Be it one with the genuine arrays, and a digest of its own that is right."""
        genuine = forge.release()
        said = json.loads(genuine["model.json"])
        others = forge.with_arrays(genuine["model.safetensors"], classes=said["classes"][::-1])
        made = forge.store_folder(others)
        forge.version(made, {"model": {"digest": said["sha256"], "release": made}})
        assert f"but its version's tag says {said['sha256']}; refused" in refusal(forge)
        forge.version(made, {"model": {"release": "0" * 32 + ".dir"}})
        assert "the tag was moved or made by hand" in refusal(forge)
        forge.version(made, {"model": {"release": made}})
        assert forge.registry("fetch", VERSION).code == 0  # whole, as far as it says itself


def arrays(header: bytes) -> bytes:
    """A safetensors file with any header."""
    return struct.pack("<Q", len(header)) + header + bytes(16)


def array(shape: list[int], end: int = 16, dtype: str = "F32") -> bytes:
    """One with an array that is not what it says."""
    header = {"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}}
    return arrays(json.dumps(header).encode())


@pytest.mark.parametrize(
    "crafted",
    [
        struct.pack("<Q", 10**8 + 1) + b"{",
        arrays(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
        array([2**31], 2**33),
        array([2**32, 2**32]),
        array([1] * 70 + [4]),
        array([4], dtype="O"),
    ],
    ids=["long header", "deep header", "8 GB", "more than 64 bits", "70 dimensions", "objects"],
)
def test_crafted_arrays_are_refused(forge: Forge, tmp_path: Path, crafted: bytes) -> None:
    for name, data in forge.with_arrays(crafted).items():
        put(tmp_path, name, data)
    with pytest.raises(ModelError, match="safetensors is damaged"):
        library.load_model(tmp_path)


NAMES: list[Any] = [
    *("../../evil.json", str(Path(tempfile.gettempdir()) / "evil.json"), "a/../../evil.json"),
    *("//server/evil.json", "a/../evil.json", "./evil.json", "a//evil.json", "evil.json/"),
    *("C:\\evil.json", "C:evil.json", "..\\evil.json", "evil\0.json", "\ud800evil.json"),
    *("n" * 300 + ".json", "..", ".", "", 5, None, True),
]
NO_LISTS = [
    *(b"{{", b"\xff\xfe", b"5", b"null", b'["a"]', b'[{"relpath": "a.json"}]'),
    *(b'[{"relpath": ["a"], "md5": "b"}]', b"[" * 100_000, b"[" + b"9" * 5000 + b"]"),
]


def listed(*names: Any, md5: Any = "0" * 32) -> bytes:
    """The list of a folder that holds files of any name, with any hash."""
    return json.dumps([{"relpath": name, "md5": md5} for name in names]).encode()


class TestLists:
    """The list of a folder's files, with the hash that git names, holds anything."""

    def test_nothing_is_written_outside(self, forge: Forge) -> None:
        for name in NAMES[:3]:
            forge.version(forge.store_folder(forge.release() | {name: b"evil"}))
            assert "which leads out of it; refused" in refusal(forge)
        for folder in (Path("/"), Path(tempfile.gettempdir())):
            assert not list(folder.glob("*evil*"))
        assert not list(forge.folder.rglob("*evil*"))

    @pytest.mark.parametrize(
        ("data", "expected"),
        [
            *((data, "is no list of a folder's files") for data in NO_LISTS),
            *((listed(name), "which leads out of it; refused") for name in NAMES),
            *((listed("a", md5=md5), "is no MD5") for md5 in (5, "../../passwd", "a" * 10**7)),
            (listed("a.json", "a.json"), "holds one name twice; refused"),
            (listed("a.json", "a.json/evil.json"), "holds one name twice; refused"),
        ],
        ids=lambda value: ascii(value)[:40],
    )
    def test_a_list_that_is_refused(self, forge: Forge, data: bytes, expected: str) -> None:
        with open_store(forge.project.path) as store, pytest.raises(RegistryError) as caught:
            store.folder(forge.store_list(data))
        assert expected in str(caught.value)
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize("which", ["list", "file"])
def test_an_object_that_has_not_the_hash_in_its_name(apart: Forge, which: str) -> None:
    """That of the cache or of the remote is passed over for the other; both are a sentence."""
    whole = output_at(apart.project, "HEAD", RELEASE)
    md5 = md5_of(apart.release()["model.safetensors"]) if which == "file" else whole
    genuine = apart.place(md5).read_bytes()
    for cache, other in ((True, False), (False, True)):
        apart.store(b"[]", md5, cache=cache)
        apart.store(genuine, md5, cache=other)
        found = apart.done("fetch", "production")
        assert read_content(Path(found["folder"])).md5 == whole
        shutil.rmtree(apart.folder / "cache")
    apart.store(b"[]", md5, cache=True)
    sentence = apart.refused("fetch", "production")
    assert f"object {md5}" in sentence
    assert "is damaged: its content has another hash" in sentence
    apart.place(md5).unlink()
    apart.place(md5).symlink_to("/etc/passwd")
    assert "is damaged" in apart.refused("fetch", "production")
    assert kept(apart) == []


@pytest.mark.parametrize(
    "damage",
    ["another content", "one file more", "a pipe", "a file", "canary", "nowhere", "twin"],
)
def test_what_is_kept_is_trusted_no_more(forge: Forge, tmp_path: Path, damage: str) -> None:
    """Or a link: to something else, to nothing, or to what is now the same and may change."""
    folder = Path(forge.done("fetch", "production")["folder"])
    before = kept(forge)
    put(tmp_path, "canary/photo.json", b"mine")
    shutil.copytree(folder, tmp_path / "twin")
    if damage == "another content":
        (folder / "model.json").write_text("{}")
    elif damage == "one file more":
        (folder / "run.py").write_text("import os")
    elif damage == "a pipe":
        (folder / "model.json").unlink()
        os.mkfifo(folder / "model.json")
    else:
        shutil.rmtree(folder)
        if damage == "a file":
            folder.write_text("no folder")
        else:
            folder.symlink_to(tmp_path / damage)
    assert forge.done("fetch", "production")["folder"] == str(folder)
    assert not folder.is_symlink()
    assert read_content(folder).md5 == output_at(forge.project, "HEAD", RELEASE)
    assert kept(forge) == before
    assert (tmp_path / "canary/photo.json").read_text() == "mine"
    assert (tmp_path / "twin/model.json").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["register", "--", "--upload-pack=touch MARKER"],
        ["register-all", "--", "--output=MARKER"],
        ["compare", "v1.0.0", "$(touch MARKER)"],
        ["promote", "--stage=--output=MARKER", "v1.0.0"],
        ["fetch", "--", "../../MARKER"],
        ["fetch", "v1.0.0", "--from=--upload-pack=touch MARKER"],
        ["fetch", "v1.0.0", "--from=ext::sh -c touch% MARKER"],
        ["fetch", "v1.0.0", "--from=-oProxyCommand=touch MARKER:x"],
        ["fetch", "v1.0.0", "--from="],
        ["fetch", "v1.0.0", "--from=\udcff"],
    ],
    ids=lambda arguments: " ".join(map(ascii, arguments)),
)
def test_no_argument_is_an_option_or_an_order_to_git(forge: Forge, arguments: list[str]) -> None:
    marker = forge.folder / "marker"
    before = set(forge.project.path.iterdir())
    forge.refused(*(text.replace("MARKER", str(marker)) for text in arguments))
    assert not marker.exists()
    assert set(forge.project.path.iterdir()) == before


class Refusing(BaseHTTPRequestHandler):
    """A server that lets nobody in."""

    def do_GET(self) -> None:
        self.send_error(401)

    do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def closed() -> Iterator[str]:
    """Host and port of that server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


class TestSecrets:
    """Neither a sentence nor a file of JSON repeats what lets somebody in."""

    SECRET = "s3cr3t"

    def check_silent(self, world: World, *commands: tuple[str, ...]) -> None:
        """Each command fails, and says so without the secret."""
        for command in (*commands, ("status",), ("promote", "v1.0.0", "--stage", "staging")):
            said = world.registry(*command)
            assert said.code == (3 if command[0] == "status" else 1), command
            assert self.SECRET not in said.out + said.err
            assert command[0] == "status" or said.sentence

    @pytest.mark.parametrize("kind", ["http", "s3"])
    def test_of_the_dvc_remote(self, apart: Forge, closed: str, kind: str) -> None:
        address = f"http://user:{self.SECRET}@{closed}"
        settings = {"url": f"{address}/storage"}
        if kind == "s3":
            pytest.importorskip("dvc_s3")
            keys = {"access_key_id": "user", "secret_access_key": self.SECRET}
            settings = {"url": "s3://bucket/storage", "endpointurl": address, **keys}
        lines = ["['remote \"storage\"']", *(f"{key} = {value}" for key, value in settings.items())]
        (apart.project.path / ".dvc/config.local").write_text("\n".join(lines))
        shutil.rmtree(apart.project.path / ".dvc/cache")
        self.check_silent(apart, ("fetch", "v1.0.0"))

    @pytest.mark.parametrize("who", ["SECRET", "user:SECRET", "user:p@SECRET"])
    def test_of_the_git_remote(self, forge: Forge, closed: str, who: str) -> None:
        """Nor does anything wait for somebody to type one."""
        address = f"http://{who.replace('SECRET', self.SECRET)}@{closed}/project.git"
        with put_back(forge.project):
            git(forge.project, "remote", "add", "origin", address)
            fetch = ("fetch", "v1.0.0", "--from", address)
            self.check_silent(forge, fetch, ("register",), ("rollback", "--stage=production"))
