"""One W&B run, driven from a thread of its own.

W&B may be slow, out of reach or broken, and a stage must not notice. So the stage's own thread
calls nothing of W&B: it puts tasks into a queue, and a second thread imports W&B, opens the run and
does the tasks in order, while the stage computes. Only `Session.close` waits, and not for long.

When W&B fails online, at whatever point, the tasks are done once more on an offline run of the same
id, which is then whole. What went wrong becomes one line on standard error.

The one thing that W&B can do to a stage is to stop it, when a sweep or a person wants that.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from operator import attrgetter
from pathlib import Path
from queue import SimpleQueue
from secrets import token_hex
from threading import Lock, Thread
from time import monotonic, time_ns
from typing import TYPE_CHECKING, Any, Literal

from grocery.contents import Content, read_content
from grocery.core.errors import printable
from grocery.journal import held
from grocery.settings import TrackingParams
from grocery.tracking.mode import Mode, check_server, choose_mode, requested_mode
from grocery.tracking.outbox import Outbox
from grocery.tracking.provenance import git_state, pipeline_run, project_root
from grocery.tracking.sweep_run import STAGE, VARIABLES, handed_out

if TYPE_CHECKING:
    import wandb

# Time for a run that is kept offline, in seconds. It needs the disk only, so it comes to an end.
GRACE = 120.0

# Longest wait for the server to accept a connection, in seconds.
KNOCK = 5.0

OFFLINE = "the run is kept offline, for `grocery sync`"

# Silence on the terminal; nothing is captured, measured or sent that a stage did not ask for.
SETTINGS: dict[str, Any] = {
    "silent": True,
    "console": "off",
    "disable_code": True,
    "save_code": False,
    "label_disable": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
    "finish_timeout_raises": True,
    # All but the last second of a run is on disk even if W&B's process has to be ended.
    "x_transaction_log_flush_interval": 1.0,
}


class NotStored(Exception):
    """The server did not take in what an online run sent: the run is to be kept offline."""


@dataclass
class OpenRun:
    """What a task works with."""

    settings: TrackingParams
    run: wandb.Run
    outbox: Outbox
    warn: Callable[[str], object]  # takes one sentence, which is shown when the stage ends
    content: Callable[[Path], Content]  # what a file or folder holds; read once
    logged: dict[str, wandb.Artifact] = field(default_factory=dict)  # by name
    curves: set[str] = field(default_factory=set)  # names of what was logged by steps

    @cached_property
    def api(self) -> wandb.Api:
        """W&B's client for questions; only for a run that is online."""
        import wandb

        return wandb.Api()


Task = Callable[[OpenRun], Any]


