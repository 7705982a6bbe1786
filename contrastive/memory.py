"""The memory of a data set: an embedding for each image, the same in every process, saved with the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ssl_toolkit.data.bad_images import BadImages
from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.distributed import gather
from ssl_toolkit.errors import UsageError
from ssl_toolkit.method import Method
from ssl_toolkit.randomness import seed_device

BEFORE_TRAINING = -2  # the step of these draws


class MemoryBank(nn.Module):
    """An embedding for each image, by its number in the data set; zeros stand for images that were not seen yet.

    It takes ``4 dim`` bytes an image, on the device and in every checkpoint. It grows with the numbers that it meets.

    Args:
        dim: Dimension of the embeddings.

    Source: Wu et al. 2018, Unsupervised feature learning via non-parametric instance discrimination, section 3.
    """

    vectors: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(0, dim))
        self.complete = False  # whether it is known to have room for all images

    @torch.no_grad()
    def recall(self, index: Tensor, instead: Tensor) -> Tensor:
        """What is remembered of images.

        Args:
            index: (N,) int64.
            instead: Embeddings (N, dim) for those that were not seen yet.

        Returns:
            (N, dim), without gradient.

        Raises:
            UsageError: The loader does not say which images they are.
        """
        if not self.complete:  # asking would make the host wait for the device
            if int(index.min()) < 0:
                raise UsageError(
                    "the method remembers each image, and this loader does not say which they are: give data to "
                    "pretrain, or a loader of `Batch`es with their index"
                )
            self._grow(int(gather(index).max()) + 1)
        found = self.vectors[index]
        return torch.where(found.any(1, keepdim=True), found, instead.detach().to(found.dtype))

    def hold(self, count: int) -> None:
        """Make room for a whole data set."""
        self._grow(count)
        self.complete = True

    def _grow(self, count: int) -> None:
        more = count - len(self.vectors)
        if more > 0:
            self.vectors = torch.cat([self.vectors, self.vectors.new_zeros(more, self.vectors.shape[1])])

    @torch.no_grad()
    def update(self, index: Tensor, embeddings: Tensor) -> None:
        """Remember embeddings (N, dim) of images (N,) of all processes in the place of older ones."""
        self.vectors[gather(index)] = gather(embeddings.detach()).to(self.vectors.dtype)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any) -> None:
        """As many images as were saved."""
        saved = state_dict.get(f"{prefix}vectors")
        if saved is not None:
            self.vectors = self.vectors.new_zeros(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


@torch.no_grad()
def remember_all(method: Method, bank: MemoryBank, embed: Callable[[list[Tensor]], Tensor]) -> None:
    """At the start of a training: room for all images and, unless a run goes on, what the network makes of them now.

    Every process does so for all images, so that none need be sent. Those of an incomplete last batch are left out.

    Args:
        method: In training, by a loader of ours; by others the bank grows as images come.
        bank: The method's memory.
        embed: Views of a batch, as `Method.step` gets them, to (N, dim).
    """
    loader = method.trainer.train_dataloader
    if not isinstance(loader, ImageLoader):
        return
    begun = bool(bank.vectors.any())
    bank.hold(len(loader.images))
    if begun:
        return
    images, size = loader.images, min(loader.batch_size, len(loader.images))
    bad = BadImages(images, max_rate=1.0)  # the training itself judges how many are too many
    batches = ImageLoader(images, loader.size, batch_size=size, shuffle=True, workers=loader.workers, bad=bad)
    for number, given in enumerate(batches):
        batch = given.to(method.device)
        seed_device(method.seed, BEFORE_TRAINING, number)
        bank.vectors[batch.index] = embed(method.views(batch.image, batch.box)).to(bank.vectors.dtype)
