"""Work on other machines: a real Dask scheduler and real workers, here on loopback."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import distributed
import pytest

from conftest import ROOT, Project, environment, refusal
from grocery import runner
from grocery.cluster import dask, opened
from grocery.cluster.sameness import CODE, digest_of_code, traits
from grocery.cluster.task import this_place
from grocery.core.errors import GroceryError
from grocery.core.pin import KERNELS
from grocery.parallel import parallel_map
from grocery.settings import ComputeParams, load
from registry_project import Said, grocery, inside
from running import SCRATCH, wait_for

Client: Any = distributed.Client  # whose methods have no types


@contextmanager
def running(*command: str, folder: Path, **changes: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command that ends, with all that it has started, when the block does."""
    env = environment(PYTHONPATH=f"{ROOT}{os.pathsep}{ROOT / 'tests'}", **changes)
    how: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    how |= {"cwd": folder, "env": env, "start_new_session": True}
    process = subprocess.Popen(command, **how)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def scheduler(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A Dask scheduler on a free port of loopback, which forgives a task one dead worker."""
    file = folder / "scheduler.json"
    command = ("python", "-m", "distributed.cli.dask_scheduler", "--scheduler-file", str(file))
    where = ("--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0")
    forgiving = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}
    with running(*command, *where, folder=folder, **forgiving) as process:
        wait_for(lambda: file.is_file() and file.stat().st_size)
        yield json.loads(file.read_text())["address"], process


def workers(address: str, folder: Path, count: int = 2) -> Any:
    """Workers as people start them."""
    command = ("grocery", "worker", address, "--workers", str(count))
    return running(*command, folder=folder, DASK_TEMPORARY_DIRECTORY=str(folder))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a scheduler that has two workers."""
    folder = tmp_path_factory.mktemp("cluster")
    with scheduler(folder) as (address, _), workers(address, folder):
        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
        yield address


def on(address: str) -> AbstractContextManager[None]:
    return opened(ComputeParams(workers=0, backend="dask", address=address))


def refused(address: str) -> str:
    """Why no work begins at this address."""
    return refusal(GroceryError, on(address).__enter__)


def test_the_bytes_are_those_of_this_machine(project: Project, cluster: str) -> None:
    project.edit_params({"compute": {"workers": 0, "backend": "dask", "address": cluster}})
    with Client(cluster, set_as_default=False) as client:
        before = client.run(os.times)
        with inside(project.path, **SCRATCH):
            for stage in ("prepare", "version", "featurize"):
                runner.run(stage, load())
        after = client.run(os.times)
    assert any(after[worker].user > before[worker].user + 0.5 for worker in before), "done here"
    assert project.found() == project.hashes()


def nap(number: int) -> int:
    time.sleep(0.3)
    return number


@pytest.mark.parametrize("killed", [2, pytest.param(1, marks=pytest.mark.long)])
def test_workers_are_killed_while_they_work(killed: int, here: Path, cluster: str) -> None:
    with Client(cluster, set_as_default=False) as client, on(cluster):
        results = parallel_map(nap, range(12), title="nap")
        assert next(results) == 0
        pids, tasks = client.run(os.getpid), client.processing()
        for worker in sorted(pids, key=lambda worker: -len(tasks[worker]))[:killed]:
            os.kill(pids[worker], signal.SIGKILL)  # the busiest
        assert list(results) == [*range(1, 12)]
        client.wait_for_workers(2, timeout=60)


def test_results_come_in_order_and_items_are_taken_as_needed(here: Path, cluster: str) -> None:
    items = iter(range(1000))
    with on(cluster):
        results = parallel_map(str, items, title="numbers")
        assert [next(results) for _ in range(20)] == [*map(str, range(20))]
        assert next(items) < 100  # the others have not been sent
        folders = list(parallel_map(os.path.abspath, [".", ".."], title="folders"))
        assert folders == [str(here), str(here.parent)]
        odd = [(abs, -1), ["a", (abs, -1)]] * 2  # for Dask it may look like tasks of its own
        assert list(parallel_map(repr, odd, title="odd")) == [*map(repr, odd)]


class Heavy:
    """A function that notes where it arrives, and gives who does an item, and when."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __call__(self, _: int) -> tuple[int, float, float]:
        start = time.time()
        time.sleep(0.1)
        return os.getpid(), start, time.time()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        with self.file.open("a") as file:
            print(os.getpid(), file=file)


def test_a_function_is_sent_to_each_worker_once(here: Path, cluster: str) -> None:
    heavy = Heavy(here / "arrivals")
    with dask.dask_cluster(cluster) as workers:
        at_work = {pid for pid, *_ in workers.map(heavy, range(8), workers=0, title="x")}
        assert sorted(map(int, heavy.file.read_text().split())) == sorted(at_work)
        assert len(at_work) == 2
        spans = [span for _, *span in workers.map(heavy, range(4), workers=1, title="x")]
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))


def fail(error: Exception) -> None:
    raise error


def test_errors_of_the_work_are_its_own(here: Path, cluster: str) -> None:
    for error in (GroceryError("a sentence"), TimeoutError("no number"), ZeroDivisionError("no")):
        with on(cluster), pytest.raises(type(error), match=str(error)):
            list(parallel_map(fail, [error] * 2, title="x"))


def test_work_that_kills_workers(here: Path, cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask, "LOSSES", 1)
    with on(cluster), pytest.raises(GroceryError, match="was killed while it did 'deaths'"):
        list(parallel_map(signal.raise_signal, [signal.SIGKILL] * 2, title="deaths"))


def test_a_worker_with_other_kernels_is_refused(here: Path, cluster: str) -> None:
    """numpy was loaded before our code could choose."""
    command = ("python", "-m", "distributed.cli.dask_worker", cluster, "--preload", "numpy")
    late = ("--nthreads", "1", "--no-dashboard", "--local-directory", str(here), "--name", "late")
    kernels = {"NPY_DISABLE_CPU_FEATURES": f"X86_V3 {KERNELS['NPY_DISABLE_CPU_FEATURES']}"}
    with running(*command, *late, folder=here, OPENBLAS_CORETYPE="Nehalem", **kernels):
        with Client(cluster, set_as_default=False) as client:
            wait_for(lambda: "'late'" in str(client.scheduler_info(n_workers=-1)["workers"]))
        said = refused(cluster)
    assert said.startswith(f"the worker on {socket.gethostname()} would compute other bytes: ")
    assert "numpy's kernels is X86_V2 there and X86_V2 X86_V3 here; the BLAS is " in said
    assert "Nehalem" in said
    assert said.endswith("start it in the same environment by `grocery worker`")


def test_other_places_other_code_and_other_libraries_are_refused(here: Path) -> None:
    with this_place() as place:
        assert not place.problem()
        assert "has no folder /nowhere" in replace(place, folder="/nowhere").problem()
        assert "shared, not copied" in replace(place, folder="/").problem()
        older = tuple({**traits(), CODE: "older"}.items())
        assert replace(place, traits=older).problem().endswith("older here; restart it")
        # A library that is not used here may be there.
        other = replace(place, traits=(("numpy", "1"), ("faiss-cpu", ""), ("abacus", "2")))
        numpy = f"numpy is {version('numpy')} there and 1 here"
        assert f": {numpy}; abacus is missing there and 2 here; start it" in other.problem()

    for room in ("grocery/images", "stages"):  # a task may come from both
        before = digest_of_code(here)
        (here / room).mkdir(parents=True)
        (here / room / "module.py").write_text("")
        assert digest_of_code(here) != before


@pytest.mark.parametrize(
    "lost", ["frozen scheduler", "workers", pytest.param("scheduler", marks=pytest.mark.long)]
)
def test_no_worker_is_there_and_then_all_is_lost_in_the_middle(
    lost: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask, "ANSWER", 1.0)
    with scheduler(here) as (address, chief):
        monkeypatch.setattr(dask, "PATIENCE", 0.5)
        said = refused(address)
        assert "has no worker; " in said
        assert said.endswith(f": grocery worker {address}")

        monkeypatch.setattr(dask, "PATIENCE", 2.0)
        with workers(address, here, 1) as crew, Client(address, set_as_default=False) as client:
            client.wait_for_workers(1, timeout=60)

            def strike() -> None:
                wait_for(lambda: any(client.processing().values()))
                victim = crew if lost == "workers" else chief
                deed = signal.SIGSTOP if lost.startswith("frozen") else signal.SIGKILL
                os.killpg(victim.pid, deed)

            killer = threading.Thread(target=strike)
            with on(address):
                killer.start()
                with pytest.raises(GroceryError, match="was lost"):
                    list(parallel_map(time.sleep, [600, 600], title="sleep"))
            killer.join()


def test_nobody_is_there_or_dask_is_not(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask, "CONNECT", 1.0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        said = refused(address)
        lent = grocery(Project(ROOT), "worker", address)
    assert said == f"no Dask scheduler answers at the address {address} within 1 seconds"
    assert lent == Said(1, "", f"error: worker: {said}\n")

    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.delitem(sys.modules, "grocery.cluster.dask")
    assert "dask, which is not installed" in refused("tcp://x:1")


def test_an_address_is_taken_or_refused() -> None:
    for address in ("tcp://scheduler.lan:8786", "tls://[fe80::1]:8786"):
        assert ComputeParams(workers=0, backend="dask", address=address).address == address
    with pytest.raises(ValueError, match="with backend local the address should be empty"):
        ComputeParams(workers=0, backend="local", address="tcp://10.0.0.1:8786")
    should = "address should be like tcp://10.0.0.1:8786"
    secret = "tcp://me:secret@10.0.0.1:8786"
    for address in ("", "10.0.0.1:8786", secret, "tcp://fe80::1:8786"):
        with pytest.raises(ValueError, match=f"with backend dask the {should}"):
            ComputeParams(workers=0, backend="dask", address=address)
    said = grocery(Project(ROOT), "worker", secret)
    assert said == Said(1, "", f"error: worker: the scheduler's {should}\n")
