"""Trials of `reliability.py` with images and files that somebody else has made."""

from __future__ import annotations

import json
import os
import pickle
import resource
import tempfile
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from trial import Seen, forked, forked_cli, scaled

from tests.data.small_files import paint
from tests.hostile_images import encoded, photo, write_hostile

TRAIN = ["--encoder", "convnet", "--image-size", "16", "--batch-size", "16", "--epochs", "1", "--workers", "0"]
FORMATS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "TIFF": ".tiff"}


def hostile_images(share: float) -> Seen:
    """Row 1."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        hostile = {str(path) for path in write_hostile(folder / "images" / "hostile")}
        for number in range(200):
            paint(folder / "images" / "good" / f"{number}.png", number, (20, 20))
        listed, survived = set[str](), 0
        commands = {
            "run": ["pretrain", "--method", "simclr", "--data", f"{folder}/images", "--max-bad-rate", "0.5", *TRAIN],
            "features": ["embed", f"{folder}/run", "--data", f"{folder}/images", "--max-bad-rate", "0.5"],
            "index": ["index", f"{folder}/run", "--data", f"{folder}/images", "--max-bad-rate", "0.5"],
        }
        lists = []
        for name, command in commands.items():
            code, told = forked_cli([*command, "--out", str(folder / name)])
            survived += code == 0 and "Traceback" not in told
            lines = (folder / name / "bad_images.csv").read_text(errors="surrogateescape").splitlines()[1:]
            lists.append({line.rpartition(".")[0] for line in lines if line})
            listed |= {path for path in hostile if any(line.startswith((path, f'"{path}')) for line in lines)}
        good = np.load(folder / "features" / "features.npy")
        readable = {path for path in hostile if path not in listed}
    fine = survived == 3 and len(good) == 200 + len(readable) - 1  # the link to a folder is no image
    return Seen(
        f"{len(hostile)} kinds among 200 good images",
        f"{survived} of 3 commands survived; {len(listed)} kinds listed, {len(readable)} read or no images",
        fine,
    )


def decoding(share: float) -> Seen:
    """Row 2."""
    count, signals, largest, read, refused = scaled(500, share), 0, 0, 0, 0
    for kind, suffix in FORMATS.items():
        content = encoded(kind, photo(200, 150))
        for mutation in ("flipped bytes", "truncated", "bytes from elsewhere"):
            outcome = forked(lambda c=content, m=mutation, s=suffix: _decode(c, m, count, s))
            signals += outcome is None
            ok, bad, peak = outcome or (0, 0, 0)
            read, refused, largest = read + ok, refused + bad, max(largest, peak)
    return Seen(
        f"{len(FORMATS)} formats x 3 mutations x {count} files, each kind in a child",
        f"{signals} signals, at most {largest / 2**20:.2f} GB; {read} files read, {refused} refused",
        not signals and largest < 2**20,
    )


def _decode(content: bytes, mutation: str, count: int, suffix: str) -> tuple[int, int, int]:
    from ssl_toolkit.data.images import BadImageError, read_image

    rng, read, refused = np.random.default_rng(len(content)), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"image{suffix}")
        for _ in range(count):
            path.write_bytes(mutated(content, mutation, rng))
            try:
                read_image(path, size=32)
                read += 1
            except BadImageError:
                refused += 1
    return read, refused, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def mutated(content: bytes, mutation: str, rng: np.random.Generator) -> bytes:
    """A file's bytes with some of them flipped, without its end, or with a block of noise in them."""
    data = bytearray(content)
    if mutation == "truncated":
        return bytes(data[: rng.integers(0, len(data))])
    places = rng.integers(0, len(data), 8) if mutation == "flipped bytes" else [rng.integers(0, len(data))]
    for place in places:
        length = 1 if mutation == "flipped bytes" else min(64, len(data) - place)
        data[place : place + length] = rng.bytes(length)
    return bytes(data)


class Payload:
    """What would make a file if it were unpickled."""

    def __init__(self, canary: str) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.canary,)


