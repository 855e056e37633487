"""`grocery worker`: lend this machine to a project that runs on another one, through Dask."""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

from grocery.cli.command import argument, command
from grocery.cli.terminal import count
from grocery.core.errors import GroceryError
from grocery.core.threads import cores


def _number(text: str) -> int:
    if (value := count(text)) > 1024:
        raise argparse.ArgumentTypeError(f"{text} is more than 1024 processes")
    return value


@command(
    "worker",
    "lend this machine to a project on another one, through Dask",
    argument("address", help="the scheduler: tcp://HOST:PORT or tls://HOST:PORT"),
    argument(
        "--workers", type=_number, default=0, metavar="N", help="processes (default: one per core)"
    ),
    argument(
        "--memory",
        default="auto",
        metavar="SIZE",
        help="what a process may use, such as 2GB, before it is started again (default: its share)",
    ),
)
def worker(arguments: argparse.Namespace) -> None:
    """Start Dask workers that compute what the project's own machine would: numeric
    kernels as recorded, one thread each. They go on until they are interrupted, or the
    scheduler has been gone for a minute. The project's folder must be shared, under the
    same path. Whoever reaches the scheduler can run code here: see docs/machines.md.

    Dask's own settings are taken from its files and from the environment, such as
    DASK_TEMPORARY_DIRECTORY=/scratch or DASK_DISTRIBUTED__COMM__TLS__CA_FILE=ca.pem.

    examples:
      grocery worker tcp://10.0.0.1:8786                  one process per core
      grocery worker tcp://10.0.0.1:8786 --workers 8
    """
    # Become `dask worker`; what this process has pinned is in the environment that it inherits.
    from importlib.util import find_spec

    import grocery
    from grocery.settings import ADDRESSES

    if find_spec("distributed") is None:
        raise GroceryError("dask is not installed: make extras")
    allowed, example = ADDRESSES["dask"]
    if not re.fullmatch(allowed, arguments.address):
        raise GroceryError(f"the scheduler's address should be {example}")
    from grocery.cluster.dask import connected

    with connected(arguments.address):
        pass  # Dask's own worker would say in a traceback that nobody answers
    # Workers import this very code, wherever they are started.
    paths = [str(Path(grocery.__file__).parents[1]), os.environ.get("PYTHONPATH")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    workers = arguments.workers or cores()
    command = [
        *(sys.executable, "-m", "distributed.cli.dask_worker", arguments.address),
        *("--nthreads", "1", "--nworkers", str(workers), "--no-dashboard"),
        *("--death-timeout", "60", "--preload", "grocery.cluster.sameness"),
        *("--memory-limit", arguments.memory),
    ]
    sys.stdout.flush()
    os.execv(command[0], command)
