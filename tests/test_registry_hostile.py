"""Tags, records and commits that somebody made by hand, damaged or deleted: a sentence, always."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from conftest import Project
from grocery.core.errors import RegistryError
from grocery.registry.git import Git
from grocery.registry.records import RELEASE, json_at, params_at
from registry_forged import (
    JUDGED,
    VERSION,
    Forge,
    head_of,
    limited,
    md5_of,
    message_of,
    one_version,
)
from registry_project import ARTIFACT, Said, World, git, grocery, output_at, put_back
from samples import picture


@pytest.fixture(scope="module")
def registered(built: Project, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world with one version, in production."""
    made = one_version(built, tmp_path_factory)
    world = made.copy(tmp_path_factory.mktemp("hostile") / "world")
    picture().save(world.project.path / "photo.png")
    return world


@pytest.fixture
def forge(registered: World) -> Iterator[Forge]:
    """Attacks on a world that all tests share; the tags are put right afterwards."""
    with put_back(registered.project):
        yield Forge(registered)


@pytest.fixture
def world(registered: World, tmp_path: Path) -> World:
    """A copy, free to change."""
    world = registered.copy(tmp_path / "world")
    shutil.rmtree(world.folder / "cache", ignore_errors=True)
    return world


def ask(world: World, *arguments: str) -> Said:
    """Run a command: it answers, or says one sentence, and sends nothing to the terminal."""
    said = grocery(world.project, *arguments)
    if said.code == 0 or (arguments[1] == "status" and said.out):
        assert said.err == ""
    else:
        assert len(said.sentence) < 700
    for code in ("\x07", "\x9b", "\u202e"):
        assert "--json" in arguments or code not in said.out + said.err
    assert "\x1b" not in said.out + said.err
    return said


def problems(world: World) -> str:
    """What `status` finds wrong, of tags and of objects."""
    said = ask(world, "registry", "status", "--json")
    assert said.code == 3
    found = said.document
    return "\n".join([*found["tags"], *found["objects"]])


SECTIONS = ("metrics", "model", "dataset", "test", "params", "experiment")
EVIDENCE: dict[str, dict[str, Any]] = {
    "numbers": dict.fromkeys(SECTIONS, 5),
    "lists": {section: [[{}]] * 1000 for section in SECTIONS},
    "nulls": dict.fromkeys(SECTIONS),
    "texts": dict.fromkeys(SECTIONS, "\x1b[2Jx"),
    "wrong inside": {
        "metrics": {"accuracy": "high", "macro_f1": [], "calibration_error": None, "x": {}},
        "model": {"digest": 5, "release": []},
        "dataset": {"digest": {}, "source": ["\x1b"], "images": "many"},
        "test": {"images": 1.5, "digest": True},
    },
    "huge numbers": {"metrics": {"accuracy": 10**400, "macro_f1": -(10**400)}},
    "no numbers": {"metrics": {"accuracy": float("nan"), "macro_f1": float("inf")}},
    "codes": {"experiment": "\x1b[31m\x07\u202e\x9b31m\ud800", "dataset": {"source": "\x1b]0;x"}},
}
EVENTS: dict[str, dict[str, Any]] = {
    "texts": {"rollback": "x", "forced": "yes", "reason": "\x1b[31mred\u202e"},
    "lists": {"rollback": [], "forced": [1], "reason": [["\x1b"]]},
    "wrong inside": {"rollback": {"from": {"a": []}, "undoes": 5}, "reason": {"a": "\x1b"}},
    "nulls": {"rollback": None, "forced": None, "reason": None},
}


MESSAGES = [
    b"",
    b"By hand",
    b"By hand\n\n[1, 2]",
    b'By hand\n\n{"metrics": ',
    b'\xff\xfe\x1b[31m\n\n{"experiment": "\xff"}',
    b"By hand\n\n" + b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    b"By hand\n\n" + b'{"a":' * 900 + b"1" + b"}" * 900,
    b'By hand\n\n{"a": ' + b"9" * 5000 + b"}",
    b'By hand\n\n{"a": "' + b"x" * 1_000_000 + b'"}',
    b'By hand\x01\n\n{"experiment": "\x01\x02"}\x01',
]
TAGGERS = [
    b"Eve \x1b[31m\xff\x9b <\x1b]0;title\x07>",
    b"\x01 <\x01>",
    b"\xe2\x80\xaeeve <a@b>",
    b"e" * 100_000 + b" <>",
    b" <>",
]
DATES = [b"", b"253402300799 -1200", b"1 +0000", b"x +0000", b"9999999999 +9999"]


