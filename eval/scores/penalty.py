"""The strength of a classifier's L2 penalty, chosen on a part of the training set."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.features.extraction import Features, stratified_split
from ssl_toolkit.eval.scores.linear_classifier import LinearClassifier

STRENGTHS = tuple(float(f"{10 ** (power / 2):.3g}") for power in range(2, -13, -1))
"""Strengths of the L2 penalty tried by default: 10 down to 1e-6 in half decades."""

_PATIENCE = 3  # strengths in a row that do not better the best, then the path ends


def choose_strength(
    train: Features,
    strengths: Sequence[float],
    solver: Callable[[Features], Callable[[float], LinearClassifier]],
    held_out: float = 0.2,
    seed: int = 0,
) -> tuple[float, list[dict[str, float]]]:
    """The strength that does best on a stratified part of the training set, of classifiers fitted on the rest of it.

    Strengths are tried from strong to weak; the path ends when three in a row do not better the best.

    Args:
        train: Labelled features, (N, D).
        strengths: Each above 0. With one there is nothing to choose.
        solver: Features to a function from strength to classifier, which may start where it ended the last time.
        held_out: Share of each class to choose on, in (0, 1).
        seed: Of the split.

    Returns:
        The best strength, of equals the strongest; and a row for each strength tried, with its `l2` and its `top1` on
        the held-out part, none where there was nothing to choose.

    Raises:
        UsageError: A strength is not above 0, or no class has two images.
    """
    strengths = sorted(strengths, reverse=True)
    if not strengths or not strengths[-1] > 0:
        raise UsageError(f"strengths of the penalty must be above 0, got {strengths}")
    if len(strengths) == 1:
        return strengths[0], []
    fit, chosen_on = (train.select(rows) for rows in stratified_split(train.label, held_out, seed))
    solve = solver(fit)
    path: list[dict[str, float]] = []
    best = 0
    for l2 in strengths:
        path.append({"l2": l2, "top1": float((solve(l2).ranks(chosen_on) < 1).mean())})
        if path[-1]["top1"] > path[best]["top1"]:
            best = len(path) - 1
        if len(path) - 1 - best == _PATIENCE:
            break
    return path[best]["l2"], path
