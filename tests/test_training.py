"""The training loop: same losses whatever the workers, same weights however often stopped, nothing lost on the way."""

from __future__ import annotations

import errno
import math
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from ssl_toolkit.checkpoints import STOPS, Checkpoints, Interrupted
from ssl_toolkit.contrastive.simclr import SimCLR
from ssl_toolkit.encoders import load_encoder
from ssl_toolkit.errors import ToolkitError
from ssl_toolkit.logs import read_metrics
from ssl_toolkit.method import Method
from ssl_toolkit.methods import installed_methods, method_class
from ssl_toolkit.optim import OptimizerConfig, schedule_factor
from ssl_toolkit.pretext.rotation import Rotation
from ssl_toolkit.training import automatic_precision, native_bf16
from tests.conftest import frames_of, tiny_heads
from tests.killing import killed


class StopAt(pl.Callback):
    """Sends this process a signal, or dies as if by kill -9, when a step begins."""

    class Killed(BaseException):
        pass

    def __init__(self, batch: int, signum: int = 0) -> None:
        self.batch, self.signum = batch, signum

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx == self.batch:
            if not self.signum:
                raise self.Killed
            os.kill(os.getpid(), self.signum)

    def __str__(self) -> str:
        return f"{type(self).__name__}-{self.batch}-{self.signum}"

    __repr__ = __str__


class LateAt(StopAt):
    """From a batch on a checkpoint is overdue, and soon after one was taken the process dies."""

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        (checkpoints,) = (each for each in trainer.callbacks if isinstance(each, Checkpoints))
        if trainer.fit_loop.epoch_loop.total_batch_idx == self.batch:
            checkpoints._saved_at = -math.inf
        elif checkpoints._saved_step > 0:
            raise self.Killed


def same_weights(one: Method, two: Method) -> bool:
    ours, theirs = one.state_dict(), two.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("found", [SimCLR, Rotation])
