"""Frames of videos with a second of their sound: ``sounds:PATH:HOP``, a frame every HOP seconds, 1 if it is left out.

Sound is read by PyAV, the extra ``[video]``, and handed on as a log-mel spectrogram of the second around the frame.
"""

from __future__ import annotations

import importlib
import os
import re
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_toolkit.data.depth import Pixels
from ssl_toolkit.data.image_set import ImageSet, Wanted, unlabelled
from ssl_toolkit.data.images import BadImageError, check_channels, in_brief
from ssl_toolkit.data.video import Movie, Video, movies_of, open_stream
from ssl_toolkit.errors import UsageError

RATE = 16_000  # samples a second
WINDOW, STEP = 400, 160  # samples: 25 and 10 ms
MELS, LOWEST, HIGHEST = 64, 125.0, 7500.0  # bands, and the frequencies between which they lie
STEPS = (RATE - WINDOW) // STEP + 1  # of a second
_OFFSET = 0.01  # of silence: log 0 says nothing
_EARLIER = 0.25  # s that are decoded before what is wanted: codecs need some to begin with


def log_mel(wave: NDArray[np.float32]) -> NDArray[np.float16]:
    """Log-mel spectrogram: how loud each band of pitches is, step by step.

    Args:
        wave: (samples,) in [-1, 1], `RATE` a second, at least `WINDOW` of them.

    Returns:
        (`MELS`, steps): the logarithm of 0.01 and the magnitude of each band, low pitches first.

    Source: Hershey et al. 2017, CNN architectures for large-scale audio classification, section 2 (VGGish): 25 ms of a
        Hann window every 10 ms, 64 bands from 125 to 7,500 Hz.

    Examples:
        >>> log_mel(np.zeros(16_000, np.float32)).shape
        (64, 98)
    """
    pieces = np.lib.stride_tricks.sliding_window_view(wave, WINDOW)[::STEP]  # (steps, WINDOW)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    magnitude = np.abs(np.fft.rfft(pieces * hann, _points()))  # (steps, frequencies)
    found: NDArray[np.float16] = np.log(_OFFSET + _bands() @ magnitude.T).astype(np.float16)
    return found


def _points() -> int:
    """Of the Fourier transform: the next power of two."""
    return 1 << (WINDOW - 1).bit_length()


