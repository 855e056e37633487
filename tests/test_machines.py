"""Work on other machines: a real Dask scheduler and real workers, here on loopback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from distributed import Client

from conftest import ROOT, TINY_PARAMS, Project, checkout, environment
from grocery.cluster import dask
from grocery.cluster.sameness import differences, traits
from grocery.core.errors import GroceryError, ParamsError
from grocery.parallel import engine, parallel_map
from grocery.settings import load
from grocery.shards import read_table
from running import wait_for

FROM_SCRATCH = {"GROCERY_REUSE": "no"}
STAGES = ("prepare", "version", "featurize")


@contextmanager
def running(*arguments: str, folder: Path, **changes: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program that ends, with all that it has started, when the block does."""
    with (folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=folder,
            env=environment(PYTHONPATH=str(ROOT), **changes),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a program and what it has started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def scheduler(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A Dask scheduler on a free port of loopback, which forgives a task one dead worker."""
    file = folder / "scheduler.json"
    command = ("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0")
    where = ("--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(file))
    forgiving = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}
    with running(*command, *where, folder=folder, **forgiving) as process:
        wait_for(lambda: file.is_file() and file.stat().st_size)
        yield json.loads(file.read_text())["address"], process


def workers(address: str, folder: Path, count: int = 2) -> Any:
    """Workers as people start them."""
    command = ("grocery.cli", "worker", address, "--workers", str(count))
    return running(*command, folder=folder, DASK_TEMPORARY_DIRECTORY=str(folder))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a scheduler that has two workers."""
    folder = tmp_path_factory.mktemp("cluster")
    with scheduler(folder) as (address, _), workers(address, folder):
        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
        yield address


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A tiny project whose first stages have run on this machine."""
    project = checkout(tmp_path_factory.mktemp("tiny") / "project")
    recipe = project.path / "data/raw/synthetic/recipe.yaml"
    shutil.copy2(ROOT / "tests/tiny_recipe.yaml", recipe)
    project.edit_params(TINY_PARAMS)
    (project.path / "dvc.lock").unlink()
    project.run("dvc", "repro", "version", "featurize")
    return project


@pytest.fixture
def on_dask(tiny: Project, cluster: str) -> Project:
    use(tiny, "dask", cluster)
    return tiny


def use(project: Project, backend: str, address: str) -> None:
    project.edit_params({"compute": {"workers": 0, "backend": backend, "address": address}})


def outputs(project: Project) -> dict[str, Any]:
    return {name: project.lock()[name]["outs"] for name in STAGES}


def test_the_bytes_are_those_of_this_machine(on_dask: Project, cluster: str) -> None:
    here = outputs(on_dask)
    with Client(cluster, set_as_default=False) as client:
        before = _seconds(client)
        on_dask.run("dvc", "repro", "--force", "version", "featurize", env=FROM_SCRATCH)
        assert _seconds(client) > before + 1  # the work was done over there
    assert outputs(on_dask) == here


def _seconds(client: Client) -> float:
    """Processor time of all workers, in seconds."""
    return sum(times.user for times in client.run(os.times).values())


def test_a_worker_is_killed_while_it_works(on_dask: Project, cluster: str) -> None:
    here = outputs(on_dask)
    command = ["dvc", "repro", "--force", "prepare"]
    with (
        Client(cluster, set_as_default=False) as client,
        subprocess.Popen(
            command, cwd=on_dask.path, env=environment(**FROM_SCRATCH), stdout=subprocess.DEVNULL
        ) as process,
    ):
        victim = wait_for(lambda: _frozen_at_work(client))
        os.kill(victim, signal.SIGKILL)
        assert process.wait() == 0
    assert outputs(on_dask) == here


def _frozen_at_work(client: Client) -> int | None:
    """Process id of a worker, stopped, whose task the scheduler still waits for."""
    pids = client.run(os.getpid)
    for worker, busy in client.processing().items():
        if not busy:
            continue
        os.kill(pids[worker], signal.SIGSTOP)
        time.sleep(0.2)  # an answer that was on its way arrives
        if client.processing()[worker]:
            return int(pids[worker])
        os.kill(pids[worker], signal.SIGCONT)
    return None


def test_results_come_in_order_and_as_they_are_asked_for(
    tiny: Project, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.path)
    with engine("dask", cluster):
        assert list(parallel_map(abs, range(-20, 0), workers=0, title="x")) == [*range(20, 0, -1)]
        folders = set(parallel_map(os.path.abspath, [".", ".."], workers=2, title="x"))
        assert folders == {str(tiny.path), str(tiny.path.parent)}
        with pytest.raises(GroceryError, match=r"nothing.parquet cannot be read as a shard"):
            list(parallel_map(read_table, [Path("nothing.parquet")] * 2, workers=0, title="x"))


def test_work_that_kills_its_workers(
    tiny: Project, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.path)
    deaths = [signal.SIGKILL, signal.SIGKILL]
    with (
        engine("dask", cluster),
        pytest.raises(GroceryError, match="worker after worker was killed while it did 'deaths'"),
    ):
        list(parallel_map(signal.raise_signal, deaths, workers=2, title="deaths"))


def test_a_worker_with_other_kernels_is_refused(
    on_dask: Project, cluster: str, tmp_path: Path
) -> None:
    """numpy was loaded before our code could choose."""
    command = ("distributed.cli.dask_worker", cluster, "--nthreads", "1", "--no-dashboard")
    late = ("--preload", "numpy", "--local-directory", str(tmp_path), "--name", "late")
    with running(*command, *late, folder=tmp_path, OPENBLAS_CORETYPE="Nehalem"):
        with Client(cluster, set_as_default=False) as client:
            wait_for(lambda: "late" in _names(client))
        done = on_dask.run(sys.executable, "-m", "stages.featurize", check=False)
        assert done.returncode == 1
        (sentence,) = done.stderr.splitlines()
        assert sentence.startswith(
            f"error: featurize: the worker on {socket.gethostname()} would compute other bytes: "
        )
        assert "Nehalem" in sentence
        assert "start it in the same environment by `grocery worker`" in sentence
        assert on_dask.run("git", "status", "--porcelain", "dvc.lock").stdout


def _names(client: Client) -> set[Any]:
    return {worker["name"] for worker in client.scheduler_info(n_workers=-1)["workers"].values()}


@pytest.mark.parametrize("lost", ["scheduler", "workers"])
def test_all_is_lost_in_the_middle(
    lost: str, tiny: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.path)
    monkeypatch.setattr(dask, "PATIENCE", 2.0)
    monkeypatch.setattr(dask, "_ANSWER", 1.0)
    with (
        scheduler(tmp_path) as (address, chief),
        workers(address, tmp_path, 1) as crew,
        Client(address, set_as_default=False) as client,
    ):
        client.wait_for_workers(1, timeout=60)
        victim = chief if lost == "scheduler" else crew
        killer = threading.Thread(target=_end_when_at_work, args=(client, victim))
        with engine("dask", address):
            killer.start()
            with pytest.raises(GroceryError, match="was lost"):
                list(parallel_map(time.sleep, [600, 600], workers=0, title="sleep"))
        killer.join()


def _end_when_at_work(client: Client, victim: subprocess.Popen[bytes]) -> None:
    wait_for(lambda: any(client.processing().values()))
    end(victim)


class TestNobodyIsThere:
    def test_no_scheduler(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(dask, "_CONNECT", 1.0)
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # and nobody listens
            address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
            with (
                pytest.raises(GroceryError, match=f"no Dask scheduler answers at .* {address}"),
                engine("dask", address),
            ):
                pass

    def test_no_worker(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(dask, "PATIENCE", 0.5)
        with (
            scheduler(tmp_path) as (address, _),
            pytest.raises(GroceryError, match=f"has no worker; .*: grocery worker {address}"),
            engine("dask", address),
        ):
            pass

    @pytest.mark.parametrize("backend", ["dask", "ray"])
    def test_an_engine_that_is_not_installed(self, backend: str, tiny: Project) -> None:
        use(tiny, backend, {"dask": "tcp://127.0.0.1:1", "ray": "auto"}[backend])
        without = (
            "import runpy, sys; sys.modules.update(dask=None, distributed=None, ray=None); "
            "runpy.run_module('stages.version', run_name='__main__')"
        )
        done = tiny.run(sys.executable, "-c", without, check=False)
        assert (done.returncode, done.stderr) == (
            1,
            f"error: version: compute.backend is {backend}, which is not installed; "
            f"pip install '.[{backend}]'\n",
        )


@pytest.mark.parametrize(
    ("backend", "address", "should"),
    [
        ("local", "tcp://10.0.0.1:8786", "with backend local the address should be empty"),
        ("dask", "", "with backend dask the address should be like tcp://10.0.0.1:8786"),
        ("dask", "10.0.0.1:8786", "with backend dask the address should be like tcp://"),
        ("dask", "tcp://me:secret@10.0.0.1:8786", "with backend dask the address should be like"),
        ("dask", "tcp://fe80::1:8786", "with backend dask the address should be like tcp://"),
        ("ray", "tcp://10.0.0.1:6379", "with backend ray the address should be auto or like"),
        ("spark", "", "it should be 'local', 'dask' or 'ray'"),
    ],
)
def test_a_wrong_address_is_refused(
    backend: str, address: str, should: str, tmp_path: Path
) -> None:
    with pytest.raises(ParamsError, match=should):
        load(params_with(backend, address, tmp_path))


@pytest.mark.parametrize(
    ("backend", "address"),
    [
        ("local", ""),
        ("dask", "tcp://scheduler.lan:8786"),
        ("dask", "tls://[fe80::1]:8786"),
        ("ray", "auto"),
        ("ray", "[::1]:6379"),
    ],
)
def test_an_address_is_taken(backend: str, address: str, tmp_path: Path) -> None:
    assert load(params_with(backend, address, tmp_path)).compute.address == address


def params_with(backend: str, address: str, folder: Path) -> Path:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["compute"] |= {"backend": backend, "address": address}
    file = folder / "params.yaml"
    file.write_text(yaml.safe_dump(params))
    return file


def test_a_worker_wants_the_schedulers_address() -> None:
    command = [sys.executable, "-m", "grocery.cli", "worker", "tcp://me:secret@10.0.0.1:8786"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (
        1,
        "",
        "error: worker: the scheduler's address should be like tcp://10.0.0.1:8786\n",
    )


def test_differences_are_said_in_words() -> None:
    here = dict(traits())
    assert differences(here, here) == []
    assert differences({"numpy": "1", "onnxruntime": ""}, {"numpy": "2", "onnxruntime": "3"}) == [
        "numpy is 2 there and 1 here"
    ]
    assert differences({"numpy": "1"}, {}) == ["numpy is missing there and 1 here"]


@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not in the lock: it is large")
def test_ray_gives_the_bytes_of_this_machine(tiny: Project, tmp_path: Path) -> None:
    here = outputs(tiny)
    address = f"127.0.0.1:{_free_port()}"
    use(tiny, "ray", address)
    with _ray_head(address, tmp_path):
        wait_for(lambda: not _ray_health(tiny, address).returncode)
        tiny.run("dvc", "repro", "--force", "version", "featurize", env=FROM_SCRATCH)
    assert outputs(tiny) == here


_RAY = (sys.executable, "-m", "ray.scripts.scripts")


@contextmanager
def _ray_head(address: str, folder: Path) -> Iterator[None]:
    host, _, port = address.partition(":")
    what = (
        "--head",
        "--block",
        "--num-cpus=2",
        "--include-dashboard=false",
        "--disable-usage-stats",
    )
    where = ("--node-ip-address", host, "--port", port)
    with (
        tempfile.TemporaryDirectory(prefix="ray-") as short,  # Ray puts sockets into it
        running(*_RAY[2:], "start", *what, *where, "--temp-dir", short, folder=folder) as process,
    ):
        yield
        process.terminate()  # it ends what it has started
        process.wait()


def _ray_health(project: Project, address: str) -> subprocess.CompletedProcess[str]:
    return project.run(*_RAY, "health-check", "--address", address, check=False)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
