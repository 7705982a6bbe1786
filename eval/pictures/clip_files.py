"""Files of label propagation: frames and masks in, a coloured clip, masks and a sheet of pictures out."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ssl_toolkit.data.depth import Pixels
from ssl_toolkit.data.images import BadImageError
from ssl_toolkit.data.video import Movie
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.pictures.marks import PALETTE
from ssl_toolkit.eval.pictures.png import picture_png
from ssl_toolkit.eval.pictures.sheets import sheet
from ssl_toolkit.eval.pictures.themes import LIGHT, Theme
from ssl_toolkit.files import write_atomic

AT_ONCE = 32  # frames that are read at their own size
VOID = 255  # palette index
OVER = 0.6  # opacity of a mask over its frame


def read_frames(movie: Movie, places: range, size: int | None) -> Iterator[NDArray[np.uint8]]:
    """Frames (3, H, W) with `size` for their short side; None keeps their own.

    Raises:
        UsageError: One of them cannot be read, or they differ in size.
    """
    shape = None
    for start in range(0, len(places), AT_ONCE):
        try:
            part = movie.read(places[start : start + AT_ONCE], size, 3)
        except BadImageError as error:
            raise UsageError(f"the clip cannot be carried through: {error}") from error
        for frame in part:
            shape = shape or frame.shape
            if frame.shape != shape:
                raise UsageError(f"the frames of '{movie.path}' differ in size")
            yield frame


def read_mask(path: Path) -> NDArray[np.int64]:
    """The objects of a mask (H, W): palette indices but 255, or 1 where it is brighter than half; 0 elsewhere.

    255 is what data sets of masks have where nobody is sure.

    Raises:
        UsageError: It is no image.
    """
    try:
        with Image.open(path) as image:
            if image.mode == "P":
                index = np.asarray(image).astype(np.int64)
                return np.where(index == VOID, 0, index)
            return (np.asarray(image.convert("L")) > 127).astype(np.int64)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UsageError(f"--masks: {path} cannot be read as an image") from error


def read_masks(path: str, movie: Movie, places: range) -> dict[int, NDArray[np.int64]]:
    """The masks of some frames of a clip, by the number of the frame among `places`.

    Args:
        path: A PNG file, of the first frame; or a folder of PNG files that are named after their frames: as the files
            of a folder of frames are, or by numbers from 0 for those of a video.
        movie: The clip.
        places: Its frames that are gone through.

    Raises:
        UsageError: There is no mask of the first frame, it is empty, or a mask has another size than the frames.
    """
    place = Path(path)
    if place.is_dir():
        named = [(movie.place_of(file.stem), file) for file in sorted(place.glob("*.png"))]
        files = {places.index(number): file for number, file in named if number is not None and number in places}
    elif place.is_file():
        files = {0: place}
    else:
        raise UsageError(f"--masks {path}: no such file or folder")
    if 0 not in files:
        raise UsageError(f"--masks {path}: no PNG in it is named after the first frame, as 00000.png or its own name")
    masks = {number: read_mask(file) for number, file in files.items()}
    if not masks[0].any():
        raise UsageError(f"--masks: {files[0]} is empty: there is nothing to carry")
    shape = next(read_frames(movie, places[:1], None)).shape[1:]
    for number, mask in masks.items():
        if mask.shape != shape:
            raise UsageError(
                f"--masks: {files[number]} has {mask.shape[0]}x{mask.shape[1]} px, the frames have "
                f"{shape[0]}x{shape[1]}: give masks of their size"
            )
    return masks


def resized(mask: NDArray[np.int64], size: tuple[int, int]) -> NDArray[np.int64]:
    """A mask of another size (H, W), by nearest neighbours."""
    image = Image.fromarray(mask.astype(np.uint8)).resize(size[::-1], Image.Resampling.NEAREST)
    return np.asarray(image).astype(np.int64)


def write_clip(folder: Path, frames: Sequence[NDArray[np.uint8]], rate: float) -> str:
    """Write frames (3, H, W) as coloured.mp4 where PyAV is installed, else as PNG files; the name of what was written.

    Args:
        folder: Where to.
        frames: All of one size.
        rate: Frames a second.
    """
    try:
        av = importlib.import_module("av")
    except ImportError:
        target = folder / "coloured"
        target.mkdir(exist_ok=True)
        for number, frame in enumerate(frames):
            content = picture_png(np.ascontiguousarray(frame.transpose(1, 2, 0)))
            (target / f"{number:05d}.png").write_bytes(content)
        return "coloured/"

    def write(temporary: Path) -> None:
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        with av.open(str(temporary), "w") as container:
            stream = container.add_stream(codec, rate=max(1, round(rate)))
            stream.height, stream.width = (side // 2 * 2 for side in frames[0].shape[1:])  # the codecs want even sides
            stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
            for frame in frames:
                pixels = np.ascontiguousarray(frame[:, : stream.height, : stream.width].transpose(1, 2, 0))
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())

    write_atomic(folder / "coloured.mp4", write)
    return "coloured.mp4"


def write_masks(folder: Path, masks: Sequence[NDArray[np.int64]]) -> str:
    """Write masks (H, W) as PNG files with a palette, in the folder masks; its name."""
    target = folder / "masks"
    target.mkdir(exist_ok=True)
    for number, mask in enumerate(masks):
        image = Image.fromarray(mask.astype(np.uint8), "P")
        image.putpalette([0, 0, 0] + [value for rgb in _colours() for value in rgb] * 51)
        image.save(target / f"{number:05d}.png")
    return "masks/"


def sheet_of(
    rows: Mapping[str, Sequence[Pixels]], masks: Sequence[NDArray[np.int64]], count: int = 6, theme: Theme = LIGHT
) -> Figure:
    """Some frames in columns, the first and the last among them.

    Args:
        rows: By name, a picture of each frame; the first row lies under the masks.
        masks: A mask of each frame; may be empty.
        count: Columns.
        theme: Colours.
    """
    frames = next(iter(rows.values()))
    places = np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int).tolist()
    shown = {name: [row[place] for place in places] for name, row in rows.items()}
    if masks:
        shown["mask"] = [overlaid(frames[place], masks[place]) for place in places]
    return sheet(
        list(shown.values()),
        theme,
        row_names=list(shown),
        column_names=[f"frame {place}" for place in places],
        side=1.6,
    )


def overlaid(frame: NDArray[np.uint8], mask: NDArray[np.int64]) -> NDArray[np.uint8]:
    """A frame (3, H, W) with its mask over it: a colour an object, beyond five of them with stripes of three kinds."""
    colours = np.array(_colours())
    turn, number = np.divmod(np.maximum(mask - 1, 0), len(colours))
    y, x = np.indices(mask.shape)
    stripes = np.choose(turn % 4, [np.zeros_like(x), x + y, x - y, y]) // 3 % 2
    share = np.where(stripes, OVER / 4, OVER)
    mixed = np.where(mask > 0, share * colours[number].transpose(2, 0, 1) + (1 - share) * frame, frame)
    picture: NDArray[np.uint8] = mixed.round().astype(np.uint8)
    return picture


def _colours() -> list[tuple[int, int, int]]:
    return [tuple(round(255 * value) for value in to_rgb(name)) for name in PALETTE]  # type: ignore[misc]
