"""Register, list, show and fetch: real git, DVC and remotes."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import gto.api
import pytest
import yaml

import grocery
from conftest import Project
from grocery.comparison.difference import data_digest, read_predictions
from grocery.contents import read_content
from grocery.core.errors import RegistryError
from grocery.data.sources import open_source
from grocery.registry.candidate import SECTIONS
from grocery.registry.tags import ARTIFACT
from registry_forged import GROWN, REJECTED, STRONG, WEAK, Forge, candidates, four_versions
from registry_project import git, inside, json_at, output_at, put_back, tags
from registry_project import grocery as command

FIRST, SECOND = f"{ARTIFACT}@v1.0.0", f"{ARTIFACT}@v1.1.0"


@pytest.fixture(scope="module")
def fresh(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Forge:
    """HEAD and two experiments, `rejected` and `weak`; without versions. Do not change it."""
    return candidates(built, tmp_path_factory)


@pytest.fixture
def world(fresh: Forge) -> Iterator[Forge]:
    """The same, whose tags, commits and remote may be changed: they are put back."""
    before = {*fresh.storage.rglob("*")}
    with put_back(fresh.project):
        yield fresh
    for path in filter(Path.is_file, {*fresh.storage.rglob("*")} - before):
        path.unlink()
    shutil.rmtree(fresh.folder / "clone", ignore_errors=True)


@pytest.fixture(scope="module")
def registered(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Forge:
    """Four versions, of which v1.1.0 is in production. Do not change it."""
    world = four_versions(built, tmp_path_factory)
    world.done("promote", STRONG, "--stage", "production")
    return world


class TestRegister:
    def test_head_with_its_evidence(self, world: Forge) -> None:
        head = git(world.project, "rev-parse", "HEAD")
        sentence = world.refused("register")
        lacks = f"the DVC remote {world.storage} lacks data/card, and 12 more of HEAD ({head[:7]}),"
        assert f"{lacks} so nobody could pull it; --push sends what it lacks" in sentence
        below = Project(world.project.path / "docs")  # the commands work from any folder
        found = world.done("register", "--push", at=below)
        assert (found["version"], found["commit"], found["tag"]) == ("v1.0.0", head, FIRST)
        assert (found["new"], found["shared"]) == (True, False)
        assert git(world.project, "cat-file", "-t", FIRST) == "tag"
        assert git(world.project, "rev-parse", f"{FIRST}^{{commit}}") == head

        text = git(world.project, "tag", "--list", "--format=%(contents)", FIRST)
        title, _, rest = text.partition("\n\n")
        assert title == f"Register {ARTIFACT} v1.0.0"
        card = json.loads((world.project.path / "data/card/card.json").read_text())
        release = world.project.path / "models/release"
        file = world.project.path / "metrics/evaluation/predictions.parquet"
        tested = read_predictions(file, "it")
        params = yaml.safe_load((world.project.path / "params.yaml").read_text())
        assert json.loads(rest) == {
            "schema": 1,
            "version": "v1.0.0",
            "experiment": None,
            "accepted": True,
            "metrics": json_at(world.project, head, "metrics/evaluate.json"),
            "dataset": {
                "digest": card["digest"],
                "source": "synthetic",
                "images": json_at(world.project, head, "metrics/data.json")["images"],
            },
            "model": {
                "digest": grocery.load_model(release).digest,
                "release": read_content(release).md5,
            },
            "test": {"digest": data_digest(tested), "images": len(tested)},
            "params": {name: params[name] for name in SECTIONS},
        }

    def test_what_is_registered_can_be_pulled_and_a_hole_is_mended(self, world: Forge) -> None:
        world.done("register", "--push")
        clone = Project(world.folder / "clone")
        git(world.project, "clone", "--quiet", "--branch", FIRST, ".", str(clone.path))
        assert "up to date" in clone.dvc("pull", "status")[1]
        release = read_content(clone.path / "models/release")
        assert release.md5 == output_at(clone, "HEAD", "models/release")

        # The list of a folder is there, but one of its files is not: for DVC it is complete.
        git(world.project, "tag", "--delete", FIRST)
        lost, half = map(world.place, (release.files["model.safetensors"], release.md5))
        lost.unlink()
        assert "lacks models/release of HEAD" in world.refused("register")
        half.unlink()
        half.touch()  # as a kill leaves it: so DVC tries whether the disk can clone a file
        assert "lacks models/release of HEAD" in world.refused("register")
        half.parent.mkdir(exist_ok=True)
        half.touch()
        world.done("register", "--push")
        assert lost.is_file()
        assert half.stat().st_size > 0

    def test_again_is_the_same_version(self, world: Forge) -> None:
        """In another commit, too; one that was withdrawn must come back first."""
        world.done("register", "--push")
        before = tags(world.project)
        said = world.registry("register")
        assert (said.code, said.err) == (0, "")
        assert said.out.startswith("registered already as v1.0.0 (commit ")
        sentence = world.refused("register", "--version", "v3.0.0")
        assert "is v1.0.0 already, and cannot be v3.0.0 too" in sentence
        assert world.done("register", world.commit())["version"] == "v1.0.0"
        assert tags(world.project) == before

        # As that of a trial that was stopped: its parameters are new, its release the base's.
        params = (world.project.path / "params.yaml").read_bytes()
        stale = world.commit({"params.yaml": params.replace(b"neighbors: 5", b"neighbors: 6")})
        assert "train changed after train had run" in world.refused("register", stale)

        # GTO reads no repository in which a commit has two versions, withdrawn or not.
        with inside(world.project.path):
            gto.api.deregister(str(world.project.path), ARTIFACT, version="v1.0.0")
        sentence = world.refused("register")
        assert "is v1.0.0, which was withdrawn" in sentence
        assert world.registry("list").out == "no version is left; withdrawn: v1.0.0\n"
        assert "versions: none (withdrawn: v1.0.0); make one" in world.refused("show", "staging")
        assert f"delete the tag {FIRST}!" in sentence
        git(world.project, "tag", "--delete", f"{FIRST}!")
        assert world.done("register")["version"] == "v1.0.0"

    def test_an_experiment_by_its_name(self, world: Forge) -> None:
        """A name of a version is given once, and the next one may skip some."""
        found = world.done("register", "--push", "--version", "v2.0.0-rc.1")
        assert found["tag"] == f"{ARTIFACT}@v2.0.0-rc.1"
        sentence = world.refused("register", "weak", "--version", "v2.0.0-rc.1")
        assert "v2.0.0-rc.1 is taken; the next one is v2.1.0" in sentence
        found = world.done("register", "weak", "--push", "--bump", "major")
        assert found["version"] == "v3.0.0"
        assert found["evidence"]["experiment"] == "weak"
        assert found["evidence"]["params"]["train"]["algorithm"] == "supervised"
        measured = json_at(world.project, found["commit"], "metrics/evaluate.json")
        assert found["evidence"]["metrics"] == measured
        assert measured != json_at(world.project, "HEAD", "metrics/evaluate.json")

        # It stays when the experiment goes, and all of it can be had from a clone.
        clone = Project(world.folder / "clone")
        git(world.project, "clone", "--quiet", ".", str(clone.path))
        assert git(clone, "for-each-ref", "refs/exps") == ""
        folder = Path(world.done("fetch", "v3.0.0", at=clone)["folder"])
        assert grocery.load_model(folder).digest == found["evidence"]["model"]["digest"]

    def test_what_is_no_candidate(self, world: Forge) -> None:
        sentence = world.refused("register", "--version", "v1.0")
        assert "'v1.0' is no version; a version is like v1.2.0" in sentence
        sentence = world.refused("register", "nonsense")
        assert "'nonsense' is neither a revision nor a DVC experiment here" in sentence
        with (world.project.path / "README.md").open("a") as stream:
            stream.write("\nMore.\n")
        sentence = world.refused("register", "--push")
        assert "the working tree is not what was committed (README.md)" in sentence
        assert world.done("register", "HEAD", "--push")["version"] == "v1.0.0"

    @pytest.mark.parametrize(
        ("path", "was", "now", "what"),
        [
            ("params.yaml", "n_neighbors: 5", "n_neighbors: 6", "train.* changed after train had"),
            ("grocery/evaluation/metrics.py", "\n", "\n\n", "grocery/evaluation changed after"),
            ("data/raw/synthetic/recipe.yaml", "seed: 3", "seed: 4", "synthetic changed .*prepare"),
            ("dvc.yaml", "grocery.runner train", "grocery.runner  train", "of train"),
            ("metrics/register.json", "true", "false", "metrics/register.json is not what"),
        ],
        ids=["params", "code", "data", "command", "metrics"],
    )
    def test_a_stale_record(self, world: Forge, path: str, was: str, now: str, what: str) -> None:
        before = (world.project.path / path).read_text()
        after = before.replace(was, now, 1)
        assert after != before
        commit = world.commit({path: after.encode()})
        assert re.search(what, sentence := world.refused("register", commit, "--push")), sentence
        assert f"dvc.lock of commit {commit[:7]} is not what the commit holds" in sentence
        assert sentence.endswith("; run dvc repro, and commit")

    def test_an_experiment_that_ended_before_register(self, world: Forge) -> None:
        commit = world.commit({"metrics/evaluate.json": b"{}"})
        git(world.project, "update-ref", "refs/exps/00/0/early", commit)
        sentence = world.refused("register", "early")
        assert f"dvc.lock of early ({commit[:7]}) is not what the commit holds" in sentence
        assert sentence.endswith("; run dvc exp apply early and dvc repro, and commit")

    def test_without_a_dvc_remote_nobody_could_pull_it(self, world: Forge) -> None:
        """The cache of the clone is not taken for one."""
        (world.project.path / ".dvc/config").write_text("[core]\nanalytics = false\n")
        world.project.commit("No remote")
        sentence = world.refused("register", "--push")
        assert "the project has no DVC remote from which others could pull" in sentence


class TestRegisterAll:
    def test_experiments(self, world: Forge) -> None:
        rejected, weak = world.done("register-all", "--push")  # the older one first
        assert (weak["revision"], weak["version"], weak["new"]) == ("weak", "v1.0.0", True)
        assert rejected["revision"] == "rejected"
        accuracy = json_at(world.project, "HEAD", "metrics/evaluate.json")["accuracy"]
        assert f"accuracy is {accuracy:.3f}, but should be at least" in rejected["refused"]
        before = tags(world.project)
        said = world.registry("register-all")
        assert said.code == 0
        first, second = said.out.splitlines()
        assert ": not registered: the candidate of rejected (" in first
        assert second.startswith("weak (")
        assert "registered already as v1.0.0" in second
        assert tags(world.project) == before

    def test_a_range_with_commits_that_hold_no_model(self, world: Forge) -> None:
        """One without dvc.lock, and one whose objects are gone, stop nothing."""
        project, start = world.project, git(world.project, "rev-parse", "HEAD~1")
        lock = project.path / "dvc.lock"
        text = lock.read_text()
        lock.unlink()
        project.commit("Without a lock")
        md5 = output_at(project, start, "models/release")
        lock.write_text(text.replace(md5, "0" * 32 + ".dir"))
        project.commit("A release that nobody has")
        lock.write_text(text)
        project.commit("The lock again")
        without, gone, head = world.done("register-all", f"{start}..HEAD", "--push")
        assert "holds no dvc.lock" in without["refused"]
        assert "refused" in gone
        assert (head["version"], head["new"]) == ("v1.0.0", True)
        assert "nothing to register" in world.registry("register-all", "HEAD..HEAD").out
        assert "'nonsense' is no range of commits" in world.refused("register-all", "nonsense")


class TestListAndShow:
    def test_list(self, registered: Forge) -> None:
        rows = registered.done("list")
        expected = [(REJECTED, []), (GROWN, []), (STRONG, ["production"]), (WEAK, [])]
        assert [(row["version"], row["stages"]) for row in rows] == expected
        header, _, _, line, weakest = registered.registry("list").out.splitlines()
        assert header.split()[:3] == ["version", "stages", "accuracy"]
        evidence, commit = rows[2]["evidence"], rows[2]["commit"]
        accuracy, data = evidence["metrics"]["accuracy"], evidence["dataset"]["digest"]
        cells = {STRONG, "production", f"{accuracy:.4f}", data[:12], commit[:7], "Test"}
        assert cells <= {*line.split()}
        assert weakest.split()[:2] == [WEAK, "-"]

    def test_none(self, fresh: Forge) -> None:
        assert fresh.done("list") == []
        assert "no version is registered yet" in fresh.registry("list").out
        assert "'v1.0.0' is no version or stage; versions: none" in fresh.refused("show", "v1.0.0")
        assert "no version is in production" in fresh.refused("show", "production")

    def test_show(self, registered: Forge) -> None:
        found = registered.done("show", "production")
        assert found == registered.done("show", "v1.1.0") == registered.done("show", "1.1.0")
        assert found["version"] == STRONG
        assert found["commit"] == git(registered.project, "rev-parse", "HEAD~2")
        (event,) = found["history"]
        assert (event["action"], event["stage"]) == ("assign", "production")
        text = registered.registry("show", "production").out
        for part in (
            found["commit"],
            "Test <test@example.invalid>",
            found["evidence"]["dataset"]["digest"],
            found["evidence"]["model"]["digest"],
            "promoted to production, by Test",
        ):
            assert part in text

    def test_tags_by_hand(self, world: Forge) -> None:
        """Without evidence, at a stage that we do not know."""
        for name, at in ((FIRST, "HEAD"), (SECOND, "HEAD~1"), (f"{ARTIFACT}#canary#1", "HEAD~1")):
            git(world.project, "tag", "-a", name, "-m", "Mine", git(world.project, "rev-parse", at))
        assert "carries no evidence" in world.registry("show", "v1.0.0").out
        assert "promoted to canary, by Test" in world.registry("show", "canary").out
        assert [row["stages"] for row in world.done("list")] == [["canary"], []]


class TestFetch:
    def test_from_anywhere(self, registered: Forge, tmp_path: Path) -> None:
        """The same bytes from the clone, its path, its address, and a bare one elsewhere."""
        path = str(registered.project.path)
        md5 = output_at(registered.project, "HEAD~2", "models/release")
        storage = shutil.copytree(registered.storage, tmp_path / "storage")
        clone, bare = Project(tmp_path / "clone"), str(tmp_path / "bare.git")
        git(registered.project, "clone", "--quiet", ".", str(clone.path))
        config = clone.path / ".dvc/config"
        config.write_text(config.read_text().replace("../../storage", str(storage)))
        clone.commit("An absolute address")
        git(clone, "clone", "--quiet", "--bare", ".", bare)
        elsewhere = Project(tmp_path / "elsewhere")
        elsewhere.path.mkdir()
        for source in ([], ["--from", path], ["--from", f"file://{path}"], ["--from", bare]):
            at = elsewhere if source else registered.project
            shutil.rmtree(at.path.parent / "cache", ignore_errors=True)
            found = registered.done("fetch", "production", *source, at=at)
            assert (found["version"], found["md5"]) == (STRONG, md5)
            assert read_content(Path(found["folder"])).md5 == md5

        # What is here needs no DVC remote; what is not here does.
        storage.rename(tmp_path / "away")
        assert registered.done("fetch", "production", "--from", bare, at=elsewhere) == found
        for name, place, said in (
            (WEAK, bare, str(storage)),
            ("v7.0.0", bare, "'v7.0.0' is no version or stage; versions: v1.0.0, v1.1.0"),
            ("production", str(tmp_path / "nowhere.git"), "nowhere.git"),
        ):
            refused = registered.registry("fetch", name, "--from", place, at=elsewhere)
            assert (refused.code, said in refused.sentence) == (1, True)

    def test_out(self, registered: Forge, tmp_path: Path) -> None:
        out = tmp_path / "serving/model"
        found = registered.done("fetch", "production", "--out", str(out))
        assert found["folder"] == str(out)
        assert read_content(out).md5 == found["md5"]
        assert registered.registry("fetch", STRONG, "--out", str(out)).out == f"{out}\n"
        sentence = registered.refused("fetch", WEAK, "--out", str(out))
        assert f"{out} is there already, and is not this release" in sentence
        assert read_content(out).md5 == found["md5"]

    def test_the_library_and_predict(self, registered: Forge, tmp_path: Path) -> None:
        photo = tmp_path / "photo.jpg"
        raw = open_source(registered.project.path / "data/raw/synthetic")
        photo.write_bytes(next(iter(raw.images())).read())
        said = {n: registered.done("show", n)["evidence"]["model"] for n in (WEAK, STRONG)}
        with inside(registered.project.path):
            production = grocery.load_model("production")
        with inside(tmp_path):
            other = grocery.load_model(WEAK, repo=registered.project.path)
        assert production.digest == said[STRONG]["digest"]
        assert other.digest == said[WEAK]["digest"]
        (expected,) = production.predict([photo.read_bytes()])
        predict = ("predict", str(photo), "--model", "production", "--json")
        row = command(registered.project, *predict).document
        assert row["class"] == expected.label
        assert row["confidence"] == pytest.approx(expected.confidence, abs=1e-6)

    def test_outside_of_any_clone(self, tmp_path: Path) -> None:
        for verb, sentence in (
            (["registry", "fetch", "production"], f"{tmp_path} is in no clone of the project"),
            (["predict", "photo.jpg", "--model", "production"], "is in no clone of the project"),
            (["registry", "list"], "run this in a clone of the project"),
            (["registry", "register"], "run this in a clone of the project"),
        ):
            said = command(Project(tmp_path), *verb)
            assert (said.code, sentence in said.sentence) == (1, True)
        with inside(tmp_path), pytest.raises(RegistryError, match="in no clone of the project"):
            grocery.load_model("production")
