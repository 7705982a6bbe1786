"""Has a run collapsed, and why?"""

# No `from __future__ import annotations` here: to resolve such annotations, the command line would import torch.
from typing import TYPE_CHECKING, Any, Literal

from ssl_toolkit.errors import UsageError
from ssl_toolkit.tasks.settings import AnyData, AnyPath
from ssl_toolkit.tasks.tables import Found, Table

if TYPE_CHECKING:
    from ssl_toolkit.data.image_set import ImageSet
    from ssl_toolkit.data.loader import ImageLoader
    from ssl_toolkit.method import Method
    from ssl_toolkit.runs import RunFolder


class Diagnosis(Found, dict[str, Any]):
    """``measures`` and ``findings``, see `doctor`.

    Attributes:
        run: The run's folder.
    """

    run = "RUN"

    @property
    def collapsed(self) -> bool:
        """Whether what is there now, whatever the training went through, has collapsed."""
        return any(each["severity"] == "collapse" and each["where"] != "training" for each in self["findings"])

    def table(self) -> Table:
        """The measures side by side, with what is healthy and better; a paragraph a finding, or what to do next."""
        measures = self["measures"]
        places = [where for where in ("embedding", "features") if where in measures]
        names = dict.fromkeys(name for where in places for name in measures[where])
        # One view has no alignment.
        rows = [[name, *(_cell(measures[where].get(name)) for where in places), *_reading(name)] for name in names]
        rows += [[name, _cell(value), *_reading(name)] for name, value in measures.get("step", {}).items()]
        well = f"no finding. Next: `ssl-toolkit evaluate {self.run} --train DATA --test DATA` says how good it is."
        notes = [_paragraph(each) for each in self["findings"]] or [well]
        return Table(["", *places, "   healthy", "better"], rows, ["<16", *(">12" for _ in places), "<16", ""], notes)


def _reading(name: str) -> list[str]:
    """What is healthy, and which direction is better, of the measures that have such."""
    from ssl_toolkit.eval.health.measures import MEASURES

    return [f"   {MEASURES[name].range()}", MEASURES[name].better] if name in MEASURES else []


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _paragraph(finding: dict[str, Any]) -> str:
    at = "" if finding["step"] is None else f", step {finding['step']}"
    values = f"{finding['measure']} {finding['value']:.3g}, threshold {finding['threshold']:.3g}"
    return f"{finding['severity']}: {finding['name']} ({finding['where']}{at}: {values}). {finding['advice']}"


def doctor(
    run: AnyPath,
    data: AnyData | None = None,
    images: int = 2000,
    data_root: str | None = None,
    workers: int = 2,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
) -> Diagnosis:
    """Measure a run without labels, and say what is wrong with it. Exits 1 if it has collapsed.

    In Python, `data` may be whatever `open_images` takes; of a `Run` that was given objects, these are used again.

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

    Examples:
        Of a run that has an encoder:

            found = doctor("runs/photos")
            [each["name"] for each in found["findings"]]
    """
    if not 32 <= images <= 10**6:
        raise UsageError(f"--images is {images}: it must be from 32 to 1000000")
    from ssl_toolkit.checkpoints import load_newest
    from ssl_toolkit.data.sources import open_images
    from ssl_toolkit.eval.health.findings import diagnose, examine
    from ssl_toolkit.eval.health.measures import examine_method, numbers
    from ssl_toolkit.logs import read_metrics
    from ssl_toolkit.runs import RunFolder
    from ssl_toolkit.tasks.assembly import build_encoder, build_method
    from ssl_toolkit.tasks.common import pick_device

    folder, place = RunFolder(run), pick_device(device)
    config = _settings(run, folder)
    source = open_images(
        config["data"] if data is None else data, root=data_root or config["data_root"], labels="none",
        channels=config["channels"], range=config["range"],
    )  # fmt: skip
    method = build_method(config, build_encoder(config, source, config["encoder"]["name"]), source)
    heads = load_newest(method, folder.checkpoints)
    measures = examine_method(method.to(place), _drawn(source, images, method, workers), heads=heads)
    seen = {
        "embedding": {**measures.get("embedding", {}), **measures.get("step", {})},
        "features": measures["features"],
    }
    found = {where: examine(each) for where, each in seen.items()}
    found["training"] = diagnose(numbers(read_metrics(folder.metrics_file)))
    findings = [{"where": where, **each._asdict()} for where, some in found.items() for each in some]
    diagnosis = Diagnosis(measures=measures, findings=findings)
    diagnosis.run = str(folder.path)
    return diagnosis


def _settings(run: AnyPath, folder: "RunFolder") -> dict[str, Any]:
    """The settings that the run was made with, around the encoder that came out of it."""
    from ssl_toolkit.tasks.defaults import as_begun
    from ssl_toolkit.tasks.pretraining import settings_of
    from ssl_toolkit.tasks.run import Run

    found = run if isinstance(run, Run) else Run(run)
    objects = {name: value for name, value in found.given.items() if name != "method" or not hasattr(value, "encoder")}
    config = as_begun(settings_of({**found.config, **objects, "out": folder.path}), found.config)
    if not folder.encoder_file.is_file():
        raise UsageError(f"{folder.path} has no encoder yet: it is written with the first checkpoint")
    config["encoder"] |= {"name": found.encoder, "normalize": "auto", "mean": None, "std": None}
    return config | {"weights": None, "weights_key": None}


def _drawn(source: "ImageSet", count: int, method: "Method", workers: int) -> "ImageLoader":
    """Some of the images, always the same, read as for training."""
    from ssl_toolkit.data.bad_images import BadImages
    from ssl_toolkit.data.image_set import Subset
    from ssl_toolkit.data.loader import ImageLoader
    from ssl_toolkit.randomness import numpy_generator

    source = source.few()
    part = Subset(source, numpy_generator(0, "doctor").permutation(len(source))[:count])
    bad, size = BadImages(part, max_rate=1.0), method.encoder.config.load_size
    return ImageLoader(part, size, batch_size=min(256, len(part)), shuffle=True, workers=workers, bad=bad)
