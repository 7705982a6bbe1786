"""Clips of video as an image set: ``clips:PATH:8:2`` gives clips of 8 frames, every second one of a video.

The frames of a clip lie one after another along the channels, so that whatever is done to an image, a crop or a flip,
is done alike to all of them. Videos are decoded by PyAV, the extra ``[video]``; folders of frames need nothing.
"""

from __future__ import annotations

import importlib
import itertools
import os
import re
from bisect import bisect_right
from collections.abc import Iterator
from copy import copy
from typing import Any

import numpy as np

from ssl_toolkit.data.depth import Pixels, at_depth
from ssl_toolkit.data.file_set import PathList
from ssl_toolkit.data.folder import list_images
from ssl_toolkit.data.image_set import ImageSet, Wanted, unlabelled
from ssl_toolkit.data.images import BadImageError, check_channels, in_brief, read_image
from ssl_toolkit.data.resizing import convert_channels, resize
from ssl_toolkit.errors import UsageError, missing_extra

FRAMES, STRIDE = 8, 2
SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv"),
    *(".ogv", ".3gp"),
)


def open_clips(word: str, wanted: Wanted) -> ClipSet:
    """The clips of ``clips:PATH:FRAMES:STRIDE:HOP`` (see `open_images`); the numbers may be left out.

    Raises:
        UsageError: No such path, a number below 1, PyAV is missing, or not a single clip.
    """
    path, numbers = os.path.expanduser(word.partition(":")[2]), list[int]()
    while not os.path.exists(path) and re.search(r":\d+$", path):  # a path may hold colons itself
        path, _, last = path.rpartition(":")
        numbers.insert(0, int(last))
    if not os.path.exists(path) or len(numbers) > 3 or 0 in numbers:
        fault = "up to three numbers, from 1" if os.path.exists(path) else f"no such video or folder: '{path}'"
        raise UsageError(f"{word}: {fault}. Give clips:PATH, or with frames, stride and hop clips:PATH:8:2:16")
    path = os.path.abspath(path)
    frames, stride = [*numbers, *(FRAMES, STRIDE)[len(numbers) :]][:2]
    hop = numbers[2] if len(numbers) == 3 else frames * stride
    span = (frames - 1) * stride + 1
    movies = list(movies_of(path))
    for number, movie in enumerate(movies):
        if 0 < movie.length < span:
            reason = f"it has {movie.length} frames, a clip of {frames} with stride {stride} takes {span}"
            movies[number] = Movie(movie.path, reason)
    if not any(movie.length for movie in movies):
        first = movies[0] if movies else Movie(path, "there are neither videos nor images in it")
        raise UsageError(f"no clips in '{first.path}': {first.reason}")
    name = f"clips:{path}:{frames}:{stride}:{hop}"
    return ClipSet(movies, frames, stride, hop, 3 if wanted.channels is None else wanted.channels, name)


def open_movie(path: str) -> Movie:
    """The one video or folder of frames at a path.

    Raises:
        UsageError: There is none, more than one, it cannot be read, or PyAV is missing.
    """
    path = os.path.abspath(os.path.expanduser(path))
    if not os.path.exists(path):
        raise UsageError(f"no such video or folder: '{path}'")
    movies = list(movies_of(path))
    if len(movies) != 1:
        found = f"{len(movies)} videos or folders of frames" if movies else "neither a video nor images"
        raise UsageError(f"there are {found} in '{path}': name one video, or one folder of frames")
    if not movies[0].length:
        raise UsageError(f"'{movies[0].path}' cannot be read: {movies[0].reason}")
    return movies[0]


