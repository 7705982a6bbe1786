"""What `ssl-toolkit evaluate` found, read back; and the runs that it was found of, beside each other."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, TypeAlias

from scipy.stats import spearmanr, ttest_ind

from ssl_toolkit.errors import ToolkitError, UsageError, unknown_name
from ssl_toolkit.eval.health.quality import QUALITIES
from ssl_toolkit.eval.pictures.words import ENCODERS
from ssl_toolkit.eval.scores.metrics import half_interval, in_percent
from ssl_toolkit.runs import FREE_ON_RESUME, RunFolder

HOW_TO_READ = (
    "Higher is better. The ± is half of the 95 % interval over samples of the test images: smaller differences may be "
    "chance. In good health, a trained encoder is above raw pixels and random weights by more than its ±."
)

RANKED = 4
"""Runs from which on it is said how well measures without labels rank them."""

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
        scores: By protocol. Of several seeds ``top1`` is the mean, ``interval`` a standard deviation to either side,
            and ``seeds`` holds the accuracy of each.
        not_above: Baselines that it is not above by more than the ± of its scores, by some protocol; None where
            there are none, and of baselines.
        runs: The folders: one, or several whose training differs in the seed; none of a baseline.
        extended: Where it was given more epochs, in words; empty if it was not.
        difference: Points that it is above the row that all are compared with, by the first protocol; None for that row
            itself and for baselines.
        p: How likely a difference as large is by chance; None unless both have several seeds.
        measures: What needs no labels, by name (see `ssl_toolkit.eval.health.quality.QUALITIES`), means over seeds.
    """

    name: str
    method: str
    encoder: str
    scores: Scores
    not_above: tuple[str, ...] | None = None
    runs: tuple[str, ...] = ()
    extended: str = ""
    difference: float | None = None
    p: float | None = None
    measures: Mapping[str, float] = dataclasses.field(default_factory=dict)


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


def compare_runs(runs: Sequence[str | Path], against: str | None = None) -> list[Scored]:
    """The scores of runs, best first by the first protocol, then the baselines.

    Args:
        runs: Run folders that were scored on the same images, or folders of such.
        against: Name of the row that the others are compared with; None: the best.

    Returns:
        A row a run, or for all runs that differ in the seed only, or lie as ``name/seed0`` and ``name/seed1``; raw
        pixels; and random weights, once if they scored alike for all runs, else once for each kind of encoder.

    Raises:
        UsageError: A folder is no run, has not been scored, or was scored on other images or by other protocols; or
            there is no such row.
        ToolkitError: The scores of a run are damaged.
    """
    paths = [path for run in runs for path in _run_folders(Path(run))]
    found = {path: _scored(path) for path in dict.fromkeys(paths)}
    if not found:
        raise UsageError("there are no runs to compare: name run folders")
    _refuse_others(found)
    groups = _groups(list(found))
    rows = [_row(name, members, [found[path] for path in members]) for name, members in groups.items()]
    protocol = next(iter(rows[0].scores))
    rows.sort(key=lambda row: -float(row.scores[protocol]["top1"]))
    return [*_tested(rows, against, protocol), *_baseline_rows(groups, found)]


def _run_folders(path: Path) -> list[Path]:
    """The run that lies there or, of a folder of runs, those in it that were scored."""
    if RunFolder(path).config_file.is_file() or not path.is_dir():
        return [path]
    inside = sorted({file.parent for depth in ("*", "*/*") for file in path.glob(f"{depth}/config.yaml")})
    return [run for run in inside if RunFolder(run).results_file.is_file()] or inside or [path]


def _refuse_others(found: dict[Path, dict[str, Any]]) -> None:
    """Refuse what was scored in another way than the first run."""
    (first, expected), *others = found.items()
    for path, results in others:
        for what, is_so in (("scored on", _images), ("scored by", _protocols)):
            if is_so(results) != is_so(expected):
                raise UsageError(
                    f"{path} was {what} {is_so(results)}, {first} {what.split()[1]} {is_so(expected)}: evaluate "
                    "both alike, or compare them apart"
                )


def _groups(paths: Sequence[Path]) -> dict[str, list[Path]]:
    """Runs by the name of their row: those that differ in the seed only, or lie as ``name/seed0``, share one."""
    alike: dict[tuple[str, str], dict[Any, Path]] = {}
    for path in paths:
        config = RunFolder(path).config()
        kept = {key: value for key, value in config.items() if key not in ("seed", *FREE_ON_RESUME)}
        key, seed = ("settings", json.dumps([kept, RunFolder(path).extensions()], default=str)), config.get("seed")
        if re.fullmatch(r"seed\d+", path.name):
            key, seed = ("folder", str(path.parent)), path.name
        if seed is None or seed in alike.get(key, {}):  # the same seed twice says nothing of chance
            key = ("alone", str(path))
        alike.setdefault(key, {})[seed] = path
    groups = [(kind, list(members.values())) for (kind, _), members in alike.items()]
    short = [_group_name(kind, members) for kind, members in groups]
    places = [str(members[0].parent if kind == "folder" else members[0]) for kind, members in groups]
    return {
        name if short.count(name) == 1 else place: members
        for name, place, (_, members) in zip(short, places, groups, strict=True)
    }


