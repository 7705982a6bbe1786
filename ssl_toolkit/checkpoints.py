"""Checkpoints that survive a kill at any moment, and runs that stop politely."""

from __future__ import annotations

import contextlib
import pickle
import signal
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from ssl_toolkit.distributed import agree, rank
from ssl_toolkit.errors import ToolkitError
from ssl_toolkit.files import write_atomic
from ssl_toolkit.progress import say
from ssl_toolkit.slurm import requeue

# What asks a run to stop: Ctrl-C, a scheduler's end, a closed terminal, a scheduler's warning before the end.
STOPS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))


class Interrupted(ToolkitError):  # noqa: N818 - it is no error
    """The run was asked to stop by a signal, and has saved what it needs to go on."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint file, whole or not at all, read without executing anything in it."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write beside, sync and rename.

        Raises:
            ToolkitError: If it cannot be written; the one before is as it was.
        """
        try:
            write_atomic(path, lambda temporary: _save(checkpoint, temporary))
        except OSError as error:
            raise ToolkitError(
                f"checkpoint {path} cannot be written: {error.strerror}; what was written before is whole: make room "
                "and go on with --resume"
            ) from error

    def load_checkpoint(self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True) -> Any:
        """The checkpoint at `path`, every part checked against its checksum first.

        Raises:
            ToolkitError: If the file is damaged.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()  # torch.load itself does not look at the checksums
            if damaged is None:
                return torch.load(path, map_location, weights_only=True)
        except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError, KeyError, OSError) as error:
            raise ToolkitError(f"checkpoint {path} cannot be read: {error}") from error
        raise ToolkitError(f"checkpoint {path} is damaged in '{damaged}'")


def _save(checkpoint: dict[str, Any], path: Path) -> None:
    """Write through a file of Python's: that one says why it failed, torch's own writer only that it did."""
    with path.open("wb") as file:
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def shard_file(path: str | Path, rank: int) -> Path:
    """What process `rank` writes of a checkpoint whose weights are shared out; the first one's has its name."""
    path = Path(path)
    return path.with_name(f"{path.name}.{rank}") if rank else path


def latest_checkpoint(folder: Path, rank: int = 0) -> Path | None:
    """The newest checkpoint in `folder` that loads; None if there has never been one.

    Args:
        folder: Where they lie.
        rank: Whose part must load, where each process has written its own.

    Raises:
        ToolkitError: If there are checkpoints and none of them loads.
    """
    paths = sorted(folder.glob("step-*.ckpt"), reverse=True)
    for path in paths:
        try:
            if AtomicCheckpointIO().load_checkpoint(path).get("processes", 1) > 1 and rank:
                AtomicCheckpointIO().load_checkpoint(shard_file(path, rank))
        except ToolkitError as error:
            warnings.warn(f"{error}; falling back to the one before", stacklevel=2)
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                path.rename(path.with_suffix(".damaged"))  # else it would count as one of the last two
        else:
            return path
    if paths:
        raise ToolkitError(f"none of the {len(paths)} checkpoints in {folder} loads: start again with --overwrite")
    return None


def load_newest(method: pl.LightningModule, folder: Path) -> bool:
    """Bring a method, heads and all, to where the newest checkpoint in `folder` left it; False if there is none.

    Raises:
        ToolkitError: If it is damaged, or of another method.
    """
    paths = sorted(folder.glob("step-*.ckpt"))
    if not paths:
        return False
    try:
        method.load_state_dict(_joined_state(paths[-1]))
    except (RuntimeError, KeyError) as error:
        raise ToolkitError(f"{paths[-1]} does not fit the run's configuration") from error
    return True


def _joined_state(path: Path) -> dict[str, Any]:
    """The state of the method in a checkpoint, of all processes' parts."""
    first = AtomicCheckpointIO().load_checkpoint(path)
    others = range(1, first.get("processes", 1))
    parts = [first, *(AtomicCheckpointIO().load_checkpoint(shard_file(path, number)) for number in others)]
    joined = {name: torch.cat([part["state_dict"][name] for part in parts]) for name in first.get("shared", ())}
    return {**first["state_dict"], **joined}


@contextlib.contextmanager
def signals_given_back() -> Iterator[None]:
    """Whatever listens for `STOPS` meanwhile, those who listened before do so again afterwards."""
    before = {signum: signal.getsignal(signum) for signum in STOPS}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _mark_epoch_running(trainer: pl.Trainer) -> None:
    """Count the current epoch as begun.

    After resuming from the end of an epoch Lightning does not count the next one as begun; it would take a checkpoint
    in the middle of that one for a finished epoch, and not hand the loader its position.
    """
    progress: Any = trainer.fit_loop.epoch_progress
    for counter in (progress.total, progress.current):
        counter.ready = counter.started = counter.processed + 1


