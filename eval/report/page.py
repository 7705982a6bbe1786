"""The report: a run folder as one HTML page that needs nothing but itself."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import torch
import yaml
from markupsafe import Markup, escape

from ssl_toolkit.data.image_set import ImageSet
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError, unknown_name
from ssl_toolkit.eval.features.sample import Sample
from ssl_toolkit.eval.pictures.plots import PLOTS
from ssl_toolkit.eval.pictures.themes import DARK, LIGHT
from ssl_toolkit.eval.pictures.words import shown
from ssl_toolkit.eval.report import picture_parts, run_parts, score_parts, training_parts
from ssl_toolkit.eval.report.compare import read_results, sets_of
from ssl_toolkit.eval.report.parts import Part, attempt
from ssl_toolkit.eval.report.run_parts import Trained
from ssl_toolkit.files import write_atomic
from ssl_toolkit.runs import RunFolder, flatten

SECTIONS = {
    "facts": "What was run",
    "scores": "How good it is",
    "training": "Training",
    "doctor": "Doctor's findings",
    "views": "What the method sees",
    "task": "The task itself",
    "units": "What the layers respond to",
    "explained": "What speaks for a class",
    "more": "More pictures",
    "attention": "Where the encoder looks",
    "neighbours": "Nearest neighbours",
    "map": "Map of the features",
    "bad": "Images that could not be read",
    "commands": "To get this again",
    "versions": "Environment",
}
"""The sections of the page in their order: parts that have nothing to show are left out, and named at its end."""


def make_report(
    run: str | Path,
    out: str | Path | None = None,
    *,
    data_root: str | None = None,
    images: int = 1000,
    projection: str = "pca",
    pictures: Sequence[str] = (),
    picture_channels: tuple[int, ...] = (),
    device: str | torch.device = "cpu",
    workers: int = 0,
    progress: bool = False,
) -> Path:
    """Write what a run folder holds as one HTML page, without scripts and with nothing from outside.

    What is missing (scores, an encoder, data that has been moved) is named at its end. The pictures show the images
    that the scores were taken on, or those that were trained on while there are no scores.

    Args:
        run: The run folder.
        out: The page; ``report.html`` in the run folder by default.
        data_root: Folder of torchvision's data sets; the run's own by default.
        images: How many images, drawn at random, are encoded for the map and the neighbours; at least 2.
        projection: The map: a key of `ssl_toolkit.eval.pictures.maps.PROJECTIONS`.
        pictures: More pictures, which take longer: keys of `ssl_toolkit.eval.pictures.plots.PLOTS`.
        picture_channels: Which are shown, see `Look`.
        device: Where they are encoded.
        workers: Processes that read them.
        progress: Shows a progress bar.

    Returns:
        The page's path.

    Raises:
        UsageError: `run` is no run folder, there is no such picture, or the page cannot be written.
        ToolkitError: The run's configuration is damaged.
    """
    for name in pictures:
        if name not in PLOTS:
            raise unknown_name("picture", name, PLOTS)
    folder = RunFolder(run)
    stored = run_parts.read_config(folder)
    config = stored if data_root is None else stored | {"data_root": data_root}
    encoder = attempt(lambda: Trained.load(folder))
    results = attempt(lambda: read_results(folder))

    def take() -> Sample:
        trained = encoder.needed().encoder
        shown_images = _images(config, results.content, trained)
        return Sample.take(
            trained, shown_images, images, picture_channels=picture_channels, device=device, workers=workers,
            progress=progress,
        )  # fmt: skip

    parts = _parts(folder, config, encoder, results, attempt(take), pictures, projection, picture_channels)
    page = _template().render(
        parts,
        **_contents(parts),
        run=folder.path,
        method=encoder.content.method if encoder.content else flatten(config).get("method.name", "a method"),
        data=config.get("data", "unknown images"),
        config=yaml.safe_dump(stored, sort_keys=False).splitlines(),
        machine=run_parts.machine(),
        date=time.strftime("%Y-%m-%d"),
        light=LIGHT,
        dark=DARK,
    )
    return _write(page, folder.report_file if out is None else Path(out))


def _write(page: str, target: Path) -> Path:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"the report {target} cannot be written: {error.strerror}") from error
    return target


def _images(config: dict[str, Any], results: dict[str, Any] | None, encoder: Encoder) -> ImageSet:
    """What the scores were taken on, or else what was trained on."""
    if results is not None:
        scored = next(iter(sets_of(results).values()))
        config = config | {"data": scored["protocol"]["test"]["data"], "labels": "auto"}
    return picture_parts.images_of(config, encoder)


def _parts(
    folder: RunFolder,
    config: dict[str, Any],
    encoder: Part[Trained],
    results: Part[dict[str, Any]],
    sample: Part[Sample],
    pictures: Sequence[str],
    projection: str,
    channels: tuple[int, ...],
) -> dict[str, Part[Any]]:
    """What the page shows, each part by its name in the template, or why it is not there."""
    parts: dict[str, Callable[[], Any]] = {
        "facts": lambda: run_parts.facts_part(folder, config, encoder.content),
        "scores": lambda: score_parts.scores_part(results.needed(), encoder.content, str(folder.path)),
        "training": lambda: training_parts.training_part(folder, config),
        "doctor": lambda: training_parts.doctor_part(folder, sample),
        "views": lambda: picture_parts.views_part(config, encoder.needed(), channels),
        "attention": lambda: picture_parts.attention_part(sample, encoder.content),
        "task": lambda: picture_parts.task_part(folder, config, encoder.content, channels),
        "units": lambda: picture_parts.units_part(encoder.needed(), sample.needed()),
        "explained": lambda: picture_parts.explained_part(encoder.content, sample, results.content),
        "more": lambda: picture_parts.more_part(pictures, encoder.needed(), sample.needed()) if pictures else [],
        "neighbours": lambda: picture_parts.neighbours_part(sample.needed()),
        "map": lambda: picture_parts.map_part(sample.needed(), projection),
        "bad": lambda: run_parts.bad_images_part(folder, results.content),
        "commands": lambda: run_parts.commands_part(folder, results.content),
        "versions": lambda: run_parts.versions_part(encoder.content),
    }
    return {name: attempt(make) for name, make in parts.items()}


def _contents(parts: dict[str, Part[Any]]) -> dict[str, dict[str, str]]:
    """Titles of the sections that are there, by name, and of those that are left out, with the reasons."""
    there = {name: title for name, title in SECTIONS.items() if parts[name].content or name == "scores"}
    missing = {name: parts[name].missing for name in SECTIONS if parts[name].missing and name not in there}
    return {"sections": there, "left_out": {SECTIONS[name]: reason for name, reason in missing.items()}}


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # File names may hold bytes that are no text, and characters that turn the direction of what follows.
        finalize=lambda value: shown(value) if type(value) is str else value,
    )
    environment.filters["commands"] = _with_commands
    return environment.from_string(
        resources.files("ssl_toolkit.eval.report").joinpath("report.html").read_text("utf-8")
    )


def _with_commands(text: str) -> Markup:
    """Text whose commands stand in backticks."""
    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(shown(text)))))