class Session:
    """A run that is being opened, and the tasks that wait for it.

    `stopped` says whether W&B has stopped the run, and has interrupted the main thread for that.
    """

    def __init__(
        self,
        stage: str,
        settings: TrackingParams,
        *,
        config: Mapping[str, Any],
        inputs: Mapping[str, Path],
        tags: Sequence[str],
    ) -> None:
        self._stage, self._config, self._inputs, self._tags = stage, config, inputs, tags
        self._project = os.environ.get("WANDB_PROJECT") or settings.project
        self._entity = os.environ.get("WANDB_ENTITY") or settings.entity or None
        self._settings, self._timeout = settings, settings.timeout
        self._sweep_run = handed_out() if stage == STAGE else None
        self._id = self._sweep_run.id if self._sweep_run else token_hex(4)
        self._root = project_root()
        self._git = git_state()  # now, before the stage writes files that git tracks
        self._content = cache(read_content)
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._last_tasks: list[Task] = []
        self._begun: list[Task] = []
        self._exit_code: int | None = None  # of the stage, when it is done
        self._phase = Lock()
        self._online = self._gave_up = False
        self._reasons: dict[str, None] = {}
        self._warn = self._reasons.setdefault  # each is said once
        self._settled: Collection[str] = ()
        self.stopped = False
        _quiet_threads()
        self._thread = Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()

    def submit(self, task: Task, *, last: bool) -> None:
        """Do `task` when the run is open and earlier tasks are done; perhaps once more, offline.

        What waits for the server comes `last`, after all others, to hold up none of them.
        """
        if last:
            self._last_tasks.append(task)
        else:
            self._tasks.put(task)

    def close(self, exit_code: int) -> None:
        """Finish the run; give up when W&B does not come to an end."""
        self._exit_code = exit_code
        for task in (*self._last_tasks, None):
            self._tasks.put(task)
        try:
            self._thread.join(self._timeout)
        finally:
            if self._thread.is_alive():
                self._give_up()
            if self._reasons:
                print(f"warning: W&B: {'; '.join(self._reasons)}", file=sys.stderr)

    def _stop(self) -> None:
        """Interrupt the stage: W&B has said that its run is stopped. Too late when it is done."""
        if self._exit_code is None:
            self.stopped = True
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def _work(self) -> None:
        alone = variables(**dict.fromkeys(VARIABLES))  # W&B would join the sweep's run by itself
        with contained(self._root / "wandb") as self._settled, alone:
            try:
                mode = self._set_up()
                if mode == "online":
                    self._track_online()
                elif mode == "offline":
                    self._track("offline")
            except Exception as error:
                self._warn(f"{one_line(error)}; the stage is not tracked")
            finally:
                tear_down()

    def _set_up(self) -> Mode:
        folder = self._root / "wandb"
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):  # W&B would go elsewhere without a word
            raise PermissionError(f"{folder} cannot be written")
        requested_mode()  # a wrong one would make W&B's own settings fail, in many words
        settings: dict[str, Any] = dict.fromkeys(("init_timeout", "finish_timeout"), self._timeout)
        if self._sweep_run:  # W&B takes a sweep's run from here, not from its init()
            settings |= self._sweep_run.settings() | {"project": self._project}
            settings |= {"entity": self._entity} if self._entity else {}
        set_up(**settings, stop_fn=self._stop)
        mode, reason = choose_mode()
        if reason:
            self._warn(f"{reason}; {OFFLINE}")
        return mode

    def _track_online(self) -> None:
        import wandb

        self._online = True
        try:
            check_server(wandb.setup().settings.base_url, timeout=min(KNOCK, self._timeout))
            self._track("online")
        except Exception as error:
            reason = f"no answer within {self._timeout:g} s" if self._gave_up else one_line(error)
            self._reasons.clear()  # what could not be said online is said offline
            self._warn(reason)
            kill_service()  # asked to end, it would first try to send the rest, for minutes perhaps
            tear_down()
            with self._phase:
                self._online = self._gave_up = False
            self._set_up()
            self._track("offline")
            self._warn(OFFLINE)
            for failed in (self._root / "wandb").glob(f"run-*-{self._id}"):
                shutil.rmtree(failed, ignore_errors=True)

    def _track(self, mode: Literal["online", "offline"]) -> None:
        """Open the run, do all tasks, finish the run."""
        begun = time_ns()
        run = self._init(mode)
        folder = Path(run.dir).parent
        outbox = Outbox(self._root / "wandb", run.id)
        if "WANDB_DATA_DIR" in self._settled:  # W&B's copies of files lie with the run
            os.environ["WANDB_DATA_DIR"] = str(folder)
        with held(outbox.lock):
            known = {name: getattr(run, name) for name in ("id", "project", "entity", "group")}
            outbox.open({**known, "stage": self._stage, "begun": begun, "folder": folder.name})
            opened = OpenRun(self._settings, run, outbox, self._warn, self._content)
            for task in self._each_task():
                try:
                    task(opened)
                except NotStored:
                    raise
                except Exception as error:
                    if self._gave_up and mode == "online":
                        raise
                    self._warn(one_line(error))
            run.finish(exit_code=self._exit_code)
            if mode == "online" and not outbox.pending():
                outbox.discard()

    def _each_task(self) -> Iterator[Task]:
        """All tasks from the first one on, however many were done before."""
        yield from tuple(self._begun)
        for task in iter(self._tasks.get, None):
            self._begun.append(task)
            yield task
        self._tasks.put(None)

    def _init(self, mode: Literal["online", "offline"]) -> wandb.Run:
        import wandb

        inputs = {
            name: self._content(path).md5 for name, path in self._inputs.items() if path.exists()
        }
        try:
            return wandb.init(
                id=self._id,
                mode=mode,
                dir=str(self._root),
                project=self._project,
                entity=self._entity,
                name=self._name(),
                job_type=self._stage,
                group=pipeline_run(self._git),
                tags=sorted(self._tags),
                config={**self._config, "inputs": inputs, "git": self._git},
                reinit="create_new",
            )
        except wandb.errors.CommError as error:
            if "no message" not in str(error):
                raise
            raise NotStored("the server does not take the run: is the API key right?") from error

    def _name(self) -> str:
        """The stage; among runs of other experiments, its experiment too."""
        experiment = os.environ.get("DVC_EXP_NAME")
        apart = self._sweep_run or experiment != pipeline_run(self._git)
        return f"{self._stage} {experiment}" if experiment and apart else self._stage

    def _give_up(self) -> None:
        """End W&B's own process, which releases what waits for it; then the run is kept offline."""
        end = monotonic() + GRACE
        while self._thread.is_alive() and monotonic() < end:
            with self._phase:
                if self._online:  # again and again: it may have been about to start
                    self._gave_up = True
                    kill_service()
            self._thread.join(1.0)
        if self._thread.is_alive():
            self._warn("it does not come to an end; the run may be incomplete")
            sys.unraisablehook = lambda _: None  # W&B's own hook at exit would complain at length
            kill_service()