@pytest.mark.parametrize("accumulate", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_at_any_step_resumes_to_the_same_weights(
    train_quickly: Callable, noise_images: Callable, found: type[Method], accumulate: int
) -> None:
    images = noise_images(26)  # three batches an epoch
    common = {"epochs": 3, "checkpoint_every": 1, "accumulate": accumulate}
    whole = train_quickly(found, images, out="whole", **common)
    for batch in range(1, 9):
        # Killed again soon after resuming: counters that the first resumption left wrong would mislead the second.
        out, stops = f"stopped-{batch}", [stop for stop in (batch, batch + 2) if stop < 9]
        for stop in stops:
            with pytest.raises(StopAt.Killed):
                train_quickly(found, images, out=out, resume=True, callbacks=[StopAt(stop)], **common)
        resumed = train_quickly(found, images, out=out, resume=True, **common)
        assert same_weights(whole, resumed), f"killed in batches {stops}"


# So that schedules and beginnings lie on both sides of the kills: 9 steps, of which the first 3 are the first epoch.
RESUMED = {
    "cpc": {"steps": 2},
    "dino": {"first_teacher_temperature": 0.08, "teacher_warmup": 0.8},
    "swav": {"queue_start": 0.4},
}


@pytest.mark.parametrize("name", installed_methods())
@pytest.mark.parametrize(
    ("accumulate", "stops"),
    [
        (1, [StopAt(2), StopAt(5)]),
        (2, [StopAt(3, signal.SIGINT)]),
        *(
            pytest.param(accumulate, [stop], marks=pytest.mark.slow)
            for accumulate in (2, 3)
            for batch in range(3, 3 + accumulate)
            for stop in (StopAt(batch), StopAt(batch, signal.SIGTERM), LateAt(batch))
        ),
    ],
    ids=str,
)
def test_every_method_resumes_with_all_of_its_state(
    train_quickly: Callable, noise_images: Callable, name: str, accumulate: int, stops: list[StopAt]
) -> None:
    found = method_class(name)
    images = noise_images(26, frames=frames_of(found))  # three batches an epoch
    common = {
        "epochs": 3,
        "accumulate": accumulate,
        "optimizer": OptimizerConfig(final_weight_decay=0.1),
        "method": tiny_heads(found) | RESUMED.get(name, {}),
        "views": {"size": 27} if name in ("jigsaw", "relative_patch") else {},  # nine tiles of 8 px
    }
    whole = train_quickly(found, images, out="whole", checkpoint_every=None, **common)
    common["checkpoint_every"] = None if type(stops[0]) is LateAt else 1
    for stop in stops:
        with pytest.raises((StopAt.Killed, Interrupted)):
            train_quickly(found, images, out="stopped", resume=True, callbacks=[stop], **common)
    assert same_weights(whole, train_quickly(found, images, out="stopped", resume=True, **common))


class KillAt(pl.Callback):
    """The real thing: kill -9 when a batch begins."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx == self.batch:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_kill_9_resumes_to_the_same_weights(
    train_quickly: Callable, noise_images: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, accumulate: int
) -> None:
    images = noise_images(26)  # three batches an epoch
    common = {"epochs": 3, "checkpoint_every": 2 // accumulate, "accumulate": accumulate}
    whole = train_quickly(SimCLR, images, out="whole", **common)
    for batch in (1, 3, 5, 7):
        out, stop = f"stopped-{batch}", {"callbacks": [KillAt(batch)]}
        assert killed(lambda out=out, stop=stop: train_quickly(SimCLR, images, out=out, **stop, **common))
        assert same_weights(whole, train_quickly(SimCLR, images, out=out, resume=True, **common)), batch
    # After the last checkpoint and before the encoder is written: nothing is left to train, yet the encoder is due.
    with monkeypatch.context() as patch:
        patch.setattr("ssl_toolkit.training.save_encoder", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        assert killed(lambda: train_quickly(SimCLR, images, out="end", epochs=3, accumulate=accumulate))
    assert not (tmp_path / "end" / "encoder.safetensors").exists()
    train_quickly(SimCLR, images, out="end", epochs=3, accumulate=accumulate, resume=True)
    assert load_encoder(tmp_path / "end").sha256 == whole.encoder.sha256


@pytest.mark.parametrize("every", [1, 2, None])
def test_extended_where_nothing_depends_on_the_length_is_one_long_run(
    train_quickly: Callable, noise_images: Callable, every: int | None
) -> None:
    images, common = noise_images(26), {"checkpoint_every": every, "optimizer": OptimizerConfig(schedule="constant")}
    # A warm-up that is as long for both: three of the nine steps are the first epoch.
    whole = train_quickly(SimCLR, images, out="whole", epochs=3, first_epochs=1, **common)
    train_quickly(SimCLR, images, out="first", epochs=1, **common)
    extended = train_quickly(SimCLR, images, out="first", epochs=3, first_epochs=1, resume=True, **common)
    assert same_weights(whole, extended)


@pytest.mark.parametrize("name", ["simclr", "inpainting", pytest.param("dino", marks=pytest.mark.slow)])
def test_extended_takes_the_rates_of_the_new_length_and_resumes_to_the_same_weights(
    train_quickly: Callable, noise_images: Callable, tmp_path: Path, name: str
) -> None:
    found, images = method_class(name), noise_images(26)
    options = OptimizerConfig(lr=1e-3, warmup=0.3, final_weight_decay=0.1)
    common = {"checkpoint_every": 2, "optimizer": options, "method": tiny_heads(found), "resume": True}
    extended = {"epochs": 4, "first_epochs": 2, **common}  # three batches an epoch
    for out in ("whole", "stopped"):
        train_quickly(found, images, out=out, epochs=2, **common)
    first: list[float] = []
    told = pl.callbacks.LambdaCallback(
        on_train_batch_start=lambda trainer, *_: first.append(trainer.optimizers[0].param_groups[0]["lr"])
    )
    whole = train_quickly(found, images, out="whole", callbacks=[told], **extended)
    for stop in (6, 9):  # before there is a checkpoint of the new length, and after
        with pytest.raises(StopAt.Killed):
            train_quickly(found, images, out="stopped", callbacks=[StopAt(stop)], **extended)
    assert same_weights(whole, train_quickly(found, images, out="stopped", **extended))
    rates = [float(row["lr"]) for row in read_metrics(tmp_path / "whole" / "metrics.csv")]
    due = [schedule_factor("cosine", step, 6, 0.3) for step in range(1, 7)]
    due += [schedule_factor("cosine", step, 12, 0.3, first=6) for step in range(7, 13)]
    assert rates == pytest.approx([1e-3 * factor for factor in due], rel=1e-4, abs=1e-9)
    assert first[:1] == pytest.approx([1e-3 * (1 + math.cos(math.pi * 0.4)) / 2])  # 4 of the 10 steps after the warm-up


def test_resuming_continues_the_metrics(train_quickly: Callable, noise_images: Callable, tmp_path: Path) -> None:
    images, common = noise_images(26), {"epochs": 3, "checkpoint_every": 2}
    train_quickly(SimCLR, images, out="whole", **common)
    with pytest.raises(StopAt.Killed):
        train_quickly(SimCLR, images, out="stopped", callbacks=[StopAt(7)], **common)
    train_quickly(SimCLR, images, out="stopped", resume=True, **common)
    whole, resumed = (
        [(row["step"], row["epoch"], row["loss"], row["lr"]) for row in read_metrics(tmp_path / out / "metrics.csv")]
        for out in ("whole", "stopped")
    )
    assert [int(row[0]) for row in whole] == list(range(1, 10))
    assert whole == resumed


@pytest.mark.parametrize("found", [SimCLR, Rotation])
def test_workers_change_no_loss(
    train_quickly: Callable, noise_images: Callable, tmp_path: Path, found: type[Method]
) -> None:
    images = noise_images(20, broken=(4,))
    images.word = "twenty"
    from ssl_toolkit.data.bad_images import BadImages
    from ssl_toolkit.data.loader import ImageLoader

    losses = []
    for workers in (0, 2):
        bad = BadImages(images, max_rate=0.5)
        loader = ImageLoader(images, 16, batch_size=5, shuffle=True, workers=workers, bad=bad)
        assert loader._loader.num_workers == workers
        torch.manual_seed(0)
        method = found(*_encoder_and_views(found))
        losses.append(_fit(method, loader, tmp_path / f"workers-{workers}"))
    assert losses[0] == losses[1]
    assert len(losses[0]) == 8


def _encoder_and_views(found: type[Method]) -> tuple[Any, Any]:
    from ssl_toolkit.encoders import Encoder, EncoderConfig

    return Encoder(EncoderConfig("convnet", image_size=16, load_size=16)), found.default_views(16)


def _fit(method: Method, loader: Any, folder: Path) -> list[str]:
    from ssl_toolkit.runs import start_run
    from ssl_toolkit.training import fit

    fit(method, loader, start_run(folder, {}), epochs=2, progress=False, accelerator="cpu")
    return [row["loss"] for row in read_metrics(folder / "metrics.csv")]


@pytest.fixture
def listened_to(signum: signal.Signals) -> Iterator[None]:
    """The signal as Python finds it, where the tests themselves run under nohup."""
    before = signal.signal(signum, signal.SIG_DFL if signum != signal.SIGINT else signal.default_int_handler)
    yield
    signal.signal(signum, before)


@pytest.mark.parametrize("signum", STOPS)
def test_a_signal_saves_and_stops(
    train_quickly: Callable, noise_images: Callable, tmp_path: Path, signum: signal.Signals, listened_to: None
) -> None:
    images, before = noise_images(26), signal.getsignal(signum)
    whole = train_quickly(SimCLR, images, out="whole", epochs=3)
    with pytest.raises(Interrupted, match=rf"stopped by {signum.name} at step 5; go on with --resume") as stopped:
        train_quickly(SimCLR, images, out="stopped", epochs=3, callbacks=[StopAt(4, signum)])
    assert stopped.value.signum == signum
    assert signal.getsignal(signum) is before
    assert [path.name for path in (tmp_path / "stopped" / "checkpoints").iterdir()] == ["step-00000005.ckpt"]
    load_encoder(tmp_path / "stopped")
    assert same_weights(whole, train_quickly(SimCLR, images, out="stopped", epochs=3, resume=True))


@pytest.mark.parametrize(("accumulate", "by"), [(2, "signal"), (3, "signal"), (2, "clock"), (3, "clock")])
def test_no_checkpoint_holds_half_a_step(
    train_quickly: Callable, noise_images: Callable, tmp_path: Path, accumulate: int, by: str
) -> None:
    images = noise_images(50)  # six batches an epoch
    common = {"epochs": 2, "accumulate": accumulate}
    whole = train_quickly(SimCLR, images, out="whole", **common)
    for batch in range(accumulate, 2 * accumulate):  # every place in the second window
        stops: list[pl.Callback] = [StopAt(batch, signal.SIGINT) if by == "signal" else LateAt(batch)]
        with pytest.raises(Interrupted if by == "signal" else StopAt.Killed):
            train_quickly(SimCLR, images, out=f"stopped-{batch}", callbacks=stops, **common)
        assert newest(tmp_path / f"stopped-{batch}") == 2
        resumed = train_quickly(SimCLR, images, out=f"stopped-{batch}", resume=True, **common)
        assert same_weights(whole, resumed), f"stopped in batch {batch}"


def newest(run: Path) -> int:
    """Step of the newest checkpoint."""
    return max(int(path.stem.split("-")[1]) for path in (run / "checkpoints").glob("step-*.ckpt"))


def test_a_run_goes_on_with_the_threads_that_it_began_with(
    train_quickly: Callable, noise_images: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    images, before, seen = noise_images(26), torch.get_num_threads(), []

    class Look(pl.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            seen.append(torch.get_num_threads())

    with pytest.raises(Interrupted):
        train_quickly(SimCLR, images, epochs=2, callbacks=[StopAt(1, signal.SIGINT)])
    try:
        torch.set_num_threads(before + 2)
        train_quickly(SimCLR, images, epochs=2, resume=True, callbacks=[Look()])
        assert set(seen) == {before}
        assert torch.get_num_threads() == before + 2
    finally:
        torch.set_num_threads(before)
    assert f"threads: {before}, as the run began" in capsys.readouterr().err


def test_a_closed_terminal_is_outlived_under_nohup(train_quickly: Callable, noise_images: Callable) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        train_quickly(SimCLR, noise_images(26), epochs=1, callbacks=[StopAt(1, signal.SIGHUP)])
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_full_disk_is_one_line_and_the_checkpoint_before_stays(
    train_quickly: Callable, noise_images: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, common = noise_images(26), {"epochs": 2, "checkpoint_every": 1}
    whole = train_quickly(SimCLR, images, out="whole", **common)
    taken, written = torch.save, []

    class Full:
        """A file on a disk that is full after some bytes."""

        def __init__(self, file: Any) -> None:
            self.file, self.left = file, 10_000

        def write(self, data: Any) -> int:
            self.left -= len(data)
            if self.left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return int(self.file.write(data))

    def save(checkpoint: Any, file: Any) -> None:
        written.append(file)
        taken(checkpoint, file if len(written) < 3 else Full(file))

    with monkeypatch.context() as patch:
        patch.setattr("torch.save", save)
        with pytest.raises(ToolkitError, match=r"step-00000003.ckpt cannot be written: No space left.*--resume$"):
            train_quickly(SimCLR, images, out="stopped", **common)
    names = sorted(path.name for path in (tmp_path / "stopped" / "checkpoints").iterdir())
    assert names == ["step-00000001.ckpt", "step-00000002.ckpt"]
    assert same_weights(whole, train_quickly(SimCLR, images, out="stopped", resume=True, **common))


def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    train_quickly: Callable, noise_images: Callable, tmp_path: Path
) -> None:
    images, common = noise_images(26), {"epochs": 3, "checkpoint_every": 1}
    whole = train_quickly(SimCLR, images, out="whole", **common)
    with pytest.raises(StopAt.Killed):
        train_quickly(SimCLR, images, out="stopped", callbacks=[StopAt(6)], **common)
    newest = tmp_path / "stopped" / "checkpoints" / "step-00000006.ckpt"
    flip_a_bit(newest)
    with pytest.warns(UserWarning, match=r"step-00000006.ckpt .*damaged.*falling back"):
        resumed = train_quickly(SimCLR, images, out="stopped", resume=True, **common)
    assert same_weights(whole, resumed)


def test_no_checkpoint_that_loads(train_quickly: Callable, noise_images: Callable, tmp_path: Path) -> None:
    images = noise_images(26)
    train_quickly(SimCLR, images, epochs=1)
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        path.write_bytes(b"not a checkpoint")
    with (
        pytest.warns(UserWarning, match="cannot be read"),
        pytest.raises(ToolkitError, match="none of the 1 checkpoints"),
    ):
        train_quickly(SimCLR, images, epochs=1, resume=True)


def test_only_the_last_two_checkpoints_are_kept(
    train_quickly: Callable, noise_images: Callable, tmp_path: Path
) -> None:
    train_quickly(SimCLR, noise_images(26), epochs=2, checkpoint_every=1)
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step-00000005.ckpt", "step-00000006.ckpt"]


def test_the_encoder_that_is_saved_is_the_one_that_was_trained(
    train_quickly: Callable, noise_images: Callable, tmp_path: Path
) -> None:
    method = train_quickly(SimCLR, noise_images(26), epochs=1)
    image = torch.rand(2, 3, 16, 16)
    assert torch.equal(load_encoder(tmp_path / "run")(image), method.eval()(image))


def test_a_loss_that_is_not_finite_ends_the_run(train_quickly: Callable, noise_images: Callable) -> None:
    with pytest.raises(ToolkitError, match=r"loss or gradient is nan at step \d+, as in the 4 before: lower"):
        train_quickly(SimCLR, noise_images(26), epochs=20, optimizer=OptimizerConfig("sgd", lr=1e30, warmup=0))


class Darkest(Rotation):
    """Keeps the darkest value that any view has."""

    value = 1.0

    def step(self, views: list[torch.Tensor], batch: Any) -> dict[str, torch.Tensor]:
        self.value = min(self.value, views[0].min().item())
        return super().step(views, batch)


def test_no_view_shows_the_padding_of_unequal_images(train_quickly: Callable, noise_images: Callable) -> None:
    images = noise_images(16)
    shapes = [(16, 16 + 3 * number) if number % 2 else (16 + 2 * number, 16) for number in range(16)]
    images.pixels = [np.full((3, *shape), 204, np.uint8) for shape in shapes]
    method = train_quickly(Darkest, images, epochs=2)
    assert method.value == pytest.approx(0.8, abs=1e-3)


class CountUpdates(Rotation):
    """Counts the calls of its hook."""

    updates = 0

    def after_update(self) -> None:
        self.updates += 1


@pytest.mark.parametrize(("accumulate", "expected"), [(1, 6), (2, 4)])
def test_after_update_runs_once_an_optimizer_step(
    train_quickly: Callable, noise_images: Callable, accumulate: int, expected: int
) -> None:
    method = train_quickly(CountUpdates, noise_images(26), epochs=2, accumulate=accumulate)
    assert method.updates == expected


def test_bfloat16_counts_only_where_the_device_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert not native_bf16("auto")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert native_bf16("auto")
    assert native_bf16("cpu")
    assert not native_bf16("mps")


@pytest.mark.parametrize(
    ("cuda", "bf16", "accelerator", "expected"),
    [
        (True, True, "auto", "bf16-mixed"),
        (True, True, "cpu", "32-true"),
        (True, False, "auto", "32-true"),
        (False, True, "auto", "32-true"),  # not by a CPU's own
    ],
)
def test_precision_auto_is_bfloat16_on_a_gpu_that_has_it(
    cuda: bool, bf16: bool, accelerator: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: bf16)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16, raising=False)
    assert automatic_precision(accelerator) == expected


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


class Measuring(Rotation):
    """Keeps what it measures; resumes must not measure anew."""

    measured: torch.Tensor

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.register_buffer("measured", torch.zeros(2))

    def prepare(self, views: Any) -> None:
        found = torch.cat([made[0] for made in views])
        self.measured += torch.tensor([len(found), found.mean()])


def test_a_method_measures_the_data_once(train_quickly: Callable, noise_images: Callable) -> None:
    images = noise_images(26)
    common = {"epochs": 2, "checkpoint_every": 1, "out": "run"}
    whole = train_quickly(Measuring, images, **{**common, "out": "whole"})
    assert whole.measured[0] == 24  # whole batches
    assert whole.measured[1].item() == pytest.approx(0.5, abs=0.02)
    with pytest.raises(StopAt.Killed):
        train_quickly(Measuring, images, callbacks=[StopAt(3)], **common)
    assert same_weights(whole, train_quickly(Measuring, images, resume=True, **common))
