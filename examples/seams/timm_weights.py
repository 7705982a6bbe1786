"""Weights from timm in, weights for timm out; the last lines need timm and torch alone."""

import subprocess
import sys

import numpy as np

from ssl_toolkit import export, pretrain

images = np.random.default_rng(0).integers(0, 256, (32, 3, 32, 32), np.uint8)  # yours

# `encoder="resnet18.a1_in1k"` would start from timm's weights, which are downloaded.
run = pretrain(
    "simclr", images, "runs/seam", encoder="resnet18", batch_size=8, epochs=1, progress=False, overwrite=True
)
exported = export(run, format="timm", out="runs/seam/for_timm.safetensors", data=images, overwrite=True)
print(exported)
lines = f"import torch\nimages = torch.rand(2, 3, 32, 32)\n{exported.lines}\nprint(features.shape)"
subprocess.run([sys.executable, "-c", lines], check=True)
