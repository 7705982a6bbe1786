"""A network of the user's own as an encoder's backbone."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ssl_toolkit.errors import UsageError, said_by
from ssl_toolkit.objects import describe


class OwnNetwork(nn.Module):
    """Any module from images (N, C, H, W) to (N, D), (N, D, h, w) or (N, tokens, D), under timm's names.

    Features are the mean over positions or tokens where there are any. How wide they are is found by one forward pass.

    Args:
        module: The network; it is held, not copied.
        channels: Channels that reach it.
        side: Height and width of the images of that pass, pixels.

    Attributes:
        num_features: D.

    Raises:
        UsageError: If it cannot take such images, or gives something else.

    Examples:
        >>> network = OwnNetwork(nn.Conv2d(3, 8, 3), channels=3, side=16)
        >>> network(torch.rand(2, 3, 16, 16)).shape, network.forward_features(torch.rand(2, 3, 16, 16)).shape
        (torch.Size([2, 8]), torch.Size([2, 8, 14, 14]))
    """

    def __init__(self, module: nn.Module, channels: int, side: int) -> None:
        super().__init__()
        self.module = module
        self.described = describe(module)
        where = next(module.parameters(), torch.empty(0)).device
        training = module.training
        try:
            with torch.no_grad():
                given = module.eval()(torch.full((2, channels, side, side), 0.5, device=where))
        except Exception as error:  # whatever a stranger's network may raise
            raise UsageError(
                f"encoder {self.described} cannot take images (2, {channels}, {side}, {side}): {said_by(error)}"
            ) from error
        finally:
            module.train(training)
        if not isinstance(given, Tensor) or given.ndim not in (2, 3, 4) or len(given) != 2:
            form = tuple(given.shape) if isinstance(given, Tensor) else f"a {type(given).__name__}"
            raise UsageError(
                f"encoder {self.described} makes {form} of 2 images: it must give a tensor (N, D), (N, D, h, w) or "
                "(N, tokens, D)"
            )
        self.num_features = given.shape[-1 if given.ndim == 3 else 1]

    def forward(self, image: Tensor) -> Tensor:
        """Features (N, D)."""
        given: Tensor = self.module(image.contiguous())
        if given.ndim == 2:
            return given
        return given.mean(dim=1) if given.ndim == 3 else given.mean(dim=(2, 3))

    def forward_features(self, image: Tensor) -> Tensor:
        """The feature map (N, D, h, w).

        Raises:
            UsageError: If the network gives none.
        """
        given: Tensor = self.module(image.contiguous())
        if given.ndim != 4:
            raise UsageError(
                f"encoder {self.described} gives features {tuple(given.shape)}, and feature maps (N, D, h, w) are "
                "needed here: leave out what pools them, or choose a method that reads features"
            )
        return given

    def forward_head(self, features: Tensor, pre_logits: bool = True) -> Tensor:
        """Mean over the positions of a feature map, (N, D)."""
        return features.mean(dim=(2, 3))

    def reinitialized(self) -> OwnNetwork:
        """The same network with weights drawn anew by each part's own ``reset_parameters``.

        Raises:
            UsageError: If some weight belongs to a part that has none.
        """
        fresh = copy.deepcopy(self)
        for name, part in fresh.module.named_modules():
            if callable(reset := getattr(part, "reset_parameters", None)):
                reset()
            elif weights := [weight for weight, _ in part.named_parameters(recurse=False)]:
                raise UsageError(
                    f"encoder {self.described} has no random weights to compare with: '{name}', which holds "
                    f"'{weights[0]}', has no reset_parameters()"
                )
        return fresh
