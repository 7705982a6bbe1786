"""What a run writes down while it trains: ``metrics.csv`` and a progress bar."""

from __future__ import annotations

import csv
import importlib.util
import os
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from ssl_toolkit.errors import UsageError, missing_extra, unknown_name
from ssl_toolkit.files import write_atomic
from ssl_toolkit.objects import describe, is_object, missing_object
from ssl_toolkit.progress import duration, progress_bar, say

# Loggers by name, and the extra that each needs.
EXTRAS = {"csv": None, "tensorboard": "tb", "wandb": "wandb", "mlflow": "mlflow"}


def is_logged(trainer: pl.Trainer) -> bool:
    """Whether the loggers of a Trainer write down the step at which it is."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return every > 0 and (trainer.fit_loop.epoch_loop._batches_that_stepped + 1) % every == 0


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The rows of a ``metrics.csv``; none if it does not exist yet."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def check_logger(asked: Any) -> list[str | Logger]:
    """The loggers that are asked for, as a list of names and objects.

    Args:
        asked: One of `EXTRAS`, a logger of Lightning, or a list of these; ``"auto"`` or True: tensorboard if it is
            installed; False: none.

    Raises:
        UsageError: If there is no such logger, or its library is not installed.
    """
    if asked in ("auto", True):
        return ["tensorboard"] if importlib.util.find_spec("tensorboard") else []
    listed = [] if asked is False else list(asked) if isinstance(asked, list | tuple) else [asked]
    for each in listed:
        if is_object(each):
            raise missing_object("logger", each)
        if not isinstance(each, str | Logger):
            raise UsageError(f"logger is {describe(each)}: give a name, a logger of Lightning, or a list of these")
        if isinstance(each, str) and each not in EXTRAS:
            raise unknown_name("logger", each, EXTRAS)
        extra = EXTRAS[each] if isinstance(each, str) else None
        if extra is not None and importlib.util.find_spec(str(each)) is None:
            raise missing_extra(f"logger {each}", extra)
    return [each for each in listed if each != "csv"]


def make_loggers(asked: Any, folder: Path) -> list[Logger]:
    """The loggers of a run besides its ``metrics.csv``; see `check_logger`.

    Args:
        asked: What `check_logger` takes.
        folder: The run's; what a service of its own does not keep lies there.
    """
    return [_named_logger(each, folder) if isinstance(each, str) else each for each in check_logger(asked)]


def _named_logger(name: str, folder: Path) -> Logger:
    from pytorch_lightning import loggers

    if name == "tensorboard":
        return loggers.TensorBoardLogger(folder, name="tensorboard", version="")
    if name == "wandb":
        return loggers.WandbLogger(name=folder.name, save_dir=folder, project="ssl-toolkit")
    # Its newer versions refuse folders of files.
    place = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.absolute() / 'mlflow.db'}"
    return loggers.MLFlowLogger("ssl-toolkit", folder.name, tracking_uri=place)


class CsvLog(Logger):
    """One row a logged step, one column a metric; a resumed run goes on in the same file.

    Args:
        path: The CSV file.
        resume_step: Rows of later steps are dropped: the resumed run writes them again.
    """

    def __init__(self, path: Path, resume_step: int = 0) -> None:
        super().__init__()
        self.path = path
        # The last row may be torn.
        whole = [row for row in read_metrics(path) if None not in row.values() and row["step"].isdecimal()]
        self._rows = [row for row in whole if int(row["step"]) <= resume_step]
        self._columns = list(self._rows[0]) if self._rows else ["step", "epoch"]
        self._write_all()

    @property
    def name(self) -> str:
        """Lightning's name for the log."""
        return "csv"

    @property
    def version(self) -> str:
        """Lightning's version of the log: a run has one."""
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run folder holds the whole configuration."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append a row, or fill up the last one if it is of the same step.

        Args:
            metrics: Name to value.
            step: Lightning's, which counts from 0; the file says how many steps have been done.
        """
        step = (step or 0) + 1
        row = {"step": str(step), **{k: f"{v:.6g}" for k, v in metrics.items()}}
        row["epoch"] = str(int(metrics.get("epoch", 0)))
        same = bool(self._rows) and self._rows[-1]["step"] == row["step"]
        new = [name for name in row if name not in self._columns]
        if same:
            self._rows[-1] |= row
        else:
            self._rows.append(row)
        self._columns += new
        if new or same:
            self._write_all()
        else:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self._columns, lineterminator="\n").writerow(row)

    def _write_all(self) -> None:
        lines = [self._columns, *([row.get(name, "") for name in self._columns] for row in self._rows)]
        text = "".join(",".join(line) + "\n" for line in lines)
        write_atomic(self.path, lambda temporary: temporary.write_text(text))


JUDGED_STEPS, JUDGED_SECONDS = 5, 15.0  # that tell how long the others take


class Progress(pl.Callback):
    """One bar over the whole run, with loss, speed and time left; also logs the learning rate and images a second.

    The time left is said in a line of its own too, once, when steps of some seconds tell it.

    Args:
        steps: Batches of the whole run.
        show: Whether the bar is shown.
    """

    def __init__(self, steps: int, show: bool = True) -> None:
        self.steps, self.show = steps, show
        self._bar: Any = None
        self._images, self._since, self._logged = 0, 0.0, 0
        self._judged: tuple[int, float] | None = None  # steps done when judging began, and when that was
        self._told = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar where the run stands."""
        done = trainer.fit_loop.epoch_loop.total_batch_idx + 1
        self._bar = progress_bar(self.steps, "training", "step", self.show, done)
        self._images, self._since, self._logged = 0, time.perf_counter(), trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Count, and measure at the steps that are logged."""
        batch = args[1]
        self._bar.update()
        if not self._told and trainer.is_global_zero:
            self._tell_time_left(trainer.fit_loop.epoch_loop.total_batch_idx + 1, len(batch.image) * trainer.world_size)
        self._images += len(batch.image) * trainer.world_size
        step = trainer.global_step
        if step == self._logged or step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        now = time.perf_counter()
        rate = self._images / (now - self._since)
        self._images, self._since, self._logged = 0, now, step
        pl_module.log_dict({"lr": trainer.optimizers[0].param_groups[0]["lr"], "images_per_second": rate})
        loss = float(trainer.callback_metrics["loss"])
        self._bar.set_postfix(loss=f"{loss:.3f}", images_s=f"{rate:.0f}", refresh=False)

    def _tell_time_left(self, done: int, images: int) -> None:
        now = time.perf_counter()
        self._judged = self._judged or (done, now)  # behind the first step, which chooses kernels, and compiles
        steps, seconds = done - self._judged[0], now - self._judged[1]
        if steps >= JUDGED_STEPS and seconds >= JUDGED_SECONDS:
            self._told, left = True, self.steps - done
            self._bar.clear()
            say(
                f"{steps * images / seconds:.0f} images a second: the {left:,} steps that are left take some "
                f"{duration(left * seconds / steps)}"
            )

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
