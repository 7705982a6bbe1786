"""Trials of `reliability.py` with runs that are killed, stopped, or have no room; and with memory."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from trial import Seen, forked, forked_cli, scaled

from ssl_toolkit.checkpoints import AtomicCheckpointIO, latest_checkpoint
from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.data.sources import open_images
from ssl_toolkit.encoders import Encoder, EncoderConfig, load_encoder, save_encoder
from ssl_toolkit.errors import ToolkitError
from ssl_toolkit.eval.search.index import EmbeddingIndex
from ssl_toolkit.logs import read_metrics
from ssl_toolkit.methods import installed_methods, method_class
from ssl_toolkit.runs import start_run
from tests.conftest import frames_of, some_noise, tiny_heads, train_in
from tests.data.small_files import paint
from tests.killing import children, ended, killed
from tests.test_devices import start
from tests.test_training import RESUMED, KillAt, same_weights

TINY = [
    "pretrain", "--method", "simclr", "--data", "shapes:train:64", "--encoder", "convnet", "--image-size", "16",
    "--batch-size", "16", "--epochs", "3", "--workers", "0", "--checkpoint-every", "1", "--progress", "false",
    "--method.hidden-dim", "32", "--method.projection-dim", "16",
]  # fmt: skip


def kill_and_resume(share: float) -> Seen:
    """Row 3."""
    names = installed_methods()
    plan = [(name, step, step % 2 * 2, 1) for name in names for step in (2, 5)]
    plan += [("simclr", step, 2 * (step % 2), 1 + step % 2) for step in range(1, 9)]
    plan += [("rotation", step, 2 * (step % 2), 2) for step in (3, 6)]
    plan = random.Random(0).sample(plan, scaled(len(plan), share))
    equal = sum(_same_after_a_kill(*kill) for kill in sorted(plan))
    tried = f"{len(plan)} kills of {len({name for name, *_ in plan})} methods in 9 steps, epoch ends among them, "
    return Seen(tried + "workers 0 and 2", f"{equal} of {len(plan)}", equal == len(plan))


def _same_after_a_kill(name: str, step: int, workers: int, accumulate: int) -> bool:
    found = method_class(name)
    images = some_noise(26, frames=frames_of(found))  # three batches an epoch
    common: dict[str, Any] = {
        "epochs": 3, "checkpoint_every": 1, "accumulate": accumulate, "workers": workers,
        "method": tiny_heads(found) | RESUMED.get(name, {}),
        "views": {"size": 27} if name in ("jigsaw", "relative_patch") else {},  # nine tiles of 8 px
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        whole = train_in(folder, found, images, out="whole", **common)
        died = killed(lambda: train_in(folder, found, images, out="run", callbacks=[KillAt(step)], **common))
        resumed = train_in(folder, found, images, out="run", resume=True, **common)
        return died and same_weights(whole, resumed)


def kill_while_saving(share: float) -> Seen:
    """Row 4."""
    count, amid, unreadable, rng = scaled(100, share), 0, 0, random.Random(0)
    os.environ["TMPDIR"] = tempfile.tempdir = "/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as place:
        folder = Path(place)
        encoder = Encoder(EncoderConfig("resnet18", image_size=32, load_size=32))
        state = {"state_dict": encoder.state_dict()}

        def save(number: int) -> None:
            AtomicCheckpointIO().save_checkpoint(state, folder / f"step-{number:08d}.ckpt")
            save_encoder(encoder, folder / "encoder.safetensors")

        save(0)
        start = time.perf_counter()
        save(1)
        lasts = time.perf_counter() - start
        for number in range(2, count + 2):
            amid += _killed_after(rng.uniform(0, lasts), lambda n=number: save(n))
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # the newest must load, not one before
                try:
                    latest_checkpoint(folder)
                    load_encoder(folder)
                except (ToolkitError, UserWarning):
                    unreadable += 1
            for old in sorted(folder.glob("step-*"))[:-2]:
                old.unlink()
    return Seen(f"{count} kills, {amid} of them amid a write, TMPDIR on another mount", f"{unreadable} unreadable",
                not unreadable)  # fmt: skip


def _killed_after(seconds: float, work: Callable[[], object]) -> bool:
    """Kill a child that has done a part of its work; whether it had not done all."""
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(theirs, b"x")
            work()
        finally:
            os._exit(0)
    os.read(ours, 1)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.close(ours), os.close(theirs)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A small file system of its own; needs root."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def no_room(share: float) -> Seen:
    """Row 5."""
    sizes, fine, full, older = [*range(1, 13), 40], 0, 0, 0
    if os.geteuid():
        return Seen("not tried: mounting a small disk needs root", "-", False)
    with tempfile.TemporaryDirectory() as place:
        for size in sizes:
            with mounted(Path(place, "disk"), f"size={size}m") as disk:
                code, told = forked_cli([*TINY, "--out", f"{disk}/run"])
                full += code != 0
                older += code != 0 and bool(list(disk.glob("run/checkpoints/step-*")))
                fine += _one_line(code, told) and _loads(disk / "run")
        with mounted(Path(place, "disk"), "size=1m,ro") as disk:
            fine += _refused(*forked_cli([*TINY, "--out", f"{disk}/run"]))
        fine += bool(forked(lambda: _as_nobody(Path(place))))
    total = len(sizes) + 2
    tried = "tmpfs of 1 to 12 and of 40 MB, a read-only mount, an unprivileged user"
    told = (
        f"{fine} of {total}: one line, exit 1 or 2; {full} disks were full, {older} of them with an older checkpoint, "
    )
    return Seen(tried, told + "which loads", fine == total and full > older > 0)


def _one_line(code: int, told: str) -> bool:
    errors = [line for line in told.splitlines() if "error" in line.lower()]
    return code == 0 or (code in (1, 2) and len(errors) == 1 and "Traceback" not in told)


def _refused(code: int, told: str) -> bool:
    return code != 0 and _one_line(code, told)


def _loads(run: Path) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return not list(run.glob("checkpoints/step-*")) or latest_checkpoint(run / "checkpoints") is not None


def _as_nobody(place: Path) -> bool:
    """Writing into a folder of somebody else's, as a user who may not; the program itself is loaded by then."""
    state, encoder = {"a": torch.zeros(3)}, Encoder(EncoderConfig("convnet", image_size=16, load_size=16))
    place.chmod(0o755)
    os.setuid(65534)
    writers: list[Callable[[], object]] = [
        lambda: start_run(place / "run", {}),
        lambda: AtomicCheckpointIO().save_checkpoint(state, place / "step-00000001.ckpt"),
    ]
    refused = 0
    for write in writers:
        try:
            write()
        except ToolkitError as error:
            refused += "Permission denied" in str(error)
    try:
        save_encoder(encoder, place / "encoder.safetensors")
    except PermissionError:
        refused += 1
    return refused == 3 and not list(place.glob("*.ckpt"))


