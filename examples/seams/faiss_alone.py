"""The vectors and the FAISS index of an index folder, opened and asked without this package."""

import json
from pathlib import Path

import faiss
import numpy as np

from ssl_toolkit import index, pretrain

images = np.random.default_rng(0).integers(0, 256, (200, 3, 32, 32), np.uint8)  # yours
run = pretrain("simclr", images, "runs/seam_faiss", encoder="convnet", epochs=1, progress=False, overwrite=True)
folder = Path(index(run, images, "runs/seam_faiss/index", index="IVF8,Flat", progress=False))

# From here on: FAISS and NumPy.
parts = json.loads((folder / "manifest.json").read_text())["parts"]
print(parts)
vectors = np.load(next(folder.glob("vectors-*.npy")), mmap_mode="r")  # (N, D), of length 1 for cosine
lists = faiss.read_index(str(next(folder.glob("*.faiss"))))
lists.nprobe = 8
similarity, places = lists.search(np.ascontiguousarray(vectors[:2]), 3)
names = [json.loads(line) for line in next(folder.glob("items-*.jsonl")).read_text().splitlines()]
for row in places:
    print([names[place] for place in row])
