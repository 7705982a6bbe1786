"""Batch-norm statistics measured anew, once an encoder's weights are final."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from ssl_toolkit.data.bad_images import BadImages
from ssl_toolkit.data.image_set import ImageSet, Subset
from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError
from ssl_toolkit.randomness import numpy_generator


def batch_norms(encoder: Encoder) -> list[_BatchNorm]:
    """The batch norms of an encoder that keep statistics.

    Raises:
        UsageError: If there are none.
    """
    found = [each for each in encoder.modules() if isinstance(each, _BatchNorm) and each.track_running_stats]
    if not found:
        raise UsageError(f"--recalibrate is for batch norms, and {encoder.config.name} has none: leave it out")
    return found


@torch.no_grad()
def recalibrate(
    encoder: Encoder,
    images: ImageSet,
    count: int,
    *,
    batch_size: int = 256,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> None:
    """Replace the statistics of an encoder's batch norms by those of images as evaluation shows them.

    While training they are a moving average over views, under weights that were still moving. Here each is the plain
    mean over batches of whole images; nothing else of the encoder changes, and it is in eval mode afterwards.

    Args:
        encoder: Changed in place.
        images: Some of those that it was trained on.
        count: How many of them, all if there are fewer; those that cannot be read are passed over.
        batch_size: Images a batch, at least 2.
        seed: Chooses and orders them.
        device: Where it is computed.

    Raises:
        UsageError: If the encoder has no batch norm that keeps statistics.

    Source: Wu & Johnson 2021, Rethinking "Batch" in BatchNorm, section 3 ("precise" batch norm).
    """
    norms, images = batch_norms(encoder), images.few()
    rows = np.sort(numpy_generator(seed, "recalibrate").permutation(len(images))[:count])
    some = Subset(images, rows)
    batches = ImageLoader(
        some, encoder.config.load_size, batch_size=min(batch_size, len(rows)), shuffle=True, seed=seed,
        bad=BadImages(some, max_rate=1.0),
    )  # fmt: skip
    view, momenta = encoder.eval_view(), [norm.momentum for norm in norms]
    encoder.eval().to(device)
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    for batch in batches:
        encoder(view(batch.image.to(device)))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    encoder.eval()
