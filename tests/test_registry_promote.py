"""Compare, promote and roll back, alone and with others: real git, GTO, DVC and remotes."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from scipy.stats import binomtest

import grocery
from conftest import Project
from grocery.registry.comparison import compare, read_predictions
from grocery.shards import read_columns, read_table, shard_paths
from registry_project import (
    ARTIFACT,
    World,
    create_world,
    git,
    inside,
    object_of,
    output_at,
    tags,
)

WEAK, STRONG, GROWN, REJECTED = (f"v1.{minor}.0" for minor in range(4))


@pytest.fixture(scope="module")
def versions(built: Project, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Four versions: 0.80 and 1.00 accurate; one of more data; a rejected one, by hand.

    Do not change it.
    """
    world = create_world(built, tmp_path_factory.mktemp("versions"))
    project = world.project
    original = yaml.safe_load((project.path / "params.yaml").read_text())
    recipe = project.path / "data/raw/synthetic/recipe.yaml"

    git(project, "tag", "strong")
    project.edit_params({"train": {"algorithm": "supervised", "labeled_ratio": 0.05}})
    project.run("dvc", "repro")
    project.commit("weak")
    recipe.write_text(recipe.read_text().replace("images: 30", "images: 45"))
    project.edit_params({"train": original["train"], "prepare": {"test_ratio": 0.4}})
    project.run("dvc", "repro")
    project.commit("grown")
    project.edit_params({"register": {"max_calibration_error": 0.0}})
    project.run("dvc", "repro", "--single-item", "register")
    project.commit("rejected")
    for revision in ("HEAD~2", "strong", "HEAD~1"):
        world.done("register", revision, "--push")
    project.run("dvc", "push")
    git(project, "tag", "--annotate", f"{ARTIFACT}@{REJECTED}", "--message", "By hand")
    return world


@pytest.fixture
def world(versions: World, tmp_path: Path) -> World:
    """The same, free to change."""
    return versions.copy(tmp_path / "world")


def production(world: World, *names: str, at: Project | None = None) -> None:
    """Promote one after another, whatever they are."""
    for name in names:
        promote = ("promote", name, "--stage", "production", "--force", "--reason", "a test")
        assert world.done(*promote, at=at)["new"]


def stages(project: Project) -> dict[str, str | None]:
    """What GTO says each stage has."""
    shown = json.loads(project.run("gto", "show", "--json").stdout)
    found: dict[str, str | None] = shown[ARTIFACT]["stage"]
    return found


def gto(project: Project, *command: str) -> None:
    """Change something with GTO, whose clock must be past all tags: it sorts them by seconds."""
    times = git(project, "tag", "--list", "--format=%(taggerdate:unix)", f"{ARTIFACT}*")
    while time.time() < max(map(int, times.split())) + 1:
        time.sleep(0.05)
    project.run("gto", *command)


def predictions(world: World, version: str) -> pa.Table:
    """The stored predictions of a version, found by hand."""
    storage, commit = world.storage, f"{ARTIFACT}@{version}"
    folder = output_at(world.project, commit, "metrics/evaluation")
    rows = json.loads(object_of(storage, folder).read_text())
    (md5,) = (row["md5"] for row in rows if row["relpath"] == "predictions.parquet")
    return read_predictions(object_of(storage, md5), version)


