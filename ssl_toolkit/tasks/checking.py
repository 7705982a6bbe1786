"""What can be known before a training, in a minute and without leaving files."""

# No `from __future__ import annotations` here: to resolve such annotations, the command line would import torch.
import itertools
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ssl_toolkit.errors import UsageError
from ssl_toolkit.progress import duration
from ssl_toolkit.tasks.settings import AnyData
from ssl_toolkit.tasks.tables import Found, Table

if TYPE_CHECKING:
    from ssl_toolkit.data.image_set import ImageSet
    from ssl_toolkit.data.loader import ImageLoader
    from ssl_toolkit.eval.health.check import Check, LearningRates
    from ssl_toolkit.method import Method
    from ssl_toolkit.tasks.pretraining import AnyMethod

BATCHES = 3  # to overfit
VARIETY = 20  # batches that the range test goes through again and again


class Checks(Found, dict[str, Any]):
    """What `check` found."""

    @property
    def failed(self) -> list[str]:
        """Names of the checks that failed."""
        return [each["name"] for each in self["checks"] if each["passed"] is False]

    def table(self) -> Table:
        """A row a check."""
        verdicts = {True: "passed", False: "FAILED", None: "no figure"}
        rows = []
        for each in self["checks"]:
            expected = "" if each["expected"] is None else f"{each['expected']:.3g}"
            relation = "a guess gives" if each["name"] == "first loss" else "at most"
            values = f"{each['value']:.3g}" + (f"; {relation} {expected}" if expected else "")
            rows.append([each["name"], verdicts[each["passed"]], values + f" ({each['advice']})"])
        rates = self["learning_rate"]
        configured = "" if rates["configured"] is None else f"; configured is {rates['configured']:.1e}"
        rows += [
            [
                "learning rate", "suggestion",
                f"--optimizer.lr {rates['suggestion']:.1e}: a tenth of where the loss is lowest, "
                f"{rates['lowest']:.1e}{configured}",
            ],
            ["speed", "measured", f"{self['images_per_second']:.0f} images a second on one device"],
            ["memory", "measured", f"{self['memory_bytes'] / 2**30:.2f} GiB at most"],
            ["time to finish", "estimate", f"{duration(self['seconds'])} for {self['epochs']} epochs"],
        ]  # fmt: skip
        return Table([], rows, ["<23", "<12", "<"])


def check(method: "AnyMethod", data: AnyData, steps: int = 100, overfit_steps: int = 60, **options: Any) -> Checks:
    """Check a training before it is started.

    Args:
        method: As `pretrain` takes it.
        data: Likewise.
        steps: Steps of the learning-rate range test.
        overfit_steps: Steps on the same few batches.
        options: Other arguments of `pretrain`; ``out`` may be left out, nothing is written.

    Returns:
        ``checks``: a list of name, passed, value, expected, advice; ``learning_rate``: the range test;
        ``images_per_second``, ``reading_seconds``, ``memory_bytes``, and ``seconds`` of the whole run of ``epochs``. It
        prints as a table.

    Raises:
        UsageError: If something asked for does not exist or does not fit.
        ToolkitError: If the loss is not finite from the start, or too many images cannot be read.

    Examples:
        Before a night of training, with the options that it will have:

            check("simclr", "photos/", encoder="resnet18", batch_size=256).failed  # names of the checks that failed
    """
    for option, value, low in (("--steps", steps, 20), ("--overfit-steps", overfit_steps, 2 * BATCHES)):
        if not low <= value <= 10**5:
            raise UsageError(f"{option} is {value}: it must be at least {low} and at most 100000")
    from ssl_toolkit.data.loader import full_batches
    from ssl_toolkit.eval.health.check import peak_memory, plain
    from ssl_toolkit.tasks.assembly import assemble
    from ssl_toolkit.tasks.pretraining import settings_of

    config = settings_of({"out": "", **options, "method": method, "data": data})
    images, built = assemble(config)
    _place(config, built)
    loader, reading = _loader(config, images, built.encoder.config.load_size)
    found, rates = _tried(config, built, loader, steps, overfit_steps)
    batches = full_batches(images, config["batch_size"], config["devices"]) * config["epochs"]
    optimizer = config["optimizer"]
    configured = optimizer["lr"] if isinstance(optimizer, Mapping) else None
    return Checks(
        checks=[each._asdict() for each in found],
        learning_rate={**plain(rates), "configured": configured},
        images_per_second=rates.images_per_second,
        reading_seconds=reading,
        memory_bytes=peak_memory(built.device),
        seconds=reading + batches * config["batch_size"] / rates.images_per_second,
        epochs=config["epochs"],
    )


def _place(config: dict[str, Any], method: "Method") -> None:
    """Make the method ready to train, on its device."""
    from ssl_toolkit.tasks.common import pick_device
    from ssl_toolkit.training import let_compile

    method.seed = config["seed"]
    method.to(pick_device({"gpu": "cuda"}.get(config["accelerator"], config["accelerator"])))
    let_compile(method, config["compile"] == "always")


def _loader(config: dict[str, Any], images: "ImageSet", size: int) -> "tuple[ImageLoader, float]":
    """Batches of some of the images, and the seconds that it takes to read all of them before the training."""
    from ssl_toolkit.data.bad_images import BadImages
    from ssl_toolkit.data.cache import cached, fits_in_memory
    from ssl_toolkit.data.image_set import Subset
    from ssl_toolkit.data.loader import ImageLoader
    from ssl_toolkit.randomness import numpy_generator

    batch_size, workers, seed = config["batch_size"], config["workers"], config["seed"]
    some = images.few()
    order = numpy_generator(seed, "check").permutation(len(some))
    part = Subset(some, order[: max(VARIETY, BATCHES) * batch_size])
    in_memory = images.indexed and fits_in_memory(images, size, config["cache"])
    bad = BadImages(part, max_rate=max(config["max_bad_rate"], 1 / len(part)))
    since = time.perf_counter()
    source = cached(part, size, bad, "memory" if in_memory else "none", workers, config["progress"])
    reading = (time.perf_counter() - since) / len(part) * len(images) if in_memory else 0.0
    return ImageLoader(source, size, batch_size=batch_size, shuffle=True, seed=seed, workers=workers, bad=bad), reading


def _tried(
    config: dict[str, Any], method: "Method", loader: "ImageLoader", steps: int, overfit_steps: int
) -> "tuple[list[Check], LearningRates]":
    from ssl_toolkit.eval.health.check import Trial, first_loss, lr_range, overfit
    from ssl_toolkit.progress import progress_bar

    endless = itertools.chain.from_iterable(itertools.repeat(loader))
    few = list(itertools.islice(endless, BATCHES))
    per_step = config["batch_size"] * config["accumulate"] * config["devices"]
    trial = Trial(method, per_step, config["precision"], config["clip_gradient"], config["clip_mode"])
    with progress_bar(steps + overfit_steps, "checking", "step", config["progress"]) as bar:
        found = [first_loss(trial, few), overfit(trial, few, overfit_steps, bar.update)]
        return found, lr_range(trial, endless, steps, bar.update)
