"""Processes that train together: started, and watched, so that the loss of one ends them all and is told in a line."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.utilities.distributed import _set_num_threads_if_needed
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from ssl_toolkit.checkpoints import Interrupted
from ssl_toolkit.errors import ToolkitError, said_by
from ssl_toolkit.launch import started_by_torchrun
from ssl_toolkit.progress import say
from ssl_toolkit.runs import local_rank
from ssl_toolkit.slurm import started_by_srun

# The number of the process that has started this one, if one of ours has.
PARENT = "SSL_TOOLKIT_PARENT"

_WHOLE = "what was saved before is whole: go on with --resume"
# What gloo, NCCL and torch's store say when the other side of a connection is gone.
_GONE = re.compile(r"gloo|nccl|connection|peer|socket|store", re.IGNORECASE)


def environment() -> ClusterEnvironment:
    """Who has started this process and knows the others. Lightning itself takes torchrun in a SLURM job for srun."""
    if started_by_torchrun():
        return TorchElasticEnvironment()
    return SLURMEnvironment(auto_requeue=False) if started_by_srun() else LightningEnvironment()


class Together(DDPStrategy):
    """Lightning's, with processes that are watched; each holds all weights."""

    def _configure_launcher(self) -> None:
        self._launcher = launcher(self)


def launcher(strategy: DDPStrategy | ModelParallelStrategy) -> _Launcher:
    """Starts the processes of a strategy, where nothing else has, and watches them."""
    assert strategy.cluster_environment is not None
    return _Launcher(strategy.cluster_environment, strategy.num_processes, strategy.num_nodes)


class _Launcher(_SubprocessScriptLauncher):
    def launch(self, function: Callable[..., Any], *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        """As Lightning's, which would kill this process, without a word, when another has failed."""
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            os.environ[PARENT] = str(os.getpid())
            self._call_children_scripts()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        with watched(self.procs):
            return function(*args, **kwargs)


class Watch(threading.Thread):
    """Looks whether the processes that this one has started, or the one that has started it, are still there.

    Where one is lost, the program itself mostly stumbles over it at once. If it has not done so after a while, it hangs
    in waiting for what never comes, and is ended from here.

    Args:
        children: Processes started by this one, in the order of their numbers, from 1.
        parent: Number of the process that has started this one, if that is one of ours.

    Attributes:
        found: Set when one is lost.
        cause: Who, and of what.
        over: To be set when nothing more is to be watched.
    """

    EVERY, GRACE = 0.25, 10.0  # seconds

    def __init__(self, children: Sequence[subprocess.Popen[Any]], parent: int | None) -> None:
        super().__init__(name="companions", daemon=True)
        self.children, self.parent = children, parent
        self.found, self.over, self.cause = threading.Event(), threading.Event(), ""

    def run(self) -> None:
        """Until `over` is set or one is lost."""
        while not self.over.wait(self.EVERY):
            self.cause = self._lost()
            if not self.cause:
                continue
            self.found.set()
            if not self.over.wait(self.GRACE):
                if self.speaks:
                    say(f"ssl-toolkit: error: {self.cause}")
                self.end_children()
                os._exit(1)
            return

    @property
    def speaks(self) -> bool:
        """Whether this process tells it: of several that are left, one."""
        return local_rank() < 2

    def _lost(self) -> str:
        if self.parent is not None and os.getppid() != self.parent:
            return f"the first of the processes that train together has died; {_WHOLE}"
        for number, child in enumerate(self.children, 1):
            code = child.poll()
            if code:
                who = f"process {number} of those that train together"
                if code > 0:
                    return f"{who} has failed, with exit code {code}: its own message says why"
                name = signal.Signals(-code).name
                memory = ", as the system does when memory runs out" if name == "SIGKILL" else ""
                return f"{who} was killed by {name}{memory}; {_WHOLE}"
        return ""

    def end_children(self) -> None:
        """They would wait for this process for ever; nothing is lost with them."""
        for child in self.children:
            child.kill()


@contextlib.contextmanager
def watched(children: Sequence[subprocess.Popen[Any]]) -> Iterator[None]:
    """Train as one of several processes; what fails here ends those that were started from here.

    Raises:
        ToolkitError: One of the others was lost.
    """
    parent = int(os.environ[PARENT]) if local_rank() and PARENT in os.environ else None
    watch = Watch(children, parent)
    watch.start()
    try:
        yield
    except Interrupted:  # all of them stop
        raise
    except BaseException as error:
        cause = ""
        if isinstance(error, RuntimeError) and _GONE.search(str(error)):
            watch.found.wait(watch.GRACE if children or parent is not None else 0)
            cause = watch.cause or f"another of the processes that train together is gone ({said_by(error)}); {_WHOLE}"
        watch.end_children()
        if not cause:
            raise
        if not watch.speaks:
            sys.exit(1)
        raise ToolkitError(cause) from error
    finally:
        watch.over.set()
