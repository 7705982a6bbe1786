"""Indexes that the tests of the page explore."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ssl_toolkit.encoders import Encoder, EncoderConfig, save_encoder
from ssl_toolkit.eval.search.index import EmbeddingIndex


def explored_folder(folder: Path) -> Path:
    """An index of twenty images of two classes, of which one is gone since then, and a secret beside them."""
    from ssl_toolkit.tasks.indexing import index

    generator = np.random.default_rng(0)
    for label, colour in (("red", 0), ("blue", 2)):
        (folder / "images" / label).mkdir(parents=True)
        for number in range(10):
            pixels = generator.integers(0, 90, (20, 24, 3), dtype=np.uint8)
            pixels[..., colour] += 150
            Image.fromarray(pixels).save(folder / "images" / label / f"{number}.png")
    Image.new("RGB", (20, 20), "yellow").save(folder / "secret.png")
    save_encoder(Encoder(EncoderConfig("convnet", image_size=16, load_size=16)), folder / "encoder.safetensors")
    out = folder / "index"
    index(str(folder / "encoder.safetensors"), str(folder / "images"), str(out), workers=0, progress=False)
    (folder / "images" / "red" / "0.png").unlink()
    return folder


def indexed(tmp_path: Path, vectors: np.ndarray, paths: list[str], **options: Any) -> EmbeddingIndex:
    file = tmp_path / "encoder.safetensors"
    save_encoder(Encoder(EncoderConfig("convnet", image_size=16, load_size=16)), file)
    return EmbeddingIndex.build(vectors.astype(np.float32), paths, encoder_file=file, **options)
