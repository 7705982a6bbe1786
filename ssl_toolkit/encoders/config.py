"""What an encoder is, in so few values that it can be built again from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from ssl_toolkit.data.depth import parse_range
from ssl_toolkit.errors import UsageError
from ssl_toolkit.objects import is_object

SMALL_STEM_BELOW = 64  # px: under this a 7x7 stride-2 stem with max-pool leaves too few positions

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Colours = Literal["rgb", "lightness", "split"]
Positions = Literal["learned", "sincos"]
Init = Literal["timm", "moco_v3", "mae"]
Pool = Literal["own", "mean"]


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
        heads: A ViT's heads, which divide its width; 0 leaves the architecture's own.
        positions: ``sincos``: a ViT's positions are sines and cosines and stay as they are, see `fix_positions`.
        init: Whose first weights a ViT with random ones has, see `start_as`.
        registers: Tokens that a ViT has beside the class token and the patches; 0 leaves the architecture's own.
        pool: ``mean``: features are the mean of a ViT's patches, where its own would be the class token.
        mean: Mean of each channel, in [0, 1]; empty takes that of timm's weights, or ImageNet's for RGB, else 0.5.
        std: Standard deviation of each channel, in [0, 1]; empty likewise, else 0.25.
        range: Values of images deeper than 8 bits that it was trained to see as 0 and 1; None: those of their type.

    Examples:
        >>> EncoderConfig("resnet18", image_size=32, load_size=32).resolved().stem
        'small'
    """

    name: str
    channels: int = 3
    image_size: int = 224
    load_size: int = 256
    stem: Literal["auto", "small", "standard"] = "auto"
    norm: Literal["batch", "layer"] = "batch"
    colours: Colours = "rgb"
    patch_size: int = 0
    heads: int = 0
    positions: Positions = "learned"
    init: Init = "timm"
    registers: int = 0
    pool: Pool = "own"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    range: tuple[float, float] | None = None

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
        parse_range(self.range)  # refuses what is none
        return replace(self, stem=stem, mean=tuple(mean), std=tuple(std))

    def require_colours(self, colours: Colours, asker: str) -> None:
        """Refuse an encoder that sees what it is asked for.

        Args:
            colours: What it must see; "rgb": whatever it does.
            asker: Who trains it.

        Raises:
            UsageError: If it sees something else.
        """
        if colours not in ("rgb", self.colours):
            raise UsageError(
                f"{asker} trains an encoder of the kind '{colours}', this one sees '{self.colours}': "
                "give --encoder the name of an architecture, or a run of the same method"
            )

    @property
    def seen_channels(self) -> int:
        """Channels that reach the network's first layer; of a split one, that of the half which sees the lightness."""
        return self.channels if self.colours == "rgb" else 1


def config_of(described: dict[str, Any]) -> EncoderConfig:
    """The configuration out of JSON, which knows no tuples; a tag in its name asks for no weights but the file's."""
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in described.items()}
    name: str = values["name"]
    return EncoderConfig(**{**values, "name": name if is_object(name) else name.split(".")[0]})
