"""``ssl-toolkit check``: what can be known before a training, in a minute and without leaving files."""

from typing import Any

from ssl_toolkit.cli.parser import Parser, normalize
from ssl_toolkit.cli.pretrain import GROUPS, OBJECTS, chosen_method, make_parser
from ssl_toolkit.errors import ToolkitError, UsageError
from ssl_toolkit.progress import say
from ssl_toolkit.tasks.pretraining import pretrain, settings_of

BATCHES = 3  # to overfit
VARIETY = 20  # batches that the range test goes through again and again


def check(config: dict[str, Any], steps: int = 100, overfit_steps: int = 60) -> dict[str, Any]:
    """Check a configuration of `pretrain` before it is trained.

    Args:
        config: All settings of ``pretrain``, see `settings_of` there.
        steps: Steps of the learning-rate range test.
        overfit_steps: Steps on the same few batches.

    Returns:
        ``checks``: a list of name, passed, value, expected, advice; ``learning_rate``: the range test;
        ``images_per_second``, ``reading_seconds``, ``memory_bytes`` and ``seconds`` of the whole run.

    Raises:
        UsageError: If something asked for does not exist or does not fit.
        ToolkitError: If the loss is not finite from the start, or too many images cannot be read.
    """
    for option, value, low in (("--steps", steps, 20), ("--overfit-steps", overfit_steps, 2 * BATCHES)):
        if not low <= value <= 10**5:
            raise UsageError(f"{option} is {value}: it must be at least {low} and at most 100000")
    import itertools
    import time

    from ssl_toolkit.data.bad_images import BadImages
    from ssl_toolkit.data.cache import cached, fits_in_memory
    from ssl_toolkit.data.image_set import Subset
    from ssl_toolkit.data.loader import ImageLoader, full_batches
    from ssl_toolkit.eval.health import check as checks
    from ssl_toolkit.progress import progress_bar
    from ssl_toolkit.randomness import numpy_generator
    from ssl_toolkit.tasks.assembly import assemble
    from ssl_toolkit.tasks.common import pick_device

    images, method = assemble(config)
    size, batch_size, workers = method.encoder.config.load_size, config["batch_size"], config["workers"]
    method.seed = config["seed"]
    device = pick_device({"gpu": "cuda"}.get(config["accelerator"], config["accelerator"]))
    method.to(device)
    method.views.compiled = config["compile"] == "always"
    if config["compile"] == "always":
        method.compile_encoder()
    order = numpy_generator(config["seed"], "check").permutation(len(images))
    part = Subset(images, order[: max(VARIETY, BATCHES) * batch_size])
    in_memory = fits_in_memory(images, size, config["cache"])
    bad = BadImages(part, max_rate=max(config["max_bad_rate"], 1 / len(part)))
    since = time.perf_counter()
    source = cached(part, size, bad, "memory" if in_memory else "none", workers, config["progress"])
    reading = (time.perf_counter() - since) / len(part) * len(images) if in_memory else 0.0
    loader = ImageLoader(
        source, size, batch_size=batch_size, shuffle=True, seed=config["seed"], workers=workers, bad=bad
    )
    endless = itertools.chain.from_iterable(itertools.repeat(loader))
    few = list(itertools.islice(endless, BATCHES))
    per_step = batch_size * config["accumulate"] * config["devices"]
    trial = checks.Trial(method, per_step, config["precision"], config["clip_gradient"])
    with progress_bar(steps + overfit_steps, "checking", "step", config["progress"]) as bar:
        found = [checks.first_loss(trial, few), checks.overfit(trial, few, overfit_steps, bar.update)]
        rates = checks.lr_range(trial, endless, steps, bar.update)
    batches = full_batches(images, batch_size, config["devices"]) * config["epochs"]
    return {
        "checks": [each._asdict() for each in found],
        "learning_rate": checks.plain(rates),
        "images_per_second": rates.images_per_second,
        "reading_seconds": reading,
        "memory_bytes": checks.peak_memory(device),
        "seconds": reading + batches * batch_size / rates.images_per_second,
    }


def table(config: dict[str, Any], found: dict[str, Any]) -> str:
    """A line a check."""
    from ssl_toolkit.eval.report.training_parts import duration

    verdicts = {True: "passed", False: "FAILED", None: "no figure"}
    rows = []
    for each in found["checks"]:
        expected = "" if each["expected"] is None else f"{each['expected']:.3g}"
        relation = "a guess gives" if each["name"] == "first loss" else "at most"
        values = f"{each['value']:.3g}" + (f"; {relation} {expected}" if expected else "")
        rows.append((each["name"], verdicts[each["passed"]], values + f" ({each['advice']})"))
    rates = found["learning_rate"]
    rows += [
        (
            "learning rate", "suggestion",
            f"--optimizer.lr {rates['suggestion']:.1e}: a tenth of where the loss is lowest, "
            f"{rates['lowest']:.1e}; configured is {config['optimizer']['lr']:.1e}",
        ),
        ("speed", "measured", f"{found['images_per_second']:.0f} images a second on one device"),
        ("memory", "measured", f"{found['memory_bytes'] / 2**30:.2f} GiB at most"),
        ("time to finish", "estimate", f"{duration(found['seconds'])} for {config['epochs']} epochs"),
    ]  # fmt: skip
    return "\n".join(f"{name:<23}{verdict:<12}{text}" for name, verdict, text in rows)


def main(argv: list[str]) -> None:
    """The command: takes a command line of ``pretrain`` as it is; ``--out`` may be left out, nothing is written."""
    argv = normalize(argv, GROUPS)
    parser = Parser("check", pretrain, skip=OBJECTS)
    parser.description = (
        "Check a training before it is started: is the first loss that of a guess, can a few batches be overfitted, "
        "which learning rate, how many images a second, how much memory, how long. Takes the options of pretrain; "
        "nothing is written. Exits 1 if a check fails."
    )
    parser.add_argument("--out", type=str, default="", help="ignored: nothing is written")
    parser.add_argument("--steps", type=int, default=100, help="steps of the learning-rate range test")
    parser.add_argument("--overfit_steps", type=int, default=60, help="steps on the same few batches")
    parser.add_argument("--json", action="store_true", help="print JSON: checks, the range test, speed, memory, time")
    settings = make_parser(chosen_method(argv), parser).parse(argv)
    if settings is None:
        return
    options = {key: settings.pop(key) for key in ("steps", "overfit_steps")}
    as_json = settings.pop("json")
    settings = settings_of(settings)
    found = check(settings, **options)
    if as_json:
        import json

        print(json.dumps(found, indent=1))
    else:
        print(table(settings, found))
    failed = [each["name"] for each in found["checks"] if each["passed"] is False]
    if failed:
        raise ToolkitError(f"this training would not do: {' and '.join(failed)} failed")
    say("nothing speaks against: ssl-toolkit pretrain with the same options")