class TestCompare:
    def test_on_the_same_test_data(self, versions: World) -> None:
        found = versions.done("compare", WEAK, STRONG)
        assert found["comparable"]
        assert found["note"] == ""
        tables = {name: predictions(versions, name) for name in (WEAK, STRONG)}
        (said,) = found["differences"]
        expected = compare(tables[WEAK], tables[STRONG]).document()
        assert said == {"version": STRONG, "against": WEAK} | expected
        right = {
            name: [row["label"] == row["predicted"] for row in table.to_pylist()]
            for name, table in tables.items()
        }
        pairs = list(zip(right[WEAK], right[STRONG], strict=True))
        gained, lost = pairs.count((False, True)), pairs.count((True, False))
        assert (said["only_new"], said["only_old"]) == (gained, lost)
        assert said["p_value"] == pytest.approx(binomtest(gained, gained + lost).pvalue)
        assert said["more_than_chance"] == (said["p_value"] < 0.05)
        assert found["params"] == {
            "train.algorithm": ["supervised", "label_spreading"],
            "train.labeled_ratio": [0.05, 0.3],
        }
        assert [row["version"] for row in found["versions"]] == [WEAK, STRONG]
        assert [row["metrics"]["images"] for row in found["versions"]] == [30, 30]

    def test_in_words(self, versions: World) -> None:
        said = versions.registry("compare", WEAK, STRONG)
        assert (said.code, said.err) == (0, "")
        difference = compare(predictions(versions, WEAK), predictions(versions, STRONG))
        rows = [line.split() for line in said.out.splitlines()]
        assert ["accuracy", "0.8000", "1.0000"] in rows
        assert ["train.labeled_ratio", "0.05", "0.3"] in rows
        low, high = difference.interval
        assert f"accuracy +0.2000 [{low:+.4f}, {high:+.4f}]" in said.out
        assert difference.sentence(WEAK, STRONG) in said.out

    def test_on_different_test_data(self, versions: World) -> None:
        said = versions.registry("compare", STRONG, GROWN, "--json")
        assert said.code == 1
        assert f"{STRONG} and the others were evaluated on different test data" in said.sentence
        assert not said.document["comparable"]
        assert said.document["differences"] == []
        text = versions.registry("compare", STRONG, GROWN).out
        assert "macro f1" in text
        assert "Against" not in text

    def test_anew(self, versions: World, built: Project) -> None:
        """Only on images that are new to both; the accuracies are what the models say of them."""
        found = versions.done("compare", WEAK, STRONG, GROWN, "--anew")
        _, said = found["differences"]
        assert (said["version"], said["against"]) == (GROWN, WEAK)
        seen = _images(built.path) - _images(built.path, "test")
        new = _images(versions.project.path, "test")
        assert 0 < len(new & seen) < len(new)
        assert said["images"] == len(new - seen)
        assert found["note"] == (
            f"evaluated anew on the {len(new - seen)} test images of {GROWN} that are new to all "
            f"({len(new & seen)} left out)"
        )
        with inside(versions.project.path):
            models = [grocery.load_model(name) for name in (WEAK, GROWN)]
        rows = [
            row
            for path in shard_paths(versions.project.path / "data/prepared/shards")
            for row in read_table(path, ["image_id", "label", "image"]).to_pylist()
            if row["image_id"] in new - seen
        ]
        for model, accuracy in zip(models, (said["old"], said["new"]), strict=True):
            ranked = model.rank([row["image"] for row in rows])
            right = sum(
                best[0].label == row["label"] for best, row in zip(ranked, rows, strict=True)
            )
            assert accuracy == pytest.approx(right / len(rows))
        assert said["old"] < said["new"]

    def test_too_few(self, versions: World) -> None:
        assert "name at least two versions" in versions.refused("compare", WEAK)
        assert "'v7.0.0' is no version or stage" in versions.refused("compare", WEAK, "v7.0.0")


def _images(project: Path, split: str | None = None) -> set[str]:
    """Ids of the prepared images, or of those of a split."""
    rows = read_columns(project / "data/prepared/shards", ["image_id", "split"]).to_pylist()
    return {row["image_id"] for row in rows if split in (None, row["split"])}


