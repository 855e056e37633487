"""The state of a server as plain data, to be compared with another server's.

What a clock, a host or a random id decides is left out or replaced by what it stands for; each
such place says so. All else is there, so that two equal pictures mean the same runs, artifacts,
lineage and links, whichever way they came.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from wandb_server_model import (
    Artifact,
    ArtifactCollection,
    ArtifactCollectionMembership,
    ArtifactPortfolio,
    ArtifactSequence,
    Run,
)
from wandb_server_store import Store

# Values of history and summary that W&B takes from the clock: time of day, seconds since the start,
# and the run's duration.
CLOCK = {"_timestamp", "_runtime", "_wandb"}

# Files that W&B writes itself. They repeat the config and the summary, with clock, host, versions
# and, after `wandb sync`, another telemetry; and a run that ends at once may not send all of them.
GENERATED = {
    "config.yaml",
    "output.log",
    "requirements.txt",
    "wandb-metadata.json",
    "wandb-summary.json",
}

# Of what W&B adds to the config, only this is the run's own: the custom charts and the definitions
# of metrics. The rest is versions, telemetry (`wandb sync` adds to it) and the environment.
OWN_INTERNALS = {"visualize", "m"}

# Tables refer to their artifact by a random id that the SDK gave to it, or to its collection.
CLIENT_REFERENCE = re.compile(r"wandb-client-artifact://(?P<id>\w+)(?P<alias>:\w+)?/")


class Painter:
    """What draws it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        projects = store.all_projects.values()
        self._runs = [run for project in projects for run in project.runs_by_name.values()]
        found = [item for project in projects for item in project.collections.values()]
        self._sequences = [item for item in found if isinstance(item, ArtifactSequence)]
        self._portfolios = [item for item in found if isinstance(item, ArtifactPortfolio)]
        self._keys = self._run_keys()

    def picture(self) -> dict[str, Any]:
        return {
            "runs": {self._keys[run.id]: self._run(run) for run in self._runs},
            "artifacts": {self._path(item): self._sequence(item) for item in self._sequences},
            "links": {item.path: self._portfolio(item) for item in self._portfolios},
        }

    # Names that are not random

    def _run_keys(self) -> dict[str, str]:
        """entity/project/group/name of each run; #2 and so on tell apart runs that share them.

        Runs that share a name are numbered by their content: the order in which they arrived is
        another one when some came by `wandb sync`.
        """
        shared: dict[str, list[Run]] = {}
        for run in self._runs:
            key = f"{run.project.path}/{run.group or '-'}/{run.display_name}"
            shared.setdefault(key, []).append(run)
        return {
            run.id: key if number == 1 else f"{key}#{number}"
            for key, runs in shared.items()
            for number, run in enumerate(sorted(runs, key=_content), start=1)
        }

    def _path(self, collection: ArtifactCollection) -> str:
        """Path of a collection; that of a table, which the SDK calls run-ID-KEY, by its run's."""
        for run in self._runs:
            start = f"run-{run.name}-"
            if collection.type_name == "run_table" and collection.name.startswith(start):
                return f"{self._keys[run.id]}/{collection.name.removeprefix(start)}"
        return collection.path

    def _label(self, artifact: Artifact) -> str:
        return f"{self._path(artifact.artifact_sequence)}:v{artifact.version_index}"

    # Parts of the picture

    def _run(self, run: Run) -> dict[str, Any]:
        internals = run.config.get("_wandb", {}).get("value", {})
        return {
            "job_type": run.job_type,
            "sweep": run.sweep is not None,  # its id is random
            "tags": sorted(run.tags),
            "commit": run.commit,
            "state": run.state,
            "exit_code": run.exit_code,
            "config": _config(run),
            "internals": {key: internals[key] for key in OWN_INTERNALS & internals.keys()},
            "history": [self._values(row) for row in run.rows()],
            "summary": self._values(run.summary_metrics),
            "alerts": sorted(run.alerts, key=json.dumps),
            "files": {
                name: hashlib.sha256(content).hexdigest()
                for name, content in run.contents.items()
                if name not in GENERATED
            },
            "uses": sorted(self._label(artifact) for artifact in run.input_artifacts),
            "logs": sorted(self._label(artifact) for artifact in run.output_artifacts),
        }

    def _values(self, row: Mapping[str, Any]) -> dict[str, Any]:
        known = {key: value for key, value in row.items() if key not in CLOCK}
        return dict(json.loads(CLIENT_REFERENCE.sub(self._resolved, json.dumps(known))))

    def _resolved(self, match: re.Match[str]) -> str:
        target = self._store.by_client_id[match["id"]]
        if isinstance(target, Artifact):
            return f"wandb-artifact://{self._label(target)}/"
        return f"wandb-artifact://{self._path(target)}{match['alias']}/"

    def _sequence(self, sequence: ArtifactSequence) -> dict[str, Any]:
        unfinished = [item for item in sequence.by_digest.values() if item.state == "PENDING"]
        return {
            "type": sequence.type_name,
            "versions": {
                f"v{item.version_index}": {
                    "digest": item.artifact.digest,
                    "metadata": json.loads(item.artifact.metadata or "{}"),
                    "aliases": _aliases(item),
                    # Not the path of the file on the sender's disk.
                    "entries": {
                        name: {key: entry[key] for key in ("digest", "size", "ref") if key in entry}
                        for name, entry in item.artifact.entries.items()
                    },
                }
                for item in sequence.memberships
            },
            "unfinished": sorted(artifact.digest for artifact in unfinished),
        }

    def _portfolio(self, portfolio: ArtifactPortfolio) -> dict[str, Any]:
        return {
            f"v{item.version_index}": {
                "artifact": self._label(item.artifact),
                "aliases": _aliases(item),
            }
            for item in portfolio.memberships
        }


def _config(run: Run) -> dict[str, Any]:
    """The run's config: its own values, each of which W&B wraps."""
    return {key: item["value"] for key, item in run.config.items() if key != "_wandb"}


def _content(run: Run) -> str:
    rows = [{key: row[key] for key in row.keys() - CLOCK} for row in run.rows()]
    return json.dumps([_config(run), run.exit_code, rows], sort_keys=True)


def _aliases(membership: ArtifactCollectionMembership) -> list[str]:
    return sorted(alias.alias for alias in membership.aliases)
