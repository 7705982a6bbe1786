"""How fast is each source, and is its memory flat?

    python benchmarks/sources.py --data imagenette128/train --out sources/

The images of a folder are packed as shards, as a data set of Hugging Face and as a Lance table in `--out`, repeated to
`--count`. Throughput: every source is read for training by two workers, in rounds that take them in turn; the ratio is
that to the folder in the same round, the median over the rounds. Cost: the time of processors that an image takes
without workers, which other work on the machine disturbs little. Memory: each source is read in a process of its own
up to `--count` images; what its processes hold for themselves (anonymous memory, as the kernel shares it out among
them) after a tenth of the images, and the most from there on. `webdataset` is that package's own pipeline, with a
shuffle buffer and our decoder, for comparison.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils.data import DataLoader

from ssl_toolkit import open_images, pack
from ssl_toolkit.data.image_set import ImageSet
from ssl_toolkit.data.images import decode_image
from ssl_toolkit.data.loader import ImageLoader

BATCH, WORKERS = 256, 2
WORDS = {
    "folder": "{out}/files.csv",
    "wds": "wds:{out}/shards",
    "hf": "hf:{out}/hf",
    "lance": "{out}/a.lance",
    "stream:wds": "stream:wds:{out}/shards",
    "stream:hf": "stream:hf:{out}/hf",
}


def make(data: str, out: Path, count: int) -> None:
    """The same images in all forms."""
    source = open_images(data)
    rows = [row for row, _ in zip(itertools.cycle(range(len(source))), range(count), strict=False)]
    out.mkdir(parents=True)
    lines = [f"{source.path(row)},{source.labels[row]}" for row in rows]
    (out / "files.csv").write_text("\n".join(["path,label", *lines]) + "\n")
    pack(out / "files.csv", out / "shards", shard_mb=50)
    contents = [Path(source.path(row)).read_bytes() for row in range(len(source))]
    with contextlib.suppress(ImportError):
        import datasets

        features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})

        def every() -> Iterator[dict[str, Any]]:
            for row in rows:
                yield {"image": {"bytes": contents[row], "path": None}, "label": int(source.labels[row])}

        found = datasets.Dataset.from_generator(every, features=features, cache_dir=str(out / "kept"))
        found.save_to_disk(str(out / "hf"))
    with contextlib.suppress(ImportError):
        import lance
        import pyarrow as pa

        schema = pa.schema({"image": pa.binary(), "label": pa.int64()})
        parts = (rows[first : first + 1000] for first in range(0, count, 1000))
        batches = (
            pa.record_batch([pa.array([contents[row] for row in part]), pa.array(source.labels[part])], schema=schema)
            for part in parts
        )
        lance.write_dataset(pa.RecordBatchReader.from_batches(schema, batches), str(out / "a.lance"))


def loader(images: ImageSet) -> ImageLoader:
    return ImageLoader(images, 128, batch_size=BATCH, shuffle=True, workers=WORKERS)


def theirs(out: Path) -> Iterable[Any]:
    """The package's own pipeline."""
    import webdataset

    shards = sorted(map(str, (out / "shards").glob("*.tar")))
    images = webdataset.WebDataset(shards, shardshuffle=100, empty_check=False, nodesplitter=None).shuffle(2048)
    made = images.to_tuple("jpg").map(lambda item: torch.from_numpy(decode_image(item[0], size=128)))
    return DataLoader(made.batched(BATCH), batch_size=None, num_workers=WORKERS)


def endless(batches: Iterable[Any]) -> Iterator[Any]:
    while True:
        yield from batches


def costs(out: Path, names: list[str], rounds: int) -> dict[str, float]:
    """Milliseconds of processors that an image takes, read in this process."""
    readers = {
        name: endless(ImageLoader(open_images(WORDS[name].format(out=out)), 128, batch_size=BATCH, shuffle=True))
        for name in names
    }
    for each in readers.values():
        next(each)
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, each in readers.items():
            start = time.process_time()
            for _ in range(8):  # one block of a stream
                next(each)
            found[name].append((time.process_time() - start) / (8 * BATCH))
    return {name: 1000 * median(each) for name, each in found.items()}


def rates(out: Path, names: list[str], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Images a second of each source in each round."""
    readers = {name: endless(loader(open_images(WORDS[name].format(out=out)))) for name in names}
    with contextlib.suppress(ImportError):
        readers["webdataset"] = endless(theirs(out))
    for each in readers.values():
        next(each)  # starts the workers
    found: dict[str, list[float]] = {name: [] for name in readers}
    for number in range(rounds):
        order = list(readers) if number % 2 == 0 else list(readers)[::-1]
        for name in order:
            time.sleep(0.5)  # all workers are waiting with their batches
            for _ in range(4 * WORKERS):
                next(readers[name])
            start, images = time.perf_counter(), 0
            while time.perf_counter() - start < seconds:
                next(readers[name])
                images += BATCH
            found[name].append(images / (time.perf_counter() - start))
    return found


def held() -> float:
    """Megabytes that this process and its children hold for themselves."""
    total, waiting = 0, [os.getpid()]
    while waiting:
        process = waiting.pop()
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{process}/smaps_rollup").read_text()
            total += int(re.search(r"Pss_Anon:\s+(\d+)", text)[1])  # type: ignore[index]
            waiting += map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())
    return total / 1000


def memory(out: Path, name: str, count: int) -> tuple[float, float]:
    """Megabytes after a tenth of the images, and the most from there on."""
    begun, most = 0.0, 0.0
    images = open_images(WORDS[name].format(out=out))
    batches = endless(ImageLoader(images, 16, batch_size=BATCH, shuffle=True, workers=WORKERS))
    for number in range(count // BATCH):
        next(batches)
        if number == count // BATCH // 10:
            begun = held()
        if number > count // BATCH // 10 and number % 20 == 0:
            most = max(most, held())
    return begun, most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder of images")
    parser.add_argument("--out", type=Path, required=True, help="where the forms are made, or were before")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3, help="of a source in a round")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    out = options.out.resolve()
    if options.memory:
        print(json.dumps(memory(out, options.memory, options.count)))
        return
    if not out.exists():
        begun = out.with_name(f"{out.name}.begun")  # a part of it, after a kill, is not measured
        shutil.rmtree(begun, ignore_errors=True)
        make(options.data, begun, options.count)
        begun.rename(out)
    names = [name for name, word in WORDS.items() if Path(word.format(out=out).rpartition(":")[2]).exists()]
    cost = costs(out, names, options.rounds)
    print("| source | ms of a processor an image | folder = 1 |\n|---|---:|---:|")
    for name in names:
        print(f"| {name} | {cost[name]:.2f} | {cost[name] / cost['folder']:.2f} |", flush=True)
    found = rates(out, names, options.rounds, options.seconds)
    print(f"\n| source | images/s, {WORKERS} workers | folder = 1 |\n|---|---:|---:|")
    for name, each in found.items():
        ratio = median(own / folder for own, folder in zip(each, found["folder"], strict=True))
        print(f"| {name} | {median(each):.0f} | {ratio:.2f} |", flush=True)
    print(
        f"\n| source | MB after {options.count // 10:,} images | MB at most up to {options.count:,} |\n|---|---:|---:|"
    )
    for name in names:
        command = [sys.executable, __file__, "--data", "", "--out", str(out), "--memory", name]
        text = subprocess.run([*command, "--count", str(options.count)], check=True, capture_output=True).stdout
        begun, most = json.loads(text.splitlines()[-1])
        print(f"| {name} | {begun:.0f} | {most:.0f} |", flush=True)


if __name__ == "__main__":
    main()
