"""Encoders: what they are, how they are built, saved and loaded, and where their weights may come from."""

from ssl_toolkit.encoders.config import IMAGENET_MEAN, IMAGENET_STD, Colours, EncoderConfig
from ssl_toolkit.encoders.convnet import ConvNet
from ssl_toolkit.encoders.elsewhere import encoder_from_file
from ssl_toolkit.encoders.encoder import Encoder
from ssl_toolkit.encoders.pretrained import names_weights, timm_weights
from ssl_toolkit.encoders.saving import (
    check_weights,
    encoder_config,
    encoder_file,
    encoder_metadata,
    load_encoder,
    save_encoder,
)
from ssl_toolkit.encoders.vision_transformer import checkpoint_activations, drop_paths

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Colours",
    "ConvNet",
    "Encoder",
    "EncoderConfig",
    "check_weights",
    "checkpoint_activations",
    "drop_paths",
    "encoder_config",
    "encoder_file",
    "encoder_from_file",
    "encoder_metadata",
    "load_encoder",
    "names_weights",
    "save_encoder",
    "timm_weights",
]
