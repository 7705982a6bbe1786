"""CPC: from the patches above, tell the encodings of the patches below from all others; from past frames, the next."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_toolkit.augment import ColourJitter, ResizedCropFlip, View, Views, cpc_views
from ssl_toolkit.contrastive import losses
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.distributed import gather, rank
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError, require_positive
from ssl_toolkit.method import Method
from ssl_toolkit.optim import OptimizerConfig

SMALLEST_PATCH = 8  # px: what small networks still make a feature map of


def patches(image: Tensor, size: int, stride: int) -> Tensor:
    """Cut images into a grid of overlapping patches.

    Args:
        image: (N, C, H, W).
        size: Side of a patch, pixels.
        stride: From patch to patch, pixels.

    Returns:
        (N, rows, columns, C, size, size).

    Source: van den Oord et al. 2018, section 3.3: 64 px with 32 px overlap, 7 x 7 of a 256 px image.
    """
    grid: Tensor = image.unfold(2, size, stride).unfold(3, size, stride)  # (N, C, rows, columns, size, size)
    return grid.permute(0, 2, 3, 1, 4, 5)


class GRUContext(nn.Module):
    """What has been seen of each column down to a row: a GRU over the rows.

    Args:
        dim: Dimension of an encoding.
        context_dim: Dimension of a context.
    """

    def __init__(self, dim: int, context_dim: int) -> None:
        super().__init__()
        self.gru = nn.GRU(dim, context_dim, batch_first=True)

    def forward(self, z: Tensor) -> Tensor:
        """Encodings (N, rows, columns, D) to contexts (N, rows, columns, context_dim) of this row and those above."""
        n, rows, columns, _ = z.shape
        c: Tensor = self.gru(z.transpose(1, 2).flatten(0, 1))[0]  # (N columns, rows, context_dim)
        return c.view(n, columns, rows, -1).transpose(1, 2)


class ConvContext(nn.Module):
    """What has been seen of the rows down to this one: residual convolutions that look up and sideways, never down.

    Args:
        dim: Dimension of an encoding.
        context_dim: Dimension of a context.
        layers: Convolutions; each looks two rows up.

    Source: Hénaff et al. 2020 (CPC v2), section 3.1 and appendix A, a PixelCNN whose mask is a shift.
    """

    def __init__(self, dim: int, context_dim: int, layers: int = 3) -> None:
        super().__init__()
        self.project = nn.Conv2d(dim, context_dim, 1)
        self.convolutions = nn.ModuleList(nn.Conv2d(context_dim, context_dim, 3) for _ in range(layers))

    def forward(self, z: Tensor) -> Tensor:
        """Encodings (N, rows, columns, D) to contexts (N, rows, columns, context_dim) of this row and those above."""
        c: Tensor = self.project(z.permute(0, 3, 1, 2))
        for convolution in self.convolutions:
            c = c + convolution(F.pad(F.relu(c), (1, 1, 2, 0)))
        return c.permute(0, 2, 3, 1)


class CPC(Method):
    """Representation learning with contrastive predictive coding, over the patches of images or the frames of clips.

    Args:
        encoder: Encodes patches one by one, so without batch norm, which would tell of the others; afterwards it is
            applied to whole images.
        views: Makes one view of a batch.
        optimizer: How the weights are moved.
        patch_size: Side of a patch, pixels; if not given, a quarter of the view's, at least 8.
        patch_stride: From patch to patch, pixels; if not given, half a patch.
        steps: The farthest row that is predicted, counted from the context's own.
        skip: Nearer rows that are left out: they overlap with what is known.
        context: ``gru`` over the rows, or causal ``conv`` over rows and columns (v2).
        context_dim: Dimension of a context.
        projection_dim: Dimension in which predictions and encodings are compared.
        negatives: Encodings, of any image and position of the batch, among which a future is found; they are drawn
            where the batch has more.
        directions: 1: downwards; 4: from each side (v2), each with a context network of its own.
        augment_patches: Whether each patch also gets a crop, flip and colours of its own (v2).

    Source: van den Oord et al. 2018, section 2 and 3.3; Hénaff et al. 2020 (v2), section 3.1 and appendix A.
    """

    default_views = staticmethod(cpc_views)
    embedding: ClassVar[str | None] = "target"
    encoder_norm: ClassVar[Literal["batch", "layer"]] = "layer"
    takes_clips: ClassVar[bool] = True

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        optimizer: OptimizerConfig | None = None,
        patch_size: int | None = None,
        patch_stride: int | None = None,
        steps: int = 3,
        skip: int = 1,
        context: Literal["gru", "conv"] = "gru",
        context_dim: int = 256,
        projection_dim: int = 64,
        negatives: int = 1024,
        directions: Literal[1, 4] = 1,
        augment_patches: bool = False,
    ) -> None:
        super().__init__(encoder, views, optimizer)
        require_positive(steps=steps, context_dim=context_dim, negatives=negatives)
        given = {"patch_size": patch_size, "patch_stride": patch_stride}
        require_positive(**{name: value for name, value in given.items() if value is not None})
        if not 0 <= skip < steps:
            raise UsageError(f"--method.skip is {skip}: it must be from 0 to --method.steps - 1, {steps - 1}")
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in encoder.modules()):
            raise UsageError(
                f"cpc encodes patches one by one, and batch norm in {encoder.config.name} would tell each of the "
                "others: give --encoder.norm layer, or start from an encoder that was built with it"
            )
        network = {"gru": GRUContext, "conv": ConvContext}[context]
        d = encoder.feature_dim
        self.contexts = nn.ModuleList(network(d, context_dim) for _ in range(directions))
        self.target = nn.Linear(d, projection_dim)
        self.predict = nn.ModuleList(  # W_k of each direction
            nn.ModuleList(nn.Linear(context_dim, projection_dim, bias=False) for _ in range(skip, steps))
            for _ in range(directions)
        )
        self.patch_size, self.patch_stride, self.steps, self.skip = patch_size, patch_stride, steps, skip
        self.negatives, self.augment_patches = negatives, augment_patches
        self.candidates = 0  # encodings among which a future was found in the last step

    def chance_loss(self, batch_size: int) -> float | None:
        """The logarithm of the number of encodings among which a future is found, known from the first step on."""
        return math.log(self.candidates) if self.candidates else None

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Encode the patches, sum up what is known, predict what follows."""
        patch = self._patches(views[0])  # (N, rows, columns, C, p, p)
        z = self.encoder.encode_patch(patch.flatten(0, 2)).view(*patch.shape[:3], -1)
        total = z.new_zeros(())
        for direction, (context, predict) in enumerate(zip(self.contexts, self.predict, strict=True)):
            turned = torch.rot90(z, direction, (1, 2))
            total = total + self._loss(context(turned), self.target(turned), predict)
        return {"loss": total / len(self.contexts)}

    def _loss(self, c: Tensor, z: Tensor, predict: nn.Module) -> Tensor:
        """Mean over the steps k of the loss of ``W_k c_t`` against ``z_{t+k}`` among other encodings of the batch."""
        count = z[..., 0].numel()
        place = torch.arange(count, device=z.device)
        drawn = torch.randperm(count, device=z.device)[: self.negatives] if count > self.negatives else place
        pool = gather(z.flatten(0, 2)[drawn])
        self.candidates = len(pool) + (len(drawn) < count)  # of all, the future is one; of drawn ones, hardly ever
        own = torch.full_like(place, -1)
        own[drawn] = rank() * len(drawn) + torch.arange(len(drawn), device=z.device)
        own = own.view(z.shape[:3])
        found = []
        for k, w in enumerate(predict.children(), start=self.skip + 1):
            prediction = w(c[:, :-k]).flatten(0, 2)
            found.append(losses.cpc(prediction, z[:, k:].flatten(0, 2), pool, own[:, k:].flatten()))
        return torch.stack(found).mean()

    def _patches(self, image: Tensor) -> Tensor:
        """The patches of a view; the frames of a clip, (N, T, C, H, W) or (N, T C, H, W), are one column of T rows."""
        if image.ndim == 4 and image.shape[1] > self.encoder.config.channels:
            image = image.reshape(len(image), -1, self.encoder.config.channels, *image.shape[2:])  # (N, T, C, H, W)
        if image.ndim == 5:
            if len(self.contexts) > 1:
                raise UsageError("--method.directions is 4, but the frames of a clip have no columns: give 1")
            patch = image[:, :, None]
        else:
            side = min(image.shape[-2:])
            size = self.patch_size or max(SMALLEST_PATCH, side // 4)
            # Half of an odd size is rounded up: patches two rows apart share no pixels.
            stride = self.patch_stride or (size + 1) // 2
            patch = patches(image, size, stride) if size <= side else image[:, None, None]
        rows = min(patch.shape[1:3]) if len(self.contexts) > 1 else patch.shape[1]
        if self.steps >= rows:
            raise UsageError(
                f"--method.steps is {self.steps}, but there are only {rows} rows of patches or frames: give fewer "
                "steps, a smaller --method.patch-size or larger views"
            )
        return self._augmented(patch) if self.augment_patches else patch

    @torch.no_grad()
    def _augmented(self, patch: Tensor) -> Tensor:
        """Each patch with a crop, flip, colour jitter and greyscale of its own."""
        side = patch.shape[-1]
        view = View(ResizedCropFlip((side, side), (0.6, 1.0)), [ColourJitter((0.4, 0.4, 0.4, 0.1), 0.8, 0.2)])
        augmented: Tensor = view(patch.flatten(0, 2).contiguous())
        return augmented.view(patch.shape)