class TestTagsThatSayAnything:
    """Versions with a genuine release: whatever their tags say, they are as good as any other."""

    def test_versions(self, forge: Forge) -> None:
        """Evidence of wrong types, messages of any kind, taggers of any name and odd dates."""
        odd: list[dict[str, Any]] = [
            *({"message": message_of(evidence)} for evidence in EVIDENCE.values()),
            *({"message": message} for message in MESSAGES),
            *({"who": who} for who in TAGGERS),
            *({"when": when} for when in DATES),
        ]
        names = [f"v9.0.{number}" for number in range(len(odd))]
        for name, said in zip(names, odd, strict=True):
            forge.tag(f"@{name}", forge.commit(message=name), **said)
        last, some = names[-1], names[: len(EVIDENCE)]
        for command in (
            *(["registry", "show", name] for name in names),
            ["registry", "list"],
            ["registry", "fetch", last],
            ["registry", "compare", "v1.0.0", *some],
            ["registry", "promote", last, "--stage", "staging"],
            ["predict", "photo.png", "--model", last],
        ):
            assert ask(forge.world, *command).code == 0, command
        assert {*names, "v1.0.0"} == {row["version"] for row in forge.world.done("list")}
        assert forge.world.done("show", some[-1])["version"] == some[-1]
        assert len(forge.world.done("compare", "v1.0.0", *some[-3:])["versions"]) == 4

    @pytest.mark.parametrize("kind", EVENTS)
    def test_events_of_wrong_types(self, forge: Forge, kind: str) -> None:
        commit = forge.commit()
        forge.tag(f"@{VERSION}", commit, message_of({}))
        for number, target in ((2, commit), (3, head_of(forge.world))):
            when = f"190000000{number} +0000".encode()
            forge.tag(f"#production#{number}", target, message_of(EVENTS[kind]), when=when)
        assert "v1.0.0" in ask(forge.world, "registry", "show", "production").out
        assert VERSION in ask(forge.world, "registry", "list").out
        rolled = ask(forge.world, "registry", "rollback", "--stage", "production")
        # an object says that it was a rollback, and nothing else does
        assert (rolled.code == 0) == (kind != "wrong inside")

    def test_the_last_date_that_there_is(self, forge: Forge) -> None:
        """Nothing comes after it; the sentence says which tag is in the way."""
        world, commit = forge.world, forge.commit()
        forge.tag(f"@{VERSION}", commit, when=b"253402300000 +0000")
        forge.tag("#staging#1", commit, when=b"253402300000 +0000")
        promote = ("promote", "v1.0.0", "--stage", "staging")
        assert world.done(*promote)["new"]  # a tag of tomorrow keeps nobody from promoting
        assert world.done("show", "staging")["version"] == "v1.0.0"

        forge.tag("#staging#3", commit, when=b"253402300799 +0000")
        sentence = world.refused(*promote)
        assert f"tag {ARTIFACT}#staging#3 is dated 9999-12-31 23:59" in sentence
        assert "git tag --delete" in sentence
        git(world.project, "tag", "--delete", *(f"{ARTIFACT}#staging#{n}" for n in (1, 2, 3)))
        forge.tag(f"@{VERSION}", commit, when=b"253402300799 +0000")
        sentence = world.refused("promote", VERSION, "--stage", "staging")
        assert f"tag {ARTIFACT}@{VERSION} is dated 9999-12-31 23:59" in sentence
        said = world.registry(*promote, GIT_COMMITTER_DATE="253402300799 +0000")
        assert said.code == 1
        assert said.sentence

    def test_the_highest_number_that_there_is(self, forge: Forge) -> None:
        commit = forge.commit()
        for name in (f"@{VERSION}", "#staging#999999999", "#staging#1"):
            forge.tag(name, commit)
        found = forge.world.done("promote", "v1.0.0", "--stage", "staging")
        assert found["tag"] == f"{ARTIFACT}#staging#2"
        assert forge.world.done("show", "staging")["version"] == "v1.0.0"
        forge.tag("@v9.999999999.0", forge.commit(message="Another"))
        locked = forge.lock_with(forge.another_release())
        sentence = forge.world.refused("register", forge.commit({"dvc.lock": locked}))
        assert "there is no version v9.1000000000.0" in sentence


