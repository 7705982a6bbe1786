"""Which parts of an image speak for a class: occlusion, gradients and Shapley values of a linear probe's logit.

The library behind them is Captum (extra ``explain``). All take a model from images to logits: `ProbedEncoder` is one.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType

import torch
from torch import Tensor, nn

from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError, missing_extra
from ssl_toolkit.eval.scores.linear_classifier import LinearClassifier

_AT_ONCE = 64  # changed images that go through the network together


class ProbedEncoder(nn.Module):
    """An encoder with a fitted linear probe on its features: images (N, C, H, W) in [0, 1] to logits (N, K).

    Args:
        encoder: A copy of it is taken, so that hooks and modes are nobody else's.
        probe: Fitted on features of the encoder.
    """

    def __init__(self, encoder: Encoder, probe: LinearClassifier) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder).eval().requires_grad_(False)
        self.encoder.checks_range = False  # what is asked is how it answers to changed images, noisy ones among them
        for module in self.encoder.modules():
            if hasattr(module, "inplace"):
                setattr(module, "inplace", False)  # noqa: B010 -  hooks on gradients need what an activation was given
        device = encoder.mean.device
        scaled = probe.weight.to(device) / probe.std.to(device)[:, None].double()  # standardisation folded in
        bias = probe.bias.to(device) - probe.mean.to(device).double() @ scaled
        self.register_buffer("weight", scaled.float())
        self.register_buffer("bias", bias.float())

    def forward(self, image: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1] to logits (N, K)."""
        logits: Tensor = self.encoder(image) @ self.weight + self.bias
        return logits


def has_relu(module: nn.Module) -> bool:
    """Whether guided backpropagation would change anything."""
    return any(isinstance(each, nn.ReLU) for each in module.modules())


def saliency(model: nn.Module, image: Tensor, target: Tensor) -> Tensor:
    """How much a logit changes with each pixel: the largest absolute derivative over the channels.

    Args:
        model: Images (N, C, H, W) to logits (N, K).
        image: (N, C, H, W) float.
        target: (N,) int64: the class of each image's logit.

    Returns:
        (N, H, W), at least 0.

    Source: Simonyan, Vedaldi and Zisserman 2014, section 3.
    """
    slope = captum().Saliency(model).attribute(_leaf(image), target=target, abs=False)
    return _strongest(slope)


def guided_backprop(model: nn.Module, image: Tensor, target: Tensor) -> Tensor:
    """Like `saliency`, with negative gradients stopped at every ReLU.

    Raises:
        UsageError: The model has no ReLU.

    Source: Springenberg et al. 2015, section 3.4. Adebayo et al. 2018 show that it hardly depends on the weights.
    """
    if not has_relu(model):
        raise UsageError("guided backpropagation is for networks with ReLU, and this one has none: draw smoothgrad")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Setting backward hooks on ReLU")
        slope = captum().GuidedBackprop(model).attribute(_leaf(image), target=target)
    return _strongest(slope)


def smoothgrad(
    model: nn.Module, image: Tensor, target: Tensor, *, samples: int = 32, noise: float = 0.15, seed: int = 0
) -> Tensor:
    """Like `saliency`, of the derivative's mean over noisy copies of the image.

    Args:
        model: Images (N, C, H, W) to logits (N, K).
        image: (N, C, H, W) float.
        target: (N,) int64.
        samples: Noisy copies.
        noise: Standard deviation, as a share of the range of the image's values.
        seed: Of the noise; the caller's draws are not disturbed.

    Returns:
        (N, H, W), at least 0.

    Source: Smilkov et al. 2017.
    """
    tunnel = captum().NoiseTunnel(captum().Saliency(model))
    slopes = []
    with _seeded(seed):
        for one, label in zip(image[:, None], target[:, None], strict=True):
            slope = tunnel.attribute(
                one, nt_type="smoothgrad", nt_samples=samples, nt_samples_batch_size=min(samples, _AT_ONCE),
                stdevs=noise * float(one.max() - one.min()), target=label, abs=False,
            )  # fmt: skip
            slopes.append(slope.detach())
    return _strongest(torch.cat(slopes))


