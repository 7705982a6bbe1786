"""Where an encoder comes from: a run, an object, an architecture, timm's weights, or a file from elsewhere."""

from __future__ import annotations

import contextlib
import copy
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
from torch import nn

from ssl_toolkit.data.statistics import channel_statistics
from ssl_toolkit.encoders import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Encoder,
    EncoderConfig,
    encoder_file,
    encoder_from_file,
    encoder_metadata,
    load_encoder,
    names_weights,
    save_encoder,
    timm_weights,
)
from ssl_toolkit.errors import UsageError
from ssl_toolkit.objects import describe
from ssl_toolkit.progress import say
from ssl_toolkit.runs import launched_rank
from ssl_toolkit.tasks.common import default_load_size
from ssl_toolkit.tasks.run import Run

if TYPE_CHECKING:
    from ssl_toolkit.data.image_set import ImageSet

# How weights from elsewhere are read, in the commands that take an encoder.
ELSEWHERE = ("architecture", "weights_key", "image_size", "mean", "std")


def load_run_encoder(
    run: str | os.PathLike[str] | nn.Module,
    architecture: str | None = None,
    weights_key: str | None = None,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> tuple[Encoder, dict[str, str]]:
    """The encoder of a run, timm's weights or a file from elsewhere, and its metadata.

    Args:
        run: Run folder or encoder file, a `Run`, an encoder itself, or a name of timm's weights; with `architecture`, a
            file from elsewhere.
        architecture: Of the file.
        weights_key: See `encoder_from_file`.
        image_size: Side of the images, pixels; None takes timm's.
        mean: Of each channel, in [0, 1]; None takes that of timm's weights, of a file ImageNet's.
        std: Likewise.

    Raises:
        UsageError: If there is no such encoder, or a run's is asked to be another one.
    """
    options = {"image_size": image_size, "mean": mean, "std": std}
    if not isinstance(run, str | os.PathLike | Encoder):
        raise UsageError(
            f"run is {describe(run)}: give a run folder or encoder file, a Run or an Encoder, which a module of yours "
            "becomes as Encoder(EncoderConfig('', image_size=...), module)"
        )
    name = architecture or ("" if isinstance(run, Encoder) else os.fspath(run))
    if isinstance(run, Encoder) or (architecture is None and (Path(run).exists() or not names_weights(name))):
        for option, value in {"weights_key": weights_key, **options}.items():
            if value is not None:
                option = option.replace("_", "-")
                raise UsageError(f"--{option} is for weights from elsewhere: give --architecture, or leave it out")
        if isinstance(run, Encoder):
            return copy.deepcopy(run).eval(), {"method": "", "sha256": run.sha256}
        return run.encoder if isinstance(run, Run) else load_encoder(run), encoder_metadata(run)
    size = timm_image_size(name) if image_size is None else image_size
    if not 8 <= size <= 4096:
        raise UsageError(f"--image-size is {size}: it must be from 8 to 4096")
    asked = EncoderConfig(
        name, image_size=size, load_size=default_load_size(size), mean=tuple(mean or ()), std=tuple(std or ())
    )
    encoder = start_encoder(asked, None if architecture is None else os.fspath(run), weights_key).eval()
    return encoder, {"method": "", "sha256": encoder.sha256}


@contextlib.contextmanager
def own_file(path: str | Path, architecture: str | None, encoder: Encoder) -> Iterator[Path]:
    """The encoder's file in this package's format: that at `path` or, where it came from elsewhere, one for a while."""
    if architecture is None and Path(path).exists():
        yield encoder_file(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "encoder.safetensors"
        save_encoder(encoder, file)
        yield file


def start_encoder(asked: EncoderConfig, weights: str | None = None, key: str | None = None) -> Encoder:
    """An encoder with random weights, timm's, or those of a file; says which, where they are not random.

    Args:
        asked: What to build.
        weights: The file.
        key: Which network in it.

    Raises:
        UsageError: If the architecture's name asks for other weights, or a key for none.
    """
    if weights is not None:
        encoder, told = encoder_from_file(asked, weights, key)
    elif key is not None:
        raise UsageError(f"--weights-key {key} chooses in a file of weights: give it, or leave the key out")
    else:
        encoder, told = Encoder(asked), f"{asked.name}: weights of timm" if names_weights(asked.name) else ""
    if told and launched_rank() == 0:
        said = encoder.config
        say(f"{told}; images of {said.image_size} px, mean {_rounded(said.mean)}, std {_rounded(said.std)}")
    return encoder


def timm_image_size(name: str) -> int:
    """Side of the images that timm shows an architecture, or that its weights were trained on; 224 px if it is ours."""
    if (weights := timm_weights(name)) is not None:
        return weights.image_size
    return timm.get_pretrained_cfg(name).input_size[-1] if timm.is_model(name) else 224


def normalization(options: dict[str, Any], images: ImageSet, size: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation as ``--encoder.normalize``, ``--encoder.mean`` and ``--encoder.std`` say.

    Args:
        options: Those of the encoder.
        images: What is measured for ``data``.
        size: Short side at which they are read, pixels.

    Returns:
        Of each channel, in [0, 1]; empty leaves it to the encoder.

    Raises:
        UsageError: If two of them contradict, or ImageNet's are asked for images that are not RGB.
    """
    mean, std, channels = options["mean"], options["std"], images.channels // images.frames
    if options["normalize"] != "auto" and (mean or std):
        raise UsageError("--encoder.normalize and --encoder.mean or --encoder.std: give one or the other")
    if options["normalize"] == "data":
        return channel_statistics(images, size)
    if options["normalize"] == "imagenet":
        if channels != 3:
            raise UsageError(f"--encoder.normalize imagenet is for RGB, the images have {channels} channels: give data")
        return IMAGENET_MEAN, IMAGENET_STD
    return tuple(mean or ()), tuple(std or ())


def refuse_options_of_a_start(config: dict[str, Any]) -> None:
    """Refuse weights and normalisation for an encoder that is loaded with its own.

    Raises:
        UsageError: Naming the first of them.
    """
    options = config["encoder"]
    given = {"--weights": config["weights"]}
    given |= {f"--encoder.{name}": options.get(name) for name in ("mean", "std")}
    given["--encoder.normalize"] = None if options.get("normalize", "auto") == "auto" else options["normalize"]
    for option, value in given.items():
        if value is not None:
            name = options["name"] if isinstance(options["name"], str | os.PathLike) else describe(options["name"])
            raise UsageError(f"{option} is given, and --encoder {name} has its own: leave one of them out")


def _rounded(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3g}" for value in values)