class Checkpoints(pl.Callback):
    """Saves the run every so often, at its end and when a signal asks it to stop; keeps the last two.

    A checkpoint is only taken right after an optimiser step, never between accumulated ones: gradients are not saved.
    A run on a CPU goes on with as many threads as it began with, since the sums of others are rounded differently.

    Args:
        folder: Where they go, as ``step-00000120.ckpt``.
        every: Optimiser steps between checkpoints; None takes one every five minutes.
        also: Called after each checkpoint, to bring what is derived from the run up to date.
        requeue: Whether SIGUSR1, a scheduler's warning, also puts a SLURM job back into the queue.
    """

    KEEP = 2
    SECONDS = 300.0
    AGREE_EVERY = 8  # steps: asking the other processes makes a GPU wait

    def __init__(
        self,
        folder: Path,
        every: int | None = None,
        also: Callable[[], object] = lambda: None,
        requeue: bool = False,
    ) -> None:
        self.folder, self.every, self.also, self.requeue = folder, every, also, requeue
        self._signum = self._own_threads = 0
        self._step = -1  # the last one that was looked at
        self._saved_step, self._saved_at = -1, time.monotonic()
        # Under nohup a closed terminal is to be outlived, and our own handler must not say otherwise.
        self._stops = [signum for signum in STOPS if signal.getsignal(signum) is not signal.SIG_IGN]

    def listen(self) -> None:
        """Catch `STOPS` from now on: the run stops after the step at hand, or after its first one."""
        for signum in self._stops:
            signal.signal(signum, self._on_signal)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen again: Lightning's own handlers would leave with nothing saved.

        Raises:
            ToolkitError: The processes go on from different steps.
        """
        self._step = self._saved_step = step = trainer.global_step
        self.listen()
        most, least = agree([step, -step], trainer.strategy.root_device)
        if most != -least:
            raise ToolkitError(
                f"process {rank()} goes on from step {step}, others from {-least} to {most}: all machines must see the "
                f"same {self.folder}, and all parts of a checkpoint must be whole"
            )

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note the number of threads."""
        checkpoint["threads"] = torch.get_num_threads()

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the number of threads that there was."""
        own, noted = torch.get_num_threads(), checkpoint.get("threads")
        if trainer.strategy.root_device.type == "cpu" and noted not in (None, own):
            if trainer.is_global_zero:
                say(f"threads: {noted}, as the run began; with the {own} of this process other weights would come out")
            torch.set_num_threads(noted)
            self._own_threads = own

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the process its threads back."""
        if self._own_threads:
            torch.set_num_threads(self._own_threads)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Save where it is due; stop if asked to."""
        step = trainer.global_step
        if step == self._step:
            return  # between the batches of a step: gradients are half gathered, and are not saved
        self._step = step
        _mark_epoch_running(trainer)
        late = self.every is None and time.monotonic() - self._saved_at > self.SECONDS
        signum, late = self._agreed(trainer, late)
        if signum:
            self.save(trainer)
            name = signal.Signals(signum).name
            back = requeue() if self.requeue and name == "SIGUSR1" and trainer.is_global_zero else None
            raise Interrupted(f"stopped by {name} at step {step}; {back or 'go on with --resume'}", signum)
        if late or (self.every and step % self.every == 0):
            self.save(trainer)

    def _agreed(self, trainer: pl.Trainer, late: bool) -> tuple[int, bool]:
        """Signal and whether a checkpoint is late, the same in every process: all must stop or save together."""
        if trainer.world_size > 1 and trainer.global_step % self.AGREE_EVERY:
            return 0, False
        signum, overdue = agree([self._signum, late], trainer.strategy.root_device)
        return signum, bool(overdue)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the end."""
        if trainer.global_step != self._saved_step:
            self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        """Take a checkpoint now and drop the oldest beyond the last two."""
        trainer.save_checkpoint(self.folder / f"step-{trainer.global_step:08d}.ckpt")
        if trainer.is_global_zero:
            for old in sorted(self.folder.glob("step-*.ckpt"))[: -self.KEEP]:
                for part in sorted(self.folder.glob(f"{old.name}*")):  # the first one's before the others'
                    part.unlink()
        self.also()
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self._signum:  # asked twice: no more waiting for the end of the step
            raise Interrupted(f"stopped at once by {signal.Signals(signum).name}", signum)
        self._signum = signum
