"""Tags, records and commits that somebody made by hand, damaged or deleted: a sentence, always."""

import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from conftest import Project
from grocery.core.errors import RegistryError
from grocery.registry.git import Git
from grocery.registry.records import RELEASE, json_at, params_at
from grocery.registry.tags import ARTIFACT
from registry_forged import JUDGED, VERSION, Forge, md5_of, message_of, one_version
from registry_project import Said, World, git, grocery, output_at, put_back


@pytest.fixture(scope="module")
def registered(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Forge:
    return one_version(built, tmp_path_factory)


@pytest.fixture
def forge(registered: Forge) -> Iterator[Forge]:
    """Attacks on a world that all tests share; the tags are put right afterwards."""
    with put_back(registered.project):
        yield registered


@pytest.fixture
def apart(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Forge:
    """A copy, free to change."""
    return one_version(built, tmp_path_factory)


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
    return "\n".join([*said.document["tags"], *said.document["objects"]])


def check_refused(world: World, name: str, expected: str) -> None:
    """What takes a version says why it cannot."""
    for command in (["fetch", name], ["promote", name, "--stage", "staging"]):
        assert expected in ask(world, "registry", *command).sentence, command


SECTIONS = ("metrics", "model", "dataset", "test", "params", "experiment")
EVIDENCE: dict[str, dict[str, Any]] = {
    "numbers": dict.fromkeys(SECTIONS, 5),
    "lists": {section: [[{}]] * 1000 for section in SECTIONS},
    "nulls": dict.fromkeys(SECTIONS),
    "wrong inside": {
        "metrics": {"accuracy": "high", "macro_f1": [], "calibration_error": None, "x": {}},
        "model": {"digest": 5, "release": []},
        "dataset": {"digest": {}, "source": ["\x1b"], "images": "many"},
        "test": {"images": 1.5, "digest": True},
    },
    "no numbers": {"metrics": {"accuracy": float("nan"), "macro_f1": -(10**400)}},
    "codes": {"experiment": "\x1b[31m\x07\u202e\x9b31m\ud800", "dataset": {"source": "\x1b]0;x"}},
}
EVENTS: dict[str, dict[str, Any]] = {
    "texts": {"rollback": "x", "forced": "yes", "reason": "\x1b[31mred\u202e"},
    "wrong inside": {"rollback": {"from": {"a": []}, "undoes": 5}, "reason": {"a": "\x1b"}},
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
            assert ask(forge, *command).code == 0, command
        assert {*names, "v1.0.0"} == {row["version"] for row in forge.done("list")}
        assert forge.done("show", some[-1])["version"] == some[-1]
        assert len(forge.done("compare", "v1.0.0", *some[-3:])["versions"]) == 4

    @pytest.mark.parametrize("kind", EVENTS)
    def test_events_of_wrong_types(self, forge: Forge, kind: str) -> None:
        commit = forge.commit()
        forge.tag(f"@{VERSION}", commit, message_of({}))
        for number, target in ((2, commit), (3, forge.head)):
            when = f"190000000{number} +0000".encode()
            forge.tag(f"#production#{number}", target, message_of(EVENTS[kind]), when=when)
        assert "v1.0.0" in ask(forge, "registry", "show", "production").out
        assert VERSION in ask(forge, "registry", "list").out
        back = ("rollback", "--stage", "production", "--reason")
        rolled = ask(forge, "registry", *back, "\udcff \x1b[31m \ud83c")  # shells give any bytes
        # an object says that it was a rollback, and nothing else does
        assert (rolled.code == 0) == (kind != "wrong inside")
        assert ask(forge, "registry", "show", "production").code == 0

    def test_the_last_date_that_there_is(self, forge: Forge) -> None:
        """Nothing comes after it; the sentence says which tag is in the way."""
        commit = forge.commit()
        forge.tag(f"@{VERSION}", commit, when=b"253402300000 +0000")
        forge.tag("#staging#1", commit, when=b"253402300000 +0000")
        promote = ("promote", "v1.0.0", "--stage", "staging")
        assert forge.done(*promote)["new"]  # a tag of tomorrow keeps nobody from promoting
        assert forge.done("show", "staging")["version"] == "v1.0.0"

        forge.tag("#staging#3", commit, when=b"253402300799 +0000")
        sentence = forge.refused(*promote)
        assert f"tag {ARTIFACT}#staging#3 is dated 9999-12-31 23:59" in sentence
        assert "git tag --delete" in sentence
        git(forge.project, "tag", "--delete", *(f"{ARTIFACT}#staging#{n}" for n in (1, 2, 3)))
        forge.tag(f"@{VERSION}", commit, when=b"253402300799 +0000")
        sentence = forge.refused("promote", VERSION, "--stage", "staging")
        assert f"tag {ARTIFACT}@{VERSION} is dated 9999-12-31 23:59" in sentence

    def test_the_highest_number_that_there_is(self, forge: Forge) -> None:
        commit = forge.commit()
        for name in (f"@{VERSION}", "#staging#999999999", "#staging#1"):
            forge.tag(name, commit)
        found = forge.done("promote", "v1.0.0", "--stage", "staging")
        assert found["tag"] == f"{ARTIFACT}#staging#2"
        assert forge.done("show", "staging")["version"] == "v1.0.0"
        forge.tag("@v9.999999999.0", forge.commit(message="Another"))
        locked = forge.lock_with(forge.another_release())
        sentence = forge.refused("register", forge.commit({"dvc.lock": locked}))
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
        commit = forge.commit()
        reasons = {}
        for number, (kind, target) in enumerate(NO_TARGETS):
            name = f"@v9.3.{number}"
            forge.tag(name, git(forge.project, "rev-parse", target), kind=kind)
            reasons[name] = "does not stand at a commit"
        for number, when in enumerate(NO_DATES, 2):
            name = f"#production#{number}"
            forge.tag(name, commit, when=f"{when} +0000".encode())
            reasons[name] = "has a date that no calendar has"
        for name in NO_NAMES:
            forge.tag(name, commit)
            reasons[name] = "is not in GTO's format, and is passed over"
        git(forge.project, "tag", "-a", "another-model@v1.0.0", "-m", "Not ours")
        git(forge.project, "tag", f"{ARTIFACT}@{VERSION}", commit)
        reasons[f"@{VERSION}"] = "is a plain one"
        found = problems(forge)
        assert [name for name in reasons if f"{ARTIFACT}{name} {reasons[name]}" not in found] == []
        assert "another-model" not in found
        check_refused(forge, VERSION, "is no version or stage; versions: v1.0.0")
        predicted = ask(forge, "predict", "photo.png", "--model", VERSION)
        assert "is no version or stage; versions: v1.0.0" in predicted.sentence
        assert ask(forge, "registry", "status").code == 3
        assert forge.done("show", "production")["version"] == "v1.0.0"

    def test_a_commit_that_is_gone(self, forge: Forge) -> None:
        """Git cannot list the tags then; it says which one it is."""
        forge.tag(f"@{VERSION}", "1" * 40)
        expected = f"missing object {'1' * 40} for refs/tags/{ARTIFACT}@{VERSION}"
        for command in (["list"], ["status"], ["register"], ["fetch", "v1.0.0"]):
            assert expected in forge.registry(*command).sentence


LAUGHS = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (98 + n, 98 + n, b",".join([b"*%c" % (97 + n)] * 9)) for n in range(9)
)


def lock(out: bytes) -> bytes:
    return b"schema: '2.0'\nstages:\n  register:\n    cmd: x\n    outs:\n    - " + out


LOCKS = {
    "empty": b"",
    "no YAML": b"{{{:",
    "stages of a number": b"schema: '2.0'\nstages: 5\n",
    "a date that is none": lock(b"{path: 2001-99-99, md5: x}"),
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
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))  # most of it for libraries
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
        places = [tmp_path / str(number) for number in range(len(LOCKS))]
        for place, data in zip(places, LOCKS.values(), strict=True):
            place.write_bytes(data)
        done = Project(tmp_path).run(sys.executable, "-c", READ_LOCKS, *map(str, places))
        said = done.stdout.splitlines()
        assert [sentence for sentence in said if not sentence.endswith("damaged")] == []
        assert len(said) == len(places)
        assert not (tmp_path / "marker").exists()

    @pytest.mark.parametrize("damage", ["a hash that is a path", "laughing hashes"])
    def test_a_version_with_a_damaged_lock(self, forge: Forge, damage: str) -> None:
        commit = forge.commit({"dvc.lock": LOCKS[damage]})
        assert forge.refused("register", commit)
        forge.tag(f"@{VERSION}", commit)
        check_refused(forge, VERSION, "damaged")
        assert "damaged" in ask(forge, "registry", "compare", "v1.0.0", VERSION).sentence
        assert commit[:7] in problems(forge) or VERSION in problems(forge)

    def test_a_commit_without_one(self, forge: Forge) -> None:
        other = git(forge.project, "commit-tree", "HEAD:tests", "-m", "Something else")
        assert "holds no dvc.lock" in forge.refused("register", other)
        forge.tag(f"@{VERSION}", other)
        check_refused(forge, VERSION, f"stands at {other[:7]}, which has no models/release")
        assert f"commit {other[:7]} holds no dvc.lock" in problems(forge)
        assert "holds no dvc.lock" in ask(forge, "registry", "reproduce", VERSION).sentence
        forge.tag(f"@{VERSION}", forge.commit({"dvc.lock": b"schema: '2.0'\nstages: {}\n"}))
        assert "records no output" in ask(forge, "registry", "reproduce", VERSION).sentence

    def test_damaged_parameters(self, forge: Forge) -> None:
        repository = Git(forge.project.path)
        for data in PARAMS:
            commit = forge.commit({"params.yaml": data})
            assert forge.refused("register", commit)
            with suppress(RegistryError):
                assert isinstance(params_at(repository, commit), dict)
        commit = forge.commit({"params.yaml": PARAMS[0]})
        forge.tag(f"@{VERSION}", commit)
        assert ask(forge, "registry", "fetch", VERSION).code == 0  # which needs none
        sentence = ask(forge, "registry", "compare", "v1.0.0", VERSION).sentence
        assert f"params.yaml of commit {commit[:7]} is damaged" in sentence
        assert not (forge.project.path / "marker").exists()

    def test_damaged_metrics(self, forge: Forge) -> None:
        """As dvc.lock has it: what is damaged is what was recorded."""
        damaged = f"{JUDGED} of commit [0-9a-f]{{7}} is damaged"
        for data in (b"[" * 100_000, b"\xff", b"", b"5", b"[]"):
            with pytest.raises(RegistryError, match=damaged):
                json_at(Git(forge.project.path), forge.commit({JUDGED: data}), JUDGED)
        locked = forge.lock_with(forge.another_release(), **{JUDGED: md5_of(b"[]")})
        commit = forge.commit({"dvc.lock": locked, JUDGED: b"[]"})
        assert re.search(damaged, forge.refused("register", commit))

    def test_a_damaged_verdict(self, forge: Forge) -> None:
        """Of a rejected candidate, whose reasons are asked for."""
        files = forge.rejected()
        for verdict in (b"", b'{"checks": [{"passed": false, "value": "x"}]}'):
            release = forge.store_folder(forge.release() | {"verdict.json": verdict})
            files["dvc.lock"] = forge.lock_with(release, **{JUDGED: md5_of(files[JUDGED])})
            sentence = forge.refused("register", forge.commit(files))
            assert "was rejected: its verdict.json is damaged" in sentence


def test_objects_that_are_lost(apart: Forge) -> None:
    """Neither in the cache nor in the remote; what git holds is shown all the same."""
    apart.version(apart.another_release())
    apart.done("promote", VERSION, "--stage", "production", "--force", "--reason", "A test")
    genuine = output_at(apart.project, "HEAD", RELEASE)
    apart.place(genuine).unlink()
    apart.place(genuine, cache=True).unlink()
    nowhere = f"object {genuine} is neither in the cache nor in the remote"
    assert nowhere in apart.refused("fetch", "v1.0.0")
    back = ("rollback", "--stage", "production")
    for command in (back, ("promote", "v1.0.0", "--stage", "staging")):
        assert "lacks models/release" in apart.refused(*command)
    push = f"git checkout {ARTIFACT}@v1.0.0 && dvc checkout && dvc push"
    assert f"so nobody could pull it; in a clone that has it: {push}" in problems(apart)
    assert apart.done("show", "v1.0.0")["version"] == "v1.0.0"
