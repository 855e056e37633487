"""Compare, promote and roll back, alone and with others: real git, GTO, DVC and remotes."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gto.api
import pytest

from conftest import Project
from grocery.comparison.difference import Difference, compare
from grocery.contents import read_content
from grocery.registry.candidate import predictions_of
from grocery.registry.judge import Decision, decide
from grocery.registry.notes import Notes
from grocery.registry.registry import Registry
from grocery.registry.state import read_state
from grocery.registry.store import open_store
from grocery.registry.tags import ARTIFACT
from grocery.settings import RegistryParams
from grocery.shards import read_columns, shard_paths
from registry_forged import GROWN, REJECTED, STRONG, VERSION, WEAK, Forge, four_versions
from registry_project import Said, git, gto_stages, inside, output_at, put_back, tags
from wandb_pipeline import REGISTRY, asking
from wandb_server import WandbServer


@pytest.fixture(scope="module")
def versions(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Forge:
    """Four versions, no stage. Do not change it."""
    return four_versions(built, tmp_path_factory)


@pytest.fixture
def world(versions: Forge) -> Iterator[Forge]:
    """The same, whose tags and files may be changed: they are put back."""
    with put_back(versions.project):
        yield versions


@pytest.fixture
def apart(versions: Forge, tmp_path: Path) -> Forge:
    """A copy, whose objects may be changed, too."""
    return versions.copy(tmp_path / "world")


EARLIER: dict[str, Any] = {"GIT_COMMITTER_DATE": "1700000100 +0000"}  # than all that GTO does


def production(world: Forge, name: str) -> None:
    """Promote a version, whatever it is."""
    promote = ("promote", name, "--stage", "production", "--force", "--reason", "a test")
    assert world.done(*promote, **EARLIER)["new"]


def between(world: Forge, old: str, new: str) -> Difference:
    """How two versions differ, by what they stored."""
    with inside(world.project.path), open_store(world.project.path) as store:
        known = read_state(store.git).versions
        return compare(*(predictions_of(store, known[name].commit, name) for name in (old, new)))


def as_json(difference: Difference) -> dict[str, Any]:
    return dict(json.loads(json.dumps(asdict(difference))))


class TestCompare:
    def test_on_the_same_test_data(self, versions: Forge) -> None:
        found = versions.done("compare", WEAK, STRONG)
        assert (found["comparable"], found["note"]) == (True, "")
        difference = between(versions, WEAK, STRONG)
        pair = {"version": STRONG, "against": WEAK}
        assert found["differences"] == [pair | as_json(difference)]
        assert found["classes"] == [pair | {"gained": [], "lost": []}]
        assert found["params"] == {
            "train.algorithm": ["supervised", "label_spreading"],
            "train.labeled_ratio": [0.05, 0.3],
        }
        said = [(row["version"], row["metrics"]["images"]) for row in found["versions"]]
        assert said == [(WEAK, difference.images), (STRONG, difference.images)]

        text = versions.registry("compare", WEAK, STRONG).out
        rows = [line.split() for line in text.splitlines()]
        assert ["accuracy", f"{difference.old:.4f}", f"{difference.new:.4f}"] in rows
        assert ["train.labeled_ratio", "0.05", "0.3"] in rows
        low, high = difference.interval
        assert f"accuracy {difference.difference:+.4f} [{low:+.4f}, {high:+.4f}]" in text
        assert difference.sentence(WEAK, STRONG) in text

    def test_on_different_test_data(self, versions: Forge) -> None:
        """No difference, unless they are evaluated anew: on images that are new to all."""
        said = versions.registry("compare", STRONG, GROWN, "--json")
        assert said.code == 1
        assert f"{STRONG} and the others were evaluated on different test data" in said.sentence
        assert not said.document["comparable"]
        assert said.document["differences"] == []
        text = versions.registry("compare", STRONG, GROWN).out
        assert "macro f1" in text
        assert "Against" not in text
        assert f"{WEAK} is named twice" in versions.refused("compare", STRONG, WEAK, "1.0.0")

        found = versions.done("compare", WEAK, STRONG, GROWN, "--anew")
        _, anew = found["differences"]
        assert (anew["version"], anew["against"]) == (GROWN, WEAK)
        # of each shard one test image was learned from, and one that was not is none any more
        left_out = len(shard_paths(versions.project.path / "data/prepared/shards"))
        new = between(versions, WEAK, STRONG).images - left_out
        assert (anew["images"], found["note"]) == (
            new,
            f"evaluated anew on the {new} test images of {GROWN} that are new to all "
            f"({left_out} left out)",
        )
        assert anew["old"] < anew["new"]


class TestDecide:
    """What production asks of a version, whoever asks."""

    @pytest.fixture
    def decided(self, versions: Forge) -> Callable[..., Decision]:
        def ask(name: str, present: str | None, rule: Any, tolerance: float = 0) -> Decision:
            wanted = RegistryParams(rule=rule, tolerance=tolerance, remote="")
            with inside(versions.project.path), open_store(versions.project.path) as store:
                known = read_state(store.git).versions
                return decide(store, known[name], known[present] if present else None, wanted)

        return ask

    @pytest.mark.parametrize(
        ("asked", "passed", "sentence"),
        [
            ((WEAK, None, "better"), True, "production had no version"),
            ((REJECTED, WEAK, "not worse", 1), False, "was rejected when it was made"),
            ((STRONG, WEAK, "better"), True, f"{STRONG} is better than {WEAK}, which is in prod"),
            ((WEAK, STRONG, "better", 1), False, f"{WEAK} is not shown to be better than"),
            ((GROWN, WEAK, "better"), True, f"{GROWN} is better than {WEAK}, which is in prod"),
            ((WEAK, STRONG, "not worse", 1), True, f"{WEAK} is at most 1 worse than {STRONG}"),
        ],
    )
    def test_the_rule(
        self, decided: Callable[..., Decision], asked: tuple[Any, ...], passed: bool, sentence: str
    ) -> None:
        found, (name, present, rule, *_) = decided(*asked), asked
        assert found.passed is passed
        assert sentence in found.sentence
        if found.difference:
            low, high = found.difference.interval
            assert found.against == present
            assert found.difference.sentence(present, name) in found.sentence
            assert f"(rule: {rule}" in found.sentence
            assert ("97.5 % confidence" in found.sentence) == passed
            assert f"[{low:+.4f}, {high:+.4f}] on {found.difference.images} im" in found.sentence
        assert bool(found.note) == (name == GROWN)
        assert found.note in found.sentence

    def test_not_worse_is_above_minus_the_tolerance(self, decided: Callable[..., Decision]) -> None:
        difference = decided(WEAK, STRONG, "better").difference
        assert difference
        loss = -difference.interval[0]
        for tolerance, passed in ((loss - 1e-6, False), (loss + 1e-6, True)):
            assert decided(WEAK, STRONG, "not worse", tolerance).passed is passed


def test_a_version_that_forgets_a_class_needs_force(apart: Forge, built: Project) -> None:
    """Its data have no milk: the images of milk that the others have are its mistakes."""
    git(apart.project, "reset", "--quiet", "--hard", "HEAD~2")
    genuine = apart.release()
    classes = json.loads(genuine["model.json"])["classes"]
    renamed = ["Oat-Drink" if name == "Milk" else name for name in classes]
    release = apart.with_arrays(genuine["model.safetensors"], classes=renamed)
    apart.tag(f"@{VERSION}", apart.commit(apart.grown(without="Milk", release=release)))
    rows = read_columns(built.path / "data/prepared/shards", ["label", "split"]).to_pylist()
    milk = rows.count({"label": "Milk", "split": "test"})
    assert milk > 0

    said = apart.registry("compare", STRONG, VERSION).out
    assert f"{VERSION} gains 1 class (Oat-Drink), against {STRONG}" in said
    assert f"{VERSION} loses 1 class (Milk), against {STRONG}" in said
    production(apart, STRONG)
    apart.project.edit_params({"registry": {"rule": "not worse", "tolerance": 1.0}})
    promote = ("promote", VERSION, "--stage", "production")
    sentence = apart.refused(*promote)
    assert f"{VERSION} does not know 1 class (Milk) of {STRONG}" in sentence
    assert f"{VERSION} is at most 1 worse than {STRONG}" in sentence
    assert f"test images of {VERSION}, and {milk} of classes that it does not know" in sentence
    found = apart.done(*promote, "--force", "--reason", "no milk any more")
    judgement = found["evidence"]["judgement"]
    assert judgement["classes"] == {"gained": ["Oat-Drink"], "lost": ["Milk"]}


class TestPromote:
    def test_staging_takes_any_version_but_production_none_rejected(self, world: Forge) -> None:
        to_production = ("promote", "staging", "--stage", "production")
        found = world.done("promote", REJECTED, "--stage", "staging")
        assert (found["version"], found["stage"], found["new"]) == (REJECTED, "staging", True)
        assert found["tag"] == f"{ARTIFACT}#staging#1"
        assert found["evidence"]["judgement"] is None
        assert f"{REJECTED} was rejected when it was made" in world.refused(*to_production)
        assert world.done("promote", WEAK, "--stage", "staging")["tag"] == f"{ARTIFACT}#staging#2"
        assert world.registry(*to_production).out.splitlines() == [
            f"production has {WEAK} (tag {ARTIFACT}#production#1)",
            "production had no version",
        ]
        again = world.registry("promote", WEAK, "--stage", "production")
        assert again.out == f"production has already {WEAK} (tag {ARTIFACT}#production#1)\n"
        assert gto_stages(world.project) == {"staging": WEAK, "production": WEAK}

    def test_by_the_rule_of_params_or_by_force_and_back(self, world: Forge) -> None:
        promote = ("promote", WEAK, "--stage", "production")
        back = ("rollback", "--stage", "production")
        for unknown in (("promote", WEAK), ("rollback",)):
            assert "'canary' is no stage" in world.refused(*unknown, "--stage", "canary")
        assert "no version is in production, so nothing can be rolled back" in world.refused(*back)
        production(world, STRONG)
        sentence = world.refused(*promote, "--reason", "knows milk")
        assert f"{WEAK} is not shown to be better than {STRONG}, which is in production" in sentence
        assert "--force --reason overrides" in sentence
        for reason in ([], ["--reason", " "]):
            sentence = world.refused(*promote, "--force", *reason)
            assert "--force needs a --reason, which is recorded" in sentence

        found = world.done(*promote, "--force", "--reason", "knows milk")
        text = git(world.project, "tag", "--list", "--format=%(contents)", found["tag"])
        title, _, rest = text.partition("\n\n")
        assert title == f"Promote {ARTIFACT} production to {WEAK}"
        forced = json.loads(rest)
        assert forced == found["evidence"]
        assert (forced["forced"], forced["reason"]) == (True, "knows milk")
        shown = world.registry("show", WEAK).out
        assert "promoted to production by force: knows milk, by Test" in shown
        assert gto_stages(world.project)["production"] == WEAK

        said = world.registry(*back, "--reason", "takes lemons for milk")
        assert said.out == f"production is rolled back to {STRONG} (tag {ARTIFACT}#production#3)\n"
        assert gto_stages(world.project)["production"] == STRONG
        event = world.done("show", "production")["history"][-1]["evidence"]
        assert event["rollback"] == {"undoes": f"{ARTIFACT}#production#2", "from": WEAK}
        text = world.registry("show", STRONG).out
        assert f"production rolled back to it from {WEAK}: takes lemons for milk, by Test" in text
        assert f"production had no version before {STRONG}" in world.refused(*back)

        world.project.edit_params({"registry": {"rule": "not worse", "tolerance": 1.0}})
        ruled = world.done(*promote)["evidence"]
        assert (ruled["forced"], ruled["previous"]) == (False, STRONG)
        difference = as_json(between(world, STRONG, WEAK))
        for judgement, passed in ((forced["judgement"], False), (ruled["judgement"], True)):
            assert (judgement["passed"], judgement["against"]) == (passed, STRONG)
            assert judgement["difference"] == difference

    def test_by_force_when_the_present_version_is_lost(self, apart: Forge) -> None:
        production(apart, WEAK)
        md5 = output_at(apart.project, f"{ARTIFACT}@{WEAK}", "metrics/evaluation")
        for cache in (True, False):
            apart.place(md5, cache=cache).unlink()
        promote = ("promote", STRONG, "--stage", "production")
        refused = apart.refused(*promote)
        assert f"object {md5} is neither in the cache nor in the remote" in refused
        assert "dvc push; a folder is found from the clone beside it only" in refused
        found = apart.done(*promote, "--force", "--reason", "the bucket is gone")
        assert "could not be judged" in found["evidence"]["judgement"]["sentence"]

    def test_back_from_what_gto_moved_or_withdrew(self, world: Forge) -> None:
        """And DVC gets what was rolled back to."""

        def by_gto(change: Callable[..., object], **what: str) -> None:
            with inside(world.project.path):
                change(str(world.project.path), ARTIFACT, **what)

        back = ("rollback", "--stage", "staging")
        for name in (WEAK, GROWN):
            world.done("promote", name, "--stage", "staging", **EARLIER)
        by_gto(gto.api.assign, version=STRONG, stage="staging")
        assert world.done("show", "staging")["version"] == STRONG
        assert world.done(*back)["version"] == GROWN == gto_stages(world.project)["staging"]
        get = f"artifacts get . {ARTIFACT} --force --out {world.folder}"
        world.project.dvc(f"{get}/staged --stage staging", f"{get}/weak --rev {WEAK}")
        for name, out in ((GROWN, "staged"), (WEAK, "weak")):
            release = output_at(world.project, f"{ARTIFACT}@{name}", "models/release")
            assert read_content(world.folder / out).md5 == release

        by_gto(gto.api.deregister, version=GROWN)
        gone = f"(tag {ARTIFACT}#staging#4), which is no version"
        assert gone in world.refused("show", "staging")
        assert world.done(*back)["version"] == WEAK == gto_stages(world.project)["staging"]
        world.done("promote", STRONG, "--stage", "staging")
        by_gto(gto.api.deregister, version=WEAK)
        sentence = world.refused(*back)
        assert f"(tag {ARTIFACT}#staging#1), which is no version any more" in sentence


def test_what_was_moved_on_the_page_of_wandb_is_promoted_by_the_same_rule(apart: Forge) -> None:
    git(apart.project, "tag", "--delete", f"{ARTIFACT}@{GROWN}")
    for name, stage in ((WEAK, "production"), (WEAK, "staging"), (STRONG, "staging")):
        apart.done("promote", name, "--stage", stage)
    before = tags(apart.project)
    with WandbServer() as server:
        online: dict[str, Any] = server.environment() | {"WANDB_MODE": "online"}

        def status(*options: str, **moved: str) -> Said:
            with asking(server, apart.folder / "page") as api:
                for stage, version in moved.items():
                    link = api.artifact(f"{REGISTRY}:{version}")
                    link.aliases.append(stage)
                    link.save()
            return apart.registry("status", *options, **online)

        assert status("--repair").code == 0
        refused = status("--accept", "--json", production=REJECTED, staging=WEAK)
        assert refused.code == 3
        moved = {found["stage"]: found["refused"] for found in refused.document["accepted"]}
        assert f"{REJECTED} was rejected when it was made" in moved["production"]
        assert f"staging had {WEAK} before, so W&B may only be behind" in moved["staging"]
        assert refused.document["wandb"] == [
            f"W&B has production at {REJECTED}, git at {WEAK}",
            f"W&B has staging at {WEAK}, git at {STRONG}",
        ]
        assert tags(apart.project) == before

        accepted = status("--accept", production=STRONG)
        assert f"production has {STRONG} (tag {ARTIFACT}#production#2)" in accepted.out
        assert "refused: W&B has staging at " in accepted.out
        assert accepted.out.endswith("wandb: nothing is wrong\n")
        assert accepted.code == 0
        (event,) = (e for e in apart.done("show", STRONG)["history"] if e["stage"] == "production")
        assert event["evidence"]["judgement"]["passed"]
        assert event["evidence"]["reason"] == "moved there in W&B"


class TestShared:
    @pytest.fixture(scope="class")
    def shared(self, versions: Forge, tmp_path_factory: pytest.TempPathFactory) -> Forge:
        """GROWN, at HEAD~1, can be registered again; shared through `origin`."""
        world = versions.copy(tmp_path_factory.mktemp("shared") / "world")
        git(world.project, "tag", "--delete", f"{ARTIFACT}@{GROWN}", f"{ARTIFACT}@{REJECTED}")
        world.share()
        return world

    @pytest.fixture
    def world(self, shared: Forge) -> Iterator[Forge]:
        with put_back(shared.project, shared.second, shared.origin):
            yield shared
        shutil.rmtree(shared.project.path / "wandb", ignore_errors=True)

    def test_each_sees_what_the_other_did(self, world: Forge) -> None:
        found = world.done("register", "HEAD~1")
        assert (found["version"], found["shared"]) == (GROWN, True)
        world.done("promote", WEAK, "--stage", "staging")
        assert tags(world.origin) == tags(world.project)
        assert GROWN not in {row["version"] for row in world.done("list", at=world.second)}

        assert not world.done("promote", WEAK, "--stage", "staging", at=world.second)["new"]
        assert GROWN in {row["version"] for row in world.done("list", at=world.second)}
        world.done("promote", GROWN, "--stage", "staging", at=world.second)
        assert world.done("rollback", "--stage", "staging")["version"] == WEAK
        world.done("promote", STRONG, "--stage", "staging", at=world.second)
        assert world.done("show", "staging", at=world.second)["version"] == STRONG
        assert tags(world.origin) == tags(world.second)
        assert gto_stages(world.second)["staging"] == STRONG

    def test_local_tags_are_named_and_sent_with_what_comes_after(self, world: Forge) -> None:
        """A tag goes to the remote of all without being asked to; not with --local."""
        before = tags(world.origin)
        local = (("register", "HEAD~1"), ("promote", GROWN, "--stage", "staging"))
        with WandbServer() as server:
            online: dict[str, Any] = server.environment() | {"WANDB_MODE": "online"}
            for command in local:
                said = world.registry(*command, "--local", **online)
                assert said.code == 0
                assert "sent to" not in said.out
            assert server.requests == []  # W&B shows what all have
        assert tags(world.origin) == before
        status = world.registry("status", "--json")
        assert status.code == 3
        for name in (f"@{GROWN}", "#staging#1"):
            (text,) = [text for text in status.document["tags"] if name in text]
            assert f"tag {ARTIFACT}{name} is not at origin" in text

        # Said again without --local, it is sent; a stage never goes without its version.
        names = f"{ARTIFACT}@{GROWN}, {ARTIFACT}#staging#1"
        said = world.registry(*local[1])
        assert said.out.splitlines()[-1] == f"sent to origin: the tags {names}"
        again = world.done(*local[1])
        assert (again["new"], again["shared"], again["sent"]) == (False, True, [])
        assert world.registry("status").code == 0
        assert tags(world.origin) == tags(world.project)
        assert not world.done(*local[1], at=world.second)["new"]

    def test_a_version_of_this_clone_is_sent_when_it_is_used(self, world: Forge) -> None:
        """When it is registered again, or put into a stage."""
        name = f"{ARTIFACT}@{GROWN}"
        for again in (("register", "HEAD~1"), ("promote", GROWN, "--stage", "staging")):
            world.done("register", "HEAD~1", "--local")
            assert name not in tags(world.origin)
            assert world.done(*again)["new"] == (again[0] == "promote")
            assert name in tags(world.origin)
            git(world.project, "push", "--quiet", "--delete", "origin", name)

    @pytest.mark.parametrize(
        "where", ["origin.git/hooks/pre-receive", "project/.git/hooks/pre-push"]
    )
    def test_a_hook_refuses_the_tag(self, world: Forge, where: str) -> None:
        hook = world.folder / where
        hook.parent.mkdir(exist_ok=True)
        hook.write_text("#!/bin/sh\necho 'ask Ada first' >&2\nexit 1\n")
        hook.chmod(0o755)
        before = tags(world.project)
        promote = ("promote", WEAK, "--stage", "staging")
        said = world.registry(*promote, WANDB_MODE="offline")
        hook.unlink()
        assert said.code == 1
        assert "the tag could not be sent to origin: " in said.sentence
        assert "hook" in said.sentence
        assert "ask Ada first" in said.sentence
        assert tags(world.project) == before
        assert Notes(world.project.path).waiting() == []

    def test_a_library_caller_tells_of_its_own_project(self, world: Forge, tmp_path: Path) -> None:
        """As the command line would, wherever the program runs."""
        with inside(tmp_path, WANDB_MODE="offline"):
            outcome = Registry(world.project.path).promote(WEAK, "staging")
        assert outcome.sent == [f"{ARTIFACT}#staging#1"]
        assert Notes(world.project.path).waiting() == [f"Promote {ARTIFACT} staging to {WEAK}"]
        assert not (tmp_path / "wandb").exists()

    def test_out_of_reach(self, world: Forge) -> None:
        world.done("promote", WEAK, "--stage", "staging")
        git(world.project, "remote", "set-url", "origin", "../nowhere.git")
        commands = (
            ("register", "HEAD~1"),
            ("promote", STRONG, "--stage", "staging"),
            ("rollback", "--stage", "staging"),
        )
        for command in commands:
            sentence = world.refused(*command)
            assert "origin, through which versions are shared, cannot be asked" in sentence
            assert "--local works on the tags of this clone alone" in sentence
        assert world.registry("status").code == 3
        made = [world.done(*command, "--local")["version"] for command in commands]
        assert made == [GROWN, STRONG, WEAK]

    def test_a_tag_that_differs(self, world: Forge) -> None:
        """Both moved a stage without the other; the one at the remote counts."""
        ours, theirs = (("promote", name, "--stage", "staging") for name in (STRONG, WEAK))
        world.done(*ours, "--local")
        world.done(*theirs, at=world.second)
        name = f"{ARTIFACT}#staging#1"
        sentence = world.refused(*ours)
        assert "a tag here is another one at origin" in sentence
        assert name in sentence
        assert "git tag --delete" in sentence
        status = world.registry("status")
        assert f"tag {name} is another one here than at origin" in status.out
        git(world.project, "tag", "--delete", name)
        found = world.done(*ours)
        assert (found["tag"], found["evidence"]["previous"]) == (f"{ARTIFACT}#staging#2", WEAK)

    def test_a_plain_tag_is_named_once(self, world: Forge) -> None:
        git(world.project, "tag", f"{ARTIFACT}@v9.0.0")
        git(world.project, "push", "--quiet", "origin", f"{ARTIFACT}@v9.0.0")
        (said,) = world.registry("status", "--json").document["tags"]
        assert f"{ARTIFACT}@v9.0.0 is a plain one" in said

    def test_a_remote_of_another_name(self, world: Forge) -> None:
        before = tags(world.origin)
        world.project.edit_params({"registry": {"remote": "upstream"}})
        assert not world.done("promote", WEAK, "--stage", "staging")["shared"]
        assert tags(world.origin) == before
