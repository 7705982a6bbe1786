"""Encoders: any timm network behind its own normalisation, saved as one safetensors file that rebuilds itself."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from timm.layers import BatchNormAct2d, PatchEmbed, SelectAdaptivePool2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssl_toolkit import __version__
from ssl_toolkit.augment import EvalView, eval_view
from ssl_toolkit.augment.base import RangeGuard
from ssl_toolkit.colours import rgb_to_lab
from ssl_toolkit.errors import ToolkitError, UsageError, unknown_name
from ssl_toolkit.files import write_atomic
from ssl_toolkit.objects import describe, is_object
from ssl_toolkit.own_network import OwnNetwork
from ssl_toolkit.pretrained import TimmWeights, timm_weights
from ssl_toolkit.split import SplitNetwork, half_width

FORMAT = "ssl-toolkit-encoder-1"
SMALL_STEM_BELOW = 64  # px: under this a 7x7 stride-2 stem with max-pool leaves too few positions

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LIGHTNESS_MEAN, LIGHTNESS_STD = 50.0, 25.0
COLOUR_STD = 15.0  # of a and b of Lab; photographs have 11 and 17


class ConvNet(nn.Module):
    """Five 3x3 convolutions with batch norm, 0.54 M parameters: learns on a CPU in minutes.

    A stride-2 stem and two max-pools leave a feature map of 1/8 of the image's side.

    Args:
        in_chans: Channels of the image.
        widths: Channels of the five layers.
        num_classes: Must be 0; timm passes it to every network.
    """

    def __init__(
        self, in_chans: int = 3, widths: tuple[int, ...] = (32, 64, 128, 128, 256), num_classes: int = 0
    ) -> None:
        super().__init__()
        if num_classes:
            raise UsageError("ConvNet is an encoder: it has no classifier, num_classes must be 0")
        self.widths, self.num_features, self.head_hidden_size = widths, widths[-1], widths[-1]
        layers: list[nn.Module] = []
        for depth, (c_in, c_out) in enumerate(zip((in_chans, *widths), widths, strict=False)):
            layers += [
                nn.Conv2d(c_in, c_out, 3, stride=2 if depth == 0 else 1, padding=1, bias=False),
                nn.BatchNorm2d(c_out),
                nn.ReLU(inplace=True),
            ]
            if depth in (1, 3):
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.global_pool = SelectAdaptivePool2d(pool_type="avg", flatten=True)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """Depth of a weight from its name, as timm's networks tell it: how many convolutions are above."""
        convolutions = [i for i, layer in enumerate(self.features) if isinstance(layer, nn.Conv2d)]
        return lambda name: sum(i <= int(name.split(".")[1]) for i in convolutions) - 1

    def forward_features(self, x: Tensor) -> Tensor:
        """Feature map (N, 256, H/8, W/8)."""
        out: Tensor = self.features(x)
        return out

    def forward_intermediates(self, x: Tensor, indices: int, norm: bool = False) -> tuple[Tensor, list[Tensor]]:
        """The feature map, and those of the last `indices` layers, each after its ReLU; timm's name and order."""
        maps = []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                maps.append(x)
        return x, maps[-indices:]

    def forward_head(self, x: Tensor, pre_logits: bool = True) -> Tensor:
        """Global average of the feature map, (N, 256)."""
        out: Tensor = self.global_pool(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Pooled features (N, 256)."""
        return self.forward_head(self.forward_features(x))


Colours = Literal["rgb", "lightness", "split"]

OWN_ARCHITECTURES = {"convnet": ConvNet}


@dataclass(frozen=True)
class EncoderConfig:
    """All that is needed to build an encoder again.

    Attributes:
        name: A timm architecture, ``convnet`` (see `ConvNet`), or of a network of the user's own what describes it. One
            with a tag (``resnet18.a1_in1k``) or of the hub (``hf-hub:timm/resnet18.a1_in1k``) stands for timm's weights
            with their mean and standard deviation; the encoder's own configuration then has the name of the
            architecture, as the weights are in its file.
        channels: Channels of the images.
        image_size: Side of the images that it is for, in pixels: what evaluation and search show it.
        load_size: Short side to which images are resized when read; views are cut from that, evaluation takes the
            central `image_size` of it.
        stem: ``small`` replaces a ResNet's 7x7 stride-2 stem and max-pool by a 3x3 convolution; ``auto`` does so for
            ResNets under 64 px.
        norm: ``layer`` replaces every batch norm by a layer norm over channels and positions: for methods in which the
            images of a batch must not hear of each other.
        colours: What the network sees of RGB images: all of it; only the CIE lightness, for tasks that ask for the
            colours; or ``split``, two networks of half the width, one of which sees the lightness, the other a and b
            (see `SplitNetwork`; architectures other than ``convnet``, ResNets, ConvNeXts and ViTs keep their width).
        patch_size: Side of a ViT's patches, pixels; 0 leaves the architecture's own.
        mean: Mean of each channel, in [0, 1]; empty takes that of timm's weights, or ImageNet's for RGB, else 0.5.
        std: Standard deviation of each channel, in [0, 1]; empty likewise, else 0.25.
    """

    name: str
    channels: int = 3
    image_size: int = 224
    load_size: int = 256
    stem: Literal["auto", "small", "standard"] = "auto"
    norm: Literal["batch", "layer"] = "batch"
    colours: Colours = "rgb"
    patch_size: int = 0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def resolved(self) -> EncoderConfig:
        """The same with the automatic choices made."""
        rgb = self.channels == 3
        if self.colours != "rgb" and not rgb:
            raise UsageError(
                f"an encoder of {self.colours} takes RGB images, these have {self.channels} channels: "
                "give --channels 3, or another method"
            )
        stem = self.stem
        if stem == "auto":
            small = self.image_size < SMALL_STEM_BELOW and self.name.startswith(("resnet", "resnext", "wide_resnet"))
            stem = "small" if small else "standard"
        mean = self.mean or (IMAGENET_MEAN if rgb else (0.5,) * self.channels)
        std = self.std or (IMAGENET_STD if rgb else (0.25,) * self.channels)
        in_range = all(0 <= value <= 1 for value in (*mean, *std)) and all(std)
        if len(mean) != self.channels or len(std) != self.channels or not in_range:
            raise UsageError(
                f"mean {tuple(mean)} and std {tuple(std)} must have one value for each of {self.channels} channels: "
                "from 0 to 1, and those of std above 0"
            )
        return replace(self, stem=stem, mean=tuple(mean), std=tuple(std))

    @property
    def seen_channels(self) -> int:
        """Channels that reach the network's first layer; of a split one, that of the half which sees the lightness."""
        return self.channels if self.colours == "rgb" else 1


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

    Example:
        >>> encoder = Encoder(EncoderConfig("convnet", image_size=32, load_size=32))
        >>> encoder(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 256])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: EncoderConfig, backbone: nn.Module | None = None) -> None:
        super().__init__()
        network: Any
        if backbone is not None:
            self.config = replace(config, name=describe(backbone)).resolved()
            network = OwnNetwork(backbone, self.config.seen_channels, self.config.image_size)
        else:
            if is_object(config.name):
                raise UsageError(
                    f"the encoder's network was an object of Python, {config.name}, which cannot be built again from "
                    "its name: give one like it, load_encoder(path, backbone=module)"
                )
            weights = timm_weights(config.name)
            network, self.config = _build_backbone(config if weights is None else _for_weights(config, weights))
            if config.norm == "layer":
                if weights is not None and any(isinstance(module, _BatchNorm) for module in network.modules()):
                    raise UsageError(f"the weights {config.name} are for batch norms: give --encoder.norm batch")
                _replace_batch_norms(network)
            if weights is not None:
                weights.fill(network, partial(_timm_model, config=self.config, in_chans=self.config.seen_channels))
            network.to(memory_format=torch.channels_last)
        config, self.backbone = self.config, network
        self.feature_dim = int(getattr(self.backbone, "head_hidden_size", 0) or self.backbone.num_features)
        # Not part of the state: the weights' names stay timm's own.
        self.register_buffer("mean", torch.tensor(config.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, -1, 1, 1), persistent=False)
        self.checks_range, self._guard = True, RangeGuard()

    def normalize(self, image: Tensor) -> Tensor:
        """Images (N, C, H, W) as the network sees them, each channel centred and scaled.

        Args:
            image: uint8 in [0, 255] or float in [0, 1].

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
        """uint8 scaled to [0, 1], floats as they are; looked at only outside compiled code, where a look splits it."""
        if image.dtype == torch.uint8:
            return image.to(self.mean.dtype) / 255
        if not image.is_floating_point():
            raise TypeError(f"the encoder takes uint8 images or floats in [0, 1], not {image.dtype}")
        if self.checks_range and not torch.compiler.is_compiling():
            self._guard(image.detach(), "the encoder", "leave the normalisation to the encoder")
        return image

    def forward(self, image: Tensor) -> Tensor:
        """Images (N, C, H, W), uint8 or float in [0, 1], to pooled features (N, D)."""
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
        features: Tensor = self.backbone.forward_features(self.normalize(image))
        if features.ndim == 4:
            return features.permute(0, 3, 1, 2) if str(_output_format(self.backbone)) == "NHWC" else features
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
        by_token = getattr(backbone, "global_pool", None) == "token"
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
        return _hash(asdict(self.config), plain_state(self.backbone))


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


def _build_backbone(asked: EncoderConfig) -> tuple[Any, EncoderConfig]:
    """The network, and the configuration with the automatic choices made."""
    config = asked.resolved()
    if config.colours != "split":
        return _build_network(asked, config, config.seen_channels)
    lightness, config = _build_network(asked, config, 1, half=True)
    colour, config = _build_network(asked, config, 2, half=True)
    return SplitNetwork(lightness, colour), config


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
        return network, config
    name = config.name
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
    common: dict[str, Any] = {"in_chans": in_chans, "num_classes": 0, **options}
    if config.patch_size:
        common["patch_size"] = config.patch_size
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


def _output_format(backbone: nn.Module) -> Any:
    return getattr(backbone, "output_fmt", "NCHW")


def architectures() -> list[str]:
    """Names of all architectures that `EncoderConfig` takes."""
    return [*OWN_ARCHITECTURES, *timm.list_models()]


def plain_state(module: nn.Module) -> dict[str, Tensor]:
    """A module's state, on the CPU and contiguous."""
    return {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}