def _group_name(kind: str, members: Sequence[Path]) -> str:
    if kind == "folder":
        return members[0].parent.name
    if len(members) == 1:
        return members[0].name
    letters = itertools.takewhile(lambda same: len({*same}) == 1, zip(*(path.name for path in members), strict=False))
    start = "".join(letter for letter, *_ in letters)
    return re.sub(r"[\W_]*(seed)?[\W_]*$", "", start) or members[0].name


def _row(name: str, paths: Sequence[Path], results: Sequence[dict[str, Any]]) -> Scored:
    encoder = results[0].get("encoder") or {}
    return Scored(
        name,
        str(encoder.get("method", "")),
        str(encoder.get("name", "")),
        _over_seeds([_scores(each, "trained") for each in results]),
        not_above(*results),
        tuple(map(str, paths)),
        RunFolder(paths[0]).extended(),
        measures=_means([_measures(each) for each in results]),
    )


def _over_seeds(scores: Sequence[Scores]) -> Scores:
    """Mean accuracies of several seeds, with a standard deviation to either side; of one, what there is."""
    if len(scores) == 1:
        return scores[0]
    made: Scores = {}
    for protocol in scores[0]:
        top1 = [float(each[protocol]["top1"]) for each in scores]
        mean, deviation = fmean(top1), stdev(top1)
        made[protocol] = {"top1": mean, "interval": [mean - deviation, mean + deviation], "seeds": top1}
    return made


def _measures(results: dict[str, Any]) -> dict[str, float]:
    """What was measured of the trained encoder without labels, on the first labelled set."""
    found: dict[str, float] = next(iter(sets_of(results).values())).get("measures", {}).get("trained", {})
    return found


def _means(seeds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means of the measures that all seeds have."""
    return {name: fmean(each[name] for each in seeds) for name in seeds[0] if all(name in each for each in seeds)}


def rank_correlations(rows: Sequence[Scored]) -> dict[str, float]:
    """How well each measure that needs no labels ranks runs: Spearman's correlation with their accuracies.

    Args:
        rows: Of runs; accuracies are those of the linear probe, on the first labelled set.

    Returns:
        By measure, in [-1, 1], 1 where it ranks as the accuracies do; none with fewer than `RANKED` runs, without a
        linear probe, or where all runs are alike.
    """
    protocol = next((name for name in rows[0].scores if name.endswith("linear")), None)
    if len(rows) < RANKED or protocol is None:
        return {}
    top1 = [float(row.scores[protocol]["top1"]) for row in rows]
    found = {}
    for name, measure in QUALITIES.items():
        values = [measure.rank(row.measures[name]) for row in rows if name in row.measures]
        if len(values) == len(rows) and len({*values}) > 1 and len({*top1}) > 1:
            found[name] = float(spearmanr(values, top1).statistic)
    return found


def _tested(rows: Sequence[Scored], against: str | None, protocol: str) -> list[Scored]:
    """The rows, with their difference to one of them."""
    named = {row.name: row for row in rows}
    if against is not None and against not in named:
        raise unknown_name("run to compare with", against, named)
    reference = rows[0] if against is None else named[against]
    theirs = reference.scores[protocol]
    return [
        row
        if row is reference
        else dataclasses.replace(
            row,
            difference=100 * (row.scores[protocol]["top1"] - theirs["top1"]),
            p=welch(row.scores[protocol].get("seeds", ()), theirs.get("seeds", ())),
        )
        for row in rows
    ]


def welch(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """How likely means that differ as much are by chance, both sides; None where the samples cannot tell.

    Welch's t-test does not take runs of one kind to vary as much as those of another. Nothing is paired between seeds,
    and a permutation test of three against three could not go below 0.1.

    Source: Welch 1947, The generalization of "Student's" problem.
    """
    if min(len(ours), len(theirs)) < 2 or len({*ours}) == len({*theirs}) == 1:
        return None
    return float(ttest_ind(ours, theirs, equal_var=False).pvalue)


def _baseline_rows(groups: dict[str, list[Path]], found: dict[Path, dict[str, Any]]) -> list[Scored]:
    rows: list[Scored] = []
    for key, label in _BASELINES.items():
        kinds: list[Scored] = []
        for name, path in ((name, path) for name, members in groups.items() for path in members):
            scores = _scores(found[path], key)
            if scores and all(_top1(scores) != _top1(other.scores) for other in kinds):
                kinds.append(Scored(f"{label}: {name}", "", "", scores))
        rows += [dataclasses.replace(kinds[0], name=label)] if len(kinds) == 1 else kinds
    return rows


def not_above(*results: dict[str, Any]) -> tuple[str, ...] | None:
    """The baselines that a trained encoder is not above by more than the ± of its score, by some protocol.

    Args:
        results: A ``results.json``; of several seeds that of each, of which means are taken.

    Returns:
        Their names; None where no baseline was scored.
    """
    lacking = {}
    for key, label in _BASELINES.items():
        both = [(_scores(each, "trained"), _scores(each, key)) for each in results if _scores(each, key)]
        if both:
            lacking[label] = any(
                fmean(100 * (trained[name]["top1"] - baseline[name]["top1"]) for trained, baseline in both)
                <= fmean(half_interval(trained[name]) for trained, _ in both)
                for name in both[0][1]
                if name in both[0][0]
            )
    return tuple(label for label, is_lacking in lacking.items() if is_lacking) if lacking else None


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
