"""``ssl-toolkit propagate``: carry the colours of a clip's first frame, and a mask, through the clip."""

import shutil
from pathlib import Path
from typing import Any, Literal

from ssl_toolkit.cli.parser import Parser
from ssl_toolkit.errors import UsageError
from ssl_toolkit.progress import say

NAMES = {"trained": "trained", "random": "random weights", "copied": "first frame, copied", "own": "own colours"}
TITLES = {"ab_error": "ab error", "psnr": "PSNR, dB", "iou": "mask IoU, %", "back_and_forth": "there and back, %"}


def propagate(
    run: str,
    clip: str,
    out: str,
    masks: str | None = None,
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
) -> dict[str, Any]:
    """Carry the colours of a clip's first frame, and a mask, through the clip with an encoder's features.

    Args:
        run: Run folder or encoder file.
        clip: A video (extra ``video``) or a folder of frames.
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
        baselines: Whether random weights of the same architecture are scored too.
        seed: Of the random weights.
        device: Where frames are encoded.
        overwrite: Whether results in `out` may be replaced.
        progress: Whether a progress bar is shown.

    Returns:
        What ``results.json`` holds: ``colours`` and, if there are masks, ``masks``, each a score by who lent.

    Raises:
        UsageError: If something asked for does not exist or does not fit.
    """
    for option, value, low in (("size", size, 16), ("frames", frames, 2), ("stride", stride, 1)):
        if value is not None and value < low:
            raise UsageError(f"--{option} is {value}: it must be at least {low}")
    from ssl_toolkit.data.video import open_movie
    from ssl_toolkit.eval.features.baselines import random_weights
    from ssl_toolkit.eval.pictures import clip_files
    from ssl_toolkit.eval.pictures.png import write_figure
    from ssl_toolkit.eval.scores import propagation
    from ssl_toolkit.progress import progress_bar
    from ssl_toolkit.tasks.common import Results, pick_device
    from ssl_toolkit.tasks.start import load_run_encoder

    rules = propagation.Rules(context, radius, topk, temperature)
    encoder, metadata = load_run_encoder(run)
    results = Results(run, encoder, metadata, seed)
    if encoder.config.channels not in (1, 3):
        raise UsageError(f"the encoder takes {encoder.config.channels} channels, frames have 1 or 3: give another")
    movie = open_movie(clip)
    places = range(0, movie.length, stride)[:frames]
    if len(places) < 2:
        raise UsageError(f"--stride {stride}: that is one frame of '{clip}', with nothing to carry its colours to")
    given = {} if masks is None else clip_files.read_masks(masks, movie, places)
    _, cell = encoder.width_and_stride()
    whole = list(clip_files.read_frames(movie, places, size))
    height, width = whole[0].shape[1:]
    read = [propagation.whole_positions(frame, cell) for frame in whole]
    cut = {n: propagation.whole_positions(clip_files.resized(mask, (height, width)), cell) for n, mask in given.items()}
    folder = Path(out)
    prepare_folder(folder, overwrite)

    encoder = encoder.to(pick_device(device))
    encoders = {"trained": encoder, **({"random": random_weights(encoder, seed)} if baselines else {})}
    with progress_bar(len(read) * (len(encoders) * (1 + bool(cut)) + 2), "carrying", "frame", progress) as bar:
        colours = propagation.carry_colours(encoders, read, rules, bar.update)
        carried = propagation.carry_masks(encoders, read, cut, rules, bar.update) if cut else {}
    rows = {"true": read, "grey": propagation.without_colour(read), "coloured": colours["trained"].frames}
    rows |= {NAMES[name]: colours[name].frames for name in ("random",) if name in colours}
    drawn = clip_files.sheet_of(rows, carried["trained"].frames if carried else [])
    write_figure(drawn, folder / "sheet.png", "--out")
    written = ["sheet.png", clip_files.write_clip(folder, colours["trained"].frames, movie.rate / stride)]
    if carried:
        written.append(clip_files.write_masks(folder, carried["trained"].frames))
    found = {
        "clip": {"path": clip, "frames": len(read), "stride": stride, "size": list(read[0].shape[1:]), "cell": cell},
        "rules": vars(rules),
        "colours": {name: each.scores for name, each in colours.items()},
        **({"masks": {name: each.scores for name, each in carried.items()}} if carried else {}),
        "written": written,
    }
    summary = results.write(found, [folder / "results.json"])
    say(f"{', '.join(written)} and results.json are in {folder}")
    return summary


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
        for name in ("coloured", "masks"):
            shutil.rmtree(folder / name, ignore_errors=True)


def table(summary: dict[str, Any]) -> str:
    """The scores as lines of text, a line for each who lent."""
    parts = [summary["colours"], summary.get("masks", {})]
    columns = [(part, key) for part in parts if part for key in part["trained"]]
    lines = [f"{'':<22}" + "".join(f"{TITLES[key]:>17}" for _, key in columns)]
    for name in parts[0]:
        cells = [
            "" if name not in part else f"{(1 if key in ('ab_error', 'psnr') else 100) * part[name][key]:.2f}"
            for part, key in columns
        ]
        lines.append(f"{NAMES[name]:<22}" + "".join(f"{cell:>17}" for cell in cells))
    return "\n".join(line.rstrip() for line in lines)


def main(argv: list[str]) -> None:
    """The command."""
    settings = Parser("propagate", propagate, positional=("run",)).parse(argv)
    if settings is not None:
        print(table(propagate(**settings)))