LATER_CHOICES = {"norm": "batch", "colours": "rgb", "patch_size": 0}


def _hash(described: dict[str, Any], weights: dict[str, Tensor]) -> str:
    # Encoders saved before there was this choice keep their identity.
    described = {k: v for k, v in described.items() if LATER_CHOICES.get(k) != v}
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name in sorted(weights):
        tensor = weights[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of the libraries that decide what an encoder computes."""
    return {
        "ssl-toolkit": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
    }


def save_encoder(encoder: Encoder, path: str | Path, method: str = "") -> str:
    """Write `encoder` to one safetensors file that `load_encoder` rebuilds it from.

    The metadata holds the configuration, the method that trained it, library versions and a sha256 of it all.

    Returns:
        The encoder's sha256.

    Raises:
        ToolkitError: If a weight is not finite.
    """
    return save_weights(plain_state(encoder.backbone), asdict(encoder.config), path, FORMAT, method)


def save_weights(
    weights: dict[str, Tensor], described: dict[str, Any], path: str | Path, format: str, method: str = ""
) -> str:
    """Write weights to one safetensors file, with what they are in its metadata.

    Args:
        weights: By name, on the CPU and contiguous.
        described: All that is needed to build the network again, as JSON has it.
        path: The file.
        format: Name of the kind of file.
        method: What trained them.

    Returns:
        The sha256 of description and weights.

    Raises:
        ToolkitError: If a weight is not finite.
    """
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ToolkitError(f"weight '{name}' is not finite: the training diverged, {path} is not written")
    sha256 = _hash(described, weights)
    metadata = {
        "format": format,
        "config": json.dumps(described),
        "method": method,
        "versions": json.dumps(versions()),
        "sha256": sha256,
    }
    content = save(weights, metadata)
    write_atomic(path, lambda temporary: temporary.write_bytes(content))  # save_file would make it private
    return sha256


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
    return _metadata(encoder_file(path), FORMAT, "an encoder")


_ELSEWHERE = "; weights from elsewhere are taken with --architecture NAME, to pretrain with --weights FILE"


def _metadata(file: Path, format: str, what: str) -> dict[str, str]:
    try:
        with safe_open(file, "pt") as handle:
            metadata: dict[str, str] = handle.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ToolkitError(f"{file} is not a readable safetensors file: {error}{_ELSEWHERE}") from error
    if metadata.get("format") != format:
        raise ToolkitError(f"{file} is a safetensors file, but not {what} saved by ssl-toolkit ({format}){_ELSEWHERE}")
    return metadata


def load_weights(file: Path, format: str, what: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and description that `save_weights` wrote to a file of this format.

    Args:
        file: The file.
        format: As it was saved.
        what: Its kind with its article, for errors.

    Raises:
        ToolkitError: If it is not of this kind, or its sha256 does not match what is in it.
    """
    metadata = _metadata(file, format, what)
    described: dict[str, Any] = json.loads(metadata["config"])
    with safe_open(file, "pt") as handle:
        weights = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - not a dict
    if _hash(described, weights) != metadata["sha256"]:
        raise ToolkitError(f"{file}: its sha256 does not match its contents: it is damaged, copy or train it again")
    return weights, described


def config_of(described: dict[str, Any]) -> EncoderConfig:
    """The configuration out of JSON, which knows no tuples; a tag in its name asks for no weights but the file's."""
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in described.items()}
    name: str = values["name"]
    return EncoderConfig(**{**values, "name": name if is_object(name) else name.split(".")[0]})


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