class TestPromote:
    def test_staging_takes_any_version(self, world: World) -> None:
        for number, name in enumerate((STRONG, REJECTED, WEAK), 1):
            found = world.done("promote", name, "--stage", "staging")
            assert (found["version"], found["stage"], found["new"]) == (name, "staging", True)
            assert found["tag"] == f"{ARTIFACT}#staging#{number}"
            assert found["evidence"]["judgement"] is None
            assert stages(world.project)["staging"] == name
        assert [e["tag"] for e in world.done("show", STRONG)["history"]] == [
            f"{ARTIFACT}#staging#1"
        ]

    def test_from_staging_to_an_empty_production(self, world: World) -> None:
        world.done("promote", WEAK, "--stage", "staging")
        said = world.registry("promote", "staging", "--stage", "production")
        assert said.code == 0
        assert said.out.splitlines() == [
            f"production has {WEAK} (tag {ARTIFACT}#production#1)",
            "production had no version",
        ]
        before = tags(world.project)
        again = world.registry("promote", WEAK, "--stage", "production")
        assert again.out == f"production has already {WEAK} (tag {ARTIFACT}#production#1)\n"
        assert tags(world.project) == before
        assert stages(world.project) == {"staging": WEAK, "production": WEAK}

    def test_the_margin_of_params(self, world: World) -> None:
        world.done("promote", WEAK, "--stage", "production")
        promote = ("promote", STRONG, "--stage", "production")
        world.project.edit_params({"registry": {"margin": 0.201}})
        sentence = world.refused(*promote)
        assert f"{STRONG} does not beat {WEAK}, which is in production" in sentence
        assert "by the margin of 0.201: test accuracy 1.0000 against 0.8000" in sentence
        difference = compare(predictions(world, WEAK), predictions(world, STRONG))
        assert difference.sentence(WEAK, STRONG) in sentence
        assert "--force --reason overrides" in sentence

        world.project.edit_params({"registry": {"margin": 0.2}})  # what it gains, exactly
        found = world.done(*promote)
        judgement = found["evidence"]["judgement"]
        assert judgement["passed"]
        assert judgement["against"] == WEAK
        assert judgement["difference"] == difference.document()
        assert found["evidence"]["previous"] == WEAK
        assert stages(world.project)["production"] == STRONG

    def test_without_a_margin_it_must_still_be_better(self, world: World) -> None:
        world.project.edit_params({"registry": {"margin": 0.0}})
        world.done("promote", STRONG, "--stage", "production")
        for name in (WEAK, GROWN):
            sentence = world.refused("promote", name, "--stage", "production")
            assert f"{name} does not beat {STRONG}" in sentence

    def test_by_force(self, world: World) -> None:
        world.done("promote", STRONG, "--stage", "production")
        promote = ("promote", WEAK, "--stage", "production")
        assert "does not beat" in world.refused(*promote, "--reason", "knows milk")
        for reason in ([], ["--reason", " "]):
            sentence = world.refused(*promote, "--force", *reason)
            assert "--force needs a --reason, which is recorded" in sentence
        found = world.done(*promote, "--force", "--reason", "knows milk")
        text = git(world.project, "tag", "--list", "--format=%(contents)", found["tag"])
        title, _, rest = text.partition("\n\n")
        assert title == f"Promote {ARTIFACT} production to {WEAK}"
        evidence = json.loads(rest)
        assert evidence == found["evidence"]
        assert (evidence["forced"], evidence["reason"]) == (True, "knows milk")
        assert not evidence["judgement"]["passed"]
        assert evidence["judgement"]["difference"]["difference"] == pytest.approx(-0.2)
        assert (
            "promoted to production by force: knows milk, by Test"
            in world.registry("show", WEAK).out
        )

    def test_by_force_when_the_present_version_is_lost(self, world: World) -> None:
        world.done("promote", WEAK, "--stage", "production")
        md5 = output_at(world.project, f"{ARTIFACT}@{WEAK}", "metrics/evaluation")
        for place in (world.project.path / ".dvc/cache", world.storage):
            object_of(place, md5).unlink()
        promote = ("promote", STRONG, "--stage", "production")
        assert f"object {md5} is neither in the cache nor in the remote" in world.refused(*promote)
        found = world.done(*promote, "--force", "--reason", "the bucket is gone")
        assert "could not be judged" in found["evidence"]["judgement"]["sentence"]
        assert stages(world.project)["production"] == STRONG

    def test_what_was_rejected(self, world: World) -> None:
        promote = ("promote", REJECTED, "--stage", "production")
        assert f"{REJECTED} was rejected when it was made" in world.refused(*promote)
        world.done("promote", WEAK, "--stage", "production")
        assert f"{REJECTED} was rejected when it was made" in world.refused(*promote)

    def test_on_other_test_data_both_are_evaluated_anew(self, world: World, built: Project) -> None:
        world.done("promote", WEAK, "--stage", "production")
        said = world.registry("promote", GROWN, "--stage", "production")
        assert said.code == 0
        seen = _images(built.path) - _images(built.path, "test")
        new = _images(world.project.path, "test")
        note = (
            f"evaluated anew on the {len(new - seen)} test images of {GROWN} that are new to all "
            f"({len(new & seen)} left out)"
        )
        assert f"{GROWN} beats {WEAK}, which is in production" in said.out
        assert f"both were {note}" in said.out
        judgement = world.done("show", "production")["history"][-1]["evidence"]["judgement"]
        assert judgement["note"] == note
        assert judgement["difference"]["images"] == len(new - seen)

    def test_what_cannot_be_pulled(self, world: World) -> None:
        md5 = output_at(world.project, f"{ARTIFACT}@{STRONG}", "models/release")
        object_of(world.storage, md5).unlink()
        sentence = world.refused("promote", STRONG, "--stage", "staging")
        assert f"is not in the DVC remote {world.storage}" in sentence

    def test_names_that_mean_nothing(self, world: World) -> None:
        sentence = world.refused("promote", WEAK, "--stage", "canary")
        assert "'canary' is no stage; the stages are staging, production" in sentence
        sentence = world.refused("promote", "v7.0.0", "--stage", "staging")
        assert "'v7.0.0' is no version or stage; versions: v1.0.0, v1.1.0" in sentence
        assert "no version is in production" in world.refused(
            "promote", "production", "--stage", "staging"
        )


