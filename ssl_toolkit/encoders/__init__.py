"""Encoders: what they are, how they are built, saved and loaded, and where their weights may come from."""

from ssl_toolkit.encoders.config import IMAGENET_MEAN, IMAGENET_STD, Colours, EncoderConfig, Pool
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
from ssl_toolkit.encoders.text_tower import TEXT_FILE, TextConfig, TextTower, load_text, save_text, text_beside
from ssl_toolkit.encoders.vision_transformer import checkpoint_activations, drop_paths

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "TEXT_FILE",
    "Colours",
    "ConvNet",
    "Encoder",
    "EncoderConfig",
    "Pool",
    "TextConfig",
    "TextTower",
    "check_weights",
    "checkpoint_activations",
    "drop_paths",
    "encoder_config",
    "encoder_file",
    "encoder_from_file",
    "encoder_metadata",
    "load_encoder",
    "load_text",
    "names_weights",
    "save_encoder",
    "save_text",
    "text_beside",
    "timm_weights",
]
