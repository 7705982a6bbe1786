"""Weights that timm knows where to find: of a name with a tag, and of the Hugging Face hub. Never random ones."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import timm
from timm.models import load_model_config_from_hf, split_model_name_tag
from torch import nn

from ssl_toolkit.errors import ToolkitError, UsageError, unknown_name

HUB = "hf-hub:"
# Options of a network on the hub that an encoder's configuration says itself, or that leave its features alone.
OWN_OPTIONS = {"img_size", "in_chans", "num_classes", "dynamic_img_size", "dynamic_img_pad"}

_T = TypeVar("_T")


@dataclass(frozen=True)
class TimmWeights:
    """Weights that timm fetches, and what their images looked like.

    Attributes:
        name: As timm takes it: ``resnet18.a1_in1k``, ``hf-hub:timm/resnet18.a1_in1k``.
        architecture: The network's name.
        classes: Of its classifier, which is left behind; 0 for none.
        image_size: Side of the images, pixels.
        mean: Of each channel, in [0, 1].
        std: Likewise.
    """

    name: str
    architecture: str
    classes: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalization(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation for images of so many channels: the average of these where theirs are others."""
        if channels == len(self.mean):
            return self.mean, self.std
        return tuple((sum(each) / len(each),) * channels for each in (self.mean, self.std))  # type: ignore[return-value]

    def fill(self, network: nn.Module, build: Callable[..., nn.Module]) -> None:
        """Put the weights into a network.

        Args:
            network: Of the architecture, without a classifier.
            build: Makes timm's network out of its name and options, for images as `network` takes them.

        Raises:
            ToolkitError: If they cannot be fetched, or one of the network's weights is not among them.
        """
        # With the classifier that they were trained with: only then does timm refuse weights that are not all there.
        whole = fetched(self.name, lambda: build(self.name, pretrained=True, num_classes=self.classes))
        theirs, own = whole.state_dict(), network.state_dict()
        for name, tensor in own.items():
            if name not in theirs or theirs[name].shape != tensor.shape:
                raise UsageError(f"{self.name}: its weights do not fit this network, '{name}' is another one in it")
        network.load_state_dict({name: theirs[name] for name in own})


def names_weights(name: str) -> bool:
    """Whether a name is one of weights: of the hub, or of a timm architecture with a tag."""
    return name.startswith(HUB) or ("." in name and timm.is_model(name.partition(".")[0]))


@functools.cache
def timm_weights(name: str) -> TimmWeights | None:
    """The weights that an encoder's name stands for; None for the name of an architecture alone.

    Raises:
        UsageError: If timm knows no such architecture or tag, or the network was built with options that an encoder
            file does not keep.
        ToolkitError: If the hub cannot be reached.
    """
    if name.startswith(HUB):
        about, architecture, options = fetched(name, lambda: load_model_config_from_hf(name.removeprefix(HUB)))
        if other := sorted(set(options or {}) - OWN_OPTIONS):
            raise UsageError(f"{name} was built with options that an encoder file does not keep: {', '.join(other)}")
    elif "." in name:
        architecture, tag = split_model_name_tag(name)
        if not timm.is_model(architecture):
            raise unknown_name("encoder", architecture, timm.list_models())
        known = timm.list_pretrained(f"{architecture}.*")
        if name not in known:
            raise unknown_name(f"tag of {architecture}", tag, (each.partition(".")[2] for each in known))
        about = timm.get_pretrained_cfg(name).to_dict()
    else:
        return None
    return TimmWeights(
        name,
        architecture,
        about["num_classes"],
        about["input_size"][-1],
        tuple(about["mean"]),
        tuple(about["std"]),
    )


def fetched(name: str, fetch: Callable[[], _T]) -> _T:
    """What `fetch` returns, with its retries kept quiet.

    Raises:
        ToolkitError: Whatever it raised, in one line.
    """
    log = logging.getLogger("huggingface_hub")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        return fetch()
    except Exception as error:  # the libraries below it know dozens of kinds
        reason = " ".join(str(error).split())[:300]
        raise ToolkitError(
            f"the weights of {name} cannot be fetched ({reason}): give a name without a tag for random weights, or a "
            "file of weights"
        ) from error
    finally:
        log.setLevel(before)