class TestRollback:
    def test_back_and_recorded(self, world: World) -> None:
        back = ("rollback", "--stage", "production")
        assert "no version is in production, so nothing can be rolled back" in world.refused(*back)
        production(world, STRONG, WEAK)
        said = world.registry(*back, "--reason", "takes lemons for milk")
        assert said.out == f"production is rolled back to {STRONG} (tag {ARTIFACT}#production#3)\n"
        shown = world.done("show", "production")
        assert shown["version"] == STRONG
        assert stages(world.project)["production"] == STRONG
        event = shown["history"][-1]["evidence"]
        assert event["rollback"] == {"undoes": f"{ARTIFACT}#production#2", "from": WEAK}
        assert event["reason"] == "takes lemons for milk"
        text = world.registry("show", "production").out
        assert f"production rolled back to it from {WEAK}: takes lemons for milk, by Test" in text
        sentence = world.refused(*back)
        assert f"production had no version before {STRONG}" in sentence

    def test_step_by_step(self, world: World) -> None:
        """What was rolled back is not come back to."""
        production(world, WEAK, STRONG, GROWN)
        back = ("rollback", "--stage", "production")
        assert world.done(*back)["version"] == STRONG
        assert world.done(*back)["version"] == WEAK
        assert f"production had no version before {WEAK}" in world.refused(*back)
        production(world, GROWN)
        assert world.done(*back)["version"] == WEAK

    def test_dvc_serves_what_was_rolled_back_to(self, world: World, tmp_path: Path) -> None:
        production(world, STRONG, WEAK)
        world.done("rollback", "--stage", "production")
        out = tmp_path / "served"
        get = ("dvc", "artifacts", "get", ".", ARTIFACT, "--stage", "production")
        world.project.run(*get, "--out", str(out))
        said = world.done("show", STRONG)["evidence"]["model"]["digest"]
        assert grocery.load_model(out).digest == said

    def test_to_a_version_that_was_withdrawn(self, world: World) -> None:
        production(world, STRONG, WEAK)
        gto(world.project, "deprecate", ARTIFACT, STRONG)
        sentence = world.refused("rollback", "--stage", "production")
        assert f"(tag {ARTIFACT}#production#1), which is no version any more" in sentence
        assert f"'{STRONG}' is no version or stage" in world.refused("show", STRONG)

    def test_from_a_version_that_was_withdrawn(self, world: World) -> None:
        production(world, STRONG, WEAK)
        gto(world.project, "deprecate", ARTIFACT, WEAK)
        for command in (
            ("show", "production"),
            ("fetch", "production"),
            ("promote", GROWN, "--stage", "production"),
        ):
            sentence = world.refused(*command)
            assert f"(tag {ARTIFACT}#production#2), which is no version" in sentence
        (problem,) = world.registry("status", "--json").document["tags"]
        assert f"tag {ARTIFACT}#production#2 stands at" in problem
        assert world.done("rollback", "--stage", "production")["version"] == STRONG
        assert stages(world.project)["production"] == STRONG
        assert world.registry("status", "--json").document["tags"] == []

    def test_after_gto_moved_the_stage(self, world: World) -> None:
        production(world, WEAK, GROWN)
        gto(world.project, *("assign", ARTIFACT, "--version", STRONG, "--stage", "production"))
        assert world.done("show", "production")["version"] == STRONG
        assert stages(world.project)["production"] == STRONG
        assert world.done("rollback", "--stage", "production")["version"] == GROWN
        assert stages(world.project)["production"] == GROWN

        gto(world.project, "deprecate", ARTIFACT, GROWN, "production")
        left = world.done("show", "production")["version"]
        assert left == stages(world.project)["production"]
        assert left != GROWN


def unregister(world: World) -> None:
    """Take back the last two versions, so that HEAD~1 can be registered again."""
    git(world.project, "tag", "--delete", f"{ARTIFACT}@{GROWN}", f"{ARTIFACT}@{REJECTED}")