def occlusion(
    model: Callable[[Tensor], Tensor], image: Tensor, target: Tensor, baseline: Tensor, *, patch: int, stride: int
) -> Tensor:
    """How much a logit falls when a square of the image is covered: the mean over the squares that hold a pixel.

    Args:
        model: Images (N, C, H, W) to logits (N, K).
        image: (N, C, H, W) float.
        target: (N,) int64.
        baseline: What covers, broadcast to the image, such as the mean colour (1, C, 1, 1).
        patch: Side of the square, pixels.
        stride: From square to square, pixels, at most `patch`.

    Returns:
        (N, H, W); negative where the covered part spoke against the class.

    Source: Zeiler and Fergus 2014, section 4.2.
    """
    channels = image.shape[1]
    with torch.no_grad():
        fall = captum().Occlusion(model).attribute(
            image, sliding_window_shapes=(channels, patch, patch), strides=(channels, stride, stride), target=target,
            baselines=baseline.expand_as(image), perturbations_per_eval=max(1, _AT_ONCE // len(image)),
        )  # fmt: skip
    return _first(fall)


def shapley(
    model: Callable[[Tensor], Tensor],
    image: Tensor,
    target: Tensor,
    baseline: Tensor,
    *,
    grid: tuple[int, int],
    samples: int = 16,
    seed: int = 0,
) -> Tensor:
    """Shapley values of patches: how much each adds to a logit, averaged over random orders of uncovering them.

    They sum to the logit of the image less that of the baseline, whatever the number of orders.

    Args:
        model: Images (N, C, H, W) to logits (N, K).
        image: (N, C, H, W) float.
        target: (N,) int64.
        baseline: What stands for an absent patch, broadcast to the image.
        grid: Rows and columns of patches.
        samples: Random orders.
        seed: Of the orders; the caller's draws are not disturbed.

    Returns:
        (N, rows, columns).

    Source: Shapley 1953; by sampling, Castro, Gómez and Tejada 2009; of image regions, Lundberg and Lee 2017.
    """
    height, width = image.shape[2:]
    down = torch.arange(height, device=image.device) * grid[0] // height
    across = torch.arange(width, device=image.device) * grid[1] // width
    number = down[:, None] * grid[1] + across  # (H, W)
    with torch.no_grad(), _seeded(seed):
        share = captum().ShapleyValueSampling(model).attribute(
            image, baselines=baseline.expand_as(image), target=target, n_samples=samples,
            feature_mask=number.expand(1, *image.shape[1:]).contiguous(),
            perturbations_per_eval=max(1, _AT_ONCE // len(image)),
        )  # fmt: skip
    rows, columns = (
        torch.searchsorted(number, torch.arange(count, device=image.device))  # a position in each patch
        for number, count in zip((down, across), grid, strict=True)
    )
    return _first(share)[:, rows][:, :, columns]


def captum() -> ModuleType:
    """Captum's attributions.

    Raises:
        UsageError: It is not installed.
    """
    try:
        import captum.attr
    except ImportError as error:
        raise missing_extra("this explanation", "explain") from error
    module: ModuleType = captum.attr
    return module


def _leaf(image: Tensor) -> Tensor:
    return image.detach().clone().requires_grad_()


def _strongest(slope: Tensor) -> Tensor:
    """(N, C, H, W) to the largest absolute value over the channels, (N, H, W)."""
    return slope.detach().abs().amax(dim=1)


def _first(value: Tensor) -> Tensor:
    """(N, C, H, W), the same for all channels, to (N, H, W) float32."""
    return value.detach()[:, 0].float()


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draws that depend on the seed alone, and disturb nobody's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
