"""Draw the lineage graph of docs/wandb.md, from what a W&B server was told.

    python docs/lineage.py            # with the packages of `make test`

Runs the whole pipeline by force, tracked at the tests' W&B server on loopback, and prints the runs,
the artifacts they used and logged, and the registry's links, as a Mermaid graph.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from wandb_server import WandbServer


def main() -> None:
    """Run the pipeline, and print the graph."""
    with WandbServer() as server:
        environment = {**os.environ, **server.environment(), "WANDB_MODE": "online"}
        command = ["dvc", "repro", "--force"]
        subprocess.run(command, env=environment, stdout=sys.stderr, check=True)
        print("\n".join(drawn(server.state())))


def drawn(state: dict[str, Any]) -> list[str]:
    """The lines of the graph: an edge for everything that a run used or logged."""
    lines = ["flowchart TD"]
    for name, run in sorted(state["runs"].items()):
        stage = name.split("/")[-1]
        lines += [f"    run_{stage}[{stage}]:::run"]
        lines += [f"    {node(path)} --> run_{stage}" for path in own(run["uses"])]
        lines += [f"    run_{stage} --> {node(path)}" for path in own(run["logs"])]
    for collection, links in sorted(state["links"].items()):
        for link in links.values():
            aliases = ", ".join(link["aliases"])
            where = "/".join(collection.split("/")[1:])
            lines += [f"    {node(link['artifact'])} --> registry[/{where}<br/>{aliases}/]"]
    return [*lines, "    classDef run fill:#ffcc33,stroke:#b38600,color:#000"]


def own(paths: list[str]) -> list[str]:
    """Artifacts that are the pipeline's outputs; W&B's own tables, which lie deeper, are not."""
    return [path for path in paths if path.count("/") == 2]


def node(path: str) -> str:
    """An artifact's node, such as ``dataset_card([dataset-card])``."""
    name = path.rsplit("/", maxsplit=1)[-1].partition(":")[0]
    return f"{name.replace('-', '_')}([{name}])"


if __name__ == "__main__":
    main()
