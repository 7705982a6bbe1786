"""Models that others have trained on images and texts, as a folder that stands for a run."""

from __future__ import annotations

from pathlib import Path

from ssl_toolkit.encoders import Encoder, EncoderConfig, TextConfig, TextTower, save_encoder, save_text
from ssl_toolkit.encoders.open_clip import OPEN_CLIP, OpenClipImages, open_clip_model
from ssl_toolkit.encoders.text_networks import OpenClipText
from ssl_toolkit.errors import UsageError
from ssl_toolkit.files import make_folder
from ssl_toolkit.runs import RunFolder
from ssl_toolkit.tasks.settings import AnyPath


def from_open_clip(architecture: str, weights: str, out: AnyPath) -> Path:
    """Take encoder and text tower of a model of the open_clip project, the extra ``open_clip``.

    Args:
        architecture: Its name, ``ViT-B-32``.
        weights: File of its weights, or a name of those that the project offers for download (``laion2b_s34b_b79k``).
        out: The folder to make.

    Returns:
        The folder, with encoder and text tower: `evaluate`, `index` and all else take it for a run.

    Raises:
        UsageError: The extra is missing, there is no such architecture, or its weights cannot be loaded.
    """
    folder = RunFolder(out)
    if folder.encoder_file.exists():
        raise UsageError(f"{folder.path} holds an encoder already: name another folder")
    model = open_clip_model(architecture, weights)
    visual = OpenClipImages(architecture, model.visual)
    size, name = visual.image_size[0], f"{OPEN_CLIP}{architecture}"
    mean, std = tuple(model.visual.image_mean), tuple(model.visual.image_std)
    encoder = Encoder(EncoderConfig(name, image_size=size, load_size=size, mean=mean, std=std))
    encoder.backbone.load_state_dict(visual.state_dict())
    tower = TextTower(TextConfig(name, encoder.feature_dim), OpenClipText(model, architecture))
    make_folder(folder.path, "out")
    save_encoder(encoder, folder.encoder_file, "CLIP")
    save_text(tower, folder.text_file, "CLIP")
    return folder.path