NO_TARGETS = [
    ("blob", "HEAD:params.yaml"),
    ("tree", "HEAD^{tree}"),
    ("tag", f"refs/tags/{ARTIFACT}@v1.0.0"),
    ("commit", "HEAD:dvc.yaml"),  # which it is not
]
NO_DATES = ["99999999999999", "-5", "253402300800", "18446744073709551614"]
NO_NAMES = [
    *("@", "#", "@v9.0.0-;x", "@v9.0.0-$x", "@v9.1.0/x", "@v9.0.0\u202ex", "@v9999999999.0.0"),
    f"#production#{'9' * 200}",
]


class TestTagsThatAreNone:
    def test_each_is_named_and_passed_over(self, forge: Forge) -> None:
        """At something else than a commit, of a date that no calendar has, of an odd name."""
        world, commit = forge.world, forge.commit()
        reasons = {}
        for number, (kind, target) in enumerate(NO_TARGETS):
            name = f"@v9.3.{number}"
            forge.tag(name, git(world.project, "rev-parse", target), kind=kind)
            reasons[name] = "does not stand at a commit"
        for number, when in enumerate(NO_DATES, 2):
            for name, target in (
                (f"@v9.2.{number}", commit),
                (f"#production#{number}", head_of(world)),
            ):
                forge.tag(name, target, when=f"{when} +0000".encode())
                reasons[name] = "has a date that no calendar has"
        for name in NO_NAMES:
            forge.tag(name, commit)
            reasons[name] = "is not in GTO's format, and is passed over"
        git(world.project, "tag", "-a", "another-model@v1.0.0", "-m", "Not ours")
        git(world.project, "tag", f"{ARTIFACT}@{VERSION}", commit)
        reasons[f"@{VERSION}"] = "is a plain one"
        found = problems(world)
        assert [name for name in reasons if f"{ARTIFACT}{name} {reasons[name]}" not in found] == []
        assert "another-model" not in found
        for command in (
            ["registry", "show", VERSION],
            ["registry", "compare", "v1.0.0", VERSION],
            ["registry", "fetch", VERSION],
            ["registry", "promote", VERSION, "--stage", "staging"],
            ["registry", "reproduce", VERSION],
            ["predict", "photo.png", "--model", VERSION],
        ):
            sentence = ask(world, *command).sentence
            assert "is no version or stage; versions: v1.0.0" in sentence, command
        assert ask(world, "registry", "status").code == 3
        assert world.done("show", "production")["version"] == "v1.0.0"

    def test_a_commit_that_is_gone(self, forge: Forge) -> None:
        """Git cannot list the tags then; it says which one it is."""
        forge.tag(f"@{VERSION}", "1" * 40)
        expected = f"missing object {'1' * 40} for refs/tags/{ARTIFACT}@{VERSION}"
        for command in (["list"], ["status"], ["register"], ["fetch", "v1.0.0"]):
            assert expected in forge.world.registry(*command).sentence


LAUGHS = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (98 + n, 98 + n, b",".join([b"*%c" % (97 + n)] * 9)) for n in range(9)
)


def lock(out: bytes) -> bytes:
    return b"schema: '2.0'\nstages:\n  register:\n    cmd: x\n    outs:\n    - " + out