def one_line(error: Exception) -> str:
    """What an error says, in one line of at most 200 characters."""
    text = printable((str(error).strip() or type(error).__name__).splitlines()[0])
    return text if len(text) <= 200 else text[:199] + "…"


def set_up(**settings: Any) -> wandb.Settings:
    """Start W&B's own process, without a word; gives what is set now."""
    import wandb

    wandb.termsetup(wandb.Settings(silent=True), None)  # setup() itself would speak
    return wandb.setup(wandb.Settings(**SETTINGS, **settings)).settings


def _quiet_threads() -> None:
    """Let W&B's own threads end without a traceback when its process has been ended."""
    usual = threading.excepthook

    def without_wandb(hook: threading.ExceptHookArgs) -> None:
        if not (hook.thread and hook.thread.name.startswith(("wandb-", "NetStatThr"))):
            usual(hook)

    if getattr(usual, "__module__", "") != __name__:  # once is enough
        threading.excepthook = without_wandb


def kill_service() -> None:
    """End W&B's process."""
    if wandb_setup := sys.modules.get("wandb.sdk.wandb_setup"):
        with suppress(AttributeError):
            attrgetter("_connection._proc._process")(wandb_setup.singleton()).kill()


def tear_down() -> None:
    """End W&B here and not at the interpreter's exit, where nothing would bound the wait."""
    if wandb := sys.modules.get("wandb"):
        with suppress(Exception, SystemExit):  # it would exit with the status of a killed process
            wandb.teardown()


@contextmanager
def contained(folder: Path) -> Iterator[Collection[str]]:
    """Keep what W&B writes in one folder, and its reports about itself to itself.

    Gives the names of the variables that it has set, which the user had not.
    """
    wanted = {
        "WANDB_DATA_DIR": str(folder),
        "WANDB_CACHE_DIR": str(folder / "cache"),
        "WANDB_ERROR_REPORTING": "false",
    }
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    with variables(**added):
        yield added.keys()


@contextmanager
def variables(**values: str | None) -> Iterator[None]:
    """Set variables of the environment while the block runs, or with None take them out."""
    before = {name: os.environ.get(name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
