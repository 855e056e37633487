"""`grocery registry fetch`, `reproduce` and `status`: is it what git says?"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from grocery.cli.command import argument
from grocery.cli.registry.common import NAME, answer, command, done, open_registry, promoted
from grocery.cli.terminal import FOUND
from grocery.core.errors import RegistryError, TrackingError, printable

if TYPE_CHECKING:
    from grocery.registry.reproduce import Reproduction
    from grocery.registry.serving import Fetched


@command(
    "fetch",
    "get the release of a version or a stage, verified",
    NAME,
    argument(
        "--from",
        dest="source",
        metavar="PLACE",
        help="a clone, the address of a repository, or wandb (default: this clone)",
    ),
    argument("--out", metavar="FOLDER", help="copy it there; the folder must not be there yet"),
)
def fetch(arguments: argparse.Namespace) -> None:
    """Fetch a release and print its folder. Every byte is compared with the hash that git
    (or, with --from wandb, W&B) holds, and a file that no release has is refused:
    nothing in a release is ever executed. A release that was fetched before is verified
    again and used.

    examples:
      grocery registry fetch production
      grocery registry fetch v1.0.0 --out serving/model
      grocery registry fetch production --from https://example.org/team/grocery.git
      grocery registry fetch production --from wandb
    """
    from grocery.registry import serving

    if arguments.source == "wandb":
        found = serving.fetch_from_wandb(arguments.name)
    else:
        found = serving.fetch(arguments.name, arguments.source)
    folder = _copied(found, Path(arguments.out)) if arguments.out else found.folder
    document = {"version": found.version, "md5": found.md5, "folder": str(folder)}
    answer(arguments, document, [str(folder)])


def _copied(found: Fetched, target: Path) -> Path:
    """Copy a release, unless it is there already."""
    from grocery.contents import read_content
    from grocery.core.files import replacing

    if target.exists():
        if target.is_dir() and read_content(target).md5 == found.md5:
            return target
        raise RegistryError(f"{target} is there already, and is not this release; remove it first")
    with replacing(target) as (folder,):
        shutil.copytree(found.folder, folder, dirs_exist_ok=True)
    return target


@command("reproduce", "build a version again from its commit, and compare all outputs", NAME)
def reproduce(arguments: argparse.Namespace) -> None:
    """Check the version's commit out into a temporary clone, pull its inputs, run its
    pipeline by force, and compare the hash of every output with the recorded one.
    The exit code is 0 when all are identical, and 3 when a stage gave something else:
    the first such stage is named, and how it differs.

    The installed packages are used; those of another version than the commit's
    requirements.lock asks for are named.

    example:
      grocery registry reproduce production
    """
    found = open_registry().reproduce(arguments.name)
    answer(arguments, asdict(found), _account(found))
    if not found.identical:
        raise SystemExit(FOUND)


def _account(found: Reproduction) -> Iterator[str]:
    if found.identical:
        yield f"{found.version}: identical, all {found.outputs} outputs"
    else:
        yield f"{found.version}: {found.stage} gives something else than was recorded"
        yield from (f"  {difference}" for difference in found.differences)
    if found.packages:
        versions = (f"{name} {here} ({there})" for name, (here, there) in found.packages.items())
        yield f"packages of another version than its lock asks for: {', '.join(versions)}"


@command(
    "status",
    "where tags, objects and W&B disagree",
    argument(
        "--accept", action="store_true", help="promote what was moved on W&B's page; sends tags"
    ),
    argument("--repair", action="store_true", help="make W&B show what the tags say"),
)
def status(arguments: argparse.Namespace) -> None:
    """Look for what is wrong: tags that make no sense, tags that are here and not at the
    git remote, versions whose objects are not in the DVC remote, and places where W&B
    shows something else than the tags. The exit code is 3 when something is found.
    --accept promotes the versions that somebody has moved to a stage on W&B's page, with
    the evidence that `promote` asks for; what is refused is named. --repair makes W&B show
    what the tags say. Given both, what is refused is put back.

    examples:
      grocery registry status
      grocery registry status --accept
      grocery registry status --repair
    """
    from grocery.registry.tags import STAGES

    registry = open_registry()
    accepted, told = [], []
    for moved, outcome in registry.accept() if arguments.accept else ():
        accepted.append(done(registry, outcome, stage=moved.stage, version=moved.version))
        if isinstance(outcome, RegistryError):
            told.append(f"refused: {moved.says}: {outcome}")
        else:
            told += promoted(registry, outcome, moved.stage)
    repaired = list(registry.mirror.repair()) if arguments.repair else []
    state, stages = registry.state(), {}
    found: dict[str, list[str]] = {
        "tags": [*state.problems, *registry.ledger.unshared()],
        "objects": registry.lost(),
    }
    try:
        found["wandb"] = [each.says for each in registry.mirror.disagreements()]
    except (TrackingError, RegistryError) as error:  # as without an account
        print(printable(f"wandb: not compared: {error}"), file=sys.stderr)
    for stage in STAGES:
        tag = state.assignment(stage)
        version = state.at(tag.commit) if tag else None
        stages[stage] = version.name if version else None
    lines = told + [f"{stage}: {version or 'none'}" for stage, version in stages.items()]
    lines += [f"repaired: {sentence}" for sentence in repaired]
    for name, sentences in found.items():
        lines += [f"{name}: {sentence}" for sentence in sentences or ["nothing is wrong"]]
    more = {"stages": stages, "accepted": accepted, "repaired": repaired}
    answer(arguments, found | more, lines)
    if any(found.values()):
        raise SystemExit(FOUND)
