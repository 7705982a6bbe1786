"""Is a training collapsing, and why? Findings from measures that need no labels, while it trains and afterwards."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn

from ssl_toolkit.data.batch import Batch
from ssl_toolkit.errors import ToolkitError, UsageError
from ssl_toolkit.eval.features.extraction import evaluating
from ssl_toolkit.eval.health.collapse import alignment, effective_rank, embedding_std, uniformity
from ssl_toolkit.method import Method
from ssl_toolkit.randomness import seed_device

# Columns of ``metrics.csv`` that the doctor writes, or reads where a method's own step gives them.
MEASURES = (
    "effective_rank",
    "embedding_std",
    "alignment",
    "uniformity",
    "grad_norm",
    "teacher_entropy",
    "teacher_spread",
    "code_entropy",
    "above_chance",
    "solved",
)

# Where a measure becomes a finding. Embeddings of healthy runs (CIFAR-10 recipes and seconds-long runs of the tests;
# docs/evaluation.md has a table) had at the least rank 3.7, and a uniformity of at most -0.6 where it was below 5;
# without stop-gradient, SimSiam and BYOL came to ranks of 1.4 to 4 and a uniformity of -0.4 to 0.
COLLAPSED_RANK, COLLAPSED_UNIFORMITY = 5.0, -0.4
FLAT_UNIFORMITY = -0.05  # whatever the rank: what little is left may well be noise of many directions
LOW_RANK = 2.5
# Of DINO: healthy 0.7 to 0.9 and 0.9 to 1; without centring 0.1 and 0.4 after 80 steps, without sharpening 1 and 1. The
# entropy of SwAV's codes: 0.85 to 0.92.
ONE_PROTOTYPE = 0.5
UNIFORM = 0.99
EXPLODED = 100.0  # times the median so far; a healthy norm stays within a factor of ten
VANISHED = 1e-6
SOLVED = 0.1  # share of a guess's loss that must be gone; 0.04 in a run whose features became worse than random ones
CHANCE = 0.02  # nats; 0.06 is the nearest that a healthy run came

WARM_UP = 30  # optimiser steps that nothing is said about: ranks and gradients of a new network jump
PATIENCE = 3  # looks whose median counts: one batch may look like anything
SLOW = 6  # looks before a run that was never healthy is said to have collapsed: some networks start low
STUCK = 10  # looks in a row at the loss of a guess: some tasks take a while to get going
LOOKED_AT = 256  # embeddings of a batch: enough for a rank of tens, and cheap

Severity = Literal["collapse", "warning"]


class Finding(NamedTuple):
    """Something that healthy runs do not show.

    Attributes:
        name: What it is, in one or two words.
        severity: ``collapse``: what is trained is worth nothing; ``warning``: it may become so.
        measure: Name of the measure.
        value: What it came to.
        threshold: What it should not pass.
        advice: What it means, and the likely causes.
        step: Optimiser steps done when it showed; None where there were none to count.
    """

    name: str
    severity: Severity
    measure: str
    value: float
    threshold: float
    advice: str
    step: int | None = None

    def __str__(self) -> str:
        at = "" if self.step is None else f" at step {self.step}"
        sign = ">" if self.value > self.threshold else "<"
        return f"{self.name}{at}: {self.measure} {self.value:.3g} {sign} {self.threshold:g}. {self.advice}"


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


def examine(measures: Mapping[str, float]) -> list[Finding]:
    """What the measures of one moment show by themselves.

    Args:
        measures: Some of `MEASURES`, by name.

    Example:
        >>> [each.name for each in examine({"effective_rank": 1.02, "uniformity": -0.001, "embedding_std": 0.01})]
        ['collapse']
    """
    found: list[Finding] = []

    def say(name: str, severity: Severity, key: str, threshold: float, advice: str) -> None:
        found.append(Finding(name, severity, key, measures[key], threshold, advice))

    def passes(key: str, test: Callable[[float], bool]) -> bool:
        return key in measures and test(measures[key])

    causes = (
        "Likely causes: the gradient reaches the targets (stop-gradient missing), no predictor or no negatives, a "
        "teacher that does not lag behind, targets that say nothing, a learning rate or weight decay that is too high, "
        "or input that is constant."
    )
    rank = measures.get("effective_rank", math.inf)
    limit = COLLAPSED_UNIFORMITY if rank < COLLAPSED_RANK else FLAT_UNIFORMITY
    # What all embeddings have in common DINO's centring takes out: there, the targets themselves are looked at. And
    # features by which a head answers better than a guess tell images apart, whatever they have in common.
    apart = "teacher_spread" in measures or passes("solved", lambda v: v > SOLVED)
    if not apart and passes("uniformity", lambda v: v > limit):
        what = "All images get nearly the same embedding."
        say("collapse", "collapse", "uniformity", limit, f"{what} {causes}")
    elif not apart and passes("effective_rank", lambda v: v < LOW_RANK):
        what = "The embeddings fill only a few directions."
        say("dimensional collapse", "collapse", "effective_rank", LOW_RANK, f"{what} {causes}")
    if passes("teacher_spread", lambda v: v < ONE_PROTOTYPE):
        say(
            "one prototype", "collapse", "teacher_spread", ONE_PROTOTYPE,
            "The teacher gives all images the same prototype. Likely causes: centring is off or its momentum too high, "
            "or the teacher's temperature is too low.",
        )  # fmt: skip
    for key in ("teacher_entropy", "code_entropy"):
        if passes(key, lambda v: v > UNIFORM):
            say(
                "uniform targets", "collapse", key, UNIFORM,
                "The targets are spread evenly over all prototypes and say nothing. Likely causes: no sharpening "
                "(the teacher's temperature, or epsilon of the codes, is too high), or embeddings that have collapsed.",
            )  # fmt: skip
    if passes("grad_norm", lambda v: not math.isfinite(v)):
        say(
            "gradient not finite", "collapse", "grad_norm", math.inf,
            "Lower --optimizer.lr, lengthen --optimizer.warmup, set --clip-gradient 1, or train with --precision "
            "32-true.",
        )  # fmt: skip
    elif passes("grad_norm", lambda v: v < VANISHED):
        say(
            "gradient vanished", "warning", "grad_norm", VANISHED,
            "Nothing is learnt any more. Likely causes: the loss does not depend on the encoder (a detach too many), "
            "the embeddings have collapsed, or the loss is saturated.",
        )  # fmt: skip
    return found


def diagnose(rows: Sequence[Mapping[str, float]]) -> list[Finding]:
    """What a training shows, each finding once, where it first showed.

    A finding of `examine` counts when the median of three looks shows it; where no look has been healthy, after six.

    Args:
        rows: Measures of one look after another, with their ``step`` if they have one.
    """
    found: dict[str, Finding] = {}
    for end in range(1, len(rows) + 1):
        step = rows[end - 1].get("step")
        for finding in _established(rows[:end]):
            found.setdefault(finding.name, finding._replace(step=None if step is None else int(step)))
    return list(found.values())


def _established(rows: Sequence[Mapping[str, float]]) -> list[Finding]:
    """What holds at the last of the rows, and has held for long enough."""
    rows = [row for row in rows if row.get("step", WARM_UP) >= WARM_UP]
    found = []
    if len(rows) >= SLOW or any(not examine(row) for row in rows[:-PATIENCE]):
        recent = rows[-PATIENCE:]
        found = examine({key: _median([row[key] for row in recent if key in row]) for key in recent[-1]})
    norms = [row["grad_norm"] for row in rows if "grad_norm" in row]
    if len(norms) >= 3 * PATIENCE:
        limit = EXPLODED * float(np.median(norms[:-PATIENCE]))
        if all(limit < norm < math.inf for norm in norms[-PATIENCE:]):
            advice = (
                "The gradient explodes: lower --optimizer.lr, lengthen --optimizer.warmup, or set --clip-gradient 1."
            )
            found.append(Finding("gradient explodes", "warning", "grad_norm", norms[-1], limit, advice))
    above = [row["above_chance"] for row in rows[-STUCK:] if "above_chance" in row]
    if len(above) == STUCK and all(abs(value) < CHANCE for value in above):
        advice = (
            "The loss stays at that of a guess. Likely causes: a learning rate that is too high or too low, "
            "augmentations that leave nothing in common, or a gradient that does not reach the encoder."
        )
        found.append(Finding("loss at chance", "warning", "above_chance", above[-1], CHANCE, advice))
    return found


def _median(values: Sequence[float]) -> float:
    """The middle one; what is no number counts as infinite."""
    return float(np.median([math.inf if math.isnan(value) else value for value in values]))


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
    hook = _watch(method, seen)
    try:
        yield seen
    finally:
        if hook is not None:
            hook.remove()


def _watch(method: nn.Module, seen: list[Tensor]) -> Any:
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


class CollapseDoctor(pl.Callback):
    """Measures the embeddings of the training batch every so often, logs the measures and tells of each finding once.

    It looks at what the loss sees, the output of the submodule that `Method.embedding` names; of a method without one,
    at the encoder's features. Training goes on as if nothing had happened: random state, modes and gradients are as
    before. Each process looks at its own part of the batch; the first one tells.

    Args:
        every: Optimiser steps between looks; None takes 50, or a tenth of a shorter epoch.
        tell: Called with the text of each finding.

    Raises:
        UsageError: `every` is below 1.
    """

    def __init__(self, every: int | None = None, tell: Callable[[str], object] = print) -> None:
        if every is not None and every < 1:
            raise UsageError(f"every must be at least 1, got {every}")
        self.every, self.tell = every, tell
        self.findings: list[Finding] = []
        self._rows: list[dict[str, float]] = []
        self._seen: list[Tensor] = []
        self._hook: Any = None
        self._looking, self._period, self._done, self._grad_norm = False, 1, 0, math.nan

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look only at steps that are logged."""
        epoch = int(trainer.num_training_batches) // trainer.accumulate_grad_batches
        logged = max(1, getattr(trainer, "log_every_n_steps", 1))
        self._period = -(-(self.every or max(1, min(50, epoch // 10))) // logged) * logged

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Before a step that is looked at, watch its embeddings."""
        self._done = trainer.global_step
        self._looking = (self._done + 1) % self._period == 0
        if self._looking:
            self._seen.clear()
            self._hook = _watch(pl_module, self._seen)

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """The norm of the gradient, before it is clipped."""
        if self._looking:
            gradients = [each.grad for each in pl_module.parameters() if each.grad is not None]
            self._grad_norm = float(nn.utils.get_total_norm(gradients))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Measure, log, tell."""
        self._unhook()
        if not self._looking or trainer.global_step == self._done:
            return  # in the middle of accumulation
        loss = float(outputs["loss"]) * trainer.accumulate_grad_batches
        measures = self._measures(pl_module, batch, loss)
        # Not by `log_dict`, which would repeat the measures at the steps that are not looked at.
        for logger in trainer.loggers:
            logger.log_metrics({**measures, "epoch": trainer.current_epoch}, step=trainer.global_step - 1)
        own = {key: float(value) for key, value in trainer.callback_metrics.items() if key in MEASURES}
        self._rows = [*self._rows, {**own, **measures, "step": trainer.global_step}][-50:]
        known = {finding.name for finding in self.findings}
        for finding in _established(self._rows):
            if finding.name not in known:
                self.findings.append(finding._replace(step=trainer.global_step))
                if trainer.is_global_zero:
                    self.tell(f"doctor: {self.findings[-1]}")

    def _measures(self, method: Any, batch: Batch, loss: float) -> dict[str, float]:
        measures = {"grad_norm": self._grad_norm}
        if self._seen:
            z = views_of(self._seen, len(batch.image), len(method.views))
            self._seen.clear()
        else:
            encoder, box = method.kept_encoder, None if batch.box is None else batch.box[:LOOKED_AT]
            with isolate_rng(), evaluating(encoder), torch.no_grad():
                z = [encoder(encoder.eval_view()(batch.image[:LOOKED_AT], box)).float().cpu().numpy()]
        if np.isfinite(z).all() and len(z[0]) > 1:
            measures |= measure(*z)
        return measures | beside_a_guess(method, loss, len(batch.image))

    def _unhook(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave nothing behind."""
        self._unhook()

    def state_dict(self) -> dict[str, Any]:
        """The looks and findings so far, for a checkpoint."""
        return {"rows": self._rows, "findings": [tuple(finding) for finding in self.findings]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there: what was told is not told again."""
        self._rows = state_dict["rows"]
        self.findings = [Finding(*finding) for finding in state_dict["findings"]]


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
                seen.append(views_of(outputs, len(batch.image), len(views), len(batch.image)))
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
