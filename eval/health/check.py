"""Checks before a training: is the first loss right, can the loss fall, and at which learning rate."""

from __future__ import annotations

import itertools
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_toolkit.data.batch import Batch
from ssl_toolkit.errors import ToolkitError
from ssl_toolkit.eval.health.findings import examine
from ssl_toolkit.eval.health.measures import measure, views_of, watching
from ssl_toolkit.gradients import ClipMode, clip_gradients
from ssl_toolkit.method import Method
from ssl_toolkit.optim import build_optimizer, scaled_lr
from ssl_toolkit.randomness import seed_device

# What first losses came to, of that of a guess: on CIFAR-10 from 0.82 (SimCLR; MoCo 0.5) to 1.06
# (SwAV), on noise up to 1.23.
FIRST_LOSS_LOW, FIRST_LOSS_HIGH = 0.25, 1.35
FIRST_LOSS_AROUND_ZERO = 0.15
OVERFIT = 0.1  # share by which the loss must fall from its highest
LOWEST_LR, HIGHEST_LR = 1e-6, 10.0
LOOK_EVERY = 5  # steps
SMOOTHING = 0.9
DIVERGED = 0.5  # of the range of the losses so far, above the first of them


class Check(NamedTuple):
    """The outcome of a check.

    Attributes:
        name: What was checked.
        passed: None where there is nothing to compare with.
        value: What it came to.
        expected: What it should be; None where nobody knows.
        advice: What it means, and the likely causes if it failed.
    """

    name: str
    passed: bool | None
    value: float
    expected: float | None
    advice: str


class Trial:
    """Trains a method for a few steps on the side; `restore` brings back its first weights.

    Args:
        method: On its device.
        images_per_step: Images an optimiser step, for the scaling of the learning rate.
        precision: Lightning's name of the arithmetic.
        clip_gradient: Largest norm of the gradient; 0 leaves it alone.
        clip_mode: Whose norm that is, see `clip_gradients`.
    """

    def __init__(
        self,
        method: Method,
        images_per_step: int,
        precision: str = "32-true",
        clip_gradient: float = 0.0,
        clip_mode: ClipMode = "norm",
    ) -> None:
        self.method, self.images_per_step = method, images_per_step
        self.clip_gradient, self.clip_mode = clip_gradient, clip_mode
        self.device = next(method.parameters()).device
        self._dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
        self._first = {name: value.clone() for name, value in method.state_dict().items()}
        self.restore()

    def restore(self) -> None:
        """The first weights and what the method remembered, and a new optimiser."""
        self.method.load_state_dict(self._first)
        self.method.train()
        self.optimizer = build_optimizer(self.method, self.method.optimizer_config, self.images_per_step)
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self._dtype == torch.float16)

    def views(self, batch: Batch, number: int) -> list[Tensor]:
        """Views of a batch, on the device; the draws depend on its number alone."""
        seed_device(self.method.seed, number, 0)
        views: list[Tensor] = self.method.views(batch.image.to(self.device), batch.box)
        return views

    def loss(self, views: list[Tensor], batch: Batch) -> Tensor:
        """The loss, in the precision of the training."""
        with torch.autocast(self.device.type, self._dtype, enabled=self._dtype is not None):
            return self.method.step(views, batch.to(self.device))["loss"]

    def step(self, views: list[Tensor], batch: Batch) -> float:
        """One optimiser step, as training makes it; the loss before it."""
        self.optimizer.zero_grad()
        loss = self.loss(views, batch)
        torch.autograd.backward(self._scaler.scale(loss))
        self._scaler.unscale_(self.optimizer)
        self.method.on_before_optimizer_step(self.optimizer)
        clip_gradients(self.method.parameters(), self.clip_gradient, self.clip_mode)
        self.method.before_update()
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.method.after_update()
        return loss.item()


def first_loss(trial: Trial, batches: Sequence[Batch]) -> Check:
    """Is the loss of untrained weights that of a guess, see `Method.chance_loss`?

    It may lie below: views of an image are alike for random weights too. Far below, or above, something is wrong.

    Args:
        trial: With its first weights.
        batches: What the loss is averaged over.
    """
    with torch.no_grad():
        value = float(np.mean([float(trial.loss(trial.views(batch, n), batch)) for n, batch in enumerate(batches)]))
    chance = trial.method.chance_loss(len(batches[0].image))
    trial.restore()
    name = "first loss"
    if not math.isfinite(value):
        return Check(name, False, value, chance, "not finite: a logarithm of 0, or a division by 0, in the loss")
    if chance is None:
        return Check(name, None, value, None, "this method has no figure to compare it with")
    slack = FIRST_LOSS_AROUND_ZERO
    if value > max(FIRST_LOSS_HIGH * chance, chance + slack):
        advice = (
            "worse than a guess: a wrong target, a sum in the place of a mean, a temperature that is too low, or a "
            "head that starts with large weights"
        )
        return Check(name, False, value, chance, advice)
    # A queue starts with random vectors, none of which is as near as the key.
    random_queue = getattr(trial.method, "queue", None) is not None
    if not random_queue and value < min(FIRST_LOSS_LOW * chance, chance - slack):
        advice = "solved before it is trained: the answer leaks into the input, or a view is among its own candidates"
        return Check(name, False, value, chance, advice)
    return Check(name, True, value, chance, "that of a guess, or below as far as views are alike for random weights")


