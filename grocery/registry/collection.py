"""The W&B registry as a mirror of git: what is there is compared with what should be, and mended.

Nothing is replayed. Each difference is mended by one request, so that an interruption at any point
leaves fewer of them for the next time. An alias is moved by adding it to the link where it belongs:
W&B takes it from the other link in the same step, so `production` is never on two links, and never
on none while it moves.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from grocery.contents import read_content
from grocery.core.errors import TrackingError
from grocery.registry.corrections import Correction, Link, Wanted, corrections
from grocery.settings import TrackingParams
from grocery.tracking.artifacts import RELEASE, alias_of, described
from grocery.tracking.client import Client, open_client, raise_refusals, record
from grocery.tracking.mode import KNOCK, check_server, choose_mode, requested_mode
from grocery.tracking.outbox import brought_later
from grocery.tracking.process import SLOWEST, NotNow
from grocery.tracking.sdk import one_line, set_up

if TYPE_CHECKING:
    import wandb

NOT_ASKED = "W&B is offline, and is not asked"

# Gives a folder that holds the release of a version.
Release = Callable[[Wanted], Path]


@dataclass(frozen=True)
class Collection:
    """The collection `tracking.registry`, as W&B has it now; see `open_collection`."""

    client: Client
    settings: TrackingParams
    root: Path
    project: Path
    patient: bool

    def _links(self) -> list[Link]:
        """All links, the newest first."""
        target = self.settings.registry
        try:
            return [_link(one) for one in self.client.api.artifacts(RELEASE.type, target)]
        except Exception as error:
            if type(error) is ValueError:  # W&B's answer is empty: there is no such collection yet
                return []
            raise TrackingError(f"W&B does not show {target}: {one_line(error)}") from error

    def corrections(self, wanted: Sequence[Wanted]) -> list[Correction]:
        """What is otherwise than it should be."""
        return corrections(self._links(), wanted)

    def reconcile(self, wanted: Sequence[Wanted], release: Release) -> Iterator[Any]:
        """Mend everything, one alias at a time; yields a sentence for each, and how long it takes.

        `wanted` is every version, in the order in which they were registered. What W&B refuses does
        not hold up the rest, and is a TrackingError in the end.
        """
        refusals: list[str] = []
        linked: dict[str, Any] = {}
        for correction in self.corrections(wanted):
            began = monotonic()
            try:
                yield from self._mend(correction, linked, release)
            except Exception as error:
                refusals.append(f"{correction.says}, and W&B cannot be told: {one_line(error)}")
                if monotonic() - began >= self.settings.timeout:  # it would be so every time
                    break
                check_server(self.client.url, timeout=KNOCK)
            else:
                yield correction.mended
        raise_refusals(refusals)

    def _mend(
        self, correction: Correction, linked: dict[str, Any], release: Release
    ) -> Iterator[Any]:
        alias, wanted = correction.alias, correction.wanted
        there: Any = correction.link.artifact if correction.link else None
        if wanted is None:
            there.aliases = [name for name in there.aliases if name != alias]
        elif there := there or linked.get(wanted.md5):  # to link it again would move `latest` too
            there.aliases = [*there.aliases, alias]
        else:
            source = yield from self._artifact(wanted, release)
            linked[wanted.md5] = source.link(self.settings.registry, aliases=[alias])
            return
        there.save()

    def _artifact(self, wanted: Wanted, release: Release) -> Generator[Any, None, wandb.Artifact]:
        """The artifact of a release; recorded now if no tracked stage ever did."""
        entity = self.client.entity
        project = os.environ.get("WANDB_PROJECT") or self.settings.project
        name = f"{entity}/{project}/{RELEASE.name}:{alias_of(wanted.md5)}"
        found = self._known(name, wanted.md5)
        if found is None:
            yield from self._record(wanted, release, entity, project)
            found = self._known(name, wanted.md5)
        if found is None:
            raise TrackingError(f"the metadata of {name} names another content")
        return found

    def _known(self, name: str, md5: str) -> wandb.Artifact | None:
        """An artifact that is what its name says: somebody may have moved the alias by hand."""
        if not self.client.api.artifact_exists(name):
            return None
        artifact: wandb.Artifact = self.client.api.artifact(name)
        return artifact if artifact.metadata.get("md5") == md5 else None

    def _record(self, wanted: Wanted, release: Release, entity: str, project: str) -> Iterator[Any]:
        if brought_later(self.root / "wandb", RELEASE.name, wanted.md5):
            raise TrackingError("the run that made it is kept offline")
        folder = release(wanted)
        content = read_content(folder)
        if content.md5 != wanted.md5:
            raise TrackingError(f"{folder} is not the release of {wanted.version}")
        upload = self.settings.upload
        artifact = described(RELEASE, folder, content, {}, upload=upload, root=self.project)

        slowly = sum(content.sizes.values()) / SLOWEST if self.patient else 0
        yield {"within": self.settings.timeout + slowly}
        record(artifact, wanted.md5, entity=entity, project=project, root=self.root)
        yield {"within": 3 * self.settings.timeout}


def _link(artifact: wandb.Artifact) -> Link:
    md5 = artifact.metadata.get("md5")
    aliases = frozenset(artifact.aliases) - {artifact.version}
    return Link(artifact.version, md5 if isinstance(md5, str) else "", aliases, artifact)


def open_collection(
    settings: TrackingParams, root: Path, project: Path, *, patient: bool = False
) -> Collection:
    """The collection `tracking.registry`; in the process that speaks with W&B.

    W&B's own folder lies in `root`; `project` is the root of the DVC repository. WANDB_PROJECT and
    WANDB_ENTITY win over the settings. If we are `patient`, W&B is told whatever its mode is, and
    sending the files of a release may take longer than the longest wait for an answer. Else NotNow
    says why it is not online.
    """
    if not patient:
        set_up()
        mode, reason = choose_mode()
        if mode != "online":
            raise NotNow(reason or NOT_ASKED)
    return Collection(
        open_client(settings.timeout, settings.entity), settings, root, project, patient
    )


def may_tell(root: Path) -> bool:
    """Whether W&B may be to be told now, as far as can be seen without it."""
    asked = requested_mode()
    return asked not in ("offline", "disabled") and (asked is not None or _may_have_key(root))


def _may_have_key(root: Path) -> bool:
    """Whether there is anything that could hold a key: a variable, netrc, or W&B's settings."""
    keys = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
    home = Path.home()
    config = Path(os.environ.get("WANDB_CONFIG_DIR") or home / ".config" / "wandb")
    netrc = [Path(os.environ["NETRC"])] if "NETRC" in os.environ else []
    files = [root / "wandb" / "settings", config / "settings", home / ".netrc", home / "_netrc"]
    return any(map(os.environ.get, keys)) or any(file.exists() for file in (*files, *netrc))