class TestShared:
    def test_each_sees_what_the_other_did(self, world: World) -> None:
        unregister(world)
        second = world.share()
        found = world.done("register", "HEAD~1")
        assert (found["version"], found["shared"]) == (GROWN, True)
        world.done("promote", WEAK, "--stage", "production")
        assert _at_origin(world) == tags(world.project)
        assert GROWN not in {row["version"] for row in world.done("list", at=second)}

        assert not world.done("promote", WEAK, "--stage", "production", at=second)["new"]
        assert GROWN in {row["version"] for row in world.done("list", at=second)}
        world.done("promote", GROWN, "--stage", "production", at=second)
        assert world.done("rollback", "--stage", "production")["version"] == WEAK
        world.done("promote", STRONG, "--stage", "production", at=second)
        assert world.done("show", "production", at=second)["version"] == STRONG
        assert _at_origin(world) == tags(second)
        assert stages(world.clone("third"))["production"] == STRONG

    def test_local_tags_are_named_and_can_be_sent(self, world: World) -> None:
        unregister(world)
        second = world.share()
        before = _at_origin(world)
        assert not world.done("register", "HEAD~1", "--local")["shared"]
        world.done("promote", GROWN, "--stage", "staging", "--local")
        world.done("promote", WEAK, "--stage", "production", "--local")
        assert _at_origin(world) == before
        status = world.registry("status", "--json")
        assert status.code == 1
        names = (f"@{GROWN}", "#staging#1", "#production#1")
        for name in names:
            (said,) = [text for text in status.document["tags"] if name in text]
            assert f"tag {ARTIFACT}{name} is not at origin" in said

        # Said again without --local, it is sent; a stage never goes without its version.
        for stage, name in [("staging", GROWN), ("production", WEAK)]:
            found = world.done("promote", name, "--stage", stage)
            assert (found["new"], found["shared"]) == (False, True)
        assert world.registry("status").code == 0
        assert _at_origin(world) == tags(world.project)
        assert not world.done("promote", GROWN, "--stage", "staging", at=second)["new"]

    def test_a_version_goes_with_its_stage(self, world: World) -> None:
        unregister(world)
        second = world.share()
        world.done("register", "HEAD~1", "--local")
        world.done("promote", GROWN, "--stage", "staging")
        second.run("git", "fetch", "--quiet", "--tags")
        assert world.done("show", "staging", at=second)["version"] == GROWN

    def test_registering_again_sends_the_tag(self, world: World) -> None:
        unregister(world)
        world.share()
        world.done("register", "HEAD~1", "--local")
        assert f"{ARTIFACT}@{GROWN}" not in _at_origin(world)
        assert not world.done("register", "HEAD~1")["new"]
        assert f"{ARTIFACT}@{GROWN}" in _at_origin(world)

    def test_out_of_reach(self, world: World) -> None:
        unregister(world)
        world.share()
        world.done("promote", WEAK, "--stage", "production")
        git(world.project, "remote", "set-url", "origin", "../nowhere.git")
        for command in (
            ("register", "HEAD~1"),
            ("promote", STRONG, "--stage", "production"),
            ("rollback", "--stage", "production"),
        ):
            sentence = world.refused(*command)
            assert "origin, through which versions are shared, cannot be asked" in sentence
            assert "--local works on the tags of this clone alone" in sentence
        assert world.registry("status").code == 1
        world.done("register", "HEAD~1", "--local")
        world.done("promote", STRONG, "--stage", "production", "--local")
        assert world.done("rollback", "--stage", "production", "--local")["version"] == WEAK

    def test_a_tag_that_differs(self, world: World) -> None:
        """Both moved production without the other; the one at the remote counts."""
        second = world.share()
        world.done("promote", GROWN, "--stage", "production", "--local")
        world.done("promote", WEAK, "--stage", "production", at=second)
        name = f"{ARTIFACT}#production#1"
        sentence = world.refused("promote", STRONG, "--stage", "production")
        assert "a tag here is another one at origin" in sentence
        assert name in sentence
        assert "git tag --delete" in sentence
        status = world.registry("status")
        assert f"tag {name} is another one here than at origin" in status.out
        git(world.project, "tag", "--delete", name)
        found = world.done("promote", STRONG, "--stage", "production")
        assert (found["tag"], found["evidence"]["previous"]) == (f"{ARTIFACT}#production#2", WEAK)

    def test_a_plain_tag_is_named_once(self, world: World) -> None:
        git(world.project, "tag", f"{ARTIFACT}@v9.0.0")
        world.share()
        said = world.registry("status", "--json").document["tags"]
        assert [text for text in said if "v9.0.0" in text] == [
            text for text in said if "is a plain one" in text
        ]
        assert len(said) == 1

    def test_a_remote_of_another_name(self, world: World) -> None:
        world.share()
        before = _at_origin(world)
        world.project.edit_params({"registry": {"remote": "upstream"}})
        assert not world.done("promote", WEAK, "--stage", "production")["shared"]
        assert _at_origin(world) == before


def _at_origin(world: World) -> dict[str, str]:
    return tags(Project(world.folder / "origin.git"))