def overfit(
    trial: Trial, batches: Sequence[Batch], steps: int = 60, tick: Callable[[], object] = lambda: None
) -> Check:
    """Does the loss fall on a handful of batches whose views stay the same?

    Args:
        trial: With its first weights, and again afterwards.
        batches: At least one.
        steps: Optimiser steps, with the configured learning rate, not less than twice the batches.
        tick: Called after each step.
    """
    fixed = [(trial.views(batch, number), batch) for number, batch in enumerate(batches)]
    losses = []
    for _, (views, batch) in zip(range(steps), itertools.cycle(fixed), strict=False):
        losses.append(trial.step(views, batch))
        tick()
        if not math.isfinite(losses[-1]):
            break
    trial.restore()
    passes = [float(np.mean(losses[i : i + len(fixed)])) for i in range(0, len(losses) - len(fixed) + 1, len(fixed))]
    # From the highest: where keys of real images take the place of random ones, the task gets harder first.
    highest, last = (max(passes), passes[-1]) if passes else (math.nan, math.nan)
    # Losses that are above 0 may end there, as squared errors do.
    expected = highest - OVERFIT * (highest if highest > 0 else max(1.0, -highest))
    if last < expected:
        advice = f"from {highest:.3g} to {last:.3g} in {steps} steps"
    else:
        advice = (
            f"from {highest:.3g} to {last:.3g} in {steps} steps: the learning rate is far too low or too high, weights "
            "are frozen, the gradient does not reach them, or the heads are too small"
        )
    return Check("overfits a few batches", last < expected, last, expected, advice)


class LearningRates(NamedTuple):
    """A learning-rate range test.

    Attributes:
        lr: Learning rates, as ``--optimizer.lr`` has them, rising, (steps,).
        loss: Smoothed loss at each of them.
        suggestion: A tenth of `lowest`.
        lowest: Where the loss is lowest.
        images_per_second: Speed of the steps but the first few.
    """

    lr: NDArray[np.float64]
    loss: NDArray[np.float64]
    suggestion: float
    lowest: float
    images_per_second: float


def lr_range(
    trial: Trial, batches: Iterable[Batch], steps: int = 100, tick: Callable[[], object] = lambda: None
) -> LearningRates:
    """Train with a rising learning rate until the loss explodes or embeddings collapse; see where it falls fastest.

    Args:
        trial: With its first weights, and again afterwards.
        batches: As many as `steps`, or more.
        steps: From 1e-6 to 10, evenly on a logarithmic scale, at least 20.
        tick: Called after each step.

    Raises:
        ToolkitError: If the loss is not finite from the start.

    Source: Smith 2017, section 3.3; the suggestion is a tenth of where the smoothed loss is lowest, as fast.ai's finder
        has it. (The steepest slope is often the noise of a few batches, at a rate that teaches nothing.)
    """
    config = trial.method.optimizer_config
    scale = scaled_lr(config, trial.images_per_step) / config.lr
    rates = np.geomspace(LOWEST_LR, HIGHEST_LR, steps)
    smoothed: list[float] = []
    average, images, warm, since = 0.0, 0, 5, time.perf_counter()
    healthy = False
    for number, (lr, batch) in enumerate(zip(rates, batches, strict=False)):
        for group in trial.optimizer.param_groups:
            group["lr"] = lr * scale
        with watching(trial.method) as seen:
            loss = trial.step(trial.views(batch, number), batch)
        tick()
        if not math.isfinite(loss):
            break
        if number % LOOK_EVERY == 0 and seen:
            found = examine(measure(*views_of(seen, len(batch.image), len(trial.method.views))))
            if healthy and found:
                break  # the loss of a collapse may well be low
            healthy = healthy or not found
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        smoothed.append(average / (1 - SMOOTHING ** (number + 1)))
        images += len(batch.image) if number >= warm else 0
        if number + 1 == warm:
            since = time.perf_counter()
        first, best = smoothed[0], min(smoothed)
        if number > steps // 2 and smoothed[-1] > first + DIVERGED * (first - best) + 0.1 * abs(first):
            break
    speed = images / (time.perf_counter() - since)
    trial.restore()
    if len(smoothed) <= warm:
        raise ToolkitError(f"the loss is not finite after {len(smoothed)} steps with a learning rate of 1e-6")
    curve = np.array(smoothed)
    lowest = int(curve.argmin())
    return LearningRates(rates[: len(curve)], curve, float(rates[lowest]) / 10, float(rates[lowest]), speed)


def peak_memory(device: torch.device) -> float:
    """The most memory used so far, bytes: of a CUDA device what tensors took, else what this process took."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    import resource  # not on Windows

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(used * (1 if sys.platform == "darwin" else 1024))


def plain(found: LearningRates) -> dict[str, Any]:
    """The range test as JSON holds it."""
    return {
        "suggestion": found.suggestion,
        "lowest": found.lowest,
        "lr": found.lr.tolist(),
        "loss": found.loss.tolist(),
    }
