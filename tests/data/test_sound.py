from __future__ import annotations

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_toolkit.data.images import BadImageError
from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.data.sound import HIGHEST, LOWEST, MELS, RATE, STEPS, log_mel, read_wave
from ssl_toolkit.data.sources import open_images
from ssl_toolkit.errors import UsageError
from tests.conftest import SOUND
from tests.data.films import COLOURS, PITCHES, colour_film


def mel(hertz: float) -> float:
    return 2595 * math.log10(1 + hertz / 700)


def band_of(hertz: float) -> int:
    """The band whose middle is nearest."""
    edges = np.linspace(mel(LOWEST), mel(HIGHEST), MELS + 2)
    return int(np.abs(edges[1:-1] - mel(hertz)).argmin())


def tone(hertz: float, loud: float = 0.5) -> np.ndarray:
    return (loud * np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE)).astype(np.float32)


@pytest.mark.parametrize("hertz", [200.0, 440.0, 1000.0, 3000.0, 7000.0])
def test_a_tone_is_loudest_in_its_band(hertz: float) -> None:
    found = log_mel(tone(hertz))
    assert found.shape == SOUND == (MELS, STEPS)
    assert found.dtype == np.float16
    assert (found.astype(float).argmax(0) - band_of(hertz) == found.astype(float).argmax(0)[0] - band_of(hertz)).all()
    assert abs(int(found[:, 0].argmax()) - band_of(hertz)) <= 1


def test_silence_and_loudness() -> None:
    np.testing.assert_allclose(log_mel(np.zeros(RATE, np.float32)).astype(float), math.log(0.01), atol=2e-3)
    soft, loud = (log_mel(tone(1000, each)).astype(float).max() for each in (0.05, 0.5))
    assert loud - soft == pytest.approx(math.log(10), abs=0.01)


def test_spectrogram_is_that_of_the_definition() -> None:
    """Step by step and band by band, with the sums written out."""
    wave = np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32)
    found, edges = log_mel(wave).astype(float), np.linspace(mel(LOWEST), mel(HIGHEST), MELS + 2)
    for step, band in ((0, 0), (3, 20), (97, 63)):
        piece = wave[160 * step : 160 * step + 400] * np.hanning(401)[:400]
        total = 0.0
        for k in range(257):
            magnitude = abs(sum(x * np.exp(-2j * np.pi * k * n / 512) for n, x in enumerate(piece)))
            m = mel(k * RATE / 512)
            up = (m - edges[band]) / (edges[band + 1] - edges[band])
            down = (edges[band + 2] - m) / (edges[band + 2] - edges[band + 1])
            total += max(0.0, min(up, down)) * magnitude
        assert found[band, step] == pytest.approx(math.log(0.01 + total), abs=3e-3)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return colour_film(tmp_path_factory.mktemp("film") / "a:b.mp4", ["red", "green", "blue", "green", "red", "blue"])


def colour_of(pixels: np.ndarray) -> str:
    mean = pixels.mean(axis=(1, 2))
    return min(COLOURS, key=lambda name: float(np.abs(mean - COLOURS[name]).sum()))


def pitch_of(sound: np.ndarray) -> str:
    band = int(np.median(sound.astype(float).argmax(0)))
    return min(PITCHES, key=lambda name: abs(band - band_of(PITCHES[name])))


def test_frames_and_sounds_of_a_film_belong_together(film: Path) -> None:
    images = pickle.loads(pickle.dumps(open_images(f"sounds:{film}")))
    assert (len(images), images.frames, images.channels, images.classes) == (5, 1, 3, None)  # the last lacks half
    for index, expected in enumerate(["red", "green", "blue", "green", "red"]):
        assert colour_of(images.load(index, None)) == expected
        sound = images.sound(index)
        assert pitch_of(sound) == expected
        loudest = sound.argmax(0)[12:-12]
        assert (loudest == loudest[0]).all()  # of this second alone
    assert images.path(3) == f"sounds:{film}:1#3"
    loader = ImageLoader(images, 32, batch_size=5, workers=1)
    (batch,) = loader
    assert batch.sound.shape == (5, *SOUND)
    assert np.array_equal(batch.sound[2], images.sound(2))


def test_the_hop_is_in_seconds(film: Path) -> None:
    images = open_images(f"sounds:{film}:0.5", channels=1)
    assert len(images) == 10
    assert images.load(0, 16).shape == (1, 16, 16)
    half = images.sound(1).astype(float).argmax(0)  # from the middle of the first second to that of the next
    assert half[5] < half[-5]


def test_what_a_file_does_not_have_is_silence(film: Path) -> None:
    wave = read_wave(str(film), -0.5, 1.0)
    assert wave.shape == (RATE,)
    assert np.abs(wave[: RATE // 2 - 600]).max() < 0.02
    assert np.abs(wave[RATE // 2 + 800 :]).max() == pytest.approx(0.5, abs=0.1)
    assert np.abs(read_wave(str(film), 6.5, 1.0)).max() < 0.02


def test_films_of_a_folder_and_one_without_sound(tmp_path: Path, film: Path) -> None:
    colour_film(tmp_path / "b.mp4", ["blue", "red"])
    mute = colour_film(tmp_path / "a.mp4", ["green", "green", "green"], sound=False)
    (tmp_path / "c.mp4").write_bytes(b"no film")
    images = open_images(f"sounds:{tmp_path}")
    assert len(images) == 3
    assert [colour_of(images.load(1, None)), pitch_of(images.sound(1))] == ["blue", "blue"]
    for index, reason in ((0, "there is no sound in it"), (2, "c.mp4")):
        with pytest.raises(BadImageError, match=reason):
            images.load(index, None)
        with pytest.raises(BadImageError):
            images.sound(index)
    with pytest.raises(UsageError, match=r"no sound in '.*a.mp4': there is no sound in it"):
        open_images(f"sounds:{mute}")


@pytest.mark.parametrize("end", [":0", ":x", "/none"])
def test_words_that_mean_nothing_are_refused(film: Path, end: str) -> None:
    with pytest.raises(UsageError, match=r"sounds:.*Give sounds:PATH"):
        open_images(f"sounds:{film}{end}")


def test_a_folder_of_frames_has_no_sound(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="the extra [video] is not installed")
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    with pytest.raises(UsageError, match="it is a folder of frames, which has no sound"):
        open_images(f"sounds:{tmp_path}")
