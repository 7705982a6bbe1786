"""Label propagation on a set of clips laid out as DAVIS is: J&F of the objects of each first frame."""

# No `from __future__ import annotations` here: to resolve such annotations, the command line would import torch.
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_toolkit.errors import UsageError
from ssl_toolkit.tasks.tables import Found, Table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ssl_toolkit.encoders import Encoder
    from ssl_toolkit.eval.scores.propagation import Rules

IMAGES, MASKS, SPLIT = "JPEGImages", "Annotations", "ImageSets/2017/val.txt"


class ClipScores(Found, dict[str, Any]):
    """What results.json holds: the clips and, by who lent, J, F and J&F, means over all objects, and of each clip."""

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A row for each who lent: its name, J&F, J and F."""
        return [
            {"from": name, **{key: scores[key] for key in ("j_and_f", "j", "f")}}
            for name, scores in self["results"].items()
        ]

    def table(self) -> Table:
        """A row for each who lent, in percent."""
        from ssl_toolkit.tasks.propagating import NAMES

        cells = [[NAMES[row["from"]], *(f"{100 * row[key]:.1f}" for key in ("j_and_f", "j", "f"))] for row in self.rows]
        return Table(["", "J&F, %", "J, %", "F, %"], cells, ["<22", *(">9" for _ in range(3))])


def is_clip_set(path: Path) -> bool:
    """Whether a folder is laid out as DAVIS is."""
    return (path / IMAGES).is_dir()


def clips_of(path: Path) -> list[tuple[Path, Path]]:
    """Folders of frames and of masks of each clip: those that ``ImageSets/2017/val.txt`` names, or else all.

    Raises:
        UsageError: There are none, or a clip has no masks.
    """
    images, masks = (
        path / name / "480p" if (path / name / "480p").is_dir() else path / name for name in (IMAGES, MASKS)
    )
    split = path / SPLIT
    found = sorted(each.name for each in images.iterdir() if each.is_dir())
    names = split.read_text().split() if split.is_file() else found
    if not names:
        raise UsageError(f"--clip: there are no folders of frames in {images}")
    for name in names:
        for folder in (images, masks):
            if not (folder / name).is_dir():
                raise UsageError(f"--clip: there is no {folder / name}")
    return [(images / name, masks / name) for name in names]


def score_clips(
    encoders: "Mapping[str, Encoder]", path: Path, size: int, rules: "Rules", sheet: Path, progress: bool
) -> dict[str, dict[str, Any]]:
    """J&F of the objects of all clips.

    Args:
        encoders: By name, in eval mode.
        path: Folder of the set.
        size: Short side of the frames, pixels.
        rules: See `Rules`.
        sheet: PNG of frames of the first clip with the masks that the first encoder carried.
        progress: Show a progress bar.

    Returns:
        By encoder, and ``copied`` for the first mask where it is: ``j_and_f``, ``j`` and ``f``, means over the objects
        of all clips, and by clip those of its own objects.
    """
    import numpy as np

    from ssl_toolkit.eval.pictures import clip_files
    from ssl_toolkit.eval.pictures.png import write_figure
    from ssl_toolkit.eval.scores.contours import j_and_f
    from ssl_toolkit.eval.scores.propagation import carry_mask
    from ssl_toolkit.progress import progress_bar

    clips = clips_of(path)
    pairs: dict[str, dict[str, list[tuple[float, float]]]] = {name: {} for name in (*encoders, "copied")}
    with progress_bar(len(clips) * len(encoders), "carrying", "clip", progress) as bar:
        for images, masks in clips:
            read, truth = _read(images, masks, size)
            objects = [number for number in np.unique(truth[0]).tolist() if number]
            for name, encoder in encoders.items():
                frames = [_whole(frame, encoder.width_and_stride()[1]) for frame in read]
                carried, _ = carry_mask(encoder, frames, truth[0], rules)
                pairs[name][images.name] = j_and_f(carried, truth, objects)
                if not sheet.exists():
                    masked = [clip_files.resized(mask, read[0].shape[1:]) for mask in carried]
                    write_figure(clip_files.sheet_of({images.name: read}, masked), sheet, "--out")
                bar.update()
            pairs["copied"][images.name] = j_and_f([truth[0]] * len(read), truth, objects)
    found: dict[str, dict[str, Any]] = {}
    for name, by_clip in pairs.items():
        overall = _means([pair for each in by_clip.values() for pair in each])
        found[name] = {**overall, "clips": {clip: _means(each) for clip, each in by_clip.items()}}
    return found


def _means(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    from statistics import fmean

    j, f = (fmean(column) for column in zip(*pairs, strict=True))
    return {"j_and_f": (j + f) / 2, "j": j, "f": f}


def _read(images: Path, masks: Path, size: int) -> "tuple[list[NDArray[np.uint8]], dict[int, NDArray[np.int64]]]":
    """Frames (3, H, W) with a short side, and masks by the number of their frame, of their own size."""
    from ssl_toolkit.data.video import open_movie
    from ssl_toolkit.eval.pictures import clip_files

    movie = open_movie(str(images))
    places = range(movie.length)
    if len(places) < 2:
        raise UsageError(f"--clip: {images} has one frame, with nothing to carry its masks to")
    return list(clip_files.read_frames(movie, places, size)), clip_files.read_masks(str(masks), movie, places)


def _whole(frame: "NDArray[np.uint8]", cell: int) -> "NDArray[np.uint8]":
    """A frame squeezed to whole positions of a feature map: nothing is cut off, since all pixels are scored."""
    import torch
    import torch.nn.functional as F

    sides = [max(1, side // cell) * cell for side in frame.shape[1:]]
    image = F.interpolate(torch.from_numpy(frame)[None].float(), sides, mode="bilinear", antialias=True)[0]
    squeezed: NDArray[np.uint8] = image.round().byte().numpy()
    return squeezed