SIGNALS = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129, "SIGUSR1": 138}


def signals(share: float) -> Seen:
    """Row 6."""
    found = []
    for devices in (1, 2):
        for name, code in SIGNALS.items():
            with tempfile.TemporaryDirectory() as place:
                run = Path(place, "run")
                options = ["--devices", str(devices), "--epochs", "1000"]
                process = start(run, *options)
                while process.poll() is None and len(read_metrics(run / "metrics.csv")) < 3:
                    time.sleep(0.1)
                family = children(process.pid) if process.poll() is None else []
                process.send_signal(getattr(signal, name))
                told = process.communicate(timeout=120)[1]
                gone = ended(family, 10)
                saved = latest_checkpoint(run / "checkpoints") is not None
                found.append(process.returncode == code and "Traceback" not in told and saved and gone)
    return Seen("INT, TERM, HUP, USR1 to 1 and 2 processes, sent to the first", f"{sum(found)} of {len(found)} saved; "
                "exit 130, 143, 129, 138; no process left", all(found))  # fmt: skip


def flat_memory(share: float) -> Seen:
    """Row 14."""
    tried = {
        "steps": (scaled(3000, share), _train_for), "searches": (scaled(10_000, share), _search_for),
        "images": (scaled(20_000, share), _read_for),
    }  # fmt: skip
    seen = {name: forked(lambda w=work, c=count: _growth(w, c)) for name, (count, work) in tried.items()}
    told = ", ".join(f"{mib:.2f} MB per 1,000 {name}" for name, mib in seen.items())
    return Seen(", ".join(f"{count:,} {name}" for name, (count, _) in tried.items()) + "; the second half",
                told, all(mib < 1 for mib in seen.values()))  # fmt: skip


def resident() -> float:
    """Memory of this process, MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


Points = list[tuple[int, float]]  # how much was done, and the memory then


def _growth(work: Callable[[int], Points], count: int) -> float:
    """MB per 1,000 in the second half, by a line through what was measured."""
    x, y = np.array([point for point in work(count) if point[0] >= count / 2], dtype=float).T
    return float(1000 * np.polyfit(x, y, 1)[0])


def _train_for(count: int) -> Points:
    class Look(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step % 20 == 0:
                seen.append((trainer.global_step, resident()))

    seen: Points = []
    found = method_class("simclr")
    with tempfile.TemporaryDirectory() as place:
        train_in(Path(place), found, some_noise(80), epochs=-(-count // 10), callbacks=[Look()],
                 method=tiny_heads(found))  # fmt: skip
    return seen


def _search_for(count: int) -> Points:
    rng, seen = np.random.default_rng(0), []
    with tempfile.TemporaryDirectory() as place:
        file = Path(place, "encoder")
        file.write_bytes(b"weights")
        vectors = rng.standard_normal((5000, 64), dtype=np.float32)
        about = {"encoder_file": file, "encoder_sha256": "e" * 64, "data": "photos"}
        index = EmbeddingIndex.build(vectors, [f"{i}.jpg" for i in range(len(vectors))], **about)
        for done in range(1, count + 1):
            index.search(rng.standard_normal((1, 64), dtype=np.float32), 10).rows()
            if done % 100 == 0:
                seen.append((done, resident()))
    return seen


def _read_for(count: int) -> Points:
    seen = [(0, resident())]
    with tempfile.TemporaryDirectory() as place:
        for number in range(200):
            paint(Path(place, f"{number}.png"), number, (64, 48))
        loader = ImageLoader(open_images(place), 32, batch_size=50, shuffle=True)
        while seen[-1][0] < count:
            for batch in loader:
                seen.append((seen[-1][0] + len(batch.image), resident()))
    return seen
