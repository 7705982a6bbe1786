"""Optimisers and learning-rate schedules, by name."""

# No `from __future__ import annotations` here: to resolve such annotations, the command line would import torch.
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ssl_toolkit.errors import UsageError
from ssl_toolkit.schedules import cosine

if TYPE_CHECKING:  # torch comes when an optimiser is built: the command line reads only the signature
    from torch import nn
    from torch.optim import Optimizer

# Parameter groups to an optimiser, see `own_optimizer`.
OptimizerFunction: TypeAlias = "Callable[[list[dict[str, Any]]], Optimizer]"

ScheduleName = Literal["cosine", "step", "linear", "inverse_sqrt", "constant"]


@dataclass(frozen=True)
class OptimizerConfig:
    """How the weights are moved.

    Attributes:
        name: The optimiser.
        lr: Peak learning rate, before `lr_scaling`.
        weight_decay: Weight decay of everything but norms and biases.
        final_weight_decay: Weight decay at the end, reached along half a cosine; None keeps it as it is.
        decay_norms_and_biases: Whether these are decayed too and, by lars, adapted.
        momentum: Momentum of sgd, lars and rmsprop.
        nesterov: Whether that of sgd is Nesterov's.
        betas: Decay of adamw's and adam's moving averages of the gradient and of its square, each in [0, 1); if not
            given, 0.9 and 0.999.
        schedule: Course of the learning rate after the warm-up. ``step`` divides by ten at 60 % and 80 % of training.
        warmup: Share of training over which the learning rate rises linearly from zero, in [0, 1).
        final_lr_share: Share of the peak learning rate that ``cosine`` and ``linear`` end at, in [0, 1].
        bias_lr_share: Share of the learning rate that norms and biases take.
        lr_scaling: Multiply `lr` by batch size / 256 (``linear``) or by its square root (``sqrt``); the batch counts
            accumulated steps.
    """

    name: Literal["adamw", "adam", "sgd", "lars", "rmsprop", "adagrad"] = "adamw"
    lr: float = 2e-3
    weight_decay: float = 1e-4
    final_weight_decay: float | None = None
    decay_norms_and_biases: bool = False
    momentum: float = 0.9
    nesterov: bool = False
    betas: tuple[float, float] | None = None
    schedule: ScheduleName = "cosine"
    warmup: float = 0.05
    final_lr_share: float = 0.0
    bias_lr_share: float = 1.0
    lr_scaling: Literal["none", "linear", "sqrt"] = "none"

    def __post_init__(self) -> None:
        """Refuse what does not fit together.

        Raises:
            UsageError: Naming the option.
        """
        if self.betas is not None and self.name not in ("adamw", "adam"):
            raise UsageError(f"--optimizer.betas is for adamw and adam, {self.name} has none: leave it out")
        if self.betas is not None and not all(0 <= beta < 1 for beta in self.betas):
            raise UsageError(f"--optimizer.betas is {tuple(self.betas)}: both must be at least 0 and below 1")
        if self.nesterov and (self.name != "sgd" or not self.momentum):
            raise UsageError("--optimizer.nesterov is for sgd with a momentum: leave it out")
        if self.final_lr_share and self.schedule not in ("cosine", "linear"):
            raise UsageError(
                f"--optimizer.final-lr-share is for the schedules cosine and linear, not {self.schedule}: leave it out"
            )


def schedule_factor(
    name: ScheduleName, step: int, total: int, warmup: float, final: float = 0.0, first: int | None = None
) -> float:
    """Share of the peak learning rate at `step` of `total`.

    The factor rises linearly over the warm-up and reaches 1 at its last step; the first step takes its share too, where
    the code of DINO, BYOL and timm starts at 0, a step later. ``cosine`` and ``linear`` then fall to `final` at
    `total`, ``inverse_sqrt`` falls with one over the square root of the step (Vaswani et al. 2017, section 5.3).

    Args:
        name: The course after the warm-up.
        step: Optimiser steps done, from 0.
        total: Optimiser steps of the whole run.
        warmup: Share of the run that is warm-up, in [0, 1).
        final: Share at the end, of ``cosine`` and ``linear``.
        first: Optimiser steps of the run before it was extended, of which `warmup` is a share: there is no second one.
    """
    warmup_steps = round(warmup * (total if first is None else first))
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total - warmup_steps))
    if name == "cosine":
        return cosine(1.0, final, progress)
    if name == "linear":
        return 1 - (1 - final) * progress
    if name == "step":
        return 0.1 ** ((step >= 0.6 * total) + (step >= 0.8 * total))
    if name == "inverse_sqrt":
        return math.sqrt(max(1, warmup_steps) / max(1, step + 1, warmup_steps))
    return 1.0


