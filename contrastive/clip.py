"""CLIP: images and their captions find each other."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_toolkit.augment import Views, clip_views
from ssl_toolkit.contrastive import losses
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.distributed import world_size
from ssl_toolkit.encoders import Encoder, TextConfig, TextTower
from ssl_toolkit.errors import UsageError, require_positive
from ssl_toolkit.method import Method
from ssl_toolkit.optim import OptimizerConfig

MOST_SCALE = 100.0  # of the cosines
SIGMOID_BIAS = -10.0  # at first


class CLIP(Method):
    """Contrastive language-image pretraining; with the sigmoid loss, SigLIP.

    The encoder's own features are compared with the texts, by their cosine: there is no projection that only the
    training would know, and what is indexed can be searched by text. The text tower is saved beside the encoder.

    Args:
        encoder: What is trained and kept.
        views: Makes one view of a batch.
        optimizer: How the weights are moved.
        text: What reads the captions: ``bytes`` for a small transformer over bytes, trained from scratch; or a name or
            folder of Hugging Face's, whose weights it starts from (extra ``text``).
        loss: ``softmax`` over the batch, as CLIP; or ``sigmoid`` of each pair by itself, as SigLIP.
        temperature: Divides the cosines at first, above 0; it is learned, and never goes below 0.01.
        text_dim: Width of the small transformer.
        text_layers: Its depth.
        text_heads: Its heads, which divide the width.
        context: Most bytes, or tokens of other networks, of a caption; what is longer is cut.

    Source: Radford et al. 2021 (CLIP), sections 2.3 to 2.5; Zhai et al. 2023 (SigLIP), section 3; without a projection
        of the image features as Zhai et al. 2022 (LiT).
    """

    default_views = staticmethod(clip_views)

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        optimizer: OptimizerConfig | None = None,
        text: str = "bytes",
        loss: Literal["softmax", "sigmoid"] = "softmax",
        temperature: float = 0.07,
        text_dim: int = 128,
        text_layers: int = 3,
        text_heads: int = 4,
        context: int = 128,
    ) -> None:
        super().__init__(encoder, views, optimizer)
        require_positive(
            temperature=temperature, text_dim=text_dim, text_layers=text_layers, text_heads=text_heads, context=context
        )
        if temperature < 1 / MOST_SCALE:
            raise UsageError(f"--method.temperature is {temperature}: it must be at least {1 / MOST_SCALE}")
        self.text = TextTower(TextConfig(text, encoder.feature_dim, text_dim, text_layers, text_heads, context))
        # Of one dimension: FSDP does not share out scalars.
        self.log_scale = nn.Parameter(torch.tensor([-math.log(temperature)]))
        self.bias = nn.Parameter(torch.tensor([SIGMOID_BIAS])) if loss == "sigmoid" else None

    @property
    def kept_text(self) -> TextTower:
        """What reads the captions."""
        return self.text

    def chance_loss(self, batch_size: int) -> float | None:
        """``log N``: the texts of the batch; there is no such figure of pairs by themselves."""
        return math.log(batch_size * world_size()) if self.bias is None else None

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Encode images and captions, compare all with all."""
        if batch.caption is None:
            raise UsageError(
                "clip learns from captions, and these images have none: give a .csv with the columns path and caption"
            )
        image, text = self.encoder(views[0]), self.text(batch.caption)  # (N, D) each
        scale = self.log_scale.exp().squeeze()
        loss = losses.clip(image, text, scale) if self.bias is None else losses.siglip(image, text, scale, self.bias)
        nearest = (F.normalize(image.detach(), dim=1) @ F.normalize(text.detach(), dim=1).T.to(image.dtype)).argmax(1)
        found = nearest == torch.arange(len(image), device=image.device)
        return {"loss": loss, "accuracy": found.float().mean(), "scale": scale.detach()}

    def after_update(self) -> None:
        """Keep the scale at 100 at most: not in `step`, where a limit would let no gradient lead back from it."""
        with torch.no_grad():
            self.log_scale.clamp_(max=math.log(MOST_SCALE))
