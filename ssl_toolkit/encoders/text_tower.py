"""Text towers: texts to vectors in the space of an encoder's features, and their file beside the encoder's."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_toolkit.encoders.open_clip import OPEN_CLIP, open_clip_model
from ssl_toolkit.encoders.text_networks import ByteTransformer, HuggingFaceNetwork, OpenClipText, TextNetwork
from ssl_toolkit.encoders.weights_file import load_weights, save_weights
from ssl_toolkit.errors import ToolkitError

FORMAT = "ssl-toolkit-text-1"
TEXT_FILE = "text.safetensors"
BYTES = "bytes"


@dataclass(frozen=True)
class TextConfig:
    """What a text tower is built from.

    Attributes:
        name: ``bytes`` for a small transformer of ours; ``open_clip:ViT-B-32`` for an architecture of that project;
            else a name or folder of Hugging Face's.
        dim: Width of what it gives: that of the encoder's features.
        width: Of our transformer.
        layers: Likewise.
        heads: Likewise, which divide the width.
        context: Most bytes, or tokens of other networks, of a text; what is longer is cut.
        files: What a network of others is built again from: its configuration and its tokenizer.
    """

    name: str
    dim: int
    width: int = 128
    layers: int = 3
    heads: int = 4
    context: int = 128
    files: dict[str, Any] | None = None


class TextTower(nn.Module):
    """Texts to vectors that are compared with an encoder's features.

    Args:
        config: What to build.
        network: What reads the texts; None builds what `config` says.

    Examples:
        >>> TextTower(TextConfig("bytes", dim=256))(["a red house", "a car"]).shape
        torch.Size([2, 256])
    """

    def __init__(self, config: TextConfig, network: TextNetwork | None = None) -> None:
        super().__init__()
        self.network = _network(config) if network is None else network
        self.config = replace(config, files=self.network.files)
        joint = self.network.joint
        self.projection = nn.Identity() if joint else nn.Linear(self.network.width, config.dim, bias=False)
        _freeze_unused(self)

    def forward(self, texts: Sequence[str]) -> Tensor:
        """N texts to (N, D)."""
        device = next(self.parameters()).device
        state: Tensor = self.projection(self.network(*(each.to(device) for each in self.network.tokenize(texts))))
        return state

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """N texts to vectors of unit length (N, D), float32 on the CPU; for evaluation."""
        self.eval()
        return F.normalize(torch.cat([self(texts[first : first + 256]) for first in range(0, len(texts), 256)]).float())


def save_text(tower: TextTower, path: str | os.PathLike[str], method: str = "") -> None:
    """Write a text tower to one safetensors file that `load_text` builds it again from.

    Raises:
        ToolkitError: If a weight is not finite.
    """
    # Cloned: networks of others tie weights, which the format refuses.
    weights = {name: value.detach().cpu().contiguous().clone() for name, value in tower.state_dict().items()}
    save_weights(weights, asdict(tower.config), Path(path), FORMAT, method)


def load_text(file: str | os.PathLike[str]) -> TextTower:
    """The text tower in a file, in eval mode.

    Raises:
        ToolkitError: If it is none, or damaged.
        UsageError: If a package is missing that it is built with.
    """
    weights, described = load_weights(Path(file), FORMAT, "a text tower")
    tower = TextTower(TextConfig(**described))
    try:
        tower.load_state_dict(weights)
    except RuntimeError as error:
        raise ToolkitError(f"{file}: its weights are not those of {tower.config.name}: {error}") from error
    return tower.eval()


def text_beside(encoder: str | os.PathLike[str]) -> Path | None:
    """The file of the text tower that belongs to an encoder, which is in the same folder; None where there is none.

    Args:
        encoder: The encoder's file, or the folder of a run.
    """
    path = Path(encoder)
    file = (path if path.is_dir() else path.parent) / TEXT_FILE
    return file if file.is_file() else None


def _network(config: TextConfig) -> TextNetwork:
    if config.name == BYTES:
        return ByteTransformer(config.width, config.layers, config.heads, config.context)
    if config.name.startswith(OPEN_CLIP):
        architecture = config.name.removeprefix(OPEN_CLIP)
        return OpenClipText(open_clip_model(architecture), architecture)
    return HuggingFaceNetwork(config.name, config.context, config.files)


def _freeze_unused(tower: TextTower) -> None:
    """Freeze weights that no text reaches, such as a pooling of BERT's: processes that train together would wait."""
    weights = [weight for weight in tower.parameters() if weight.requires_grad]
    with torch.enable_grad():
        total = tower(["a text"]).sum()
    for weight, gradient in zip(weights, torch.autograd.grad(total, weights, allow_unused=True), strict=True):
        weight.requires_grad_(gradient is not None)
