"""Carry the colours of a clip's first frame, and a mask, through the clip."""

# No `from __future__ import annotations` here: to resolve such annotations, the command line would import torch.
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ssl_toolkit.errors import UsageError
from ssl_toolkit.progress import say
from ssl_toolkit.tasks.clip_sets import ClipScores, clips_of, is_clip_set, score_clips
from ssl_toolkit.tasks.settings import AnyPath, AnyTrained
from ssl_toolkit.tasks.tables import Found, Table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ssl_toolkit.encoders import Encoder
    from ssl_toolkit.eval.scores.propagation import Rules
    from ssl_toolkit.tasks.common import Results

NAMES = {"trained": "trained", "random": "random weights", "copied": "first frame, copied", "own": "own colours"}
TITLES = {"ab_error": "ab error", "psnr": "PSNR, dB", "iou": "mask IoU, %", "back_and_forth": "there and back, %"}


class Carried(Found, dict[str, Any]):
    """What results.json holds: ``colours`` and, if there are masks, ``masks``, each scores by who lent."""

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A row for each who lent: its name and all its scores."""
        masks = self.get("masks", {})
        return [{"from": name, **scores, **masks.get(name, {})} for name, scores in self["colours"].items()]

    def table(self) -> Table:
        """A row for each who lent, shares in percent."""
        keys = [key for part in (self["colours"], self.get("masks")) if part for key in part["trained"]]
        factor = {"ab_error": 1, "psnr": 1}
        cells = [
            [NAMES[row["from"]], *(f"{factor.get(key, 100) * row[key]:.2f}" if key in row else "" for key in keys)]
            for row in self.rows
        ]
        return Table(["", *(TITLES[key] for key in keys)], cells, ["<22", *(">17" for _ in keys)])


def propagate(
    run: AnyTrained,
    clip: AnyPath,
    out: AnyPath,
    masks: AnyPath | None = None,
    size: int = 256,
    frames: int | None = None,
    stride: int = 1,
    context: int = 7,
    radius: int = 12,
    topk: int = 5,
    temperature: float = 0.1,
    baselines: bool = True,
    seed: int = 0,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    overwrite: bool = False,
    progress: bool = True,
) -> Carried | ClipScores:
    """Carry the colours of a clip's first frame, and a mask, through the clip with an encoder's features.

    In Python, `run` may be whatever `load_run_encoder` takes; a module is taken to be for RGB images.

    Args:
        run: Run folder or encoder file.
        clip: A video (extra ``video``) or a folder of frames; or a folder laid out as DAVIS is, with JPEGImages and
            Annotations, whose masks alone are carried and scored by J&F.
        out: Folder for results.json, sheet.png, the coloured clip (coloured.mp4 with the extra ``video``, else PNG
            frames) and the carried masks.
        masks: PNG of the first frame's objects, by palette index or white on black; or a folder of such, named after
            their frames, by which the carried masks are scored.
        size: Short side of the frames when read, in pixels; the more, the finer the feature map.
        frames: How many frames, from the first one; if not given, all.
        stride: From frame to frame.
        context: Frames before a frame that lend to it, beside the first one.
        radius: Farthest place that lends, in positions of the feature map.
        topk: Places that lend.
        temperature: Of the softmax over their cosines.
        baselines: Score random weights of the same architecture too.
        seed: Of the random weights.
        device: Where frames are encoded.
        overwrite: Replace results that are in `out`.
        progress: Show a progress bar.

    Returns:
        What ``results.json`` holds: ``colours`` and, if there are masks, ``masks``, each a score by who lent; of
        DAVIS's layout J, F and J&F by who lent.

    Raises:
        UsageError: If something asked for does not exist or does not fit.

    Examples:
        An object of a video, by the encoder of a run; the mask is one of the first frame:

            found = propagate("runs/video", "cat.mp4", out="carried", masks="cat_first_frame.png")
            found["masks"]
    """
    for option, value, low in (("size", size, 16), ("frames", frames, 2), ("stride", stride, 1)):
        if value is not None and value < low:
            raise UsageError(f"--{option} is {value}: it must be at least {low}")
    from ssl_toolkit.eval.scores.propagation import Rules
    from ssl_toolkit.tasks.common import Results, pick_device, random_baseline

    rules = Rules(context, radius, topk, temperature)
    encoder, metadata = _encoder(run, size)
    results = Results(run, encoder, metadata, seed)
    if is_clip_set(Path(clip)):
        if masks is not None or frames is not None or stride != 1:
            raise UsageError("--masks, --frames and --stride are for one clip: a set of clips has masks, and all count")
        return _carry_set(encoder, Path(clip), Path(out), size, rules, baselines, device, overwrite, progress, results)
    taken = _read(encoder, os.fspath(clip), None if masks is None else os.fspath(masks), size, frames, stride)
    folder = Path(out)
    prepare_folder(folder, overwrite)
    encoder = encoder.to(pick_device(device))
    encoders = {"trained": encoder, **(random_baseline(encoder, seed) if baselines else {})}
    carried = _carry(encoders, taken, rules, progress)
    written = _write(folder, taken, **carried)
    scores = {what: {name: each.scores for name, each in by.items()} for what, by in carried.items()}
    found = {"clip": taken.about, "rules": vars(rules), **scores, "written": written}
    summary = Carried(results.write(found, [folder / "results.json"]))
    say(f"{', '.join(written)} and results.json are in {folder}")
    return summary


def _carry_set(
    encoder: "Encoder",
    path: Path,
    out: Path,
    size: int,
    rules: "Rules",
    baselines: bool,
    device: str,
    overwrite: bool,
    progress: bool,
    results: "Results",
) -> ClipScores:
    from ssl_toolkit.tasks.common import pick_device, random_baseline

    clips = len(clips_of(path))
    prepare_folder(out, overwrite)
    encoder = encoder.to(pick_device(device))
    encoders = {"trained": encoder, **(random_baseline(encoder, results.seed) if baselines else {})}
    found = score_clips(encoders, path, size, rules, out / "sheet.png", progress)
    about = {"path": os.fspath(path), "clips": clips, "size": size}
    return ClipScores(
        results.write({"protocol": about, "rules": vars(rules), "results": found}, [out / "results.json"])
    )


def _encoder(run: AnyTrained, size: int) -> "tuple[Encoder, dict[str, str]]":
    """The encoder, for colour or grey frames, and its metadata."""
    import numpy as np

    from ssl_toolkit.tasks.start import load_run_encoder

    encoder, metadata = load_run_encoder(run, np.zeros((1, size, size, 3), np.uint8))
    if encoder.config.channels not in (1, 3):
        raise UsageError(f"the encoder takes {encoder.config.channels} channels, frames have 1 or 3: give another")
    return encoder, metadata


@dataclass(frozen=True)
class _Clip:
    """Frames (3, H, W) uint8 and, by the number of their frame, masks, cut to whole positions."""

    frames: "list[NDArray[np.uint8]]"
    masks: "dict[int, NDArray[np.int64]]"
    rate: float
    about: dict[str, Any]


def _read(encoder: "Encoder", clip: str, masks: str | None, size: int, frames: int | None, stride: int) -> _Clip:
    from ssl_toolkit.data.video import open_movie
    from ssl_toolkit.eval.pictures import clip_files
    from ssl_toolkit.eval.scores.propagation import whole_positions

    movie = open_movie(clip)
    places = range(0, movie.length, stride)[:frames]
    if len(places) < 2:
        raise UsageError(f"--stride {stride}: that is one frame of '{clip}', with nothing to carry its colours to")
    given = {} if masks is None else clip_files.read_masks(masks, movie, places)
    _, cell = encoder.width_and_stride()
    whole = list(clip_files.read_frames(movie, places, size))
    height, width = whole[0].shape[1:]
    cut = {n: whole_positions(clip_files.resized(mask, (height, width)), cell) for n, mask in given.items()}
    read = [whole_positions(frame, cell) for frame in whole]
    about = {"path": clip, "frames": len(read), "stride": stride, "size": list(read[0].shape[1:]), "cell": cell}
    return _Clip(read, cut, movie.rate / stride, about)


def _carry(encoders: "dict[str, Encoder]", clip: _Clip, rules: "Rules", progress: bool) -> dict[str, dict[str, Any]]:
    """``colours`` and, if there are masks, ``masks``, each by who lent."""
    from ssl_toolkit.eval.scores.propagation import carry_colours, carry_masks
    from ssl_toolkit.progress import progress_bar

    steps = len(clip.frames) * (len(encoders) * (1 + bool(clip.masks)) + 2)
    with progress_bar(steps, "carrying", "frame", progress) as bar:
        carried: dict[str, dict[str, Any]] = {"colours": {**carry_colours(encoders, clip.frames, rules, bar.update)}}
        if clip.masks:
            carried["masks"] = {**carry_masks(encoders, clip.frames, clip.masks, rules, bar.update)}
    return carried


def _write(folder: Path, clip: _Clip, colours: dict[str, Any], masks: dict[str, Any] | None = None) -> list[str]:
    """Write the sheet, the coloured clip and the carried masks; their names."""
    from ssl_toolkit.eval.pictures import clip_files
    from ssl_toolkit.eval.pictures.png import write_figure
    from ssl_toolkit.eval.scores.propagation import without_colour

    rows = {"true": clip.frames, "grey": without_colour(clip.frames), "coloured": colours["trained"].frames}
    rows |= {NAMES[name]: colours[name].frames for name in ("random",) if name in colours}
    own = masks["trained"].frames if masks else []
    write_figure(clip_files.sheet_of(rows, own), folder / "sheet.png", "--out")
    written = ["sheet.png", clip_files.write_clip(folder, colours["trained"].frames, clip.rate)]
    return [*written, clip_files.write_masks(folder, own)] if masks else written


def prepare_folder(folder: Path, overwrite: bool) -> None:
    """Make the folder of the results, empty.

    Raises:
        UsageError: Something else lies there, or results that may not be replaced.
    """
    from ssl_toolkit.files import make_folder

    make_folder(folder, "--out")
    if any(folder.iterdir()):
        if not (folder / "results.json").is_file() or not (folder / "sheet.png").is_file():
            raise UsageError(f"--out {folder} is not empty, and does not hold what propagate wrote: name a new folder")
        if not overwrite:
            raise UsageError(f"--out {folder} holds results already: name another folder, or give --overwrite")
        (folder / "sheet.png").unlink()
        for name in ("coloured", "masks"):
            shutil.rmtree(folder / name, ignore_errors=True)
