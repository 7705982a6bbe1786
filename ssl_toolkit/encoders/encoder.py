"""`Encoder`: any timm network, or one of the user's own, behind its own normalisation."""

from __future__ import annotations

import inspect
from dataclasses import asdict, replace
from typing import Any

import torch
from timm.layers import PatchEmbed
from torch import Tensor, nn

from ssl_toolkit.augment import EvalView, eval_view
from ssl_toolkit.augment.base import RangeGuard, in_unit_range
from ssl_toolkit.colours import COLOUR_STD, LIGHTNESS_MEAN, LIGHTNESS_STD, rgb_to_lab
from ssl_toolkit.encoders.backbone import build_backbone
from ssl_toolkit.encoders.config import EncoderConfig
from ssl_toolkit.encoders.own_network import OwnNetwork
from ssl_toolkit.encoders.vision_transformer import pools_by_token
from ssl_toolkit.encoders.weights_file import content_hash, plain_state
from ssl_toolkit.errors import UsageError
from ssl_toolkit.objects import describe


class Encoder(nn.Module):
    """A network from images to features, with the normalisation as its first layer.

    Args:
        config: What to build.
        backbone: A network of your own in the place of a timm one (see `OwnNetwork`), which stays as it is: of `config`
            only channels, sizes, colours, mean and std count. It is not built again from a file, see `load_encoder`.

    Attributes:
        checks_range: Whether floats outside [0, 1] are refused. A `Method` that owns the encoder says no.

    Raises:
        UsageError: If timm does not know the name, the small stem is asked of something that is no ResNet, timm's
            weights do not fit what is asked, or `backbone` does not fit.
        ToolkitError: If timm's weights cannot be fetched.

    Examples:
        >>> encoder = Encoder(EncoderConfig("convnet", image_size=32, load_size=32))
        >>> encoder(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 256])
    """

    mean: Tensor
    std: Tensor
    backbone: Any  # timm's networks share names, and no class

    def __init__(self, config: EncoderConfig, backbone: nn.Module | None = None) -> None:
        super().__init__()
        if backbone is None:
            self.backbone, self.config = build_backbone(config)
        else:
            self.config = replace(config, name=describe(backbone)).resolved()
            self.backbone = OwnNetwork(backbone, self.config.seen_channels, self.config.image_size)
        self.feature_dim = int(getattr(self.backbone, "head_hidden_size", 0) or self.backbone.num_features)
        # Not part of the state: the weights' names stay timm's own.
        self.register_buffer("mean", torch.tensor(self.config.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(self.config.std).view(1, -1, 1, 1), persistent=False)
        self.checks_range, self._guard = True, RangeGuard()

    def normalize(self, image: Tensor) -> Tensor:
        """Images (N, C, H, W) as the network sees them, each channel centred and scaled.

        Args:
            image: uint8, uint16 or float in [0, 1].

        Raises:
            UsageError: If the images do not have the channels that the encoder was built for, or are no whole number of
                its patches.
            TypeError: If they are of another type.
            ValueError: If they leave [0, 1] (see `RangeGuard`).
        """
        if image.ndim != 4 or image.shape[1] != self.config.channels:
            raise UsageError(
                f"the encoder takes images (N, {self.config.channels}, H, W), got {tuple(image.shape)}: "
                "read the images with as many channels, or build the encoder for them"
            )
        embed = getattr(self.backbone, "patch_embed", None)
        patch = embed.patch_size if isinstance(embed, PatchEmbed) and not embed.dynamic_img_pad else (1, 1)
        if image.shape[-2] % patch[0] or image.shape[-1] % patch[1]:
            raise UsageError(
                f"{self.config.name} cuts images into patches of {patch[0]}x{patch[1]} px, which {image.shape[-2]}x"
                f"{image.shape[-1]} px is no multiple of: give another size of images or views"
            )
        image = self._in_unit_range(image).contiguous(memory_format=torch.channels_last)
        if self.config.colours == "rgb":
            return (image - self.mean) / self.std
        lab = rgb_to_lab(image)
        lightness = lab[:, :1] / LIGHTNESS_STD - LIGHTNESS_MEAN / LIGHTNESS_STD
        return lightness if self.config.colours == "lightness" else torch.cat([lightness, lab[:, 1:] / COLOUR_STD], 1)

    def _in_unit_range(self, image: Tensor) -> Tensor:
        """Images in [0, 1]; floats are looked at only outside compiled code, where a look splits it."""
        if not image.is_floating_point():
            return in_unit_range(image, self.mean.dtype)
        if self.checks_range and not torch.compiler.is_compiling():
            self._guard(image.detach(), "the encoder", "leave the normalisation to the encoder")
        return image

    def forward(self, image: Tensor) -> Tensor:
        """Images (N, C, H, W), uint8, uint16 or float in [0, 1], to pooled features (N, D)."""
        features: Tensor = self.backbone(self.normalize(image))
        return features

    def encode_patch(self, patch: Tensor) -> Tensor:
        """Patches of images (N, C, h, w) in [0, 1] to pooled features (N, D).

        Raises:
            UsageError: If they are too small for the network.
        """
        try:
            features: Tensor = self(patch)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise UsageError(
                f"{self.config.name} cannot encode patches of {patch.shape[-2]}x{patch.shape[-1]} px "
                f"({str(error).splitlines()[0]}): give larger views (--views.size) or another --encoder"
            ) from error
        return features

    def feature_map(self, image: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1] to the last feature map (N, D, h, w), patch tokens of a ViT included."""
        return self._as_map(self.backbone.forward_features(self.normalize(image)), image)

    def features_and_map(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """What `forward` and `feature_map` give, in one pass: (N, D) and (N, D, h, w)."""
        features = self.backbone.forward_features(self.normalize(image))
        return self.backbone.forward_head(features, pre_logits=True), self._as_map(features, image)

    def _as_map(self, features: Tensor, image: Tensor) -> Tensor:
        """What the network's `forward_features` makes of images, as a map."""
        if features.ndim == 4:
            return features.permute(0, 3, 1, 2) if str(getattr(self.backbone, "output_fmt", "")) == "NHWC" else features
        tokens = features[:, getattr(self.backbone, "num_prefix_tokens", 0) :]  # (N, T, D)
        height, width = self.backbone.patch_embed.dynamic_feat_size(image.shape[-2:])
        return tokens.transpose(1, 2).reshape(len(tokens), -1, height, width)

    def map_shape(self, side: int | None = None) -> tuple[int, int, int]:
        """Channels, height and width of the feature map of images of a `side`; None: of those that it is for."""
        with torch.no_grad():
            _, width, height, across = self._example_map(side or self.config.image_size).shape
        return width, height, across

    def width_and_stride(self) -> tuple[int, int]:
        """Channels of the feature map, and pixels from one position of it to the next."""
        side = self.config.image_size
        if not hasattr(self.backbone, "patch_embed"):
            side = -(-side // 64) * 64  # a part of a position at the edge would count as one
        width, _, across = self.map_shape(side)
        return width, round(side / across)

    def freeze_behind_map(self) -> None:
        """Freeze the weights that the feature map does without, such as the norm behind a pooling.

        No gradient reaches them when only the map is trained on, and processes that train together would wait for it.
        """
        weights = [weight for weight in self.parameters() if weight.requires_grad]
        with torch.enable_grad():
            total = self._example_map(self.config.image_size).sum()
        for weight, gradient in zip(weights, torch.autograd.grad(total, weights, allow_unused=True), strict=True):
            weight.requires_grad_(gradient is not None)

    def _example_map(self, side: int) -> Tensor:
        """The feature map of one grey image, in eval mode."""
        training = self.training
        features = self.eval().feature_map(self.mean.expand(1, -1, side, side))
        self.train(training)
        return features

    def tokens(self, image: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1] to a token a position (N, T, D), row by row, without class tokens."""
        return self.feature_map(image).flatten(2).transpose(1, 2)

    def layers(self, image: Tensor) -> dict[str, Tensor]:
        """Images (N, C, H, W) in [0, 1] to pooled features of the last four depths, in one pass.

        A depth is a stage of a convolutional network, a block of a transformer. Its features are the class token if
        the encoder's own are, else the mean over positions, behind the network's last norm where that fits.

        Returns:
            By name, (N, D) each: ``depth 4`` (the fourth from the end), ``depth 3``, ``depth 2``; ``output``, what
            `forward` gives; and, beside a class token, ``mean``, the mean patch token of the last block. Networks that
            timm cannot take apart give their ``output`` only.
        """
        backbone, image = self.backbone, self.normalize(image)
        if not hasattr(backbone, "forward_intermediates"):
            return {"output": backbone(image)}
        by_token = pools_by_token(backbone)
        takes = inspect.signature(backbone.forward_intermediates).parameters
        prefix = {"return_prefix_tokens": True} if by_token and "return_prefix_tokens" in takes else {}
        last, depths = backbone.forward_intermediates(image, indices=4, norm=True, **prefix)
        found = {}
        for number, depth in zip((4, 3, 2), depths, strict=False):
            found[f"depth {number}"] = depth[1][:, 0] if prefix else depth.mean(dim=(2, 3))
        found["output"] = backbone.forward_head(last, pre_logits=True)
        if prefix:
            found["mean"] = depths[-1][0].mean(dim=(2, 3))
        return found

    def eval_view(self) -> EvalView:
        """What evaluation does to images that were read at `load_size`: bytes to [0, 1], the central `image_size`."""
        return eval_view(self.config.image_size, resize=self.config.load_size)

    def reinitialized(self, seed: int) -> Encoder:
        """The same architecture with fresh random weights, on the same device; the caller's draws are not disturbed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            own = self.backbone.reinitialized().module if isinstance(self.backbone, OwnNetwork) else None
            return Encoder(self.config, own).to(self.mean.device)

    @property
    def own_module(self) -> nn.Module | None:
        """The user's own network, if the encoder is around one."""
        return self.backbone.module if isinstance(self.backbone, OwnNetwork) else None

    @property
    def sha256(self) -> str:
        """Identity of the encoder: a hash of its configuration and of every weight."""
        return content_hash(asdict(self.config), plain_state(self.backbone))
