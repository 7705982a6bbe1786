"""The network of an encoder out of its configuration: ours or timm's, with its stem, its norms, timm's weights."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import timm
import torch
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssl_toolkit.encoders.config import EncoderConfig
from ssl_toolkit.encoders.convnet import ConvNet
from ssl_toolkit.encoders.open_clip import OPEN_CLIP, OpenClipImages
from ssl_toolkit.encoders.pretrained import TimmWeights, timm_weights
from ssl_toolkit.encoders.split_network import SplitNetwork, half_width
from ssl_toolkit.encoders.vision_transformer import adapt_vision_transformer
from ssl_toolkit.errors import UsageError, unknown_name
from ssl_toolkit.objects import is_object

OWN_ARCHITECTURES = {"convnet": ConvNet}


def architectures() -> list[str]:
    """Names of all architectures that `EncoderConfig` takes."""
    return [*OWN_ARCHITECTURES, *timm.list_models()]


def build_backbone(asked: EncoderConfig) -> tuple[Any, EncoderConfig]:
    """The network that a configuration asks for, and that configuration with the automatic choices made.

    Raises:
        UsageError: If timm does not know the name, the small stem is asked of something that is no ResNet, or timm's
            weights do not fit what is asked.
        ToolkitError: If timm's weights cannot be fetched.
    """
    if is_object(asked.name):
        raise UsageError(
            f"the encoder's network was an object of Python, {asked.name}, which cannot be built again from its name: "
            "give one like it, load_encoder(path, backbone=module)"
        )
    weights = timm_weights(asked.name)
    network, config = _random_network(asked if weights is None else _for_weights(asked, weights))
    if config.norm == "layer":
        if weights is not None and any(isinstance(module, _BatchNorm) for module in network.modules()):
            raise UsageError(f"the weights {asked.name} are for batch norms: give --encoder.norm batch")
        _replace_batch_norms(network)
    if weights is not None:
        weights.fill(network, partial(_timm_model, config=config, in_chans=config.seen_channels))
    return network.to(memory_format=torch.channels_last), config


def _random_network(asked: EncoderConfig) -> tuple[Any, EncoderConfig]:
    """The network with random weights and batch norms, and the configuration with the automatic choices made."""
    config = asked.resolved()
    if config.colours != "split":
        return _build_network(asked, config, config.seen_channels)
    lightness, config = _build_network(asked, config, 1, half=True)
    colour, config = _build_network(asked, config, 2, half=True)
    return SplitNetwork(lightness, colour), config


def _for_weights(config: EncoderConfig, weights: TimmWeights) -> EncoderConfig:
    """The configuration of a network that takes timm's weights: their architecture, stem and normalisation.

    Raises:
        UsageError: If it asks for another network than theirs.
    """
    if config.stem == "small":
        raise UsageError(f"{config.name} has weights of a standard stem: leave --encoder.stem small out")
    if config.colours == "split":
        raise UsageError(f"{config.name} has weights for one network, a split encoder is two: leave the tag out")
    mean, std = weights.normalization(config.channels)
    return replace(config, name=weights.architecture, stem="standard", mean=config.mean or mean, std=config.std or std)


def _build_network(
    asked: EncoderConfig, config: EncoderConfig, channels: int, half: bool = False
) -> tuple[Any, EncoderConfig]:
    """A network over some channels, of half the width if that is known how, and the configuration as it was built."""
    if config.name in OWN_ARCHITECTURES:
        if config.stem == "small":
            raise UsageError(f"--encoder.stem small is for ResNets; {config.name} has one stem: leave it out")
        network = OWN_ARCHITECTURES[config.name](in_chans=channels)
        if half:
            network = type(network)(in_chans=channels, widths=tuple(width // 2 for width in network.widths))
        adapt_vision_transformer(network, config)
        return network, config
    name = config.name
    if name.startswith(OPEN_CLIP):
        return OpenClipImages(name.removeprefix(OPEN_CLIP)), config
    if not timm.is_model(name):
        raise unknown_name("encoder", name, architectures())
    try:
        backbone = _timm_model(name, config, channels)
        if half and (narrower := half_width(backbone)):
            backbone = _timm_model(name, config, channels, **narrower)
    except (AssertionError, TypeError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"timm cannot build '{name}' for {config.image_size} px images with {config.channels} channels: {error}"
        ) from error
    adapt_vision_transformer(backbone, config)
    if config.stem == "small":
        if not isinstance(getattr(backbone, "conv1", None), nn.Conv2d) or not hasattr(backbone, "maxpool"):
            if asked.stem == "auto":  # a ResNet by name whose stem is another one
                return backbone, replace(config, stem="standard")
            raise UsageError(f"--encoder.stem small is for ResNets; {name} has another stem: leave it out")
        backbone.conv1 = nn.Conv2d(
            channels, backbone.conv1.out_channels, kernel_size=3, stride=1, padding=1, bias=False
        )
        nn.init.kaiming_normal_(backbone.conv1.weight, mode="fan_out", nonlinearity="relu")
        backbone.maxpool = nn.Identity()
    return backbone, config


def _timm_model(name: str, config: EncoderConfig, in_chans: int, **options: Any) -> Any:
    """Timm's network; see `timm_network`."""
    return timm_network(name, config, in_chans, **options)[0]


def timm_network(name: str, config: EncoderConfig, in_chans: int, **options: Any) -> tuple[Any, dict[str, Any]]:
    """Timm's network, told the image size if it wants to know it, and to take others too if it can.

    Returns:
        The network, and what ``timm.create_model`` was given besides the name.
    """
    asked = {"patch_size": config.patch_size, "num_heads": config.heads, "reg_tokens": config.registers}
    common: dict[str, Any] = {"in_chans": in_chans, "num_classes": 0}
    common |= {name: value for name, value in asked.items() if value} | options
    size = {"img_size": config.image_size}
    for extra in (size | {"dynamic_img_size": True}, size):
        try:
            return timm.create_model(name, **common, **extra), common | extra
        except TypeError:  # it does not know the argument
            continue
    return timm.create_model(name, **common), common


def _replace_batch_norms(module: nn.Module) -> None:
    """Put a layer norm over channels and positions in the place of every batch norm, with what timm fused into it."""
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            norm: nn.Module = nn.GroupNorm(1, child.num_features, child.eps, child.affine)
            norm.load_state_dict(dict(child.named_parameters(recurse=False)))  # some start at zero
            if isinstance(child, BatchNormAct2d):
                norm = nn.Sequential(norm, child.drop, child.act)
            setattr(module, name, norm)
        else:
            _replace_batch_norms(child)
