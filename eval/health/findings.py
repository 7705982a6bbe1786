"""What measures show that healthy runs do not, and the likely causes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

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


class Rule(NamedTuple):
    """When one measure by itself is a finding.

    Attributes:
        name: See `Finding`, like all that follows.
        severity: Likewise.
        measure: Likewise.
        threshold: Likewise.
        broken: Whether a value is one.
        advice: Likewise.
    """

    name: str
    severity: Severity
    measure: str
    threshold: float
    broken: Callable[[float], bool]
    advice: str


RULES = (
    Rule(
        "one prototype", "collapse", "teacher_spread", ONE_PROTOTYPE, lambda value: value < ONE_PROTOTYPE,
        "The teacher gives all images the same prototype. Likely causes: centring is off or its momentum too high, "
        "or the teacher's temperature is too low. Next: leave --method.center_momentum and "
        "--method.teacher_temperature as they are by default.",
    ),
    *(
        Rule(
            "uniform targets", "collapse", key, UNIFORM, lambda value: value > UNIFORM,
            "The targets are spread evenly over all prototypes and say nothing. Likely causes: no sharpening "
            "(the teacher's temperature, or epsilon of the codes, is too high), or embeddings that have collapsed. "
            "Next: leave --method.teacher_temperature or --method.epsilon as it is by default.",
        )
        for key in ("teacher_entropy", "code_entropy")
    ),
    Rule(
        "gradient not finite", "collapse", "grad_norm", math.inf, lambda value: not math.isfinite(value),
        "Lower --optimizer.lr, lengthen --optimizer.warmup, set --clip-gradient 1, or train with --precision "
        "32-true.",
    ),
    Rule(
        "gradient vanished", "warning", "grad_norm", VANISHED, lambda value: value < VANISHED,
        "Nothing is learnt any more. Likely causes: the loss does not depend on the encoder (a detach too many), "
        "the embeddings have collapsed, or the loss is saturated. Next: `ssl-toolkit check` with the run's options "
        "tries the loss and the learning rate on a few batches.",
    ),
)  # fmt: skip

CAUSES = (
    "Likely causes: the gradient reaches the targets (stop-gradient missing), no predictor or no negatives, a "
    "teacher that does not lag behind, targets that say nothing, a learning rate or weight decay that is too high, "
    "or input that is constant. Next: go back to the method's own recipe (--config), or to a third of the learning "
    "rate; what helps shows within an epoch."
)


def examine(measures: Mapping[str, float]) -> list[Finding]:
    """What the measures of one moment show by themselves.

    Args:
        measures: Some of `ssl_toolkit.eval.health.measures.MEASURES`, by name.

    Examples:
        >>> [each.name for each in examine({"effective_rank": 1.02, "uniformity": -0.001, "embedding_std": 0.01})]
        ['collapse']
    """
    found = _alike(measures)
    for rule in RULES:
        if rule.measure in measures and rule.broken(measures[rule.measure]):
            value = measures[rule.measure]
            found.append(Finding(rule.name, rule.severity, rule.measure, value, rule.threshold, rule.advice))
    return found


def _alike(measures: Mapping[str, float]) -> list[Finding]:
    """Whether the embeddings of all images are nearly the same, or fill a few directions only."""
    # What all embeddings have in common DINO's centring takes out: there, the targets themselves are looked at. And
    # features by which a head answers better than a guess tell images apart, whatever they have in common.
    if "teacher_spread" in measures or measures.get("solved", 0) > SOLVED:
        return []
    rank, uniformity = measures.get("effective_rank", math.inf), measures.get("uniformity", -math.inf)
    limit = COLLAPSED_UNIFORMITY if rank < COLLAPSED_RANK else FLAT_UNIFORMITY
    if uniformity > limit:
        advice = f"All images get nearly the same embedding. {CAUSES}"
        return [Finding("collapse", "collapse", "uniformity", uniformity, limit, advice)]
    if rank < LOW_RANK:
        advice = f"The embeddings fill only a few directions. {CAUSES}"
        return [Finding("dimensional collapse", "collapse", "effective_rank", rank, LOW_RANK, advice)]
    return []


def diagnose(rows: Sequence[Mapping[str, float]]) -> list[Finding]:
    """What a training shows, each finding once, where it first showed.

    A finding of `examine` counts when the median of three looks shows it; where no look has been healthy, after six.

    Args:
        rows: Measures of one look after another, with their ``step`` if they have one.

    Examples:
        >>> look = {"effective_rank": 1.02, "uniformity": -0.001, "embedding_std": 0.01}
        >>> [(each.name, each.severity) for each in diagnose([look] * 6)]
        [('collapse', 'collapse')]
    """
    found: dict[str, Finding] = {}
    for end in range(1, len(rows) + 1):
        step = rows[end - 1].get("step")
        for finding in established(rows[:end]):
            found.setdefault(finding.name, finding._replace(step=None if step is None else int(step)))
    return list(found.values())


def established(rows: Sequence[Mapping[str, float]]) -> list[Finding]:
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
            "augmentations that leave nothing in common, or a gradient that does not reach the encoder. Next: "
            "`ssl-toolkit check` with the run's options suggests a learning rate."
        )
        found.append(Finding("loss at chance", "warning", "above_chance", above[-1], CHANCE, advice))
    return found


def _median(values: Sequence[float]) -> float:
    """The middle one; what is no number counts as infinite."""
    return float(np.median([math.inf if math.isnan(value) else value for value in values]))
