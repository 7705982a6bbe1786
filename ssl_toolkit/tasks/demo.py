"""The whole way from images to a report, offline, in minutes."""

# No `from __future__ import annotations` here: to resolve such annotations, the command line would import torch.
import time

from ssl_toolkit.progress import say
from ssl_toolkit.tasks.evaluation import evaluate
from ssl_toolkit.tasks.indexing import index
from ssl_toolkit.tasks.pretraining import pretrain
from ssl_toolkit.tasks.reporting import report
from ssl_toolkit.tasks.run import Run
from ssl_toolkit.tasks.searching import search
from ssl_toolkit.tasks.settings import AnyPath

TEST = "shapes:test"
QUERIES = [f"shapes:test:3000#{number}" for number in range(2000, 2010)]  # beyond the 2,000 that are indexed


def demo(
    out: AnyPath = "runs/demo",
    images: int = 4000,
    epochs: int = 18,
    overwrite: bool = False,
    resume: bool = False,
    progress: bool = True,
) -> Run:
    """Pretrain on the built-in images, evaluate, search and write a report: offline, in minutes on two cores.

    Args:
        out: The run folder to make.
        images: Built-in images to pretrain on, at least 256.
        epochs: Passes over them.
        overwrite: Delete a run that is in `out`.
        resume: Go on with the run in `out`, if there is one.
        progress: Show progress bars.

    Returns:
        The run.

    Raises:
        UsageError: If `out` holds something already.
    """
    started = time.time()
    train = f"shapes:train:{images}"
    say(f"1/5 pretraining: SimCLR looks at {images:,} rendered images of ten things {epochs} times; it sees no labels")
    run = pretrain(
        {"name": "simclr", "temperature": 0.2}, train, out, encoder="convnet",
        views={"size": 24, "crop_scale": [0.3, 1.0], "jitter": [0.4, 0.4, 0.4, 0.1], "blur_p": 0.0},
        optimizer={"name": "adamw", "lr": 3e-3}, image_size=32, epochs=epochs, overwrite=overwrite, resume=resume,
        progress=progress,
    )  # fmt: skip
    say(f"2/5 evaluating: the encoder stays as it is, labels of {images:,} images are used to classify {TEST}")
    evaluate(run, train=train, test=TEST, progress=progress)
    say(f"3/5 indexing the images of {TEST} for search")
    folder = index(run, TEST, run / "index", overwrite=True, progress=progress)
    grid = run / "neighbours.png"
    say(f"4/5 searching the index with {len(QUERIES)} images that are not in it: {grid}")
    search(folder, QUERIES, grid=grid)
    say("5/5 writing the report")
    report(run, progress=progress)
    say(f"done in {time.time() - started:.0f} s\n")
    return run
