"""Where an encoder comes from: a run, an object, an architecture, timm's weights, or a file from elsewhere."""

from __future__ import annotations

import contextlib
import copy
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import timm
from torch import nn

from ssl_toolkit.data.depth import Range, parse_range
from ssl_toolkit.data.image_set import ImageSet
from ssl_toolkit.data.sources import open_images
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
from ssl_toolkit.objects import describe, is_object, missing_object
from ssl_toolkit.progress import say
from ssl_toolkit.runs import launched_rank
from ssl_toolkit.tasks.common import default_load_size, natural_size
from ssl_toolkit.tasks.run import Run
from ssl_toolkit.tasks.settings import AnyTrained, Weights


def load_run_encoder(run: AnyTrained, data: Any = None, data_root: str | None = None) -> tuple[Encoder, dict[str, str]]:
    """The encoder of a run, timm's weights, a file from elsewhere or a module, in eval mode, and its metadata.

    Args:
        run: Run folder or encoder file, a `Run`, a name of timm's weights, `Weights`; or an `Encoder`, or any module
            from images (N, C, H, W) to (N, D), (N, D, h, w) or (N, tokens, D), both of which are copied.
        data: Images, see `open_images`: a module is taken to be for such, centred and scaled as `EncoderConfig` says.
        data_root: Folder of torchvision's data sets.

    Raises:
        UsageError: If there is no such encoder, it is asked to be another one, or of a module there are no images.
    """
    given = Weights.of(run)
    path = given.path
    if isinstance(path, nn.Module):
        _refuse_options(given)
        return _with_metadata(copy.deepcopy(path) if isinstance(path, Encoder) else _around(path, data, data_root))
    if not isinstance(path, str | os.PathLike):
        raise UsageError(
            f"run is {describe(path)}: give a run folder or encoder file, a name of timm's weights, a Run, an Encoder, "
            "a module, or Weights"
        )
    if is_object(path):
        raise missing_object("run", os.fspath(path))
    if given.architecture is None and (Path(path).exists() or not names_weights(os.fspath(path))):
        encoder = path.encoder if isinstance(path, Run) else load_encoder(path)
        _refuse_options(given, encoder)
        return encoder, encoder_metadata(path)
    return _with_metadata(_from_elsewhere(given, data, data_root))


def _refuse_options(given: Weights, encoder: Encoder | None = None) -> None:
    if encoder is not None:
        known_range(given.range, encoder.config, os.fspath(given.path))  # type: ignore[arg-type]
    for option, value in vars(given).items():
        if option != "path" and value is not None and not (option == "range" and encoder is not None):
            option = option.replace("_", "-")
            raise UsageError(f"--{option} is for weights from elsewhere: give --architecture, or leave it out")


def known_range(asked: str | Sequence[float] | None, config: EncoderConfig, name: str) -> Range | None:
    """The range of an encoder that is there already.

    Args:
        asked: What the user states; ``auto`` is content with what was measured.
        config: The encoder's.
        name: What it is called.

    Raises:
        UsageError: They contradict.
    """
    stated = parse_range(asked)
    if stated in (None, config.range) or (stated == "auto" and config.range is not None):
        return config.range
    own = "the range of each type" if config.range is None else f"the range {config.range[0]:g},{config.range[1]:g}"
    raise UsageError(f"--range {asked}: the encoder {name} was trained with {own}: leave --range out")


def _from_elsewhere(given: Weights, data: Any, data_root: str | None) -> Encoder:
    name, file = os.fspath(given.path), None  # type: ignore[arg-type]
    if given.architecture is not None:
        name, file = given.architecture, name
    size = timm_image_size(name) if given.image_size is None else given.image_size
    if not 8 <= size <= 4096:
        raise UsageError(f"--image-size is {size}: it must be from 8 to 4096")
    mean, std = tuple(given.mean or ()), tuple(given.std or ())
    stated = parse_range(given.range)
    if stated == "auto":
        if data is None:
            raise UsageError("--range auto is measured on images: give some, or two numbers")
        stated = open_images(data, root=data_root, labels="none", range="auto").range
    asked = EncoderConfig(name, image_size=size, load_size=default_load_size(size), mean=mean, std=std, range=stated)
    return start_encoder(asked, file, given.weights_key)


def _around(module: nn.Module, data: Any, data_root: str | None) -> Encoder:
    if data is None:
        raise UsageError(
            f"run is {describe(module)}, a module that tells neither channels nor size: give an Encoder, as "
            "Encoder(EncoderConfig('', image_size=...), module)"
        )
    images = open_images(data, root=data_root, labels="none")
    size = natural_size(images)
    channels = images.channels // images.frames
    config = EncoderConfig("", channels, size, default_load_size(size), range=images.range)
    return Encoder(config, copy.deepcopy(module))


def _with_metadata(encoder: Encoder) -> tuple[Encoder, dict[str, str]]:
    return encoder.eval(), {"method": "", "sha256": encoder.sha256}


@contextlib.contextmanager
def own_file(run: AnyTrained, encoder: Encoder) -> Iterator[Path]:
    """The encoder's file in this package's format: that of `run` or, where it has none, one for a while."""
    given = Weights.of(run)
    if isinstance(given.path, str | os.PathLike) and given.architecture is None and Path(given.path).exists():
        yield encoder_file(given.path)
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