class ClipSet(ImageSet):
    """Clips of movies, without labels; a movie that cannot be read counts as one clip that cannot.

    Args:
        movies: Where the clips are cut from.
        frames: Frames a clip.
        stride: From frame to frame of a clip.
        hop: From clip to clip.
        channels: Of a frame, 1 or 3.
        name: What `path` puts before the ``#``.
    """

    def __init__(self, movies: list[Movie], frames: int, stride: int, hop: int, channels: int, name: str) -> None:
        check_channels(channels)
        self.word, self.classes, self.frames, self.channels = name, None, frames, frames * channels
        self._movies, self._stride, self._frame_channels, self._name = movies, stride, channels, name
        counts = [max(1, len(range((frames - 1) * stride, movie.length, hop))) for movie in movies]
        self._movie = np.repeat(np.arange(len(movies)), counts)
        self._first = np.concatenate([hop * np.arange(count) for count in counts])
        self.labels = unlabelled(len(self._movie))

    def first_frames(self) -> ClipSet:
        """The first frame of each clip: images like others."""
        firsts = copy(self)
        firsts.frames, firsts.channels = 1, self._frame_channels
        firsts.word = f"{self.word}, first frames"
        return firsts

    def load(self, index: int, size: int | None) -> Pixels:
        """As `ImageSet.load`: (frames x channels of a frame, H, W), the first frame first."""
        movie, first = self._movies[self._movie[index]], int(self._first[index])
        places = range(first, first + self.frames * self._stride, self._stride)
        try:
            frames = movie.read(places, size, self._frame_channels)
        except BadImageError as error:
            raise BadImageError(self.path(index), str(error)) from error
        if len({frame.shape for frame in frames}) > 1:
            raise BadImageError(self.path(index), f"{movie.path}: the frames differ in size")
        return np.concatenate(frames)

    def path(self, index: int) -> str:
        """As `ImageSet.path`."""
        return f"{self._name}#{index}"


class Movie:
    """A sequence of `length` frames; this base stands for one that cannot be read, and says why when it is.

    Args:
        path: The file or folder.
        reason: Why it cannot be read.
    """

    length = 0
    rate = 25.0  # frames a second

    def __init__(self, path: str, reason: str = "") -> None:
        self.path, self.reason = path, reason

    def place_of(self, name: str) -> int | None:
        """The place of the frame that another file is named after, as masks are: the last number in its name."""
        numbers: list[str] = re.findall(r"\d+", name)
        return int(numbers[-1]) if numbers else None

    def read(self, places: range, size: int | None, channels: int) -> list[Pixels]:
        """The frames at rising places: each (channels, h, w), as `ImageSet.load` gives an image."""
        raise BadImageError(self.path, self.reason)


class FrameFolder(Movie):
    """Images of one folder in the order of their names, in which numbers count as such: 2 before 10."""

    def __init__(self, root: str, folder: bytes, names: Iterator[bytes]) -> None:
        super().__init__(os.path.normpath(os.path.join(root, os.fsdecode(folder))))
        pieces = {name: re.split(rb"(\d+)", name) for name in names}  # text, number, text, ...
        self._paths = PathList(root, sorted(pieces, key=lambda n: [int(p) if p.isdigit() else p for p in pieces[n]]))
        self.length = len(self._paths)

    def place_of(self, name: str) -> int | None:
        """As `Movie.place_of`; here frames have names: that of the same one, whatever its suffix."""
        stems = [os.path.splitext(os.path.basename(self._paths[place]))[0] for place in range(self.length)]
        return stems.index(name) if name in stems else None

    def read(self, places: range, size: int | None, channels: int) -> list[Pixels]:
        """As `Movie.read`."""
        frames = (read_image(self._paths[place], size=size, channels=channels) for place in places)
        return [at_depth(frame, np.uint8) for frame in frames]