LOCKS = {
    "empty": b"",
    "no YAML": b"{{{:",
    "binary": b"\x00\xff\x01",
    "a list": b"[]",
    "stages of a number": b"schema: '2.0'\nstages: 5\n",
    "outputs of a number": b"schema: '2.0'\nstages: {a: {cmd: x, outs: 5}}\n",
    "a date that is none": lock(b"{path: 2001-99-99, md5: x}"),
    "a huge number": lock(b"{path: %s, md5: x}" % (b"9" * 5000)),
    "deep": b"stages: " + b"[" * 25_000,
    "laughs": LAUGHS + b"stages: *j\n",
    "laughing hashes": LAUGHS + lock(b"{path: models/release, md5: *j}"),
    "of itself": b"stages: &a {b: *a}\n",
    "an object": b"stages: !!python/object/apply:os.system ['touch marker']\n",
    "a hash of a number": lock(b"{path: models/release, md5: 5}"),
    "a hash that is a path": lock(b"{path: models/release, md5: ../../etc/passwd}"),
    "a hash in capitals": lock(b"{path: models/release, md5: %s.dir}" % (b"A" * 32)),
}
PARAMS = [
    b"data:\n  " + LAUGHS.replace(b"\n", b"\n  "),
    b"data: 2001-99-99\n",
    b"[]",
    b"data: [1]\nprepare: 5\n",
    b"data: !!python/object/apply:os.system ['touch marker']\n",
]
READ_LOCKS = """
import sys
from pathlib import Path
from grocery.core.errors import RegistryError
from grocery.registry.records import hashes_of
for name in sys.argv[1:]:
    try:
        print(name, hashes_of(Path(name).read_bytes(), "it"))
    except RegistryError as error:
        print(error)
"""


class TestRecords:
    def test_damaged_locks(self, tmp_path: Path) -> None:
        """They neither end the process nor take all memory; nothing in them is run."""
        places = []
        for number, data in enumerate(LOCKS.values()):
            places.append(tmp_path / str(number))
            places[-1].write_bytes(data)
        said = limited(READ_LOCKS, *places).splitlines()
        assert [sentence for sentence in said if not sentence.endswith("damaged")] == []
        assert len(said) == len(places)
        assert not Path("marker").exists()

    @pytest.mark.parametrize("damage", ["a hash that is a path", "laughing hashes"])
    def test_a_version_with_a_damaged_lock(self, forge: Forge, damage: str) -> None:
        world, commit = forge.world, forge.commit({"dvc.lock": LOCKS[damage]})
        assert world.refused("register", commit)
        forge.tag(f"@{VERSION}", commit)
        for command in (
            ["fetch", VERSION],
            ["promote", VERSION, "--stage", "staging"],
            ["compare", "v1.0.0", VERSION],
        ):
            assert "damaged" in ask(world, "registry", *command).sentence
        assert commit[:7] in problems(world) or VERSION in problems(world)

    def test_a_commit_without_one(self, forge: Forge) -> None:
        world = forge.world
        other = git(world.project, "commit-tree", "HEAD:tests", "-m", "Something else")
        assert "holds no dvc.lock" in world.refused("register", other)
        forge.tag(f"@{VERSION}", other)
        for command in (["fetch", VERSION], ["promote", VERSION, "--stage", "staging"]):
            sentence = ask(world, "registry", *command).sentence
            assert f"stands at {other[:7]}, which has no models/release" in sentence
        assert f"commit {other[:7]} holds no dvc.lock" in problems(world)
        assert "holds no dvc.lock" in ask(world, "registry", "reproduce", VERSION).sentence
        forge.tag(f"@{VERSION}", forge.commit({"dvc.lock": b"schema: '2.0'\nstages: {}\n"}))
        assert "records no output" in ask(world, "registry", "reproduce", VERSION).sentence

    def test_damaged_parameters(self, forge: Forge) -> None:
        world, repository = forge.world, Git(forge.folder)
        for data in PARAMS:
            commit = forge.commit({"params.yaml": data})
            assert world.refused("register", commit)
            with suppress(RegistryError):
                assert isinstance(params_at(repository, commit), dict)
        commit = forge.commit({"params.yaml": PARAMS[0]})
        forge.tag(f"@{VERSION}", commit)
        assert ask(world, "registry", "fetch", VERSION).code == 0  # which needs none
        sentence = ask(world, "registry", "compare", "v1.0.0", VERSION).sentence
        assert f"params.yaml of commit {commit[:7]} is damaged" in sentence
        assert not (world.project.path / "marker").exists()

    def test_damaged_metrics(self, forge: Forge) -> None:
        """As dvc.lock has it: what is damaged is what was recorded."""
        damaged = f"{JUDGED} of commit [0-9a-f]{{7}} is damaged"
        for data in (b"[" * 100_000, b"\xff", b"", b"5", b"[]"):
            with pytest.raises(RegistryError, match=damaged):
                json_at(Git(forge.folder), forge.commit({JUDGED: data}), JUDGED)
        locked = forge.lock_with(forge.another_release(), **{JUDGED: md5_of(b"[]")})
        commit = forge.commit({"dvc.lock": locked, JUDGED: b"[]"})
        assert re.search(damaged, forge.world.refused("register", commit))

    @pytest.mark.parametrize("verdict", [b"", b'{"checks": [{"passed": false, "value": "x"}]}'])
    def test_a_damaged_verdict(self, forge: Forge, verdict: bytes) -> None:
        """Of a rejected candidate, whose reasons are asked for."""
        files = forge.rejected()
        judged = md5_of(files[JUDGED])
        release = forge.store_folder(forge.release() | {"verdict.json": verdict})
        files["dvc.lock"] = forge.lock_with(release, **{JUDGED: judged})
        sentence = forge.world.refused("register", forge.commit(files))
        assert "was rejected" in sentence
        assert "verdict.json is damaged" in sentence

    def test_an_output_elsewhere(self, forge: Forge) -> None:
        """Reading a pipeline of somebody else's neither runs it nor writes its outputs."""
        world = forge.world
        text = b"stages:\n  a:\n    cmd: touch marker\n    outs: [../../evil]\n"
        locked = forge.lock_with(forge.another_release())
        commit = forge.commit({"dvc.yaml": text, "dvc.lock": locked})
        assert world.refused("register", commit)
        forge.tag(f"@{VERSION}", commit)
        assert f"{VERSION}: " in problems(world)
        assert not list(world.folder.rglob("marker"))
        assert not list(world.folder.parent.rglob("evil"))


