"""``ssl-toolkit doctor``: has a run collapsed, and why?"""

from typing import Any, Literal

from ssl_toolkit.cli.parser import Parser, print_found
from ssl_toolkit.errors import ToolkitError, UsageError


def doctor(
    run: str,
    data: str | None = None,
    images: int = 2000,
    data_root: str | None = None,
    workers: int = 2,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
) -> dict[str, Any]:
    """Measure a run without labels, and say what is wrong with it. Exits 1 if it has collapsed.

    Args:
        run: Run folder.
        data: Images to measure with; if not given, those that were trained on.
        images: How many, drawn at random.
        data_root: Folder of torchvision's data sets; if not given, the run's own.
        workers: Processes that read images.
        device: Where images are encoded.

    Returns:
        ``measures`` of the ``features`` and, where there is a checkpoint, of the ``embedding`` that the loss compares
        and of the ``step``; ``findings`` in them, and those of the ``training`` as its metrics.csv has them: each a
        dictionary with ``where`` it was found.

    Raises:
        UsageError: If there is no such run, it has no encoder yet, or there are no such images.
    """
    if not 32 <= images <= 10**6:
        raise UsageError(f"--images is {images}: it must be from 32 to 1000000")
    from ssl_toolkit.checkpoints import load_newest
    from ssl_toolkit.data.loader import BadImages, ImageLoader, Subset
    from ssl_toolkit.data.sources import open_images
    from ssl_toolkit.eval.health.findings import diagnose, examine
    from ssl_toolkit.eval.health.measures import examine_method, numbers
    from ssl_toolkit.logs import read_metrics
    from ssl_toolkit.randomness import numpy_generator
    from ssl_toolkit.runs import RunFolder
    from ssl_toolkit.tasks.assembly import build_encoder, build_method
    from ssl_toolkit.tasks.common import pick_device
    from ssl_toolkit.tasks.pretraining import settings_of

    folder = RunFolder(run)
    stored = folder.config()
    config = settings_of({**stored, "out": str(run)})
    place = pick_device(device)
    source = open_images(
        data or config["data"], root=data_root or config["data_root"], labels="none", channels=config["channels"]
    )
    if not folder.encoder_file.is_file():
        raise UsageError(f"{folder.path} has no encoder yet: it is written with the first checkpoint")
    config["encoder"] |= {"name": str(folder.encoder_file), "normalize": "auto", "mean": None, "std": None}
    config |= {"weights": None, "weights_key": None}
    method = build_method(config, build_encoder(config, source), source)
    heads = load_newest(method, folder.checkpoints)
    method.to(place)
    part = Subset(source, numpy_generator(0, "doctor").permutation(len(source))[:images])
    bad = BadImages(part, max_rate=1.0)
    loader = ImageLoader(
        part, method.encoder.config.load_size, batch_size=min(256, len(part)), shuffle=True, workers=workers, bad=bad
    )
    measures = examine_method(method, loader, heads=heads)
    seen = {
        "embedding": {**measures.get("embedding", {}), **measures.get("step", {})},
        "features": measures["features"],
    }
    found = {where: examine(each) for where, each in seen.items()}
    found["training"] = diagnose(numbers(read_metrics(folder.metrics_file)))
    return {
        "measures": measures,
        "findings": [{"where": where, **each._asdict()} for where, some in found.items() for each in some],
    }


def collapsed(found: dict[str, Any]) -> bool:
    """Whether what is there now, whatever the training went through, has collapsed."""
    return any(each["severity"] == "collapse" and each["where"] != "training" for each in found["findings"])


def table(found: dict[str, Any], run: str = "RUN") -> str:
    """The measures side by side, with what is healthy and better; then a paragraph a finding, and what to do next."""
    from ssl_toolkit.eval.health.measures import MEASURES

    places = [where for where in ("embedding", "features") if where in found["measures"]]

    def line(name: str, values: list[str]) -> str:
        cells = f"{name:<16}" + "".join(f"{value:>12}" for value in values)
        return f"{cells}   {MEASURES[name].range():<13}{MEASURES[name].better}" if name in MEASURES else cells

    def cell(where: str, name: str) -> str:
        value = found["measures"][where].get(name)  # one view has no alignment
        return "-" if value is None else f"{value:.3f}"

    names = dict.fromkeys(name for where in places for name in found["measures"][where])
    lines = [line("", places) + f"   {'healthy':<13}better"]
    lines += [line(name, [cell(where, name) for where in places]) for name in names]
    lines += [line(name, [f"{value:.3f}"]) for name, value in found["measures"].get("step", {}).items()]
    for each in found["findings"]:
        at = "" if each["step"] is None else f", step {each['step']}"
        values = f"{each['measure']} {each['value']:.3g}, threshold {each['threshold']:.3g}"
        lines += ["", f"{each['severity']}: {each['name']} ({each['where']}{at}: {values}). {each['advice']}"]
    if not found["findings"]:
        lines += [
            "",
            f"no finding. Next: `ssl-toolkit evaluate {run} --train DATA --test DATA` says how good it is.",
        ]
    return "\n".join(line.rstrip() for line in lines)


def main(argv: list[str]) -> None:
    """The command."""
    parser = Parser("doctor", doctor, positional=("run",))
    found = print_found(parser, argv, "measures and findings", lambda settings, found: table(found, settings["run"]))
    if found is not None and collapsed(found):
        raise ToolkitError("the run has collapsed")