@lru_cache(maxsize=1)
def _bands() -> NDArray[np.float64]:
    """What each frequency counts in each band, (`MELS`, frequencies): triangles, equally wide in mel."""

    def mel(hertz: Any) -> Any:
        return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)

    edges = np.linspace(mel(LOWEST), mel(HIGHEST), MELS + 2)
    low, centre, high = (edges[first : first + MELS, None] for first in range(3))
    at = mel(np.arange(_points() // 2 + 1) * RATE / _points())
    bands: NDArray[np.float64] = np.maximum(0.0, np.minimum((at - low) / (centre - low), (high - at) / (high - centre)))
    return bands


def read_wave(path: str, start: float, seconds: float) -> NDArray[np.float32]:
    """A piece of a file's sound, of all its channels together.

    Args:
        path: The file.
        start: Where it begins, seconds on the clock of the file.
        seconds: How long it is; what the file does not have is silence.

    Returns:
        (seconds x `RATE`,) in [-1, 1].

    Raises:
        BadImageError: It cannot be read.
        UsageError: PyAV is not installed.
    """
    try:
        container, stream = open_stream(path, "audio")
        with container:
            return _wave(container, stream, start, seconds)
    except UsageError:
        raise
    except Exception as error:  # hostile files meet with any
        raise BadImageError(path, in_brief(error)) from error


def _wave(container: Any, stream: Any, start: float, seconds: float) -> NDArray[np.float32]:
    to_mono = importlib.import_module("av").AudioResampler(format="flt", layout="mono", rate=RATE)
    found = np.zeros(round(seconds * RATE), np.float32)
    container.seek(max(0, int((start - _EARLIER) / stream.time_base)), stream=stream)
    place = None
    for frame in container.decode(stream):
        if place is None:
            place = round((frame.time - start) * RATE)
        for piece in to_mono.resample(frame):
            samples = piece.to_ndarray().ravel()
            first, last = max(0, place), min(len(found), place + len(samples))
            if first < last:
                found[first:last] = samples[first - place : last - place]
            place += len(samples)
        if place >= len(found):
            break
    if place is None:
        raise ValueError("its sound cannot be decoded")
    return found


class SoundSet(ImageSet):
    """Single frames of movies, without labels, each with a second of sound around it.

    Args:
        movies: Those that cannot be read count as one frame that cannot.
        hop: Seconds from frame to frame.
        channels: Of a frame, 1 or 3.
        name: What `path` puts before the ``#``.
    """

    def __init__(self, movies: list[Movie], hop: float, channels: int, name: str) -> None:
        check_channels(channels)
        self.word, self.classes, self.channels, self._name = name, None, channels, name
        self._movies = movies
        times = [_seconds(movie, hop) for movie in movies]
        self._movie = np.repeat(np.arange(len(movies)), [len(each) for each in times])
        self._time = np.concatenate(times)
        self.labels = unlabelled(len(self._time))

    def load(self, index: int, size: int | None) -> Pixels:
        """As `ImageSet.load`: the first frame that is shown at the middle of its second, or after it."""
        movie, place = self._movie_of(index), 0
        if isinstance(movie, Video):
            place = min(int(np.searchsorted(movie.times * movie.unit, self._time[index])), movie.length - 1)
        try:
            return movie.read(range(place, place + 1), size, self.channels)[0]
        except BadImageError as error:
            raise BadImageError(self.path(index), str(error)) from error

    def sound(self, index: int) -> NDArray[np.float16]:
        """As `ImageSet.sound`: (64, 98)."""
        try:
            return log_mel(read_wave(self._movie_of(index).path, self._time[index] - 0.5, 1.0))
        except BadImageError as error:
            raise BadImageError(self.path(index), str(error)) from error

    def path(self, index: int) -> str:
        """As `ImageSet.path`."""
        return f"{self._name}#{index}"

    def _movie_of(self, index: int) -> Movie:
        return self._movies[int(self._movie[index])]


def _seconds(movie: Movie, hop: float) -> NDArray[np.float64]:
    """The middles of the seconds of a movie, on its own clock; one of a movie that cannot be read."""
    if not isinstance(movie, Video):
        return np.zeros(1)
    first, last = movie.times[0] * movie.unit, movie.times[-1] * movie.unit
    return np.arange(float(first + 0.5), float(max(last - 0.5, first + 0.5)) + 1e-9, hop)


def open_sounds(word: str, wanted: Wanted) -> SoundSet:
    """The frames of ``sounds:PATH:HOP`` (see `open_images`); the hop may be left out.

    Raises:
        UsageError: No such path, a hop that is not above 0, PyAV is missing, or no video with sound.
    """
    path, hop = os.path.expanduser(word.partition(":")[2]), 1.0
    if not os.path.exists(path) and (found := re.fullmatch(r"(.+):(\d+\.?\d*)", path)):
        path, hop = found[1], float(found[2])
    if not os.path.exists(path) or not hop > 0:
        fault = "the hop must be above 0" if os.path.exists(path) else f"no such video or folder: '{path}'"
        raise UsageError(f"{word}: {fault}. Give sounds:PATH, or with the seconds from frame to frame sounds:PATH:0.5")
    path = os.path.abspath(path)
    movies = [_heard(movie) for movie in movies_of(path)]
    if not any(movie.length for movie in movies):
        first = movies[0] if movies else Movie(path, "there are no videos in it")
        raise UsageError(f"no sound in '{first.path}': {first.reason}")
    return SoundSet(movies, hop, 3 if wanted.channels is None else wanted.channels, f"sounds:{path}:{hop:g}")


def _heard(movie: Movie) -> Movie:
    """A movie, or one that cannot be read in its place if it has no sound."""
    if not isinstance(movie, Video):
        return Movie(movie.path, movie.reason or "it is a folder of frames, which has no sound")
    try:
        container, _ = open_stream(movie.path, "audio")
    except ValueError as error:
        return Movie(movie.path, str(error))
    container.close()
    return movie
