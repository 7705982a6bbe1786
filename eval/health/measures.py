"""Measures of a training and of what it trains that need no labels."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ssl_toolkit.data.batch import Batch
from ssl_toolkit.errors import ToolkitError
from ssl_toolkit.eval.features.extraction import evaluating
from ssl_toolkit.eval.health.collapse import alignment, effective_rank, embedding_std, uniformity
from ssl_toolkit.method import Method
from ssl_toolkit.randomness import seed_device


class Meaning(NamedTuple):
    """How to read a measure.

    Attributes:
        about: What it is, in a few words.
        better: Which way is good; ``steady``: neither, as long as it stays.
        healthy: Least and largest value of healthy runs (docs/evaluation.md); None where there is no such figure.
    """

    about: str
    better: Literal["higher", "lower", "steady"]
    healthy: tuple[float, float] | None

    def holds(self, value: float) -> bool:
        """Whether a value is in the healthy range."""
        return self.healthy is None or self.healthy[0] <= value <= self.healthy[1]

    def range(self) -> str:
        """The healthy range in words."""
        if self.healthy is None:
            return ""
        low, high = self.healthy
        if math.isinf(high):
            return f"{low:g} or more"
        return f"{high:g} or less" if math.isinf(low) else f"{low:g} to {high:g}"

    def __str__(self) -> str:
        healthy = f"healthy {self.range()}, " if self.healthy else ""
        return f"{healthy}{self.better} is better"


# Columns of ``metrics.csv`` that the doctor writes, or reads where a method's own step gives them.
MEASURES = {
    "effective_rank": Meaning("directions in use", "higher", (5, math.inf)),
    "embedding_std": Meaning("scatter, 0 all alike, 1 even", "higher", (0.4, 1)),
    "alignment": Meaning("distance of two views of an image", "lower", (0, 1)),
    "uniformity": Meaning("crowding, 0 all in one place", "lower", (-math.inf, -0.6)),
    "grad_norm": Meaning("size of the gradient", "steady", None),
    "teacher_entropy": Meaning("of an image's target, 1 says nothing", "steady", (0.5, 0.95)),
    "teacher_spread": Meaning("prototypes in use, 1 all", "higher", (0.7, 1)),
    "code_entropy": Meaning("of an image's code, 1 says nothing", "steady", (0.5, 0.95)),
    "above_chance": Meaning("loss less that of a guess", "lower", (-math.inf, -0.05)),
    "solved": Meaning("share of a guess's loss that is gone", "higher", (0.1, 1)),
}
"""What is measured, by name."""

LOOKED_AT = 256  # embeddings of a batch: enough for a rank of tens, and cheap


def measure(z: NDArray[np.float32], partner: NDArray[np.float32] | None = None) -> dict[str, float]:
    """What `ssl_toolkit.eval.health.collapse` says of embeddings.

    Args:
        z: (N, D), N at least 2, finite.
        partner: (N, D), of another view of each image; None: no alignment.

    Returns:
        ``effective_rank``, ``embedding_std``, ``uniformity`` and, with `partner`, ``alignment``.
    """
    found = {"effective_rank": effective_rank(z), "embedding_std": embedding_std(z), "uniformity": uniformity(z)}
    return found if partner is None else found | {"alignment": alignment(z, partner)}


def beside_a_guess(method: Method, loss: float, images: int) -> dict[str, float]:
    """How a loss compares with that of a guess, if there is such a figure.

    Args:
        method: Whose loss.
        loss: Of a batch.
        images: In the batch.

    Returns:
        ``above_chance``, the difference; ``solved``, the share of a guess's loss that is gone, if the loss asks a head
        on the features and does not compare embeddings, which can be below chance because they are all the same.
    """
    chance = method.chance_loss(images)
    if chance is None:
        return {}
    solved = {"solved": 1 - loss / chance} if method.embedding is None and chance > 0 else {}
    return {"above_chance": loss - chance, **solved}


def numbers(rows: Iterable[Mapping[str, str]]) -> list[dict[str, float]]:
    """The looks in the rows of a ``metrics.csv``: what they hold of `MEASURES`, as numbers, and the step.

    Raises:
        ToolkitError: If a cell is no number.
    """
    try:
        looks = [
            {key: float(row[key]) for key in ("step", *MEASURES) if row.get(key)}
            for row in rows
            if row.get("grad_norm")
        ]
    except ValueError as error:
        raise ToolkitError(f"metrics.csv is damaged: {error}") from error
    return looks


@contextlib.contextmanager
def watching(method: nn.Module) -> Iterator[list[Tensor]]:
    """Meanwhile, what the method's `Method.embedding` gives is collected: (rows, D), no gradient, a tensor a call."""
    seen: list[Tensor] = []
    hook = watch(method, seen)
    try:
        yield seen
    finally:
        if hook is not None:
            hook.remove()


