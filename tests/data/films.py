"""Films that are rendered for tests: what is heard follows from what is seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

RATE = 16_000
COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (40, 60, 220)}
PITCHES = {"red": 400.0, "green": 1200.0, "blue": 3600.0}  # Hz


def colour_film(path: Path, colours: list[str], sound: bool = True, rate: int = 10, side: int = 32) -> Path:
    """A film of a colour each second, with noise in it, and a tone of the colour's own pitch."""
    av = pytest.importorskip("av", reason="the extra [video] is not installed")
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("mpeg4", rate=rate)
        pictures.width = pictures.height = side
        pictures.pix_fmt, pictures.bit_rate = "yuv420p", 2_000_000
        if sound:
            heard = container.add_stream("aac", rate=RATE, layout="mono")
        for second, colour in enumerate(colours):
            for _ in range(rate):
                noisy = np.array(COLOURS[colour]) + rng.normal(0, 15, (side, side, 1))
                frame = av.VideoFrame.from_ndarray(noisy.clip(0, 255).astype(np.uint8), format="rgb24")
                container.mux(pictures.encode(frame))
            if sound:
                time = second + np.arange(RATE) / RATE
                wave = 0.5 * np.sin(2 * np.pi * PITCHES[colour] * time)
                piece = av.AudioFrame.from_ndarray(wave[None].astype(np.float32), format="fltp", layout="mono")
                piece.sample_rate = RATE
                container.mux(heard.encode(piece))
        container.mux(pictures.encode())
        if sound:
            container.mux(heard.encode())
    return path