def untrusted(share: float) -> Seen:
    """Row 11."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        canary = folder / "canary"
        bad = pickle.dumps({"state_dict": Payload(str(canary)), "model": Payload(str(canary))})
        paint(folder / "images" / "a.png")
        for name in ("weights.pth", "encoder.safetensors", "features.npy", "set.npz"):
            (folder / name).write_bytes(bad)
        torch.save({"state_dict": Payload(str(canary))}, folder / "saved.pth")
        np.save(folder / "objects.npy", np.array([Payload(str(canary))], dtype=object), allow_pickle=True)
        tag = f'!!python/object/apply:os.mkdir ["{canary}"]'
        (folder / "config.yaml").write_text(f"method: {tag}\n")
        tries = _tries(folder)
        ran = 0
        for command in tries:
            forked_cli(command)
            ran += canary.exists()
        outside, hostile = _archive(folder), _names(folder)
    return Seen(
        f"{len(tries)} files with pickles and YAML tags; a manifest and an index that point outside; a name with HTML",
        f"{ran} ran; {outside} read from outside of their folder; {hostile} tags in pages",
        not ran and not outside and not hostile,
    )


def _tries(folder: Path) -> list[list[str]]:
    given = ["--data", f"{folder}/images"]
    run = folder / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text((folder / "config.yaml").read_text())
    (run / "checkpoints" / "step-00000001.ckpt").write_bytes((folder / "saved.pth").read_bytes())
    out = ["--out", f"{folder}/out"]
    return [
        ["embed", f"{folder}/encoder.safetensors", *given, *out],
        ["embed", f"{folder}/weights.pth", "--architecture", "convnet", *given, *out],
        ["embed", f"{folder}/saved.pth", "--architecture", "convnet", *given, *out],
        ["pretrain", "--config", f"{folder}/config.yaml", *given, *out],
        ["pretrain", "--out", str(run), "--resume"],
        ["pretrain", "--method", "simclr", "--data", f"{folder}/objects.npy", *TRAIN, *out],
        ["pretrain", "--method", "simclr", "--data", f"{folder}/set.npz", *TRAIN, *out],
        ["doctor", str(run)], ["report", str(run)], ["search", str(run), f"{folder}/objects.npy"],
    ]  # fmt: skip


def _built(folder: Path, data: Path) -> Path:
    train = ["pretrain", "--method", "simclr", "--data", "shapes:train:32", *TRAIN, "--out", f"{folder}/good"]
    assert forked_cli(train)[0] == 0
    code, told = forked_cli(["index", f"{folder}/good", "--data", str(data), "--out", f"{folder}/index"])
    assert code == 0, told
    return folder / "index"


def _archive(folder: Path) -> int:
    """How often an index whose manifest names a file outside was opened."""
    from ssl_toolkit.errors import ToolkitError
    from ssl_toolkit.eval.search.folder import sealed
    from ssl_toolkit.eval.search.index import EmbeddingIndex

    index = _built(folder, folder / "images")
    manifest = json.loads((index / "manifest.json").read_text())
    part = manifest["parts"]["items"]
    (index / part["file"]).rename(folder / part["file"])
    part["file"] = f"../{part['file']}"
    (index / "manifest.json").write_text(json.dumps(sealed(manifest)))
    try:
        EmbeddingIndex.load(index)
    except ToolkitError:
        return 0
    return 1


def _names(folder: Path) -> int:
    """How often the name of an image stands as HTML in a page of hits."""
    from ssl_toolkit.eval.search.index import EmbeddingIndex

    name = "<img src=x onerror=alert(1)>.png"
    Image.new("RGB", (16, 16), "red").save(folder / "images" / name)
    code, told = forked_cli(["index", f"{folder}/good", "--data", f"{folder}/images", "--out", f"{folder}/second"])
    assert code == 0, told
    index = EmbeddingIndex.load(folder / "second")
    pages = [index._repr_html_(), index.search(np.asarray(index.vectors[:1]), 2)._repr_html_()]
    config = yaml.safe_load((folder / "good" / "config.yaml").read_text())
    (folder / "good" / "config.yaml").write_text(yaml.safe_dump({**config, "data": name}))
    code, told = forked_cli(["report", f"{folder}/good"])
    assert code == 0, told
    return sum("<img src=x" in page for page in [*pages, (folder / "good" / "report.html").read_text()])