def watch(method: nn.Module, seen: list[Tensor]) -> Any:
    """Collect as `watching` does, until the hook that comes back is removed; None where there is nothing to watch."""
    name = getattr(method, "embedding", None)
    if name is None:
        return None

    def keep(module: nn.Module, args: Any, output: Tensor) -> None:
        seen.append(output.detach().flatten(0, -2))

    return method.get_submodule(name).register_forward_hook(keep)


def views_of(seen: Sequence[Tensor], images: int, views: int, limit: int = LOOKED_AT) -> list[NDArray[np.float32]]:
    """Embeddings of the first view and, if it is there, of the second, image by image.

    Args:
        seen: From `watching`.
        images: Images in the batch.
        views: Views of each.
        limit: The most embeddings of a view, spread over the batch.
    """
    z = torch.cat(list(seen))
    paired = views > 1 and len(z) >= 2 * images
    parts = [z[:images], z[images : 2 * images]] if paired else [z]
    rows = torch.linspace(0, len(parts[0]) - 1, min(limit, len(parts[0])), device=z.device).long()
    return [part[rows].float().cpu().numpy() for part in parts]


def examine_method(
    method: Method, batches: Iterable[Batch], seed: int = 0, heads: bool = True
) -> dict[str, dict[str, float]]:
    """Measures of a trained method, in eval mode: of its embeddings and of the features that are kept.

    Args:
        method: It is spoilt for training: what it remembers moves on.
        batches: Unlabelled images.
        seed: Decides the views.
        heads: Whether what stands on the encoder is trained too.

    Returns:
        ``features`` (of clips, those of their first frames) and, with `heads` and where the method names an embedding,
        ``embedding``, each with the measures of `measure`; two views of each image, made by the method's own recipe,
        are what is aligned. With `heads`,
        ``step``: the scalars of `Method.step`, and ``above_chance``, as means over the batches.

    Raises:
        ToolkitError: If there are fewer than two images that can be read.
    """
    seen: list[list[NDArray[np.float32]]] = []
    features: list[list[NDArray[np.float32]]] = []
    scalars: list[dict[str, float]] = []
    device = next(method.parameters()).device
    with evaluating(method), torch.no_grad():
        for number, batch in enumerate(batches):
            seed_device(seed, number, 0)
            batch = batch.to(device)
            views = method.views(batch.image, batch.box)
            pair = views[:2] if len(views) > 1 else [*views, *method.views(batch.image, batch.box)]
            channels = method.encoder.config.channels  # those of a clip's first frame come first
            features.append([method(view[:, :channels]).float().cpu().numpy() for view in pair])
            if not heads:
                continue
            with watching(method) as outputs:
                step = {key: float(value) for key, value in method.step(views, batch).items()}
            if outputs:
                seen.append(views_of(outputs, len(batch.image), len(method.views), len(batch.image)))
            scalars.append(step | beside_a_guess(method, step["loss"], len(batch.image)))
    found = {
        name: measure(*map(np.concatenate, zip(*parts, strict=True)))
        for name, parts in (("embedding", seen), ("features", features))
        if parts
    }
    if scalars:
        found["step"] = {key: float(np.mean([each[key] for each in scalars])) for key in scalars[0]}
    if "features" in found and "solved" in found.get("step", {}):
        found["features"]["solved"] = found["step"].pop("solved")
    return found
