"""What `ssl-toolkit evaluate` found, read back; and the runs that it was found of, beside each other."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from ssl_toolkit.errors import ToolkitError, UsageError
from ssl_toolkit.eval.pictures.words import ENCODERS
from ssl_toolkit.eval.scores.metrics import half_interval, in_percent
from ssl_toolkit.runs import RunFolder

HOW_TO_READ = (
    "Higher is better. The ± is half of the 95 % interval over samples of the test images: smaller differences may be "
    "chance. In good health, a trained encoder is above raw pixels and random weights by more than its ±."
)

_BASELINES = {key: ENCODERS[key] for key in ("random", "pixels")}

Scores: TypeAlias = dict[str, dict[str, Any]]
"""``{protocol: {"top1": accuracy in [0, 1], ...}}`` of one encoder; of several labelled sets, ``set: protocol``."""


@dataclasses.dataclass(frozen=True)
class Scored:
    """A row of a comparison.

    Attributes:
        name: Of the run or baseline, unlike all others.
        method: What it was trained by; empty for a baseline.
        encoder: Name of the network; empty for a baseline.
        scores: By protocol.
        not_above: Baselines that it is not above by more than the ± of its scores, by some protocol; None where
            there are none, and of baselines.
    """

    name: str
    method: str
    encoder: str
    scores: Scores
    not_above: tuple[str, ...] | None = None


def read_results(run: RunFolder) -> dict[str, Any]:
    """The ``results.json`` of a run, checked as far as others read it.

    Raises:
        ToolkitError: There is none, or it is not what ``ssl-toolkit evaluate`` writes.
    """
    if not run.results_file.exists():
        raise ToolkitError("not scored yet")
    try:
        results: dict[str, Any] = json.loads(run.results_file.read_text(encoding="utf-8"))
        for labelled in sets_of(results).values():
            if not labelled["results"]["trained"]:
                raise LookupError
            for scores in labelled["results"].values():
                [in_percent(score) for score in scores.values()]
            for part in ("train", "test"):
                f"{labelled['protocol'][part]['data']}{labelled['protocol'][part]['images']:d}"
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ToolkitError(f"{run.results_file} is not what ssl-toolkit evaluate writes: evaluate again") from error
    return results


def sets_of(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The labelled sets in a ``results.json``, each with its `protocol` and `results`, by name; one alone has none."""
    sets: dict[str, dict[str, Any]] = results.get("sets", {"": results})
    return sets


def compare_runs(runs: Sequence[str | Path]) -> list[Scored]:
    """The scores of runs, best first by the first protocol, then the baselines.

    Args:
        runs: Run folders that were scored on the same images.

    Returns:
        A row a run; raw pixels; and random weights, once if they scored alike for all runs, else once for each kind of
        encoder.

    Raises:
        UsageError: A folder is no run, has not been scored, or was scored on other images or by other protocols.
        ToolkitError: The scores of a run are damaged.
    """
    found = [(Path(run), _scored(Path(run))) for run in dict.fromkeys(map(str, runs))]
    if not found:
        raise UsageError("there are no runs to compare: name run folders")
    first = found[0]
    for path, results in found[1:]:
        for what, is_so in (("scored on", _images), ("scored by", _protocols)):
            if is_so(results) != is_so(first[1]):
                raise UsageError(
                    f"{path} was {what} {is_so(results)}, {first[0]} {what.split()[1]} {is_so(first[1])}: evaluate "
                    "both alike, or compare them apart"
                )
    names = [path.name for path, _ in found]
    rows: list[Scored] = []
    baselines: dict[str, list[Scored]] = {label: [] for label in _BASELINES.values()}
    for path, results in found:
        name, encoder = path.name if names.count(path.name) == 1 else str(path), results.get("encoder") or {}
        method, network = str(encoder.get("method", "")), str(encoder.get("name", ""))
        rows.append(Scored(name, method, network, _scores(results, "trained"), not_above(results)))
        for key, label in _BASELINES.items():
            scores = _scores(results, key)
            if scores and all(_top1(scores) != _top1(other.scores) for other in baselines[label]):
                baselines[label].append(Scored(f"{label}: {name}", "", "", scores))
    protocol = next(iter(_scores(first[1], "trained")))
    rows.sort(key=lambda row: -float(row.scores[protocol]["top1"]))
    for label, kinds in baselines.items():
        rows += [dataclasses.replace(kinds[0], name=label)] if len(kinds) == 1 else kinds
    return rows


def not_above(results: dict[str, Any]) -> tuple[str, ...] | None:
    """The baselines that a trained encoder is not above by more than the ± of its score, by some protocol.

    Args:
        results: A ``results.json``.

    Returns:
        Their names; None where no baseline was scored.
    """
    trained = _scores(results, "trained")
    baselines = {label: _scores(results, key) for key, label in _BASELINES.items()}
    if not any(baselines.values()):
        return None
    return tuple(
        label
        for label, scores in baselines.items()
        if any(
            100 * (trained[protocol]["top1"] - score["top1"]) <= half_interval(trained[protocol])
            for protocol, score in scores.items()
            if protocol in trained
        )
    )


def advice(lacking: Sequence[str] | None, run: str = "RUN") -> str:
    """What scores say of an encoder, and what to do next.

    Args:
        lacking: What `not_above` found.
        run: What the commands are to be about.
    """
    if lacking is None:
        return f"No baseline was scored. Next: `ssl-toolkit evaluate {run}` with its baselines."
    if lacking:
        return (
            f"Not above {' and '.join(lacking)} by more than the ±: the training has taught little that helps here. "
            f"Next: `ssl-toolkit doctor {run}` says whether the features have collapsed; if not, train longer, or let "
            "`ssl-toolkit check` suggest a learning rate."
        )
    return (
        f"Above the baselines by more than the ±. Next: `ssl-toolkit index {run}` searches with the encoder, "
        f"`ssl-toolkit finetune {run}` trains it on labels."
    )


def _scored(path: Path) -> dict[str, Any]:
    run = RunFolder(path)
    run.config()  # or it is no run
    if not run.results_file.exists():
        raise UsageError(f"{path} has not been scored: ssl-toolkit evaluate {path} --train DATA --test DATA")
    return read_results(run)


def _scores(results: dict[str, Any], encoder: str) -> Scores:
    return {
        f"{name}: {protocol}" if name else protocol: score
        for name, labelled in sets_of(results).items()
        for protocol, score in labelled["results"].get(encoder, {}).items()
    }


def _images(results: dict[str, Any]) -> str:
    texts = []
    for name, labelled in sets_of(results).items():
        train, test, classes = (labelled["protocol"].get(key) for key in ("train", "test", "classes"))
        texts.append(f"{name and name + ': '}{test['images']} images by {train['images']} of {classes} classes")
    return "; ".join(texts)


def _protocols(results: dict[str, Any]) -> str:
    return ", ".join(_scores(results, "trained"))


def _top1(scores: Scores) -> list[float]:
    return [round(float(score["top1"]), 6) for score in scores.values()]