class Video(Movie):
    """A video file. Opening it reads its packets once, without decoding, to know the time of each frame.

    Raises:
        BadImageError: If it cannot be read.
        UsageError: If PyAV is not installed.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        try:
            container, stream = open_stream(path)
            with container:
                self.rate, self.unit = float(stream.average_rate or self.rate), float(stream.time_base)
                packets = [packet for packet in container.demux(stream) if packet.size and not packet.is_discard]
            keys = {_time(packet) for packet in packets if packet.is_keyframe}
            times = {_time(packet) for packet in packets if _time(packet) >= min(keys)}  # nothing decodes before
        except UsageError:
            raise
        except Exception as error:  # hostile files meet with any
            raise BadImageError(path, in_brief(error)) from error
        self.keys, self.times = (np.array(sorted(found), dtype=np.int64) for found in (keys, times))
        self.length = len(self.times)

    def read(self, places: range, size: int | None, channels: int) -> list[Pixels]:
        """As `Movie.read`."""
        decoder = _decoders.get(os.getpid())
        try:
            if decoder is None or decoder.video is not self:
                decoder = _decoders[os.getpid()] = _Decoder(self)
            frames = decoder.read(self.times[places.start : places.stop : places.step].tolist())
        except Exception as error:
            _decoders.pop(os.getpid(), None)  # who knows where it stands
            raise BadImageError(self.path, in_brief(error)) from error
        return [convert_channels(resize(frame, size), channels) for frame in frames]


def movies_of(path: str) -> Iterator[Movie]:
    """What a path holds: a video, videos at any depth, or else folders of frames at any depth."""
    folder = os.path.isdir(path)
    videos = [os.path.join(path, os.fsdecode(name)) for name in list_images(path, SUFFIXES)] if folder else [path]
    for video in videos:
        try:
            yield Video(video)
        except BadImageError as error:
            yield Movie(video, error.reason)
    if not videos:
        for name, frames in itertools.groupby(list_images(path), os.path.dirname):
            yield FrameFolder(path, name, frames)


# --- PyAV ------------------------------------------------------------------------------------------------------------


class _Decoder:
    """A video open for decoding, somewhere in it: from there on, it is decoded without seeking."""

    _time: int  # of the last frame that was decoded
    _frames: Iterator[Any]

    def __init__(self, video: Video) -> None:
        self.video = video
        self._rewind()

    def read(self, times: list[int]) -> list[Pixels]:
        """The frames with these rising presentation times, each (3, h, w)."""
        key = bisect_right(self.video.keys, times[0]) - 1
        if not self.video.keys[key] <= self._time < times[0]:
            self._seek(key)
        found = []
        for frame in self._frames:
            self._time = frame.pts
            if frame.pts in times:
                found.append(self._pixels(frame))
            if frame.pts >= times[-1]:
                break
        if len(found) < len(times):
            raise ValueError(f"{len(times) - len(found)} of the {len(times)} frames of a clip cannot be decoded")
        return found

    def _seek(self, key: int) -> None:
        """To the keyframe of this number or one before; where seeks end too late, as in MPEG-TS, to the beginning."""
        for target in self.video.keys[max(0, key - 2) : key + 1][::-1].tolist():
            self._container.seek(target, stream=self._stream)
            packets = self._container.demux(self._stream)
            start = next((packet for packet in packets if packet.size and packet.is_keyframe), None)
            if start is not None and _time(start) in self.video.keys[: key + 1]:
                return self._decode(itertools.chain([start], packets))
        return self._rewind()

    def _rewind(self) -> None:
        self._container, self._stream = open_stream(self.video.path)
        self._to_rgb = importlib.import_module("av.video.reformatter").VideoReformatter()
        self._decode(self._container.demux(self._stream))

    def _decode(self, packets: Iterator[Any]) -> None:
        self._time = -(2**63)
        self._frames = (frame for packet in packets for frame in packet.decode())

    def _pixels(self, frame: Any) -> Pixels:
        if frame.is_corrupt:
            raise ValueError(f"the frame at {frame.time:.2f} s is damaged")
        pixels = self._to_rgb.reformat(frame, format="rgb24").to_ndarray()
        return np.ascontiguousarray(np.rot90(pixels, frame.rotation // 90).transpose(2, 0, 1))  # upright


# By process: a fork has neither the threads nor the file position of its parent's, and must not even close it.
_decoders: dict[int, _Decoder] = {}


def open_stream(path: str, kind: str = "video") -> tuple[Any, Any]:
    """A video's container and its main stream of pictures or, of the kind ``audio``, of sound."""
    try:
        av = importlib.import_module("av")
    except ImportError as error:
        raise missing_extra("reading videos", "video", "PyAV") from error
    if not os.path.isfile(path):
        raise ValueError("not a regular file")
    container = av.open(path, container_options={"protocol_whitelist": "file"})  # a playlist could name any address
    stream = container.streams.best(kind)
    if stream is None:
        raise ValueError("there are no pictures in it" if kind == "video" else "there is no sound in it")
    stream.codec_context.thread_count = 1  # the workers are many already
    stream.codec_context.options = {"err_detect": "crccheck+explode"}  # rather none than invented pixels
    return container, stream


def _time(packet: Any) -> int:
    """Presentation time in the stream's unit; what has none is shown as it is decoded."""
    time: int = packet.dts if packet.pts is None else packet.pts
    return time
