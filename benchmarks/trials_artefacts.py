"""Trials of `reliability.py` with what the toolkit has written: damaged, mistaken for another, or half written."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from trial import Seen, forked, forked_cli, scaled
from trials_images import TRAIN, mutated

from ssl_toolkit.checkpoints import AtomicCheckpointIO
from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.data.sources import open_images
from ssl_toolkit.encoders import Encoder, EncoderConfig, load_encoder, save_encoder
from ssl_toolkit.errors import ToolkitError
from ssl_toolkit.eval.search.index import EmbeddingIndex
from ssl_toolkit.runs import start_run
from ssl_toolkit.tasks.embedding import embed
from ssl_toolkit.tasks.indexing import index as build_index
from tests.conftest import noise, same_hits
from tests.data.small_files import paint

KINDS = ["Flat", "HNSW8", "IVF4,Flat", "IVF4,SQ8", "IVF4,PQ4x4", "PQ4x4", "SQ8", "NSG8,Flat", "PCA4,Flat", "OPQ4,PQ4x4"]
MUTATIONS = ("flipped bytes", "truncated", "bytes from elsewhere")


def index_of(folder: Path, count: int = 300, sha256: str = "e" * 64, **options: Any) -> EmbeddingIndex:
    """An index of made-up vectors of width 8."""
    file = folder / f"encoder-{sha256[:4]}.bin"
    file.write_bytes(b"the weights of an encoder")
    names = [f"{number}.jpg" for number in range(count)]
    about = {"encoder_file": file, "encoder_sha256": sha256, "data": "photos", **options}
    return EmbeddingIndex.build(noise(count), names, **about)


class Refused(Exception):  # noqa: N818 - it is what is hoped for
    """The artefact was not opened."""


def damaged(share: float) -> Seen:
    """Row 9."""
    counts = {name: scaled(full, share) for name, full in (("index", 200), ("safetensors", 600), ("checkpoint", 300))}
    crashes = wrong = refused = harmless = 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        artefacts: list[tuple[Path, Callable[[], object], int]] = []
        for number, kind in enumerate(KINDS):
            index_of(folder, factory=kind).save(folder / f"index{number}")
            load = _answers(folder / f"index{number}")
            artefacts.append((folder / f"index{number}", load, counts["index"] * len(MUTATIONS)))
        encoder = Encoder(EncoderConfig("convnet", image_size=16, load_size=16))
        save_encoder(encoder, folder / "encoder.safetensors")
        artefacts.append(
            (folder / "encoder.safetensors", _weights(folder / "encoder.safetensors"), counts["safetensors"])
        )
        checkpoint = folder / "step-00000001.ckpt"
        AtomicCheckpointIO().save_checkpoint({"state_dict": encoder.state_dict(), "step": 1}, checkpoint)
        artefacts.append((checkpoint, _state(checkpoint), counts["checkpoint"]))
        for path, load, count in artefacts:
            outcome = forked(lambda p=path, read=load, c=count: _damage(p, read, c))
            crashes += outcome is None
            one, two, three = outcome or (0, 0, 0)
            wrong, refused, harmless = wrong + one, refused + two, harmless + three
    tried = f"{len(KINDS)} index types x 3 mutations x {counts['index']}; safetensors x {counts['safetensors']}; " \
            f"checkpoints x {counts['checkpoint']}"  # fmt: skip
    seen = f"{crashes} crashes, {wrong} wrong answers; {refused} refused, {harmless} harmless (the same answers)"
    return Seen(tried, seen, not crashes and not wrong)


def _answers(folder: Path) -> Callable[[], object]:
    return lambda: EmbeddingIndex.load(folder).search(noise(4, seed=1), 5)


def _weights(file: Path) -> Callable[[], object]:
    return lambda: load_encoder(file).state_dict()


def _state(file: Path) -> Callable[[], object]:
    return lambda: AtomicCheckpointIO().load_checkpoint(file)["state_dict"]


def _damage(path: Path, load: Callable[[], object], count: int) -> tuple[int, int, int]:
    """Wrong answers, refusals, and damage that changed nothing; of a folder, one of its files at a time."""
    rng, expected = np.random.default_rng(0), load()
    wrong = refused = harmless = 0
    for number in range(count):
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        file = files[number % len(files)]
        whole = file.read_bytes()
        file.write_bytes(mutated(whole, MUTATIONS[number % 3], rng))
        try:
            found = load()
        except ToolkitError:
            refused += 1
        else:
            wrong, harmless = wrong + (not _same(found, expected)), harmless + _same(found, expected)
        file.write_bytes(whole)
    return wrong, refused, harmless


def _same(one: Any, two: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in two)
    return same_hits(one, two)


def mismatches(share: float) -> Seen:
    """Row 10."""
    with tempfile.TemporaryDirectory() as place:
        tries = _mismatches(Path(place))
        named = {name: _both_named(work, words) for name, (work, words) in tries.items()}
    lacking = ", ".join(name for name, fine in named.items() if not fine)
    return Seen(", ".join(tries), f"{sum(named.values())} of {len(named)} refused, both sides named"
                + f" (not {lacking})" * bool(lacking), all(named.values()))  # fmt: skip


def _both_named(work: Callable[[], object], words: tuple[str, str]) -> bool:
    try:
        work()
    except ToolkitError as error:
        return all(word in str(error) for word in words)
    return False


def _mismatches(folder: Path) -> dict[str, tuple[Callable[[], object], tuple[str, str]]]:
    one, other = index_of(folder), index_of(folder, sha256="f" * 64)
    l2 = index_of(folder, metric="l2")
    config = {"seed": 0, "method": {"name": "simclr"}, "data": "photos", "load_size": 32, "encoder": {"name": "vit"}}
    start_run(folder / "run", config)

    def resumed(**changes: Any) -> Callable[[], object]:
        return lambda: start_run(folder / "run", config | changes, resume=True)

    for name, images in (("abc", "abc"), ("abd", "abd"), ("abcd", "abcd")):
        for image in images:
            paint(folder / name / f"{image}.png")

    def loader(name: str) -> ImageLoader:
        return ImageLoader(open_images(f"{folder}/{name}"), 16, batch_size=2, shuffle=True)

    state = loader("abc").state_dict()
    return {
        "encoder": (lambda: one.check_encoder("f" * 64), ("eeee", "ffff")),
        "encoder of indexes to be merged": (lambda: EmbeddingIndex.merged([one, other]), ("eeee", "ffff")),
        "preprocessing": (resumed(load_size=48), ("48", "32")),
        "dimension": (lambda: one.search(noise(3, width=5)), ("(N, 8)", "(3, 5)")),
        "metric": (lambda: EmbeddingIndex.merged([one, l2]), ("cosine", "l2")),
        "count": (lambda: loader("abcd").load_state_dict(state), ("4", "3")),
        "order": (lambda: loader("abd").load_state_dict(state), ("d.png", "c.png")),
        "method": (resumed(method={"name": "moco"}), ("moco", "simclr")),
        "data": (resumed(data="pages"), ("pages", "photos")),
        "seed": (resumed(seed=7), ("7", "0")),
    }


def idempotent(share: float) -> Seen:
    """Row 13."""
    count = scaled(30, share)
    rng, same, amid = random.Random(0), 0, 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for number in range(300):
            paint(folder / "images" / f"{number:03d}.png", number % 256, (20, 20))
        train = ["pretrain", "--method", "simclr", "--data", "shapes:train:32", *TRAIN, "--out", f"{folder}/run"]
        assert forked_cli(train)[0] == 0
        for number in range(count):
            task = (embed, build_index)[number % 2]
            given: dict[str, Any] = {"run": folder / "run", "data": str(folder / "images"), "workers": 0,
                                     "progress": False}  # fmt: skip
            start = time.perf_counter()
            forked(lambda t=task, g=given: str(t(out=folder / "whole", overwrite=True, **g)))
            lasts = time.perf_counter() - start
            out = folder / f"out{number}"
            amid += _killed(lambda t=task, g=given, o=out: t(out=o, **g), rng.uniform(0, lasts))
            again = forked(lambda t=task, g=given, o=out: str(t(out=o, overwrite=True, **g)))
            same += again is not None and _rows(out) == _rows(folder / "whole")
            shutil.rmtree(out), shutil.rmtree(folder / "whole")
    return Seen(f"{count} kills, {amid} of them before the end", f"{same} of {count}: the same rows", same == count)


def _killed(work: Callable[[], object], seconds: float) -> bool:
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            work()
        os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def _rows(folder: Path) -> object:
    """What was written, whatever its files are called."""
    if (folder / "manifest.json").exists():
        found = EmbeddingIndex.load(folder)
        return np.asarray(found.vectors).tobytes(), found.paths
    return {file.name: file.read_bytes() for file in folder.glob("[!.]*") if file.suffix in (".npy", ".jsonl")}
