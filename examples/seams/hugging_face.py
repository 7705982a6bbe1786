"""A data set of Hugging Face, as it is (extra `hf`): its rows are dictionaries of a PIL image and a label."""

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as Picture

from ssl_toolkit import pretrain

rng = np.random.default_rng(0)
rows = {
    "image": [Picture.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(32)],
    "label": [0, 1] * 16,
}
data = Dataset.from_dict(
    rows, features=Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"])})
)  # yours

run = pretrain(
    "simclr", data, "runs/seam_hf", encoder="convnet", batch_size=8, epochs=1, progress=False, overwrite=True
)
print(run.evaluate(data, protocol="knn", baselines=False, progress=False))
