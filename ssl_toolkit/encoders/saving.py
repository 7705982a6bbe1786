"""An encoder as one safetensors file that it is rebuilt from."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

from torch import Tensor, nn

from ssl_toolkit.encoders.config import EncoderConfig, config_of
from ssl_toolkit.encoders.encoder import Encoder
from ssl_toolkit.encoders.weights_file import load_weights, plain_state, read_metadata, save_weights
from ssl_toolkit.errors import ToolkitError, UsageError

FORMAT = "ssl-toolkit-encoder-1"


def save_encoder(encoder: Encoder, path: str | Path, method: str = "", weights: dict[str, Tensor] | None = None) -> str:
    """Write `encoder` to one safetensors file that `load_encoder` rebuilds it from.

    The metadata holds the configuration, the method that trained it, library versions and a sha256 of it all.

    Args:
        encoder: What is written.
        path: The file.
        method: What trained it.
        weights: What `plain_state` gives of its network, where that is known already.

    Returns:
        The encoder's sha256.

    Raises:
        ToolkitError: If a weight is not finite.
    """
    weights = plain_state(encoder.backbone) if weights is None else weights
    return save_weights(weights, asdict(encoder.config), path, FORMAT, method)


def encoder_file(path: str | os.PathLike[str]) -> Path:
    """The encoder's file at `path`, which may be the file itself or the run folder that holds it.

    Raises:
        UsageError: If there is none.
    """
    path = Path(path)
    file = path / "encoder.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise UsageError(f"no encoder at {path}: give a run folder or an encoder.safetensors file")
    return file


def encoder_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Metadata of a saved encoder (see `save_encoder`), read without its weights.

    Raises:
        ToolkitError: If the file is not one of ours.
    """
    return read_metadata(encoder_file(path), FORMAT, "an encoder")


def encoder_config(path: str | os.PathLike[str]) -> EncoderConfig:
    """Configuration of a saved encoder, read without its weights.

    Raises:
        ToolkitError: If the file is not one of ours.
    """
    return config_of(json.loads(encoder_metadata(path)["config"]))


def load_encoder(
    path: str | os.PathLike[str],
    image_size: int | None = None,
    load_size: int | None = None,
    backbone: nn.Module | None = None,
) -> Encoder:
    """Rebuild an encoder from a run folder or an ``encoder.safetensors`` file, in eval mode.

    Args:
        path: The folder or file.
        image_size: Size of the images to go on with, pixels; None keeps the encoder's own.
        load_size: Short side of the images when read, pixels; None keeps the encoder's own.
        backbone: A network like the one that was trained, where that was a module of your own: a file holds weights,
            and no code. It is held, and gets the weights.

    Raises:
        UsageError: If there is no such file, or the network was a module of your own and none is given.
        ToolkitError: If it is not an encoder, a weight is missing, unexpected or of another shape (named), or its
            sha256 does not match what is in it.

    Examples:
        >>> import tempfile
        >>> from ssl_toolkit.encoders import Encoder, EncoderConfig, save_encoder
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sha256 = save_encoder(Encoder(EncoderConfig("convnet", image_size=32)), f"{folder}/encoder.safetensors")
        ...     load_encoder(f"{folder}/encoder.safetensors", image_size=48).config.image_size
        48
    """
    file = encoder_file(path)
    weights, described = load_weights(file, FORMAT, "an encoder")
    config = config_of(described)
    config = replace(config, image_size=image_size or config.image_size, load_size=load_size or config.load_size)
    encoder = Encoder(config, backbone)
    check_weights(encoder, weights, str(file))
    encoder.backbone.load_state_dict(weights)
    return encoder.eval()


def check_weights(encoder: Encoder, weights: dict[str, Tensor], source: str) -> None:
    """Refuse weights that are not those of the encoder's architecture.

    Raises:
        ToolkitError: Naming the first weight that is missing, unexpected or of another shape.
    """
    own, name_of = encoder.backbone.state_dict(), encoder.config.name
    for name in sorted(own.keys() | weights.keys()):
        if name not in weights:
            raise ToolkitError(f"{source}: weight '{name}' of {name_of} is missing")
        if name not in own:
            raise ToolkitError(f"{source}: weight '{name}' does not belong to {name_of}")
        shape, needed = tuple(weights[name].shape), tuple(own[name].shape)
        if shape != needed:
            raise ToolkitError(f"{source}: weight '{name}' has shape {shape}, {name_of} needs {needed}")
