"""What the user leaves open, filled in by the rules for these images and this machine, and said."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ssl_toolkit.data.image_set import ImageSet
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.method import Method
from ssl_toolkit.methods import method_class, method_name
from ssl_toolkit.objects import describe
from ssl_toolkit.progress import duration
from ssl_toolkit.runs import available_cores
from ssl_toolkit.tasks.common import natural_size
from ssl_toolkit.tasks.rules import DEFAULT_MINUTES, Case, Choice, choose
from ssl_toolkit.tasks.settings import with_defaults
from ssl_toolkit.training import on_cuda

NOT_VIEWS = ("size", "channels")  # of a recipe's arguments, those that are settings of their own


def fill_open(config: dict[str, Any], images: ImageSet, start: Encoder | None) -> str:
    """Decide what `config` leaves open, into it.

    Args:
        config: The settings of a pretraining.
        images: What is trained on.
        start: The encoder to start from, if there is one.

    Returns:
        What was chosen, and how long the training will take, in a line or two; empty if nothing was.
    """
    found, encoder = method_class(config["method"]["name"]), config["encoder"]
    if encoder["name"] is None and (config["weights"] or encoder["stem"] != "auto" or encoder["patch_size"]):
        encoder["name"] = found.default_encoder  # what only fits that kind
    recipe = view_defaults(found) if isinstance(config["views"], dict) else {}
    gpu = gpu_name(config["accelerator"])
    case = Case(
        len(images), natural_size(images), available_cores(), gpu, DEFAULT_MINUTES if gpu is None else None,
        found.default_encoder, images.frames, images.channels // images.frames, chosen=_given(config, start),
    )  # fmt: skip
    case, choices = choose(case, recipe)
    for choice in choices:
        group, _, name = choice.option.rpartition(".")
        (config[group] if group else config)[name] = choice.value
    if recipe:
        size = config["views"].pop("size")
        config["views"] = {"size": size, **with_defaults(found.default_views, config["views"], "views", NOT_VIEWS)}
    return told(case, choices)


def view_defaults(found: type[Method]) -> dict[str, Any]:
    """The options of a method's recipe of views, and their defaults; ``size`` has none."""
    parameters = inspect.signature(found.default_views).parameters.values()
    keywords = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "channels"}
    return {"size": None, **keywords}


def gpu_name(accelerator: str) -> str | None:
    """Name of the accelerator that Lightning's name of a device type means here, lower case; None for the CPU."""
    if on_cuda(accelerator):
        return torch.cuda.get_device_name().lower()
    return "mps" if accelerator in ("auto", "mps") and torch.backends.mps.is_available() else None


def _given(config: Mapping[str, Any], start: Encoder | None) -> dict[str, Any]:
    """What is given, by option."""
    name = config["encoder"]["name"]
    name = start.config.name if start is not None else name if isinstance(name, str | None) else describe(name)
    given = {"encoder.name": name, "method": method_name(config["method"]["name"])}
    given |= {option: config[option] for option in ("image_size", "batch_size", "epochs")}
    if isinstance(config["views"], dict):
        given |= {f"views.{option}": value for option, value in config["views"].items()}
    # Channels are those of the images that are open already; patches belong to an encoder.
    asked = {option: value for option, value in given.items() if value is not None} | {"channels": config["channels"]}
    return asked if name is None else asked | {"encoder.patch_size": None}


def told(case: Case, choices: Sequence[Choice]) -> str:
    """What was chosen, in a line for the machine and one for the views."""
    machine = [choice for choice in choices if not choice.option.startswith("views.")]
    views = [choice for choice in choices if choice.option.startswith("views.") and choice.value != case.size]
    lines = []
    if machine:
        place = f"{case.cores} cores and no GPU" if case.gpu is None else f"the GPU ({case.gpu})"
        lines.append(f"chosen for {place}: {as_options(machine)}{_time(case, machine)}")
    if views:
        lines.append(f"chosen for images of {case.size} px: {as_options(views)}")
    return "\n".join(lines)


def _time(case: Case, machine: Sequence[Choice]) -> str:
    """How long it takes, if that is known, and what to give for more, if the epochs were chosen."""
    number, seconds = case.chosen["epochs"], case.seconds_per_epoch()
    if seconds is None or "epochs" not in {choice.option for choice in machine}:
        return ""
    return (
        f": some {duration(number * seconds)}. More learn better, such as --epochs {3 * number} in "
        f"{duration(3 * number * seconds)}"
    )


def as_options(choices: Sequence[Choice]) -> str:
    """Choices as words of the command line."""
    return " ".join(f"--{as_option(choice.option)} {shlex.quote(str(choice.value))}" for choice in choices)


def as_option(option: str) -> str:
    """An option as the command line spells it, without the hyphens before it."""
    return option.removesuffix(".name").replace("_", "-")


def as_begun(config: dict[str, Any], begun: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run to resume: what is left open is what it began with, whatever would be chosen today.

    Args:
        config: The settings.
        begun: Those that the run's folder holds.
    """
    if method_name(config["method"]["name"]) != begun["method"]["name"]:
        return config
    kept = {option: begun.get(option) for option in ("image_size", "load_size", "batch_size", "epochs")}
    kept = {option: value for option, value in kept.items() if config[option] is None}
    encoder, views = config["encoder"], config["views"]
    if encoder["name"] is None:
        kept["encoder"] = begun["encoder"] | {name: value for name, value in encoder.items() if value is not None}
    if isinstance(views, dict) and isinstance(begun["views"], dict):
        kept["views"] = begun["views"] | {name: value for name, value in views.items() if value is not None}
    return config | kept
