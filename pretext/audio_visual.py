"""Audio-visual learning: what is heard says what is seen."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ssl_toolkit.augment import Views, pretext_views
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.data.image_set import ImageSet
from ssl_toolkit.data.images import BadImageError
from ssl_toolkit.data.sound import MELS
from ssl_toolkit.distributed import all_mean, gather, rank
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError, require_positive
from ssl_toolkit.method import Method
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.pretext.clusters import k_means, nearest_cluster
from ssl_toolkit.randomness import numpy_generator

MEASURED = 1000  # sounds that clusters are made of


def correspondence_loss(own: Tensor, other: Tensor) -> Tensor:
    """Cross-entropy of whether frame and sound belong together, in nats; log 2 is that of a guess.

    Args:
        own: Logits of belonging together for frames with their own sound, (N,).
        other: The same for frames with another one, (N,).

    Source: Arandjelović & Zisserman 2017, section 2, as one logit in the place of a softmax of two.
    """
    own, other = (each.to(torch.promote_types(each.dtype, torch.float32)) for each in (own, other))
    return (F.softplus(-own).mean() + F.softplus(other).mean()) / 2


def sound_texture(sound: Tensor) -> Tensor:
    """What a sound is like as a whole: mean and deviation of each band over time, (N, mels, steps) to (N, 2 mels).

    Source: Owens et al. 2016, section 3.1, the marginal statistics.
    """
    return torch.cat([sound.mean(dim=2), sound.std(dim=2)], dim=1)


class SoundNetwork(nn.Sequential):
    """Log-mel spectrograms (N, mels, steps) to features (N, `width`): convolutions that halve, then the largest.

    Args:
        dim: Channels of the first convolution, doubled at each of the three further ones.

    Source: Arandjelović & Zisserman 2017, section 2.1, with one convolution a block.
    """

    def __init__(self, dim: int) -> None:
        layers: list[nn.Module] = [nn.Unflatten(1, (1, -1))]
        c_in = 1
        for depth in range(4):
            c_out = dim * 2**depth
            layers += [
                nn.Conv2d(c_in, c_out, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)
            ]  # fmt: skip
            c_in = c_out
        super().__init__(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten())
        self.width = c_in


class AudioVisual(Method):
    """Look, listen and learn: whether a frame and a second of sound are of the same moment; or ambient sound.

    Args:
        encoder: What is trained and kept; it sees the frames.
        views: Makes one view of a batch.
        optimizer: How the weights are moved.
        task: ``correspondence``: is this the frame's sound, or that of another? ``clusters``: which kind of sound goes
            with the frame? Kinds are measured before training and kept with the checkpoint.
        hidden_dim: Width of the hidden layer behind frame and sound together.
        sound_dim: Channels of the first layer of the network that hears.
        clusters: Kinds of sound.

    Source: Arandjelović & Zisserman 2017 (L3), section 2; Owens et al. 2016, Ambient sound provides supervision for
        visual learning, section 3.2 (the clustering model).
    """

    default_views = staticmethod(pretext_views)
    centroid: Tensor

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        optimizer: OptimizerConfig | None = None,
        task: Literal["correspondence", "clusters"] = "correspondence",
        hidden_dim: int = 128,
        sound_dim: int = 32,
        clusters: int = 30,
    ) -> None:
        super().__init__(encoder, views, optimizer)
        require_positive(hidden_dim=hidden_dim, sound_dim=sound_dim)
        if not 2 <= clusters <= MEASURED:
            raise UsageError(f"--method.clusters is {clusters}: it must be from 2 to {MEASURED}")
        self.clusters = clusters if task == "clusters" else 0
        if self.clusters:
            self.head: nn.Module = nn.Linear(encoder.feature_dim, clusters)
            self.register_buffer("centroid", torch.zeros(clusters, 2 * MELS))
        else:
            self.sound_network = SoundNetwork(sound_dim)
            width = encoder.feature_dim + self.sound_network.width
            self.head = nn.Sequential(nn.Linear(width, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, 1))

    def chance_loss(self, batch_size: int) -> float | None:
        """Of a guess among both answers, or among the kinds of sound."""
        return math.log(self.clusters or 2)

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """See the frame, hear its sound and another one; or see the frame, and say which kind of sound it has."""
        if batch.sound is None:
            raise UsageError("audio_visual learns from sound, and these images have none: give --data sounds:PATH")
        seen, sound = self.encoder(views[0]), batch.sound.to(next(self.head.parameters()).dtype)
        if self.clusters:
            scores, kind = self.head(seen), nearest_cluster(sound_texture(sound), self.centroid)
            right = (scores.argmax(dim=1) == kind).float().mean()
            return {"loss": all_mean(F.cross_entropy(scores, kind)), "accuracy": right}
        heard = self.sound_network(sound)
        own, other = (self.head(torch.cat([seen, each], dim=1)) for each in (heard, of_the_next(heard)))
        right = ((own > 0).float() + (other < 0).float()).mean() / 2
        return {"loss": all_mean(correspondence_loss(own, other)), "accuracy": right}

    def on_train_start(self) -> None:
        """Measure the kinds of sound, unless a checkpoint has brought them; every process finds the same.

        Raises:
            UsageError: There are fewer sounds than kinds.
        """
        images = getattr(self.trainer.train_dataloader, "images", None)  # of a loader of ours
        if not self.clusters or images is None or self.centroid.any():
            return
        rows = numpy_generator(self.seed, "sounds").permutation(len(images))[:MEASURED]
        found = [sound for row in np.sort(rows).tolist() if (sound := _readable(images, row)) is not None]
        if len(found) < self.clusters:
            raise UsageError(
                f"--method.clusters is {self.clusters}, but only {len(found)} sounds were measured: give more sounds, "
                "or fewer clusters"
            )
        textures = sound_texture(torch.from_numpy(np.stack(found)).float())
        self.centroid.copy_(torch.from_numpy(k_means(textures.numpy(), self.clusters, self.seed)))


def of_the_next(heard: Tensor) -> Tensor:
    """For each row (N, D) that of the next image of the batch, of the first for the last, over all processes."""
    every = gather(heard)
    own = rank() * len(heard) + torch.arange(len(heard), device=heard.device)
    return every[(own + 1) % len(every)]


def _readable(images: ImageSet, row: int) -> NDArray[np.float16] | None:
    try:
        return images.sound(row)
    except BadImageError:  # the training itself judges how many are too many
        return None