def scaled_lr(config: OptimizerConfig, batch_size: int) -> float:
    """Peak learning rate for `batch_size` images an optimiser step (Goyal et al. 2017; Krizhevsky 2014)."""
    ratio = batch_size / 256
    return config.lr * {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[config.lr_scaling]


def batches_of_step(batch: int, batches: float, accumulate: int) -> int:
    """Batches whose gradients are gathered in the optimiser step that a batch is part of.

    Args:
        batch: Its number in the epoch, from 0.
        batches: Of the epoch; infinite if it is not known.
        accumulate: Of a step; the last one of an epoch has what is left.

    Examples:
        >>> [batches_of_step(batch, batches=5, accumulate=3) for batch in range(5)]
        [3, 3, 3, 2, 2]
    """
    if math.isinf(batches):
        return accumulate
    left = int(batches) % accumulate
    return left if batch >= batches - left else accumulate


def parameter_groups(
    module: "nn.Module",
    config: OptimizerConfig,
    lr_scales: Mapping[str, float] | None = None,
    constant_lr: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Two groups: the trained weights, decayed, and norms and biases (at most one dimension), not decayed.

    Groups that are not decayed are not adapted either, where the optimiser is LARS.

    Args:
        module: Parameters with ``requires_grad`` are trained.
        config: Weight decay of the first group, whether the second has it too, and its share of the learning rate.
        lr_scales: Share of the learning rate by name of parameter, 1 for others. There are two groups for each share,
            the largest first.
        constant_lr: Names of parameters whose learning rate follows no schedule; they have groups of their own.
    """
    scales = lr_scales or {}
    trained = [((scales.get(n, 1.0), n in constant_lr), p) for n, p in module.named_parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = []
    for kind in sorted({(1.0, False), *(kind for kind, _ in trained)}, key=lambda kind: (-kind[0], kind[1])):
        scale, constant = kind
        own = [p for its, p in trained if its == kind]
        for params, share, decayed in (
            ([p for p in own if p.ndim > 1], 1.0, True),
            ([p for p in own if p.ndim <= 1], config.bias_lr_share, config.decay_norms_and_biases),
        ):
            weight_decay = config.weight_decay if decayed else 0.0
            about = {"weight_decay": weight_decay, "decayed": decayed, "scale": scale * share, "constant": constant}
            groups.append({"params": params, **about})
    return groups


def schedule_weight_decay(optimizer: "Optimizer", config: OptimizerConfig, progress: float) -> None:
    """Set the weight decay that is due, in the groups that are decayed; see `OptimizerConfig.final_weight_decay`.

    Args:
        optimizer: From `build_optimizer`.
        config: First and last weight decay.
        progress: Share of training that is done, in [0, 1].
    """
    if config.final_weight_decay is None:
        return
    for group in optimizer.param_groups:
        if group["decayed"]:
            group["weight_decay"] = cosine(config.weight_decay, config.final_weight_decay, progress)


def build_optimizer(
    module: "nn.Module",
    config: OptimizerConfig,
    batch_size: int,
    lr_scales: Mapping[str, float] | None = None,
    constant_lr: Collection[str] = (),
) -> "Optimizer":
    """The optimiser that `config` names, over the trained parameters of `module`.

    Args:
        module: Parameters with ``requires_grad`` are trained.
        config: Name, learning rate, weight decay, momentum.
        batch_size: Images an optimiser step, for `OptimizerConfig.lr_scaling`.
        lr_scales: See `parameter_groups`.
        constant_lr: Likewise.
    """
    import torch

    from ssl_toolkit.lars import LARS

    groups = parameter_groups(module, config, lr_scales, constant_lr)
    lr = scaled_lr(config, batch_size)
    for group in groups:
        group["lr"] = lr * group["scale"]
    # One kernel for all parameters, where they lie on a GPU.
    fused = all(p.is_cuda for group in groups for p in group["params"]) or None
    betas = config.betas or (0.9, 0.999)
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr, betas, fused=fused)
    if config.name == "adam":
        return torch.optim.Adam(groups, lr, betas, fused=fused)
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr, momentum=config.momentum, nesterov=config.nesterov, fused=fused)
    if config.name == "lars":
        return LARS(groups, lr, config.momentum)
    if config.name == "rmsprop":
        return torch.optim.RMSprop(groups, lr, momentum=config.momentum)
    return torch.optim.Adagrad(groups, lr)


def own_optimizer(
    module: "nn.Module",
    function: OptimizerFunction,
    lr_scales: Mapping[str, float] | None = None,
    constant_lr: Collection[str] = (),
) -> "Optimizer":
    """An optimiser by a function of the user's own, over the trained parameters of `module`.

    Args:
        module: Parameters with ``requires_grad`` are trained.
        function: Gets the groups of `parameter_groups`, of which those of norms and biases say that their weight decay
            is 0 and the others leave it and the learning rate to the function.
        lr_scales: See `parameter_groups`; the function's learning rate is multiplied by them.
        constant_lr: See `parameter_groups`.

    Raises:
        UsageError: If the function gives no optimiser of torch.
    """
    from torch.optim import Optimizer

    every = parameter_groups(module, OptimizerConfig(), lr_scales, constant_lr)
    groups = [group for group in every if group["params"]]
    for group in groups:
        if group["decayed"]:
            del group["weight_decay"]
    made = function(groups)
    if not isinstance(made, Optimizer):
        raise UsageError(
            f"optimizer made a {type(made).__name__} of the parameter groups: it must be a torch optimiser"
        )
    for group in made.param_groups:
        group["lr"] *= group.get("scale", 1.0)
    return made


def scheduled(
    optimizer: "Optimizer", config: OptimizerConfig, total_steps: int, first_steps: int | None = None
) -> dict[str, Any]:
    """An optimiser with the configured schedule, moved on at every optimiser step, as Lightning takes it.

    Groups of a constant learning rate keep theirs.
    """
    from torch.optim.lr_scheduler import LambdaLR

    def due(step: int) -> float:
        return schedule_factor(config.schedule, step, total_steps, config.warmup, config.final_lr_share, first_steps)

    def constant(step: int) -> float:
        return 1.0

    schedule = LambdaLR(optimizer, [constant if group.get("constant") else due for group in optimizer.param_groups])
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