class TestLost:
    """What was there once, and is not any more."""

    def test_the_tag_of_the_version_in_production(self, world: World) -> None:
        git(world.project, "tag", "--delete", f"{ARTIFACT}@v1.0.0")
        head = head_of(world)
        gone = f"commit {head[:7]} (tag {ARTIFACT}#production#1), which is no version"
        for command in (
            ["show", "production"],
            ["promote", "production", "--stage", "staging"],
            ["fetch", "production"],
            ["reproduce", "production"],
        ):
            assert f"production stands at {gone}" in world.refused(*command), command
        assert "production had no version before" in world.refused("rollback", "--stage=production")
        assert "no version is registered yet" in world.registry("list").out
        assert f"stands at {head[:7]}, which is no version" in problems(world)
        again = world.done("register")  # it is put right by registering the commit again
        assert again["version"] == "v1.0.0"
        assert world.done("show", "production")["version"] == "v1.0.0"
        assert world.registry("status").code == 0

    def test_the_objects(self, world: World) -> None:
        """Neither in the cache nor in the remote; what git holds is shown all the same."""
        shutil.rmtree(world.storage)
        shutil.rmtree(world.project.path / ".dvc/cache")
        assert "v1.0.0" in world.registry("list").out
        assert world.done("show", "production")["version"] == "v1.0.0"
        release = output_at(world.project, "HEAD", RELEASE)
        nowhere = "is neither in the cache nor in the remote"
        assert f"object {release} {nowhere}" in world.refused("fetch", "production")
        for refused in (
            world.refused("promote", "v1.0.0", "--stage", "staging"),
            problems(world),
        ):
            assert "not in the DVC remote" in refused

    def test_the_objects_of_the_version_before(self, world: World) -> None:
        forge = Forge(world)
        forge.version(forge.another_release())
        force = ["--force", "--reason", "A test"]
        world.done("promote", VERSION, "--stage", "production", *force)
        genuine = output_at(world.project, "HEAD", RELEASE)
        forge.place(genuine).unlink()
        forge.place(genuine, cache=True).unlink()
        assert "not in the DVC remote" in world.refused("rollback", "--stage", "production")
