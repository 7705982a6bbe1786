"""Do `ssl-toolkit duplicates` and two simpler ways find copies, and nothing else?

    python benchmarks/duplicates.py --run runs/simclr --data cifar10/test imagenette128/val pages --out copies/

Of some images of each folder (`pages` renders pages of text), one copy each is made: smaller, compressed again, cut by
5 % of each side, brighter, darker or mirrored. All are indexed with the encoder of a run, and each way is asked which
of the candidate pairs of the index (an image and its sixteen nearest) are copies:

- the embedding alone, at a cosine of 0.99;
- the perceptual hash of the package imagehash (64 and 256 bits, over eight orientations), if it is installed, at the
  distance that finds no more pairs which were not made than `duplicates` does;
- `duplicates`.

Pairs that were not made are no mistake where the images themselves hold copies: `--out` gets a picture of the groups.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFont, ImageOps

from ssl_toolkit import EmbeddingIndex, ImageEmbedder
from ssl_toolkit.data.folder import list_images
from ssl_toolkit.eval.search.copies import candidate_pairs
from ssl_toolkit.tasks.curating import duplicates

Edit = Callable[[Image.Image, random.Random], Image.Image]


def cut(image: Image.Image, rng: random.Random) -> Image.Image:
    width, height = round(0.95 * image.width), round(0.95 * image.height)
    x, y = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
    return image.crop((x, y, x + width, y + height))


EDITS: dict[str, Edit] = {
    "resized": lambda image, _: image.resize((round(0.7 * image.width), round(0.7 * image.height))),
    "recompressed": lambda image, _: image,  # saved at quality 50
    "cut": cut,
    "brighter": lambda image, _: ImageEnhance.Brightness(image).enhance(1.3),
    "darker": lambda image, _: ImageEnhance.Brightness(image).enhance(0.75),
    "mirrored": lambda image, _: ImageOps.mirror(image),
}


def page(rng: random.Random, words: list[str]) -> Image.Image:
    """A page of text; every page has the same margins, lines and letters."""
    image = Image.new("RGB", (420, 594), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(12)
    draw.text((40, 30), "Report of the department", fill="black", font=ImageFont.load_default(18))
    for y in range(70, 550, 16):
        if rng.random() < 0.1:
            continue
        line = ""
        while draw.textlength(line, font) < rng.choice((150, 300, 300, 300)):
            line += rng.choice(words) + " "
        draw.text((40, y), line, fill="black", font=font)
    return image


def made(data: str, out: Path, count: int, copies: int) -> tuple[list[str], NDArray[np.int64], list[str]]:
    """Files of the originals and their copies; which original each is of, and what was done to it ('' to none)."""
    rng = random.Random(0)
    out.mkdir(parents=True, exist_ok=True)
    if data == "pages":
        words = ["".join(rng.choice("aeioubcdfghklmnprstvw") for _ in range(rng.randint(2, 9))) for _ in range(2000)]
        files: list[Path] = []
        for number in range(count):
            files.append(out / f"{number:05d}.png")
            page(rng, words).save(files[-1])
    else:
        names = sorted(Path(data, name.decode()) for name in list_images(data))
        files = sorted(rng.sample(names, min(count, len(names))))
    original, edit = list(range(len(files))), [""] * len(files)
    for number, place in enumerate(sorted(rng.sample(range(len(files)), min(copies, len(files))))):
        name = list(EDITS)[number % len(EDITS)]
        file = out / f"{place:05d}_{name}.jpg"
        image = EDITS[name](Image.open(files[place]).convert("RGB"), rng)
        image.save(file, quality=50 if name == "recompressed" else 90)
        files.append(file)
        original.append(place)
        edit.append(name)
    return [str(file) for file in files], np.array(original), edit


def hash_distance(paths: list[str], pairs: NDArray[np.int64], side: int) -> NDArray[np.int64]:
    """Bits in which the perceptual hashes of each pair differ, in the best of eight orientations."""
    import imagehash

    bits = np.empty((len(paths), 8, side * side), dtype=bool)
    for place, path in enumerate(paths):
        with Image.open(path) as image:
            small = image.convert("L").resize((8 * side, 8 * side))
        for number in range(8):
            turned = small.rotate(90 * (number % 4))
            turned = ImageOps.mirror(turned) if number >= 4 else turned
            bits[place, number] = imagehash.phash(turned, hash_size=side).hash.ravel()
    blocks = [(bits[block[:, 0], :1] ^ bits[block[:, 1]]).sum(axis=2).min(axis=1)
              for block in np.array_split(pairs, max(1, len(pairs) // 4096))]  # fmt: skip
    return np.concatenate(blocks)


def found_by_groups(index: EmbeddingIndex, out: Path, pairs: NDArray[np.int64]) -> tuple[NDArray[np.bool_], str]:
    """Which pairs stand in one group, and how that went."""
    start = time.perf_counter()
    groups = duplicates(index, grid=out, progress=False)
    seconds = time.perf_counter() - start
    of = {path: number for number, group in enumerate(groups) for path in (image["path"] for image in group)}
    group = np.array([of.get(path, -1 - place) for place, path in enumerate(index.paths)])
    return group[pairs[:, 0]] == group[pairs[:, 1]], f"duplicates, threshold {groups.threshold:.2f}, {seconds:.0f} s"


def line(about: str, way: str, found: NDArray[np.bool_], made: NDArray[np.str_], total: dict[str, int]) -> str:
    """A row of the table: of the pairs that were made by each edit (no edit: other pairs), how many were found."""
    shares = [100 * (found & (made == edit)).sum() / count for edit, count in total.items()]
    all_found = 100 * (found & (made != "")).sum() / sum(total.values())
    cells = [about, way, f"{all_found:.1f} %", str((found & (made == "")).sum()), *(f"{share:.0f}" for share in shares)]
    return f"| {' | '.join(cells)} |"


def compare(run: str, data: str, out: Path, images: int, copies: int) -> None:
    """Print the rows of one folder."""
    word = "pages" if data == "pages" else Path(data).resolve().parent.name
    paths, original, edit = made(data, out / word, images, copies)
    index = ImageEmbedder(run).fit(paths).index_
    pairs = candidate_pairs(index)
    kind = np.array([
        (edit[one] or edit[other]) if original[one] == original[other] else "" for one, other in pairs
    ])  # fmt: skip
    total = {name: edit.count(name) for name in EDITS}
    about = f"{word}, {len(paths) - sum(total.values())} + {sum(total.values())}"
    cosine = (index.vectors[pairs[:, 0]] * index.vectors[pairs[:, 1]]).sum(axis=1)
    ours, way = found_by_groups(index, out / f"{word}.png", pairs)
    print(line(about, "a candidate pair", np.ones(len(pairs), bool), kind, total))
    print(line(about, "embedding, cosine 0.99", cosine >= 0.99, kind, total))
    if find_spec("imagehash"):
        for side in (8, 16):
            distance = hash_distance(paths, pairs, side)
            least = np.sort(distance[kind == ""])[(ours & (kind == "")).sum()]
            print(line(about, f"{side * side} bits of hash, under {least} differ", distance < least, kind, total))
    print(line(about, way, ours, kind, total), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Copies found, by three ways.", allow_abbrev=False)
    parser.add_argument("--run", required=True, help="run folder or encoder file")
    parser.add_argument("--data", nargs="+", default=["pages"])
    parser.add_argument("--images", type=int, default=10_000, help="at most so many of a folder; pages: a twentieth")
    parser.add_argument("--copies", type=int, default=600, help="made of a folder; of pages a fifth")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    print(f"| data | found by | copies found | other pairs | {' | '.join(EDITS)} |")
    print(f"|---|---|{'---:|' * (2 + len(EDITS))}")
    for data in options.data:
        few, fewer = (20, 5) if data == "pages" else (1, 1)
        compare(options.run, data, options.out, options.images // few, options.copies // fewer)


if __name__ == "__main__":
    main()
